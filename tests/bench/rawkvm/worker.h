/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * worker.h - a process that uses memory on command, through a virtual machine or directly
 *
 * A process of its own, since KVM's MMU notifier is registered for a whole process: memory
 * beside a guest would not be free of it.
 */
#ifndef RAWKVM_WORKER_H
#define RAWKVM_WORKER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum pages {
	PAGES_4K,
	PAGES_THP,
	NR_PAGES,
};

enum work {
	WORK_RENEW,	  /* map it anew: no page, no page table, no advice but the first */
	WORK_WRITE,	  /* value + n into the first word of page n */
	WORK_READ,	  /* look for it */
	WORK_LOOK,	  /* the same from outside of the guest; and how much is huge */
	WORK_FREE,	  /* MADV_FREE */
	WORK_DISCARD,	  /* MADV_DONTNEED */
	WORK_OFFER_LAZY,  /* to the executor, which marks it */
	WORK_OFFER_EAGER, /* to the executor, which discards it */
	WORK_PAGEOUT,	  /* MADV_PAGEOUT: purges what was freed */
	WORK_MERGEABLE,	  /* MADV_MERGEABLE */
	WORK_MERGED,	  /* wait until the kernel has merged all of it */
	WORK_UNMERGEABLE, /* MADV_UNMERGEABLE */
	WORK_EXIT,	  /* nothing but bytes / PAGE_BYTES times leaving the guest */
};

struct command {
	enum work work;
	enum pages pages;
	uint64_t offset_bytes;
	uint64_t bytes;
	uint64_t value;
};

struct answer {
	int error; /* negative errno; the worker has said more on standard error */
	uint64_t wall_nsec;
	uint64_t cpu_nsec;    /* of the thread that did it; MERGED: of ksmd */
	uint64_t kernel_nsec; /* of this in the kernel: a guess at each tick */
	uint64_t faults;
	uint64_t exits;
	uint64_t kvm_faults;
	uint64_t kept; /* READ, LOOK: pages with the value; MERGED: pages that are merged;
			 OFFER: pages that the executor says are done */
	uint64_t zero;
	uint64_t huge_bytes; /* LOOK */
};

struct worker {
	pid_t pid;
	int fd;
};

struct worker_config {
	uint64_t ram_bytes; /* of each kind of pages */
	uint64_t call_bytes;
	bool vm;
	bool small_guest_pages; /* in the guest's own page tables */
};

/* -ENODEV: there is no KVM that can run the guest; it was said why. */
int worker_start(struct worker *worker, const struct worker_config *config);
void worker_stop(struct worker *worker);
/* Errors of the worker end the program: figures without it are worth nothing. */
struct answer worker_do(struct worker *worker, struct command command);

#endif /* RAWKVM_WORKER_H */
