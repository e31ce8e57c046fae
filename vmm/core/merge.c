// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * merge - mark blocks of guest RAM mergeable by KSM, and take the mark back
 *
 * For each block there is a wish (by the mode, and by the guest's hints) and a mark (ours,
 * EBB_BLOCK_MERGE). One pass after the other brings the two together; there is no other
 * place that marks. What the VMM itself has made mergeable is undone where the mode is
 * OFF or HINTED.
 *
 * Rule 2: a block says EBB_BLOCK_KSM before it is marked, and goes on saying so until all
 * of it was discarded while it was not mergeable, or MADV_UNMERGEABLE, which puts a page of
 * its own in the place of each that is shared, has succeeded on all of it.
 *
 * Rule 12: both calls take mmap_lock for writing and so stall page faults of the guest.
 * Taking back walks the pages with the lock held and may copy them: it goes in pieces.
 *
 * Owns:    EBB_BLOCK_MERGE, struct ebb_merge.
 * Thread:  the executor thread.
 * Locks:   the executor's, never across a system call.
 * Never:   marks memory that may hold volatile content; changes anything while the host is
 *          short; delays a batch by more than one call.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <syslog.h>

#include "executor.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef PR_GET_MEMORY_MERGE
#define PR_GET_MEMORY_MERGE 68
#endif

/* One call of MADV_UNMERGEABLE: 4 ms of 4 KiB pages that are shared, while page faults wait. */
#define UNMARK_CALL_BYTES (4 * EBB_BLOCK_BYTES)
/* A pass, and the rest after it. */
#define PASS_CALLS	   64
#define PASS_UNMARK_BYTES  (256ull << 20)
#define SLOW_UNMARK_BYTES  (32ull << 20)
#define PASS_INTERVAL_NSEC (100 * NSEC_PER_MSEC)
/* What could not be done now is tried again after so long. */
#define RETRY_INTERVAL_NSEC NSEC_PER_SEC

uint32_t ebb_merge_mode(const struct ebb_merge *merge)
{
	return merge->agent_mode != EBB_MERGE_KEEP ? merge->agent_mode : merge->operator_mode;
}

struct ebb_merge_budget ebb_merge_budget(uint32_t stage, bool agent_heard)
{
	if (stage == EBB_STAGE_SHORT)
		return (struct ebb_merge_budget){ 0 };
	/* To take back may need memory for copies: slowly, where there is not plenty. */
	return (struct ebb_merge_budget){
		.mark_bytes = UINT64_MAX,
		.unmark_bytes = stage == EBB_STAGE_PLENTY || !agent_heard ? PASS_UNMARK_BYTES
									  : SLOW_UNMARK_BYTES,
		.calls = PASS_CALLS,
	};
}

static bool is_marked(const struct ebb_region *region, uint64_t block)
{
	return region->blocks[block] & EBB_BLOCK_MERGE;
}

uint64_t ebb_merge_count_runs(const struct ebb_region *region)
{
	uint64_t block, runs = 0;

	for (block = 0; block < region->nr_blocks; block++)
		runs += is_marked(region, block) && (block == 0 || !is_marked(region, block - 1));
	return runs;
}

int ebb_merge_runs_change(const struct ebb_region *region, uint64_t first, uint64_t end,
			  bool marked)
{
	bool before = first > 0 && is_marked(region, first - 1);
	bool after = end < region->nr_blocks && is_marked(region, end);
	int neighbours = before + after;

	/* To mark joins it to its neighbours, to take back leaves them as they are. */
	return marked ? 1 - neighbours : neighbours - 1;
}

bool ebb_merge_is_ours(const struct ebb_region *region, uintptr_t low, uintptr_t high)
{
	uintptr_t limit = region->block_host + region->nr_blocks * EBB_BLOCK_BYTES;

	if (low < region->block_host || high > limit)
		return false;
	low &= ~(EBB_BLOCK_BYTES - 1);
	for (; low < high; low += EBB_BLOCK_BYTES)
		if (!is_marked(region, (low - region->block_host) / EBB_BLOCK_BYTES))
			return false;
	return true;
}

/* ---- executor thread ---- */

struct pass {
	struct ebb_executor *executor;
	uint32_t mode;
	struct ebb_merge_budget budget;
	uint64_t runs; /* of all regions */
	bool left;     /* something is left for the next pass */
	bool failed;   /* and it makes no sense to try that soon */
	bool full;
};

static bool is_wanted(const struct pass *pass, const struct ebb_region *region, uint64_t block)
{
	/* Volatile content that KSM holds could not be marked again (rule 2). */
	if (region->blocks[block] & EBB_BLOCK_CONTENT)
		return false;
	switch (pass->mode) {
	case EBB_MERGE_ALL:
		return true;
	case EBB_MERGE_HINTED:
		return __atomic_load_n(&region->hints[block], __ATOMIC_RELAXED);
	}
	return false;
}

/* Does somebody wait for this thread? */
static bool must_give_way(struct ebb_executor *executor, const struct ebb_region *region)
{
	bool waits;

	pthread_mutex_lock(&executor->lock);
	waits = executor->queue_head || executor->stop || region->removing ||
		executor->content.harden_wanted != executor->content.harden_done;
	pthread_mutex_unlock(&executor->lock);
	return waits;
}

/* 0 or a negative errno. */
static int advise(struct pass *pass, uintptr_t host, uint64_t bytes, int advice)
{
	struct ebb_merge *merge = &pass->executor->merge;
	uint64_t start_nsec = ebb_now_nsec(), nsec;
	int ret = madvise((void *)host, bytes, advice) < 0 ? -errno : 0;

	nsec = ebb_now_nsec() - start_nsec;
	pass->budget.calls--;
	pthread_mutex_lock(&pass->executor->lock);
	merge->nsec += nsec;
	if (nsec > merge->longest_nsec)
		merge->longest_nsec = nsec;
	if (ret)
		merge->failures++;
	else if (advice == MADV_MERGEABLE)
		merge->marks++;
	else
		merge->unmarks++;
	pthread_mutex_unlock(&pass->executor->lock);
	return ret;
}

static void say_failed(struct pass *pass, const char *call, int error)
{
	struct ebb_merge *merge = &pass->executor->merge;

	pass->failed = true;
	if (!merge->said_failed)
		ebb_log(pass->executor, LOG_WARNING,
			"%s on guest RAM failed: %s; tried again later", call, strerror(error));
	merge->said_failed = true;
}

/* Blocks [first, end) may hold KSM pages from now on, or do not any more. */
static void set_ksm(struct ebb_executor *executor, struct ebb_region *region, uint64_t first,
		    uint64_t end, bool ksm)
{
	pthread_mutex_lock(&executor->lock);
	for (; first < end; first++) {
		uint8_t *state = &region->blocks[first];

		if (ksm == ((*state & EBB_BLOCK_KSM) != 0))
			continue;
		*state ^= EBB_BLOCK_KSM;
		region->nr_ksm_blocks += ksm ? 1 : UINT64_MAX;
	}
	executor->merge.ever |= ksm;
	pthread_mutex_unlock(&executor->lock);
}

/* How many are marked is read by whoever asks for the status. All of them were not, or were. */
static void set_mark(struct pass *pass, struct ebb_region *region, uint64_t first, uint64_t end,
		     bool marked)
{
	uint64_t runs = (uint64_t)(int64_t)ebb_merge_runs_change(region, first, end, marked);
	uint64_t block;

	pass->runs += runs;
	for (block = first; block < end; block++) {
		if (marked)
			region->blocks[block] |= EBB_BLOCK_MERGE;
		else
			region->blocks[block] &= (uint8_t)~EBB_BLOCK_MERGE;
	}
	pthread_mutex_lock(&pass->executor->lock);
	region->nr_merge_blocks += marked ? end - first : -(end - first);
	region->nr_merge_runs += runs;
	pthread_mutex_unlock(&pass->executor->lock);
}

/* The kernel does not join areas that were divided before any of it was touched. */
static void touch(const struct ebb_region *region)
{
	int ret;

	/* Keeps what is there; an error shows in nothing but the number of areas. */
	do {
		ret = madvise((void *)region->host, EBB_PAGE_BYTES, MADV_POPULATE_WRITE);
	} while (ret < 0 && errno == EINTR);
}

static void mark(struct pass *pass, struct ebb_region *region, uint64_t first, uint64_t end)
{
	struct ebb_merge *merge = &pass->executor->merge;
	int ret;

	if (ebb_merge_runs_change(region, first, end, true) > 0 &&
	    pass->runs >= EBB_MERGE_MAX_RUNS) {
		pass->full = true;
		return;
	}
	if (!region->touched) {
		region->touched = true;
		touch(region);
	}
	set_ksm(pass->executor, region, first, end, true);
	ret = advise(pass, region->block_host + first * EBB_BLOCK_BYTES,
		     (end - first) * EBB_BLOCK_BYTES, MADV_MERGEABLE);
	switch (ret) {
	case 0:
		set_mark(pass, region, first, end, true);
		return;
	case -EAGAIN:
	case -ENOMEM:
		/* The kernel's own limit of areas; parts of it may be marked. */
		pass->full = true;
		break;
	case -EINVAL:
		pthread_mutex_lock(&pass->executor->lock);
		merge->no_ksm = true;
		pthread_mutex_unlock(&pass->executor->lock);
		break;
	default:
		say_failed(pass, "madvise(MADV_MERGEABLE)", -ret);
		break;
	}
	/* Whatever of it is mergeable now shall not stay so; that it may have been, KSM says. */
	if (ret != -EINVAL && advise(pass, region->block_host + first * EBB_BLOCK_BYTES,
				     (end - first) * EBB_BLOCK_BYTES, MADV_UNMERGEABLE))
		set_mark(pass, region, first, end, true);
	pass->failed = true;
}

static void unmark(struct pass *pass, struct ebb_region *region, uint64_t first, uint64_t end)
{
	int ret;

	/* No room for one more run: all of the run goes, its rest comes again when there is. */
	if (ebb_merge_runs_change(region, first, end, false) > 0 &&
	    pass->runs >= EBB_MERGE_MAX_RUNS)
		while (first > 0 && is_marked(region, first - 1))
			first--;
	ret = advise(pass, region->block_host + first * EBB_BLOCK_BYTES,
		     (end - first) * EBB_BLOCK_BYTES, MADV_UNMERGEABLE);
	if (ret) {
		say_failed(pass, "madvise(MADV_UNMERGEABLE)", -ret);
		return;
	}
	set_mark(pass, region, first, end, false);
	set_ksm(pass->executor, region, first, end, false);
}

static void forget_marks(struct pass *pass, struct ebb_region *region)
{
	uint64_t block, end;

	for (block = 0; block < region->nr_blocks; block = end) {
		end = block + 1;
		if (!is_marked(region, block))
			continue;
		while (end < region->nr_blocks && is_marked(region, end))
			end++;
		set_mark(pass, region, block, end, false);
	}
}

/*
 * What the VMM itself has made mergeable, all of it: true when it is undone. The region
 * counts as mergeable until then.
 */
static bool undo_whole(struct pass *pass, struct ebb_region *region)
{
	struct ebb_executor *executor = pass->executor;
	uint64_t at = region->undone_bytes, size = region->desc.size_bytes;

	if (at == 0) {
		/* From here on who makes it mergeable again is seen at the end. */
		if (region->desc.vmm_merges)
			__atomic_store_n(region->desc.vmm_merges, false, __ATOMIC_RELEASE);
		touch(region);
	}
	region->touched = true;
	while (at < size) {
		uint64_t bytes = size - at < UNMARK_CALL_BYTES ? size - at : UNMARK_CALL_BYTES;
		int ret;

		if (!pass->budget.calls || pass->budget.unmark_bytes < bytes ||
		    must_give_way(executor, region)) {
			pass->left = true;
			region->undone_bytes = at;
			return false;
		}
		ret = advise(pass, region->host + at, bytes, MADV_UNMERGEABLE);
		if (ret) {
			say_failed(pass, "madvise(MADV_UNMERGEABLE)", -ret);
			region->undone_bytes = at;
			return false;
		}
		pass->budget.unmark_bytes -= bytes;
		at += bytes;
	}
	region->undone_bytes = 0;
	if (ebb_ksm_vmm_merges(region)) {
		pass->left = true;
		return false;
	}
	pthread_mutex_lock(&executor->lock);
	region->mergeable = false;
	pthread_mutex_unlock(&executor->lock);
	/* What we had marked of it went along. */
	forget_marks(pass, region);
	set_ksm(executor, region, 0, region->nr_blocks, false);
	if (executor->ops->merge_undone)
		executor->ops->merge_undone(executor->vmm);
	ebb_log(executor, LOG_INFO, "guest RAM at %#llx is not mergeable as a whole any more",
		(unsigned long long)region->desc.start_gpa);
	return true;
}

/* One run of blocks whose mark is to change, from *block on; *block moves behind it. */
static void change_run(struct pass *pass, struct ebb_region *region, uint64_t *block)
{
	bool wanted = is_wanted(pass, region, *block);
	uint64_t first = *block, end = first + 1;
	uint64_t most = wanted ? UINT64_MAX : UNMARK_CALL_BYTES / EBB_BLOCK_BYTES;

	while (end < region->nr_blocks && end - first < most &&
	       is_wanted(pass, region, end) == wanted && is_marked(region, end) != wanted)
		end++;
	*block = end;
	if (!pass->budget.calls || (!wanted && !pass->budget.unmark_bytes)) {
		pass->left = true;
		return;
	}
	if (wanted) {
		mark(pass, region, first, end);
		return;
	}
	unmark(pass, region, first, end);
	pass->budget.unmark_bytes -= pass->budget.unmark_bytes < UNMARK_CALL_BYTES
					     ? pass->budget.unmark_bytes
					     : UNMARK_CALL_BYTES;
}

/* Marks first need room, which taking back may make: that goes first. */
static void change_region(struct pass *pass, struct ebb_region *region)
{
	bool may_mark = !region->mergeable && !region->locked && !pass->executor->merge.no_ksm;
	uint64_t block;
	int wanted;

	for (wanted = 0; wanted <= may_mark; wanted++) {
		for (block = 0; block < region->nr_blocks;) {
			if (is_wanted(pass, region, block) != (bool)wanted ||
			    is_marked(region, block) == (bool)wanted) {
				block++;
				continue;
			}
			if (must_give_way(pass->executor, region)) {
				pass->left = true;
				return;
			}
			change_run(pass, region, &block);
		}
	}
}

static void run_region(struct pass *pass, struct ebb_region *region)
{
	bool undo = pass->mode == EBB_MERGE_OFF || pass->mode == EBB_MERGE_HINTED;

	/* What the kernel was not asked about, nobody knows. */
	if (region->look_pending) {
		pass->left = true;
		return;
	}
	if (region->mergeable && undo && !undo_whole(pass, region))
		return;
	change_region(pass, region);
}

void ebb_merge_drop_region(struct ebb_region *region)
{
	uint64_t most = UNMARK_CALL_BYTES / EBB_BLOCK_BYTES, block, end;

	for (block = 0; block < region->nr_blocks; block = end) {
		end = block + 1;
		if (!is_marked(region, block))
			continue;
		while (end < region->nr_blocks && end - block < most && is_marked(region, end))
			end++;
		/* If it fails, whoever comes to this address finds it mergeable. */
		madvise((void *)(region->block_host + block * EBB_BLOCK_BYTES),
			(end - block) * EBB_BLOCK_BYTES, MADV_UNMERGEABLE);
	}
}

static uint64_t count_runs(struct ebb_executor *executor)
{
	uint64_t runs = 0;
	uint32_t i;

	pthread_mutex_lock(&executor->lock);
	for (i = 0; i < executor->map.nr; i++)
		runs += executor->map.regions[i]->nr_merge_runs;
	pthread_mutex_unlock(&executor->lock);
	return runs;
}

static void run_all(struct pass *pass)
{
	struct ebb_executor *executor = pass->executor;
	struct ebb_region *region;
	uint64_t gpa = 0;

	pass->runs = count_runs(executor);
	while ((region = ebb_scan_hold_anonymous(executor, gpa))) {
		gpa = region->desc.start_gpa + region->desc.size_bytes;
		run_region(pass, region);
		ebb_scan_let_go(executor);
	}
}

/*
 * An inherited PR_SET_MEMORY_MERGE is somebody's wish for all of this process, which no
 * call on a part of it takes back for good.
 */
static bool is_inherited(struct pass *pass)
{
	struct ebb_merge *merge = &pass->executor->merge;

	if (prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) != 1)
		return false;
	if (!merge->said_inherited && pass->mode != EBB_MERGE_KEEP && pass->mode != EBB_MERGE_ALL)
		ebb_log(pass->executor, LOG_WARNING,
			"this process was started with PR_SET_MEMORY_MERGE: all of it is mergeable "
			"and stays so, whatever the mode of merging");
	merge->said_inherited = true;
	return true;
}

static bool begin(struct ebb_executor *executor, struct pass *pass)
{
	struct ebb_merge *merge = &executor->merge;
	bool begun = false;

	*pass = (struct pass){ .executor = executor };
	/* All of them before any is undone: one that is undone clears the VMM's word for several.
	 */
	ebb_ksm_see_vmm_marks(executor);
	pthread_mutex_lock(&executor->lock);
	if (merge->pending && !executor->queue_head && !executor->look_pending &&
	    ebb_now_nsec() >= merge->next_nsec) {
		merge->pending = false;
		merge->running = true;
		begun = true;
		pass->mode = ebb_merge_mode(merge);
		pass->budget = ebb_merge_budget(executor->policy.stage, merge->agent_heard);
	}
	pthread_mutex_unlock(&executor->lock);
	return begun;
}

void ebb_merge_work(struct ebb_executor *executor)
{
	struct ebb_merge *merge = &executor->merge;
	struct pass pass;

	if (!begin(executor, &pass))
		return;
	if (!pass.budget.calls) {
		pass.failed = true;
	} else if (!is_inherited(&pass)) {
		if (ebb_memops_begin(executor)) {
			run_all(&pass);
			ebb_memops_end(executor);
		} else {
			pass.failed = true;
		}
	}
	pthread_mutex_lock(&executor->lock);
	merge->next_nsec = ebb_now_nsec() +
			   (pass.failed || pass.full ? RETRY_INTERVAL_NSEC : PASS_INTERVAL_NSEC);
	merge->pending |= pass.left || pass.failed;
	merge->running = false;
	merge->full = pass.full;
	pthread_mutex_unlock(&executor->lock);
}

uint64_t ebb_merge_deadline_nsec(struct ebb_executor *executor)
{
	uint64_t nsec;

	pthread_mutex_lock(&executor->lock);
	nsec = executor->merge.pending ? executor->merge.next_nsec : UINT64_MAX;
	pthread_mutex_unlock(&executor->lock);
	return nsec;
}
