/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* words.h - the protocol's numbers in words, both ways; see words.c */
#ifndef EBB_WORDS_H
#define EBB_WORDS_H

#include <stdint.h>

#define EBB_MERGE_WORDS	 "off, hinted, all or keep"
#define EBB_TABLES_WORDS "on-demand, background, off or keep"
#define EBB_MODE_WORDS	 "lazy, eager, auto, off or keep"

const char *mode_word(uint32_t mode);
int mode_from_word(const char *word, uint32_t *mode);
const char *tables_word(uint32_t mode);
const char *skipped_word(uint32_t reason);
int tables_from_word(const char *word, uint32_t *mode);
const char *merge_word(uint32_t merge);
int merge_from_word(const char *word, uint32_t *merge);
const char *stage_word(uint32_t stage);
const char *front_word(uint32_t front);
const char *reason_word(uint32_t reason);
const char *stat_word(uint32_t tag);
const char *release_status_word(uint32_t status);
const char *release_status_text(uint32_t status);
const char *purge_status_word(uint32_t status);
const char *purge_status_text(uint32_t status);
const char *collect_status_word(uint32_t status);
const char *collect_status_text(uint32_t status);
int bytes_from_text(const char *text, uint64_t *bytes);

#endif /* EBB_WORDS_H */
