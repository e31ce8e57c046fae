/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ksm.h - KSM's files, ksmd's time, and who else steers it; see ksm.c */
#ifndef EBB_KSM_H
#define EBB_KSM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define KSM_DIR "/sys/kernel/mm/ksm"

/* What we may write. merge_across_nodes and run = 2 are not among it. */
struct ksm_settings {
	unsigned int run;
	unsigned int pages_to_scan;
	unsigned int sleep_msec;
	unsigned int use_zero_pages;
	bool has_zero_pages; /* Linux 6.6 and newer */
};

struct ksm_figures {
	uint64_t pages_shared;
	uint64_t pages_sharing;
	uint64_t full_scans;
	bool has_profit; /* Linux 6.4 and newer */
	int64_t profit_bytes;
};

/* What a successor needs after we were killed: see ksm_recover(). */
struct ksm_record {
	struct ksm_settings found;
	struct ksm_settings before; /* the last write, */
	struct ksm_settings after;  /* which may have been done in part */
};

int ksm_read_settings(int ksm_dirfd, struct ksm_settings *settings);
int ksm_read_figures(int ksm_dirfd, struct ksm_figures *figures);
int ksm_write_settings(int ksm_dirfd, const struct ksm_settings *before,
		       const struct ksm_settings *after);
bool ksm_same_settings(const struct ksm_settings *a, const struct ksm_settings *b);
bool ksm_has_advisor(int ksm_dirfd);

pid_t ksm_find_ksmd(int proc_dirfd);
pid_t ksm_find_ksmtuned(int proc_dirfd);
int ksm_read_cpu(int proc_dirfd, pid_t pid, uint64_t *cpu_usec);

int ksm_save_record(const char *path, const struct ksm_record *record);
int ksm_load_record(const char *path, struct ksm_record *record);
int ksm_recover(int ksm_dirfd, const struct ksm_record *record);

#endif /* EBB_KSM_H */
