/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * merge.h - which blocks of guest RAM are mergeable by KSM, by our own hand
 */
#ifndef EBB_MERGE_H
#define EBB_MERGE_H

#include "ram_map.h"

/*
 * Runs of marked blocks that one guest may have: each makes two memory areas at most, and
 * vm.max_map_count allows a process 65,530.
 */
#define EBB_MERGE_MAX_RUNS 1024

struct ebb_merge {
	/* Lock. */
	uint32_t operator_mode; /* EBB_MERGE_*; KEEP: leave everything as the VMM has it */
	uint32_t agent_mode;	/* EBB_MERGE_*; KEEP also where no agent was ever heard */
	bool agent_heard;	/* its word of the stage counts */
	bool running;		/* a pass is under way */
	bool pending;		/* what is marked may differ from what is wanted */

	/* Written by the executor thread under the lock, read there without. */
	uint64_t marks, unmarks, failures, nsec, longest_nsec;
	bool full;   /* not all that is wanted is marked: too many areas */
	bool no_ksm; /* the kernel knows no MADV_MERGEABLE */

	bool ever;	    /* something was marked by us, at any time */
	uint64_t next_nsec; /* no pass before this */

	/* Executor thread. */
	bool said_failed, said_inherited;
};

/* What a pass wants of a block, and what it may do now. */
struct ebb_merge_budget {
	uint64_t mark_bytes;
	uint64_t unmark_bytes;
	uint32_t calls;
};

/* The mode in force: ebbd's word, unless it is KEEP, goes before the operator's. Lock held. */
uint32_t ebb_merge_mode(const struct ebb_merge *merge);

/* What may be done at a stage (EBB_STAGE_*) in one pass: nothing at SHORT (rule 12). Pure. */
struct ebb_merge_budget ebb_merge_budget(uint32_t stage, bool agent_heard);

/* Runs of marked blocks in a region. */
uint64_t ebb_merge_count_runs(const struct ebb_region *region);

/*
 * How many runs there are more if blocks [first, end), all alike, change to marked or not:
 * -1 to 1. Pure.
 */
int ebb_merge_runs_change(const struct ebb_region *region, uint64_t first, uint64_t end,
			  bool marked);

/* Is all of [low, high) of the host, within the region, blocks that we have marked? */
bool ebb_merge_is_ours(const struct ebb_region *region, uintptr_t low, uintptr_t high);

/* Set or withdraw the hint of blocks; what is withdrawn is rounded outward. Lock held. */
void ebb_merge_hint_region(struct ebb_region *region, uintptr_t host, uint64_t bytes, bool merge);

/* A region that is in no map any more: its memory may stay, our marks do not. Any thread. */
void ebb_merge_drop_region(struct ebb_region *region);

struct ebb_executor;

/* Forget all hints. Lock held. */
void ebb_merge_forget_hints(struct ebb_executor *executor);

/* The mode changed from old. Lock held. */
void ebb_merge_mode_changed(struct ebb_executor *executor, uint32_t old_mode);

struct ebb_merge_status;
/* Lock held. */
void ebb_merge_status(const struct ebb_executor *executor, struct ebb_merge_status *status);

/* Executor thread: bring marks and wishes together, a piece at a time. */
void ebb_merge_work(struct ebb_executor *executor);

/* When ebb_merge_work() has more to do; UINT64_MAX: nothing. Takes the lock. */
uint64_t ebb_merge_deadline_nsec(struct ebb_executor *executor);

#endif /* EBB_MERGE_H */
