// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * collect - have the guest offer the free blocks whose page tables are empty
 *
 * A collection begins with what needs no question, see unplugged.c. Then it walks the blocks that
 *were worked on since their table was last freed. Those whose table is empty it asks of the guest,
 *some ranges at a time; what the guest offers of them with that id is discarded by memops.c within
 *the exchange (rule 1), which is what frees the table. Then it walks on.
 *
 *	NONE -> WANTED -> ACTIVE (the guest is asked) -> ANSWERED -> WANTED ... -> NONE
 *
 * Owns:    struct ebb_collect, EBB_BLOCK_ASKED.
 * Thread:  ebb_collect_work() the executor thread; the rest any, with the executor's lock.
 * Locks:   the executor's, never across a system call or a callback.
 * Never:   discards anything; waits for the guest.
 */
#include <errno.h>
#include <syslog.h>

#include "executor.h"

/* Dense blocks of 4 KiB pages take some 3 ms in a look. */
#define LOOK_BLOCKS EBB_TABLES_MAX_LOOK

/* A pass in the background looks at so many: 16 GiB, at worst some 45 ms. */
#define PASS_BLOCKS 8192u

/* A guest that made requests since the last look is busy: look again after so long. */
#define BUSY_NSEC NSEC_PER_SEC

int ebb_collect_start(struct ebb_executor *executor, uint64_t agent_id)
{
	struct ebb_collect *collect = &executor->collect;
	struct ebb_decision decision = ebb_policy_decide(&executor->policy, true);
	bool asks;

	if (collect->state != EBB_COLLECT_NONE)
		return -EBUSY;
	if (decision.action == EBB_ACTION_NONE ||
	    ebb_policy_tables_mode(&executor->tables_policy) == EBB_TABLES_OFF)
		return -EPERM;
	if (!ebb_tables_can(&executor->tables))
		return -ENOSYS;
	if (ebb_tables_must_wait(&executor->tables, executor->policy.stage))
		return -EAGAIN;
	asks = executor->ops->collect && executor->status.driver && !executor->status.broken;
	if (!asks && !ebb_unplugged_any(executor))
		return -ENODEV;
	*collect = (struct ebb_collect){
		.state = EBB_COLLECT_WANTED,
		.asking = collect->asking,
		.asks = asks,
		.fresh = true,
		.agent_id = agent_id,
		.start_nsec = ebb_now_nsec(),
		.most_tables = UINT64_MAX,
		.most_blocks = UINT64_MAX,
	};
	return 0;
}

/* Lock held. */
static bool start_pass(struct ebb_executor *executor)
{
	struct ebb_collect *collect = &executor->collect;

	if (ebb_collect_start(executor, 0))
		return false;
	collect->background = true;
	collect->most_tables = executor->tables_policy.amount_tables;
	collect->least_tables = executor->tables_policy.least_tables;
	collect->most_blocks = PASS_BLOCKS;
	collect->gpa = executor->pass.gpa;
	executor->status.counters.passes++;
	return true;
}

uint64_t ebb_collect_plan(struct ebb_executor *executor)
{
	struct ebb_pass *pass = &executor->pass;
	uint64_t now_nsec = ebb_now_nsec(), delay_nsec, requests, least_bytes;
	bool wanted, may, busy;

	pthread_mutex_lock(&executor->lock);
	wanted = ebb_policy_tables_mode(&executor->tables_policy) == EBB_TABLES_BACKGROUND &&
		 ((executor->status.driver && !executor->status.broken) ||
		  ebb_unplugged_any(executor)) &&
		 ebb_tables_can(&executor->tables);
	may = ebb_policy_may_pass(&executor->policy, &executor->tables_policy);
	delay_nsec = executor->tables_policy.delay_msec * NSEC_PER_MSEC;
	least_bytes = executor->tables_policy.least_tables * EBB_TABLE_BYTES;
	requests = executor->status.counters.requests;
	pthread_mutex_unlock(&executor->lock);

	if (!wanted) {
		pass->next_nsec = 0;
		return UINT64_MAX;
	}
	if (pass->next_nsec == 0 || pass->next_nsec > now_nsec + delay_nsec) {
		pass->next_nsec = now_nsec + delay_nsec;
		pass->put_off_nsec = 0;
		pass->seen_requests = requests;
	}
	if (now_nsec < pass->next_nsec)
		return pass->next_nsec;
	busy = requests != pass->seen_requests;
	pass->seen_requests = requests;
	/* One that is always busy is asked in the end. */
	if (busy && pass->put_off_nsec < delay_nsec) {
		pass->put_off_nsec += BUSY_NSEC;
		pass->next_nsec = now_nsec + (BUSY_NSEC < delay_nsec ? BUSY_NSEC : delay_nsec);
		return pass->next_nsec;
	}
	pass->put_off_nsec = 0;
	pass->next_nsec = now_nsec + delay_nsec;
	/* All tables of this process together are not worth it. */
	if (may && ebb_tables_vm_pte_bytes() >= least_bytes) {
		pthread_mutex_lock(&executor->lock);
		start_pass(executor);
		pthread_mutex_unlock(&executor->lock);
	}
	return pass->next_nsec;
}

void ebb_collect_answer(struct ebb_executor *executor, uint32_t status)
{
	struct ebb_collect *collect = &executor->collect;

	if (collect->state == EBB_COLLECT_NONE || collect->state == EBB_COLLECT_ANSWERED)
		return;
	collect->state = EBB_COLLECT_ANSWERED;
	collect->status = status;
}

static void end(struct ebb_executor *executor, uint32_t status)
{
	struct ebb_collect *collect = &executor->collect;

	pthread_mutex_lock(&executor->lock);
	if (collect->agent_id)
		ebb_link_push_done(
			&executor->link,
			&(struct ebb_link_done){
				.kind = EBB_LINK_COLLECT_DONE,
				.id = collect->agent_id,
				.usec = (ebb_now_nsec() - collect->start_nsec) / NSEC_PER_USEC,
				.status = status,
				.tables = collect->tables,
			});
	executor->status.counters.collections++;
	collect->state = EBB_COLLECT_NONE;
	collect->agent_id = 0;
	pthread_mutex_unlock(&executor->lock);
}

static bool add_candidate(struct ebb_collect *collect, uint64_t gpa, uint64_t bytes)
{
	struct ebb_candidate *last = NULL;

	if (collect->nr_ranges)
		last = &collect->ranges[collect->nr_ranges - 1];
	if (collect->tables.asked + collect->found_now >= collect->most_tables)
		return false;
	if (last && last->gpa + last->bytes == gpa) {
		last->bytes += bytes;
		return true;
	}
	if (collect->nr_ranges == VIRTIO_EBB_MAX_COLLECT)
		return false;
	collect->ranges[collect->nr_ranges++] =
		(struct ebb_candidate){ .gpa = gpa, .bytes = bytes };
	return true;
}

/*
 * Blocks [block, block + nr) of a region: those whose table is empty become candidates. Returns
 * how many of them were looked at before there was no room for another.
 */
static uint64_t look(struct ebb_executor *executor, struct ebb_region *region, uint64_t block,
		     uint32_t nr)
{
	struct ebb_collect *collect = &executor->collect;
	uint64_t gpa = region->desc.start_gpa + (region->block_host - region->host) +
		       block * EBB_BLOCK_BYTES;
	uint8_t states[EBB_TABLES_MAX_LOOK];
	uint32_t i;

	ebb_tables_look(&executor->tables, region->block_host + block * EBB_BLOCK_BYTES, nr,
			states);
	for (i = 0; i < nr; i++) {
		uint8_t *flags = &region->blocks[block + i];

		if (states[i] == EBB_TABLE_NONE)
			*flags &= (uint8_t)~EBB_BLOCK_TABLE;
		collect->used += states[i] == EBB_TABLE_USED;
		if (states[i] != EBB_TABLE_EMPTY)
			continue;
		if (!add_candidate(collect, gpa + i * EBB_BLOCK_BYTES, EBB_BLOCK_BYTES)) {
			collect->full = true;
			return i;
		}
		*flags |= EBB_BLOCK_ASKED;
		collect->found_now++;
	}
	return nr;
}

/* Does somebody wait for the executor thread? */
static bool must_give_way(struct ebb_executor *executor)
{
	bool waits;

	pthread_mutex_lock(&executor->lock);
	waits = executor->queue_head || executor->stop ||
		executor->collect.state != EBB_COLLECT_WANTED ||
		executor->content.harden_wanted != executor->content.harden_done;
	pthread_mutex_unlock(&executor->lock);
	return waits;
}

/* Walk on in one region until the candidates are full, it ends or somebody waits. */
static bool walk_region(struct ebb_executor *executor, struct ebb_region *region)
{
	struct ebb_collect *collect = &executor->collect;
	uint64_t first_gpa = region->desc.start_gpa + (region->block_host - region->host);
	uint64_t block = 0, looked;
	bool go_on = true;

	if (collect->gpa > first_gpa)
		block = (collect->gpa - first_gpa + EBB_BLOCK_BYTES - 1) / EBB_BLOCK_BYTES;
	while (go_on && block < region->nr_blocks) {
		uint32_t nr = 0;

		while (nr < LOOK_BLOCKS && block + nr < region->nr_blocks &&
		       (region->blocks[block + nr] & EBB_BLOCK_TABLE))
			nr++;
		looked = nr ? look(executor, region, block, nr) : 1;
		block += looked;
		/* A mere step over blocks that nothing was done to costs nothing. */
		collect->looked += nr ? looked : 0;
		go_on = !collect->full && collect->looked < collect->most_blocks &&
			(!nr || !must_give_way(executor));
	}
	collect->gpa = block < region->nr_blocks ? first_gpa + block * EBB_BLOCK_BYTES
						 : region->desc.start_gpa + region->desc.size_bytes;
	return go_on;
}

/* Look for candidates. False: it is to be gone on with, when nobody waits. */
static bool find(struct ebb_executor *executor)
{
	struct ebb_collect *collect = &executor->collect;
	struct ebb_region *region;
	bool go_on = true;

	while (go_on && (region = ebb_scan_hold_next(executor, collect->gpa))) {
		go_on = walk_region(executor, region);
		ebb_scan_let_go(executor);
	}
	/* Around the corner, the next pass begins anew. */
	if (go_on)
		collect->gpa = 0;
	collect->walked = go_on || collect->looked >= collect->most_blocks ||
			  collect->tables.asked + collect->found_now >= collect->most_tables;
	if (collect->background)
		executor->pass.gpa = collect->gpa;
	return collect->walked || collect->full;
}

/* The exchange is over: what was not offered in it is asked for no more. */
static void forget_candidates(struct ebb_executor *executor)
{
	struct ebb_collect *collect = &executor->collect;
	struct ebb_region *region;
	uint32_t i;

	for (i = 0; i < collect->nr_ranges; i++) {
		const struct ebb_candidate *range = &collect->ranges[i];
		uint64_t block, last, gpa = range->gpa, end_gpa = range->gpa + range->bytes;

		while (gpa < end_gpa && (region = ebb_scan_hold_next(executor, gpa))) {
			uint64_t next_gpa = region->desc.start_gpa + region->desc.size_bytes;

			if (gpa < region->desc.start_gpa)
				gpa = region->desc.start_gpa;
			if (next_gpa > end_gpa)
				next_gpa = end_gpa;
			block = last = 0;
			if (gpa < next_gpa)
				ebb_region_blocks(region,
						  region->host + (gpa - region->desc.start_gpa),
						  next_gpa - gpa, &block, &last);
			for (; block < last; block++)
				region->blocks[block] &= (uint8_t)~EBB_BLOCK_ASKED;
			ebb_scan_let_go(executor);
			gpa = next_gpa;
		}
	}
	collect->nr_ranges = 0;
	collect->full = false;
}

/*
 * How many tables may go for the candidates. By history some have none; there cannot be more than
 * this process has and does not need for what was found in use.
 */
static uint64_t most_gain(const struct ebb_executor *executor)
{
	const struct ebb_collect *collect = &executor->collect;
	uint64_t tables;

	if (executor->tables.finder == EBB_TABLES_SCAN)
		return collect->found_now;
	tables = ebb_tables_vm_pte_bytes() / EBB_TABLE_BYTES;
	tables -= tables < collect->used ? tables : collect->used;
	return tables < collect->found_now ? tables : collect->found_now;
}

/* Ask the guest for the candidates. */
static void ask(struct ebb_executor *executor)
{
	struct ebb_collect *collect = &executor->collect;
	struct ebb_counters *counters = &executor->status.counters;
	bool wanted, is_worth_it = most_gain(executor) >= collect->least_tables;
	uint64_t id = 0;
	int ret;

	/* A reset that comes from here on waits until the VMM was told. */
	pthread_mutex_lock(&executor->lock);
	wanted = collect->state == EBB_COLLECT_WANTED && is_worth_it;
	collect->tables.found += collect->found_now;
	counters->tables_found += collect->found_now;
	if (wanted) {
		collect->id = id = executor->next_release_id++;
		collect->state = EBB_COLLECT_ACTIVE;
		collect->asking = true;
		collect->tables.asked += collect->found_now;
		counters->tables_asked += collect->found_now;
	}
	collect->found_now = 0;
	if (!is_worth_it && collect->state == EBB_COLLECT_WANTED)
		ebb_collect_answer(executor, VIRTIO_EBB_DONE_OK);
	pthread_mutex_unlock(&executor->lock);
	if (!wanted)
		return;
	ret = executor->ops->collect(executor->vmm, id, collect->ranges, collect->nr_ranges);
	pthread_mutex_lock(&executor->lock);
	collect->asking = false;
	if (ret && collect->state == EBB_COLLECT_ACTIVE && collect->id == id)
		ebb_collect_answer(executor, EBB_RELEASE_NO_DRIVER);
	pthread_cond_broadcast(&executor->idle);
	pthread_mutex_unlock(&executor->lock);
}

/* What the driver's answer means for the whole collection. */
static bool goes_on(struct ebb_executor *executor, uint32_t *status)
{
	struct ebb_collect *collect = &executor->collect;
	bool more;

	pthread_mutex_lock(&executor->lock);
	*status = collect->status;
	more = (*status == VIRTIO_EBB_DONE_OK || *status == VIRTIO_EBB_DONE_PARTIAL) &&
	       !collect->walked;
	/* A pass gives way to pressure, and ends when it was switched off. */
	if (collect->background)
		more &= ebb_policy_may_pass(&executor->policy, &executor->tables_policy);
	if (more)
		collect->state = EBB_COLLECT_WANTED;
	pthread_mutex_unlock(&executor->lock);
	/* Some of it is in use: that is no trouble. */
	if (*status == VIRTIO_EBB_DONE_PARTIAL)
		*status = VIRTIO_EBB_DONE_OK;
	return more;
}

static enum ebb_collect_state state_of(struct ebb_executor *executor)
{
	enum ebb_collect_state state;

	pthread_mutex_lock(&executor->lock);
	state = executor->collect.state;
	pthread_mutex_unlock(&executor->lock);
	return state;
}

void ebb_collect_work(struct ebb_executor *executor)
{
	struct ebb_collect *collect = &executor->collect;
	uint32_t status;

	if (state_of(executor) == EBB_COLLECT_ANSWERED) {
		forget_candidates(executor);
		if (!goes_on(executor, &status)) {
			end(executor, status);
			return;
		}
	}
	if (state_of(executor) != EBB_COLLECT_WANTED)
		return;
	if (collect->fresh) {
		collect->fresh = false;
		if (!ebb_memops_begin(executor)) {
			end(executor, EBB_RELEASE_OFF);
			return;
		}
		ebb_memops_end(executor);
	}
	if (!collect->unplugged && !ebb_unplugged_work(executor))
		return;
	collect->unplugged = true;
	if (!collect->asks) {
		end(executor, VIRTIO_EBB_DONE_OK);
		return;
	}
	if (!find(executor))
		return;
	if (collect->nr_ranges)
		ask(executor);
	else
		end(executor, VIRTIO_EBB_DONE_OK);
}
