// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * purge - let the kernel take memory with content, what was marked longest ago first
 *
 * By PAGEOUT on ourselves: it drops what is lazily freed, and at worst swaps out what the
 * guest has taken back (rule 1 allows both after the answer). A block is tried twice for
 * each mark, for the kernel may pass over its pages without a word; then it counts as
 * taken back. Only what is found gone afterwards counts.
 *
 * Owns:    struct ebb_purge.
 * Thread:  ebb_purge_start() any with the executor's lock; the rest the executor thread.
 * Locks:   the executor's, never across a system call.
 * Never:   delays a batch by more than one block; asks the guest.
 */
#include <errno.h>
#include <sys/mman.h>

#include "executor.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define MAX_TRIES 2

int ebb_purge_start(struct ebb_executor *executor, uint64_t agent_id, uint64_t bytes)
{
	struct ebb_purge *purge = &executor->purge;

	if (purge->active)
		return -EBUSY;
	if (executor->content.harden_depth || ebb_policy_mode(&executor->policy) == EBB_MODE_OFF)
		return -EPERM;
	*purge = (struct ebb_purge){
		.active = true,
		.fresh = true,
		.agent_id = agent_id,
		.bytes = bytes,
		.start_nsec = ebb_now_nsec(),
	};
	return 0;
}

static void end(struct ebb_executor *executor, uint32_t status)
{
	struct ebb_purge *purge = &executor->purge;

	pthread_mutex_lock(&executor->lock);
	if (purge->agent_id)
		ebb_link_push_done(
			&executor->link,
			&(struct ebb_link_done){
				.kind = EBB_LINK_PURGE_DONE,
				.id = purge->agent_id,
				.discarded_bytes = purge->purged_bytes,
				.usec = (ebb_now_nsec() - purge->start_nsec) / NSEC_PER_USEC,
				.status = status,
			});
	purge->active = false;
	purge->agent_id = 0;
	executor->status.counters.purges++;
	pthread_mutex_unlock(&executor->lock);
}

static bool is_candidate(const struct ebb_executor *executor, const struct ebb_region *region,
			 uint64_t block)
{
	return (region->blocks[block] & EBB_BLOCK_CONTENT) && region->content_age[block] &&
	       region->content_age[block] < executor->purge.limit_age;
}

/* The oldest age that is left for this purge; 0: none. */
static uint32_t oldest_age(struct ebb_executor *executor)
{
	struct ebb_region *region;
	uint64_t gpa = 0, block;
	uint32_t age = 0;

	while ((region = ebb_scan_hold_next(executor, gpa))) {
		gpa = region->desc.start_gpa + region->desc.size_bytes;
		for (block = 0; region->nr_content_blocks && block < region->nr_blocks; block++)
			if (is_candidate(executor, region, block) &&
			    (!age || region->content_age[block] < age))
				age = region->content_age[block];
		ebb_scan_let_go(executor);
	}
	return age;
}

static void purge_block(struct ebb_executor *executor, struct ebb_region *region, uint64_t block)
{
	const uint64_t *words = &region->content[block * EBB_BLOCK_WORDS];
	uintptr_t host = region->block_host + block * EBB_BLOCK_BYTES;
	uint64_t first = 0, page_end = 0;

	while (ebb_content_next_run(words, &first, &page_end))
		madvise((void *)(host + first * EBB_PAGE_BYTES),
			(page_end - first) * EBB_PAGE_BYTES, MADV_PAGEOUT);
	executor->purge.purged_bytes += ebb_content_look(executor, region, block);
	if (!(region->blocks[block] & EBB_BLOCK_CONTENT))
		return;
	region->content_age[block] = executor->purge.limit_age;
	if (++region->content_tries[block] >= MAX_TRIES)
		region->content_age[block] = 0;
}

/* Does somebody wait for the executor thread? */
static bool must_give_way(struct ebb_executor *executor)
{
	bool waits;

	pthread_mutex_lock(&executor->lock);
	waits = executor->queue_head || executor->stop ||
		executor->content.harden_wanted != executor->content.harden_done;
	pthread_mutex_unlock(&executor->lock);
	return waits;
}

/* Blocks of one age. False: it is enough, or somebody waits and this goes on later. */
static bool purge_age(struct ebb_executor *executor, uint32_t age)
{
	struct ebb_purge *purge = &executor->purge;
	struct ebb_region *region;
	uint64_t gpa = 0, block;
	bool go_on = true;

	while (go_on && (region = ebb_scan_hold_next(executor, gpa))) {
		gpa = region->desc.start_gpa + region->desc.size_bytes;
		for (block = 0; go_on && block < region->nr_blocks; block++) {
			if (!is_candidate(executor, region, block) ||
			    region->content_age[block] != age)
				continue;
			purge_block(executor, region, block);
			go_on = purge->purged_bytes < purge->bytes && !must_give_way(executor) &&
				!region->removing;
		}
		ebb_scan_let_go(executor);
	}
	return go_on;
}

static bool is_wanted(struct ebb_executor *executor, bool *hardened)
{
	bool active;

	pthread_mutex_lock(&executor->lock);
	active = executor->purge.active;
	*hardened = executor->content.harden_depth != 0;
	pthread_mutex_unlock(&executor->lock);
	return active;
}

void ebb_purge_work(struct ebb_executor *executor)
{
	struct ebb_purge *purge = &executor->purge;
	bool hardened;
	uint32_t age;

	if (!is_wanted(executor, &hardened))
		return;
	if (hardened || !ebb_memops_begin(executor)) {
		end(executor, EBB_PURGE_OFF);
		return;
	}
	if (purge->fresh) {
		purge->fresh = false;
		purge->limit_age = ++executor->content.age;
	}
	do {
		age = purge->purged_bytes < purge->bytes ? oldest_age(executor) : 0;
	} while (age && purge_age(executor, age));
	ebb_memops_end(executor);
	if (purge->purged_bytes >= purge->bytes)
		end(executor, EBB_PURGE_OK);
	else if (!age)
		end(executor, EBB_PURGE_PARTIAL);
}
