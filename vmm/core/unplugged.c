// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * unplugged - page tables of memory that the guest has given back until it is told otherwise
 *
 * A memory device that was asked to shrink says which blocks are empty by contract: the guest
 * does not use them before the device has plugged them again. Their tables go without a question
 * to the guest. What of it is not empty all the same is left alone.
 *
 *	unplugged() -> pending -> free_run() -> -
 *	                  plugged(), a stop of the VMM -> -
 *
 * Before a block is plugged plugged() is called, and returns when nothing is done to it any more
 * (rule 1). A VMM that stands still may write to its RAM by itself: what was pending is forgotten.
 *
 * Owns:    the regions' unplugged[], executor->emptying.
 * Thread:  ebb_unplugged_work() the executor thread; the rest any.
 * Locks:   the executor's, never across a system call.
 * Never:   asks the guest; touches a block that has an entry in its table.
 */
#include <errno.h>
#include <sys/mman.h>

#include "executor.h"

/* Of one piece; whoever plugs waits for no more than that. */
#define PIECE_BLOCKS 32u

/* Blocks that [host, host + bytes) reaches into. */
static bool touched_blocks(const struct ebb_region *region, uintptr_t host, uint64_t bytes,
			   uint64_t *first, uint64_t *end)
{
	uintptr_t low = host & ~(EBB_BLOCK_BYTES - 1);
	uintptr_t high = (host + bytes + EBB_BLOCK_BYTES - 1) & ~(EBB_BLOCK_BYTES - 1);
	uintptr_t limit = region->block_host + region->nr_blocks * EBB_BLOCK_BYTES;

	if (low < region->block_host)
		low = region->block_host;
	if (high > limit)
		high = limit;
	if (high <= low)
		return false;
	*first = (low - region->block_host) / EBB_BLOCK_BYTES;
	*end = (high - region->block_host) / EBB_BLOCK_BYTES;
	return true;
}

/* Lock held. */
static void set_pending(struct ebb_region *region, uint64_t block, uint64_t end, bool pending)
{
	for (; block < end; block++) {
		if (region->unplugged[block] == pending)
			continue;
		region->unplugged[block] = pending;
		region->nr_unplugged += pending ? 1 : UINT64_MAX;
	}
}

/* The region that gpa is in and what of [gpa, gpa + *bytes) is its. Lock held. */
static struct ebb_region *region_at(struct ebb_executor *executor, uint64_t gpa, uint64_t *bytes)
{
	struct ebb_region *region = ebb_ram_map_find(&executor->map, gpa);

	if (region && *bytes > region->desc.start_gpa + region->desc.size_bytes - gpa)
		*bytes = region->desc.start_gpa + region->desc.size_bytes - gpa;
	return region;
}

void ebb_executor_unplugged(struct ebb_executor *executor, uint64_t gpa, uint64_t bytes)
{
	struct ebb_region *region;
	uint64_t block, end;

	pthread_mutex_lock(&executor->lock);
	region = region_at(executor, gpa, &bytes);
	if (region && region->nr_blocks && !executor->pause_depth) {
		ebb_region_blocks(region, region->host + (gpa - region->desc.start_gpa), bytes,
				  &block, &end);
		set_pending(region, block, end, true);
	}
	pthread_mutex_unlock(&executor->lock);
}

/* Is a piece being worked on that [first, end) of a region touches? Lock held. */
static bool is_emptying(const struct ebb_executor *executor, const struct ebb_region *region,
			uint64_t first, uint64_t end)
{
	return executor->emptying.region == region && executor->emptying.first < end &&
	       first < executor->emptying.end;
}

void ebb_executor_plugged(struct ebb_executor *executor, uint64_t gpa, uint64_t bytes)
{
	struct ebb_region *region;
	uint64_t block, end;

	pthread_mutex_lock(&executor->lock);
	region = region_at(executor, gpa, &bytes);
	if (region && touched_blocks(region, region->host + (gpa - region->desc.start_gpa), bytes,
				     &block, &end)) {
		set_pending(region, block, end, false);
		while (is_emptying(executor, region, block, end))
			pthread_cond_wait(&executor->idle, &executor->lock);
	}
	pthread_mutex_unlock(&executor->lock);
}

void ebb_unplugged_forget(struct ebb_executor *executor)
{
	uint32_t i;

	for (i = 0; i < executor->map.nr; i++)
		set_pending(executor->map.regions[i], 0, executor->map.regions[i]->nr_blocks,
			    false);
	while (executor->emptying.region)
		pthread_cond_wait(&executor->idle, &executor->lock);
}

bool ebb_unplugged_any(const struct ebb_executor *executor)
{
	uint32_t i;

	for (i = 0; i < executor->map.nr; i++)
		if (executor->map.regions[i]->nr_unplugged)
			return true;
	return false;
}

/* ---- executor thread ---- */

/*
 * Take the next run of pending blocks of a region, from *block on: from here on who plugs them
 * waits. False: there is none, or it gives way.
 */
static bool take_run(struct ebb_executor *executor, struct ebb_region *region, uint64_t *block,
		     uint32_t *nr)
{
	bool waits;

	pthread_mutex_lock(&executor->lock);
	waits = executor->queue_head || executor->stop || region->removing || region->locked ||
		ebb_tables_must_wait(&executor->tables, executor->policy.stage) ||
		executor->collect.state != EBB_COLLECT_WANTED ||
		executor->content.harden_wanted != executor->content.harden_done;
	while (*block < region->nr_blocks && !region->unplugged[*block])
		(*block)++;
	*nr = 0;
	while (!waits && *nr < PIECE_BLOCKS && *block + *nr < region->nr_blocks &&
	       region->unplugged[*block + *nr])
		(*nr)++;
	executor->emptying.region = *nr ? region : NULL;
	executor->emptying.first = *block;
	executor->emptying.end = *block + *nr;
	pthread_mutex_unlock(&executor->lock);
	return *nr != 0;
}

/* Blocks that hold nothing: a discard, and a move where that does not free their tables. */
static void empty(struct ebb_executor *executor, struct ebb_region *region, uint64_t block,
		  uint32_t nr)
{
	uintptr_t host = region->block_host + block * EBB_BLOCK_BYTES;
	uint64_t bytes = nr * EBB_BLOCK_BYTES;

	if (madvise((void *)host, bytes, MADV_DONTNEED) < 0)
		return;
	ebb_tables_worked_on(region, host - region->host, bytes,
			     executor->tables.way == EBB_TABLES_DONTNEED);
	if (executor->tables.way == EBB_TABLES_MOVE)
		ebb_tables_move(region, block, nr);
}

/* Free the tables of those blocks of a run that are empty; returns how many are gone. */
static uint32_t free_run(struct ebb_executor *executor, struct ebb_region *region, uint64_t block,
			 uint32_t nr)
{
	uint64_t before_bytes = ebb_tables_vm_pte_bytes();
	uint8_t states[PIECE_BLOCKS];
	uint32_t i, next, empties = 0, gone;

	ebb_tables_look(&executor->tables, region->block_host + block * EBB_BLOCK_BYTES, nr,
			states);
	for (i = 0; i < nr; i = next) {
		next = i + 1;
		if (states[i] != EBB_TABLE_EMPTY)
			continue;
		while (next < nr && states[next] == EBB_TABLE_EMPTY)
			next++;
		empty(executor, region, block + i, next - i);
		empties += next - i;
	}
	gone = empties ? ebb_tables_fewer(before_bytes) : 0;
	return gone < empties ? gone : empties;
}

/* The run is over: whoever waits to plug goes on. */
static void let_go(struct ebb_executor *executor, struct ebb_region *region, uint32_t gone)
{
	pthread_mutex_lock(&executor->lock);
	set_pending(region, executor->emptying.first, executor->emptying.end, false);
	executor->emptying.region = NULL;
	executor->status.counters.tables_unplugged += gone;
	pthread_cond_broadcast(&executor->idle);
	pthread_mutex_unlock(&executor->lock);
}

bool ebb_unplugged_work(struct ebb_executor *executor)
{
	struct ebb_region *region;
	uint64_t gpa = 0;
	bool any;

	if (!ebb_memops_begin(executor))
		return true;
	while ((region = ebb_scan_hold_next(executor, gpa))) {
		uint64_t block = 0;
		uint32_t nr;

		gpa = region->desc.start_gpa + region->desc.size_bytes;
		while (take_run(executor, region, &block, &nr)) {
			let_go(executor, region, free_run(executor, region, block, nr));
			block += nr;
		}
		ebb_scan_let_go(executor);
	}
	ebb_memops_end(executor);
	pthread_mutex_lock(&executor->lock);
	any = ebb_unplugged_any(executor) && executor->collect.state == EBB_COLLECT_WANTED &&
	      (executor->queue_head ||
	       executor->content.harden_wanted != executor->content.harden_done);
	pthread_mutex_unlock(&executor->lock);
	return !any;
}
