/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ksm.h - what the kernel says about merging in this process (rule 2)
 */
#ifndef EBB_KSM_H
#define EBB_KSM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ebb_executor;

/* Where the kernel says it; a test may say it in its place. */
struct ebb_ksm_paths {
	const char *stat;  /* /proc/self/ksm_stat */
	const char *pages; /* /proc/self/ksm_merging_pages, of kernels without the former */
	const char *smaps; /* /proc/self/smaps */
	const char *sysfs; /* /sys/kernel/mm/ksm, there if the kernel knows KSM */
};

struct ebb_ksm {
	int stat_fd;
	int pages_fd;
	const char *smaps;
	bool absent;	    /* a kernel without KSM */
	bool doubt;	    /* the last word and the last look do not settle it: free nothing */
	bool pages;	    /* the last word before memory was marked said that there may be some */
	uint64_t look_nsec; /* time of the last look at smaps */
	uint64_t look_took_nsec;
	bool look_wanted; /* executor's lock: the VMM may have mapped memory anew */
	char buffer[8192];
};

/* What the cheap files say. */
struct ebb_ksm_word {
	bool pages; /* some page of this process may be a KSM page */
	bool areas; /* some area of this process may be mergeable */
};

/* One area of smaps. */
struct ebb_smaps_area {
	uint64_t start;
	uint64_t end;
	bool mergeable;
	bool locked;
};

void ebb_ksm_init(struct ebb_ksm *ksm, const struct ebb_ksm_paths *paths);
void ebb_ksm_deinit(struct ebb_ksm *ksm);

extern const struct ebb_ksm_paths ebb_ksm_kernel_paths;

/* Parse ksm_stat's text. */
struct ebb_ksm_word ebb_ksm_parse_stat(const char *text);

/* Ask the cheap files: microseconds. */
struct ebb_ksm_word ebb_ksm_ask(const struct ebb_ksm *ksm);

/* Read smaps: walks page tables, a millisecond for each 100 MiB of 4 KiB pages or so. */
int ebb_ksm_read_smaps(struct ebb_ksm *ksm,
		       void (*area_fn)(void *opaque, const struct ebb_smaps_area *area),
		       void *opaque);

/*
 * Before memory is marked: bring the regions' mergeable flags and blocks up to date.
 * After it ksm->doubt says that nothing may be marked. Executor thread, no lock.
 */
void ebb_ksm_before_free(struct ebb_executor *executor);

struct ebb_region;
/* Does the VMM say that it has made this region mergeable? */
bool ebb_ksm_vmm_merges(const struct ebb_region *region);

/*
 * All regions of which it says so count as mergeable from here on; true if one did not before.
 * Takes the lock.
 */
bool ebb_ksm_see_vmm_marks(struct ebb_executor *executor);

/* Did the kernel begin to merge since, or the VMM? Then what was marked may not stay so. */
bool ebb_ksm_came(struct ebb_executor *executor);

#endif /* EBB_KSM_H */
