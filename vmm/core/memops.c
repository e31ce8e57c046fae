// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * memops - run one batch: mark or discard its ranges, and say what became of each
 *
 * Neighbours are joined into runs, a run is one piece of one region. Within a region
 * the order by gpa is the order by host address, so that the batch's sorted spans give
 * the largest calls without another sort.
 *
 * Owns:    block states while a batch runs, verdicts.
 * Thread:  the executor thread.
 * Locks:   the executor's, for looking a region up and for the counters.
 * Never:   marks part of a huge page (it would split it) but of content, and then only while
 *          memory is short; works outside of the ranges of the batch, discards what is
 *          offered with content, allocates, keeps anything for later.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <syslog.h>

#include "executor.h"

/*
 * The most that one call marks or discards: some 15 ms of 4 KiB pages. A multiple of the
 * block, so that pieces of whole blocks are whole blocks.
 */
#define MAX_CALL_BYTES (128 * EBB_BLOCK_BYTES)

/* The least part of a huge page that pays for its split: 8 us a page, as swapping one takes. */
#define SPLIT_MIN_BYTES (128u << 10)

/* A piece of a region that the batch covers without a gap. */
struct run {
	struct ebb_region *region;
	uint64_t gpa;
	uint64_t bytes;
	uint32_t first_span; /* spans first_span to last_span reach into it */
	uint32_t last_span;
};

struct work {
	struct ebb_executor *executor;
	struct ebb_flight *flight;
	struct ebb_batch *batch;
	enum ebb_action action;
	uint16_t reason; /* with action NONE */
	bool collect;	 /* it answers the collection that is under way */
	bool is_short;	 /* the host */
	struct ebb_link_tables tables;
	uint64_t marked_bytes;
	uint64_t discarded_bytes;
	uint64_t not_marked_bytes[VIRTIO_EBB_REASON_MAX];
	uint64_t calls;
	uint64_t nsec;
	bool finish;	 /* goes on though it was cancelled */
	uint32_t cursor; /* the span that the next credit begins in */
};

enum outcome {
	OUTCOME_MARKED,
	OUTCOME_DISCARDED,
	OUTCOME_LEFT,
	OUTCOME_DOUBT, /* a call on content failed: some of it may be volatile all the same */
};

static bool is_content(const struct work *work)
{
	return work->batch->offer == EBB_OFFER_CONTENT;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Book [gpa, gpa + bytes) to the ranges that it belongs to; called in order of gpa. */
static void credit(struct work *work, uint64_t gpa, uint64_t bytes, enum outcome outcome,
		   uint16_t reason)
{
	while (bytes) {
		const struct ebb_span *span = &work->flight->spans[work->cursor];
		struct ebb_range *range;
		uint64_t part_bytes;

		if (span->gpa + span->bytes <= gpa) {
			work->cursor++;
			continue;
		}
		range = &work->batch->ranges[span->range];
		part_bytes = min_u64(bytes, span->gpa + span->bytes - gpa);
		switch (outcome) {
		case OUTCOME_MARKED:
			range->verdict = VIRTIO_EBB_MARKED;
			range->done_bytes += part_bytes;
			work->marked_bytes += part_bytes;
			break;
		case OUTCOME_DISCARDED:
			if (range->verdict != VIRTIO_EBB_MARKED)
				range->verdict = VIRTIO_EBB_DISCARDED;
			range->done_bytes += part_bytes;
			work->discarded_bytes += part_bytes;
			break;
		case OUTCOME_DOUBT:
			range->verdict = VIRTIO_EBB_MARKED;
			range->reason = reason;
			work->not_marked_bytes[reason] += part_bytes;
			break;
		case OUTCOME_LEFT:
			if (range->reason == VIRTIO_EBB_REASON_NONE)
				range->reason = reason;
			work->not_marked_bytes[reason] += part_bytes;
			break;
		}
		gpa += part_bytes;
		bytes -= part_bytes;
	}
}

/* The reason for the guest. Said once, until a call on this region succeeds again. */
static uint16_t call_failed(struct work *work, struct ebb_region *region, const char *call,
			    int error)
{
	struct ebb_executor *executor = work->executor;

	if (error != EINVAL) {
		if (!region->said_failed)
			ebb_log(executor, LOG_WARNING, "%s on guest RAM at %#llx failed: %s", call,
				(unsigned long long)region->desc.start_gpa, strerror(error));
		region->said_failed = true;
		return VIRTIO_EBB_REASON_FAILED;
	}
	/* The kernel has no such advice for locked or special memory, now or later. */
	ebb_log(executor, LOG_WARNING,
		"%s is not allowed on guest RAM at %#llx: it is locked in memory or special; "
		"nothing is marked or discarded there; do not lock the guest's memory",
		call, (unsigned long long)region->desc.start_gpa);
	pthread_mutex_lock(&executor->lock);
	region->locked = true;
	pthread_mutex_unlock(&executor->lock);
	return VIRTIO_EBB_REASON_BACKING;
}

static uint16_t advise(struct work *work, struct ebb_region *region, uint64_t offset_bytes,
		       uint64_t bytes, int advice)
{
	uint64_t start_nsec = ebb_now_nsec();
	int error = 0;

	if (madvise((void *)(region->host + offset_bytes), bytes, advice) < 0)
		error = errno;
	work->nsec += ebb_now_nsec() - start_nsec;
	work->calls++;
	if (error)
		return call_failed(work, region,
				   advice == MADV_FREE ? "madvise(MADV_FREE)"
						       : "madvise(MADV_DONTNEED)",
				   error);
	region->said_failed = false;
	return VIRTIO_EBB_REASON_NONE;
}

/* Was the batch cancelled while it runs? What it has begun with is finished. */
static bool is_cancelled(const struct work *work)
{
	bool cancelled;

	if (!work->calls || work->finish)
		return false;
	pthread_mutex_lock(&work->executor->lock);
	cancelled = work->batch->cancelled;
	pthread_mutex_unlock(&work->executor->lock);
	return cancelled;
}

/* Mark or discard [offset, offset + bytes) of a region by one call; book it. */
static void advise_piece(struct work *work, struct ebb_region *region, uint64_t offset_bytes,
			 uint64_t bytes, int advice)
{
	uint64_t gpa = region->desc.start_gpa + offset_bytes;
	uint16_t reason = advise(work, region, offset_bytes, bytes, advice);
	uint64_t block, end;

	ebb_tables_worked_on(region, offset_bytes, bytes,
			     !reason && advice == MADV_DONTNEED &&
				     work->executor->tables.way == EBB_TABLES_DONTNEED);
	if (is_content(work)) {
		ebb_content_marked(work->executor, region, offset_bytes, bytes);
		credit(work, gpa, bytes, reason ? OUTCOME_DOUBT : OUTCOME_MARKED, reason);
		return;
	}
	if (reason) {
		credit(work, gpa, bytes, OUTCOME_LEFT, reason);
		return;
	}
	ebb_content_forget(region, offset_bytes, bytes);
	/* What is missing at the ends was not purged. */
	if (advice == MADV_DONTNEED)
		ebb_scan_forget(region, offset_bytes, bytes);
	ebb_region_blocks(region, region->host + offset_bytes, bytes, &block, &end);
	for (; block < end; block++) {
		uint8_t *state = &region->blocks[block];

		if (advice == MADV_FREE) {
			*state = (*state & EBB_BLOCK_OF_TABLE) | EBB_BLOCK_MARKED | EBB_BLOCK_LAZY;
			region->resident[block] = EBB_RESIDENT_UNKNOWN;
			continue;
		}
		/* An empty block has no KSM pages, unless KSM still works here. */
		if ((*state & EBB_BLOCK_KSM) && !(*state & EBB_BLOCK_MERGE) && !region->mergeable &&
		    !work->executor->ksm.doubt) {
			*state = (*state & EBB_BLOCK_OF_TABLE) | EBB_BLOCK_DISCARDED;
			pthread_mutex_lock(&work->executor->lock);
			region->nr_ksm_blocks--;
			pthread_mutex_unlock(&work->executor->lock);
		} else {
			*state = (*state & (EBB_BLOCK_KSM | EBB_BLOCK_MERGE | EBB_BLOCK_OF_TABLE)) |
				 EBB_BLOCK_DISCARDED;
		}
	}
	credit(work, gpa, bytes, advice == MADV_FREE ? OUTCOME_MARKED : OUTCOME_DISCARDED,
	       VIRTIO_EBB_REASON_NONE);
}

/*
 * Whole units of unit_bytes by host address inside a run, as offsets into the region;
 * false if there is none. A unit may begin before the region does.
 */
static bool round_inward(const struct run *run, uint64_t unit_bytes, uint64_t *low, uint64_t *high)
{
	uintptr_t region_host = run->region->host;
	uintptr_t host = region_host + (run->gpa - run->region->desc.start_gpa);
	uintptr_t first = (host + unit_bytes - 1) & ~(unit_bytes - 1);
	uintptr_t end = (host + run->bytes) & ~(unit_bytes - 1);

	if (first < host || end <= first)
		return false;
	*low = first - region_host;
	*high = end - region_host;
	return true;
}

/* Does rule 2 forbid to mark this block? */
static bool block_may_hold_ksm(const struct work *work, const struct ebb_region *region,
			       uint64_t block)
{
	return region->mergeable || work->executor->ksm.doubt ||
	       (region->blocks[block] & EBB_BLOCK_KSM);
}

static void discard_piece(struct work *work, struct ebb_region *region, uint64_t offset_bytes,
			  uint64_t bytes)
{
	struct ebb_executor *executor = work->executor;
	uint64_t gpa = region->desc.start_gpa + offset_bytes;
	uint64_t start_nsec = ebb_now_nsec();
	int ret = executor->ops->discard(executor->vmm, region->desc.opaque, offset_bytes, bytes);

	work->nsec += ebb_now_nsec() - start_nsec;
	work->calls++;
	if (ret) {
		credit(work, gpa, bytes, OUTCOME_LEFT,
		       call_failed(work, region, "the VMM's discard", -ret));
		return;
	}
	region->said_failed = false;
	credit(work, gpa, bytes, OUTCOME_DISCARDED, VIRTIO_EBB_REASON_NONE);
}

/* Do [offset, offset + bytes) in pieces, so that nobody who cancels waits long. */
static void apply(struct work *work, struct ebb_region *region, uint64_t offset_bytes,
		  uint64_t bytes, int advice)
{
	bool helper = region->desc.backing == EBB_BACKING_HELPER;
	uint64_t most_bytes = MAX_CALL_BYTES;

	if (most_bytes < region->desc.page_bytes)
		most_bytes = region->desc.page_bytes;
	while (bytes) {
		uint64_t piece_bytes = min_u64(bytes, most_bytes);

		if (is_cancelled(work))
			credit(work, region->desc.start_gpa + offset_bytes, piece_bytes,
			       OUTCOME_LEFT, VIRTIO_EBB_REASON_CANCELLED);
		else if (helper)
			discard_piece(work, region, offset_bytes, piece_bytes);
		else
			advise_piece(work, region, offset_bytes, piece_bytes, advice);
		offset_bytes += piece_bytes;
		bytes -= piece_bytes;
	}
}

/* Whole blocks: mark them, or discard those that may not be marked. */
static void run_blocks(struct work *work, const struct run *run, uint64_t low, uint64_t high)
{
	struct ebb_region *region = run->region;
	uint64_t block, end, next;

	ebb_region_blocks(region, region->host + low, high - low, &block, &end);
	for (; block < end; block = next) {
		bool ksm = block_may_hold_ksm(work, region, block);
		uint64_t bytes;

		for (next = block + 1; next < end; next++)
			if (block_may_hold_ksm(work, region, next) != ksm)
				break;
		bytes = (next - block) * EBB_BLOCK_BYTES;
		apply(work, region, low, bytes, ksm ? MADV_DONTNEED : MADV_FREE);
		low += bytes;
	}
}

/*
 * A part of a block. The mark splits a huge page there, which takes some 250 us and is the end of
 * the huge page for what is in use beside it: only when memory is short, and for no less than pays.
 */
static void run_fragment(struct work *work, const struct run *run, uint64_t block, uint64_t low,
			 uint64_t high)
{
	struct ebb_region *region = run->region;
	uint64_t gpa = region->desc.start_gpa + low;
	uint16_t reason = VIRTIO_EBB_REASON_FRAGMENT;
	struct ebb_block_pages pages;
	bool may_split = work->is_short && high - low >= SPLIT_MIN_BYTES;

	if (block_may_hold_ksm(work, region, block)) {
		reason = VIRTIO_EBB_REASON_BACKING;
	} else if (ebb_presence_read(&work->executor->content.presence,
				     region->block_host + block * EBB_BLOCK_BYTES, &pages) == 0 &&
		   (!pages.huge || may_split)) {
		apply(work, region, low, high - low, MADV_FREE);
		return;
	}
	credit(work, gpa, high - low, OUTCOME_LEFT, reason);
}

/* Content: whole blocks, and parts of blocks as run_fragment() has it; never a discard. */
static void run_content(struct work *work, const struct run *run)
{
	struct ebb_region *region = run->region;
	uint64_t low = run->gpa - region->desc.start_gpa, end = low + run->bytes;
	uint64_t first = region->block_host - region->host;
	uint64_t last = first + region->nr_blocks * EBB_BLOCK_BYTES;

	while (low < end) {
		uint64_t gpa = region->desc.start_gpa + low, next = end, block;

		if (low < first || low >= last) {
			/* Blocks that the region has only a part of. */
			if (low < first && first < end)
				next = first;
			credit(work, gpa, next - low, OUTCOME_LEFT, VIRTIO_EBB_REASON_FRAGMENT);
			low = next;
			continue;
		}
		block = (low - first) / EBB_BLOCK_BYTES;
		next = min_u64(end, first + (block + 1) * EBB_BLOCK_BYTES);
		if (next - low < EBB_BLOCK_BYTES) {
			run_fragment(work, run, block, low, next);
		} else if (block_may_hold_ksm(work, region, block)) {
			credit(work, gpa, next - low, OUTCOME_LEFT, VIRTIO_EBB_REASON_BACKING);
		} else {
			/*
			 * Short: split, so that a page that is touched does not keep all of the
			 * block; the host takes what it needs soon.
			 */
			if (work->is_short) {
				next = low + EBB_BLOCK_BYTES / 2;
			} else {
				while (next + EBB_BLOCK_BYTES <= min_u64(end, last) &&
				       !block_may_hold_ksm(work, region,
							   (next - first) / EBB_BLOCK_BYTES))
					next += EBB_BLOCK_BYTES;
			}
			apply(work, region, low, next - low, MADV_FREE);
		}
		low = next;
	}
}

/* Free memory, by what is done with it in general. */
static void run_free(struct work *work, const struct run *run)
{
	struct ebb_region *region = run->region;
	uint64_t start = run->gpa - region->desc.start_gpa, end = start + run->bytes;
	uint64_t unit_bytes = region->desc.page_bytes, low, high;
	bool helper = region->desc.backing == EBB_BACKING_HELPER;

	if (work->action == EBB_ACTION_NONE) {
		credit(work, run->gpa, run->bytes, OUTCOME_LEFT, work->reason);
		return;
	}
	if (work->action == EBB_ACTION_LAZY && !helper)
		unit_bytes = EBB_BLOCK_BYTES;
	if (!round_inward(run, unit_bytes, &low, &high)) {
		credit(work, run->gpa, run->bytes, OUTCOME_LEFT, VIRTIO_EBB_REASON_FRAGMENT);
		return;
	}
	credit(work, run->gpa, low - start, OUTCOME_LEFT, VIRTIO_EBB_REASON_FRAGMENT);
	if (work->action == EBB_ACTION_LAZY && !helper)
		run_blocks(work, run, low, high);
	else
		apply(work, region, low, high - low, MADV_DONTNEED);
	credit(work, region->desc.start_gpa + high, end - high, OUTCOME_LEFT,
	       VIRTIO_EBB_REASON_FRAGMENT);
}

/* The part of a run that begins at gpa. */
static struct run part_of(const struct run *run, uint64_t gpa, uint64_t bytes)
{
	struct run part = *run;

	part.gpa = gpa;
	part.bytes = bytes;
	return part;
}

/* Discard blocks whose table is empty, and count the tables that are gone for it. */
static void free_tables(struct work *work, const struct run *run, uint64_t block, uint32_t nr)
{
	struct ebb_region *region = run->region;
	uintptr_t host = region->block_host + block * EBB_BLOCK_BYTES;
	uint8_t states[MAX_CALL_BYTES / EBB_BLOCK_BYTES];
	uint64_t before_bytes = work->discarded_bytes, tables_bytes = 0, start_nsec;
	bool by_history = work->executor->tables.finder != EBB_TABLES_SCAN;
	uint32_t i, gone = nr;

	if (by_history)
		tables_bytes = ebb_tables_vm_pte_bytes();

	apply(work, region, host - region->host, nr * EBB_BLOCK_BYTES, MADV_DONTNEED);
	if (work->discarded_bytes == before_bytes)
		return;
	if (work->executor->tables.way == EBB_TABLES_MOVE && !work->is_short) {
		start_nsec = ebb_now_nsec();
		ebb_tables_move(region, block, nr);
		work->nsec += ebb_now_nsec() - start_nsec;
	}
	/*
	 * Nobody uses the blocks yet: what the kernel says of them is of what was done. Where
	 * userfaultfd protects the area no table looks like an empty one. By history some had none,
	 * and others may make tables meanwhile: so many are gone at least.
	 */
	ebb_tables_look(&work->executor->tables, host, nr, states);
	if (by_history)
		gone = ebb_tables_fewer(tables_bytes);
	for (i = 0; i < nr; i++) {
		bool freed = states[i] != EBB_TABLE_USED &&
			     !(region->blocks[block + i] & EBB_BLOCK_TABLE);

		work->tables.freed += freed && gone;
		gone -= freed && gone;
		work->tables.failed += !freed;
	}
}

/*
 * Blocks that the guest was asked for, and offers now: those that are still empty are
 * discarded. What got an entry since, is an offer as any other. Returns the gpa up to which
 * the run is done.
 */
static uint64_t run_asked(struct work *work, const struct run *run, uint64_t done_gpa,
			  uint64_t block, uint32_t nr)
{
	struct ebb_region *region = run->region;
	uint64_t gpa = region->desc.start_gpa + (region->block_host - region->host) +
		       block * EBB_BLOCK_BYTES;
	uint8_t states[MAX_CALL_BYTES / EBB_BLOCK_BYTES];
	uint32_t i, next;

	ebb_tables_look(&work->executor->tables, region->block_host + block * EBB_BLOCK_BYTES, nr,
			states);
	work->tables.offered += nr;
	for (i = 0; i < nr; i++)
		region->blocks[block + i] &= (uint8_t)~EBB_BLOCK_ASKED;
	for (i = 0; i < nr; i = next) {
		struct run part = part_of(run, done_gpa, gpa + i * EBB_BLOCK_BYTES - done_gpa);

		next = i + 1;
		if (states[i] != EBB_TABLE_EMPTY) {
			work->tables.refused += states[i] == EBB_TABLE_USED;
			continue;
		}
		while (next < nr && states[next] == EBB_TABLE_EMPTY)
			next++;
		if (part.bytes)
			run_free(work, &part);
		free_tables(work, run, block + i, next - i);
		done_gpa = gpa + next * EBB_BLOCK_BYTES;
	}
	return done_gpa;
}

/* An offer in answer to a collection. */
static void run_collected(struct work *work, const struct run *run)
{
	struct ebb_region *region = run->region;
	uint64_t done_gpa = run->gpa, end_gpa = run->gpa + run->bytes, block, end, next;
	struct run rest;

	ebb_region_blocks(region, region->host + (run->gpa - region->desc.start_gpa), run->bytes,
			  &block, &end);
	for (; block < end; block = next) {
		next = block;
		while (next < end && next - block < MAX_CALL_BYTES / EBB_BLOCK_BYTES &&
		       (region->blocks[next] & EBB_BLOCK_ASKED))
			next++;
		if (next > block)
			done_gpa = run_asked(work, run, done_gpa, block, (uint32_t)(next - block));
		else
			next++;
	}
	rest = part_of(run, done_gpa, end_gpa - done_gpa);
	if (rest.bytes)
		run_free(work, &rest);
}

static void run_one(struct work *work, const struct run *run)
{
	struct ebb_region *region = run->region;
	bool helper = region->desc.backing == EBB_BACKING_HELPER;

	work->cursor = run->first_span;
	if (region->desc.backing == EBB_BACKING_REFUSED || region->locked)
		credit(work, run->gpa, run->bytes, OUTCOME_LEFT, VIRTIO_EBB_REASON_BACKING);
	else if (is_content(work) && helper)
		credit(work, run->gpa, run->bytes, OUTCOME_LEFT, VIRTIO_EBB_REASON_BACKING);
	else if (is_content(work))
		run_content(work, run);
	else if (work->collect && !helper)
		run_collected(work, run);
	else
		run_free(work, run);
}

/* Nothing was done yet. */
static void forget(struct work *work)
{
	uint32_t i;

	for (i = 0; i < work->batch->nr_ranges; i++) {
		work->batch->ranges[i].verdict = 0;
		work->batch->ranges[i].reason = VIRTIO_EBB_REASON_NONE;
		work->batch->ranges[i].done_bytes = 0;
	}
	work->marked_bytes = 0;
	work->discarded_bytes = 0;
	memset(work->not_marked_bytes, 0, sizeof(work->not_marked_bytes));
}

/* Cut the sorted spans into runs and do each. */
static void run_all(struct work *work)
{
	const struct ebb_flight *flight = work->flight;
	struct run run = { 0 };
	uint32_t i;

	forget(work);
	for (i = 0; i < flight->nr_spans; i++) {
		uint64_t gpa = flight->spans[i].gpa, left_bytes = flight->spans[i].bytes;

		while (left_bytes) {
			uint64_t bytes;

			if (!run.region || !ebb_region_contains(run.region, gpa) ||
			    gpa != run.gpa + run.bytes) {
				struct ebb_region *region = run.region;

				if (region)
					run_one(work, &run);
				if (!region || !ebb_region_contains(region, gpa))
					region = ebb_executor_region_at(work->executor, gpa);
				run = (struct run){ .region = region, .gpa = gpa, .first_span = i };
			}
			bytes = min_u64(left_bytes, run.region->desc.start_gpa +
							    run.region->desc.size_bytes - gpa);
			run.bytes += bytes;
			run.last_span = i;
			gpa += bytes;
			left_bytes -= bytes;
		}
	}
	run_one(work, &run);
}

void ebb_memops_refuse(struct ebb_executor *executor, struct ebb_batch *batch, uint16_t reason)
{
	uint64_t bytes = 0;
	uint32_t i;

	for (i = 0; i < batch->nr_ranges; i++) {
		batch->ranges[i].verdict = VIRTIO_EBB_NOT_MARKED;
		batch->ranges[i].reason = reason;
		batch->ranges[i].done_bytes = 0;
		bytes += batch->ranges[i].bytes;
	}
	pthread_mutex_lock(&executor->lock);
	executor->status.counters.not_marked_bytes[reason] += bytes;
	pthread_mutex_unlock(&executor->lock);
}

bool ebb_memops_begin(struct ebb_executor *executor)
{
	int ret = executor->ops->discard_begin(executor->vmm);
	bool was_inhibited;

	pthread_mutex_lock(&executor->lock);
	was_inhibited = executor->status.inhibited;
	executor->status.inhibited = ret != 0;
	if (was_inhibited && !ret) {
		/* What was answered INHIBITED would not be reported again by itself. */
		executor->status.guidance.reoffer_generation++;
		executor->guide_pending = true;
	}
	pthread_mutex_unlock(&executor->lock);
	if (ret && !was_inhibited)
		ebb_log(executor, LOG_NOTICE, "the VMM forbids discards for now: %s",
			strerror(-ret));
	if (!ret && was_inhibited)
		ebb_log(executor, LOG_NOTICE, "the VMM allows discards again");
	return ret == 0;
}

void ebb_memops_end(struct ebb_executor *executor)
{
	executor->ops->discard_end(executor->vmm);
}

/* Does a batch answer the collection that is under way? Lock held. */
static bool is_of_collection(const struct ebb_executor *executor, const struct ebb_batch *batch)
{
	return executor->collect.state == EBB_COLLECT_ACTIVE && batch->offer == EBB_OFFER_FREE &&
	       executor->collect.id == batch->command_id;
}

static void book(struct work *work, bool release)
{
	struct ebb_executor *executor = work->executor;
	struct ebb_counters *counters = &executor->status.counters;
	uint32_t i;

	pthread_mutex_lock(&executor->lock);
	if (is_content(work))
		counters->content_marked_bytes += work->marked_bytes;
	else
		counters->marked_bytes += work->marked_bytes;
	counters->discarded_bytes += work->discarded_bytes;
	for (i = 0; i < VIRTIO_EBB_REASON_MAX; i++)
		counters->not_marked_bytes[i] += work->not_marked_bytes[i];
	counters->madvise_calls += work->calls;
	counters->madvise_nsec += work->nsec;
	/* The release may have ended, or another begun, while the calls ran. */
	if (release && executor->release.state == EBB_RELEASE_ACTIVE &&
	    executor->release.id == work->batch->command_id) {
		counters->released_bytes += work->discarded_bytes;
		executor->release.discarded_bytes += work->discarded_bytes;
	}
	counters->tables_offered += work->tables.offered;
	counters->tables_freed += work->tables.freed;
	counters->tables_refused += work->tables.refused;
	counters->tables_failed += work->tables.failed;
	if (work->collect && is_of_collection(executor, work->batch)) {
		executor->collect.tables.offered += work->tables.offered;
		executor->collect.tables.freed += work->tables.freed;
		executor->collect.tables.refused += work->tables.refused;
	}
	pthread_mutex_unlock(&executor->lock);
}

/* Lock held. */
static struct ebb_decision decide_content(struct ebb_executor *executor)
{
	struct ebb_decision decision = ebb_policy_decide_content(&executor->policy);

	if (decision.action == EBB_ACTION_NONE)
		return decision;
	if (!executor->can_free || !executor->content.can_harden)
		return (struct ebb_decision){ .reason = VIRTIO_EBB_REASON_BACKING };
	if (executor->content.harden_depth) {
		executor->content.reoffer = true;
		return (struct ebb_decision){ .reason = VIRTIO_EBB_REASON_INHIBITED };
	}
	return decision;
}

/* KSM began to work here while pages were marked: none of them may stay marked. */
static void harden_batch(struct work *work)
{
	const struct ebb_flight *flight = work->flight;
	uint32_t i;

	for (i = 0; i < flight->nr_spans; i++) {
		uint64_t gpa = flight->spans[i].gpa, left_bytes = flight->spans[i].bytes;

		while (left_bytes) {
			struct ebb_region *region = ebb_executor_region_at(work->executor, gpa);
			uint64_t offset_bytes = gpa - region->desc.start_gpa;
			uint64_t bytes =
				min_u64(left_bytes, region->desc.size_bytes - offset_bytes);

			ebb_content_harden_range(work->executor, region, offset_bytes, bytes);
			gpa += bytes;
			left_bytes -= bytes;
		}
	}
}

bool ebb_memops_run(struct ebb_executor *executor, struct ebb_flight *flight)
{
	struct ebb_batch *batch = flight->batch;
	struct work work = { .executor = executor, .flight = flight, .batch = batch };
	struct ebb_decision decision;
	bool release;
	uint32_t i;

	pthread_mutex_lock(&executor->lock);
	release = executor->release.state == EBB_RELEASE_ACTIVE && !is_content(&work) &&
		  executor->release.id == batch->command_id;
	/* Where nothing is done at all, no table is collected either. */
	work.collect = is_of_collection(executor, batch) &&
		       ebb_policy_decide(&executor->policy, true).action != EBB_ACTION_NONE;
	work.is_short = executor->policy.stage == EBB_STAGE_SHORT;
	if (is_content(&work))
		decision = decide_content(executor);
	else
		decision = ebb_policy_decide(&executor->policy, release);
	pthread_mutex_unlock(&executor->lock);

	if (decision.action == EBB_ACTION_NONE && !work.collect) {
		ebb_memops_refuse(executor, batch, decision.reason);
		return false;
	}
	work.action = decision.action;
	work.reason = decision.reason;
	if (work.action == EBB_ACTION_LAZY && !executor->can_free)
		work.action = EBB_ACTION_EAGER;
	if (!ebb_memops_begin(executor)) {
		ebb_memops_refuse(executor, batch, VIRTIO_EBB_REASON_INHIBITED);
		return false;
	}
	if (work.action == EBB_ACTION_LAZY)
		ebb_ksm_before_free(executor);
	run_all(&work);
	if (work.marked_bytes && ebb_ksm_came(executor)) {
		/* KSM began to work here meanwhile: nothing of this may stay marked. */
		work.finish = true;
		if (is_content(&work))
			harden_batch(&work);
		else
			run_all(&work);
	}
	ebb_memops_end(executor);
	for (i = 0; i < batch->nr_ranges; i++)
		if (batch->ranges[i].verdict == 0)
			batch->ranges[i].verdict = VIRTIO_EBB_NOT_MARKED;
	book(&work, release);
	if (is_content(&work))
		return false;
	executor->marked |= work.marked_bytes != 0;
	return work.marked_bytes != 0;
}
