/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* proc.h - what /proc says of a process and of the host; see proc.c */
#ifndef EBB_PROC_H
#define EBB_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One reading of smaps_rollup: its figures belong together. */
struct proc_rollup {
	uint64_t rss_bytes;
	uint64_t lazyfree_bytes;
	uint64_t anon_huge_bytes;
	uint64_t ksm_bytes; /* 0 where the kernel does not tell */
};

struct proc_status {
	uint64_t vm_rss_bytes;
	uint64_t vm_pte_bytes;
};

struct proc_ksm {
	uint64_t merging_pages;
	uint64_t zero_pages;
	uint64_t rmap_items; /* pages that KSM keeps an eye on */
	bool has_mergeable;  /* newer kernels: is any area of the process mergeable? */
	bool mergeable;
	bool has_profit;
	int64_t profit_bytes; /* what merging saves of this process, less what it costs */
};

/* How much of what is lazily freed is so no longer: see policy_level(). */
struct proc_lists {
	uint64_t listed_bytes; /* on the kernel's lists of file pages, of what is available */
	uint64_t cache_bytes;  /* of files; UINT64_MAX: not known */
};

struct proc_host {
	uint64_t total_bytes;
	uint64_t available_bytes;
	struct proc_lists lists;
	bool has_sec_page_tables; /* Linux 6.0 and newer tell */
	uint64_t sec_page_table_bytes;
};

int proc_read_text(int dirfd, const char *name, char *text, size_t size_bytes);
bool proc_field(const char *text, const char *key, uint64_t *value);

int proc_read_rollup(int dirfd, struct proc_rollup *rollup);
int proc_read_status(int dirfd, struct proc_status *status);
int proc_read_ksm(int dirfd, struct proc_ksm *ksm);
int proc_read_host(int dirfd, struct proc_host *host);

#endif /* EBB_PROC_H */
