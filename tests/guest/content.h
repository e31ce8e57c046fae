/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * content - what a page of the torture program must hold
 *
 * A page's identity is its first word, owner (guest, process) << 40 | generation, its second word
 * is its index. 0: a page that nobody has written yet, all zeros.
 */
#ifndef CONTENT_H
#define CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES   4096UL
#define PAGE_WORDS   (PAGE_BYTES / sizeof(uint64_t))
#define OWNER_SHARED 0xffffffUL /* content that all guests have in common */

/* Of the file that guests have in common, page by page. */
#define IMAGE_ID	      ID(OWNER_SHARED, 1)
#define IMAGE_INDEX	      (1ULL << 61) /* of its first page */

#define ID(owner, generation) ((uint64_t)(owner) << 40 | ((generation)&0xffffffffffUL))
#define ID_OWNER(id)	      ((id) >> 40)
#define ID_GENERATION(id)     ((id)&0xffffffffffUL)

void content_seed(uint64_t own, uint64_t common);
void content_write(uint64_t *words, uint64_t id, uint64_t index);

/* The first word that is wrong, or PAGE_WORDS. */
size_t content_first_wrong(const uint64_t *words, uint64_t id, uint64_t index);

/* One line on what is there in place of the page that must be. */
void content_report(const uint64_t *words, uint64_t id, uint64_t index, size_t wrong,
		    const char *when);

#endif
