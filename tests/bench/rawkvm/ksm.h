/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ksm.h - the kernel's merging of identical pages: settings and progress
 */
#ifndef RAWKVM_KSM_H
#define RAWKVM_KSM_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Let ksmd run as fast as it can. The settings are the whole host's: they are put back by
 * ksm_restore(), at exit and on signals that end the program. -EBUSY: it runs already, for
 * somebody else, whose share of ksmd's time could not be told. Other negative errno: no KSM
 * here, or not allowed.
 */
int ksm_run(void);
void ksm_restore(void);

/* Pages of this process that are merged. */
uint64_t ksm_merged_pages(void);

/* For ksm_ksmd_nsec(): -1 if ksmd cannot be found. */
int ksm_open_ksmd(void);
/* CPU time of ksmd. */
uint64_t ksm_ksmd_nsec(int fd);

#endif /* RAWKVM_KSM_H */
