// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * hints - what is wished of merging: by the guest, the operator and ebbd
 *
 * Owns:    the regions' hints, the modes of struct ebb_merge.
 * Thread:  any.
 * Locks:   the executor's.
 * Never:   makes a system call on guest RAM: merge.c follows.
 */
#include <errno.h>

#include "executor.h"

void ebb_merge_hint_region(struct ebb_region *region, uintptr_t host, uint64_t bytes, bool merge)
{
	uintptr_t limit = region->block_host + region->nr_blocks * EBB_BLOCK_BYTES;
	uintptr_t end = host + bytes;
	uint64_t block, last;

	if (!region->nr_blocks)
		return;
	if (merge) {
		ebb_region_blocks(region, host, bytes, &block, &last);
	} else {
		host = host < region->block_host ? region->block_host : host;
		end = end > limit ? limit : end;
		if (end <= host)
			return;
		block = (host - region->block_host) / EBB_BLOCK_BYTES;
		last = (end - region->block_host + EBB_BLOCK_BYTES - 1) / EBB_BLOCK_BYTES;
	}
	for (; block < last; block++) {
		if (__atomic_load_n(&region->hints[block], __ATOMIC_RELAXED) == merge)
			continue;
		__atomic_store_n(&region->hints[block], merge, __ATOMIC_RELAXED);
		region->nr_hinted += merge ? 1 : UINT64_MAX;
	}
}

void ebb_merge_forget_hints(struct ebb_executor *executor)
{
	uint32_t i;

	for (i = 0; i < executor->map.nr; i++) {
		struct ebb_region *region = executor->map.regions[i];

		ebb_merge_hint_region(region, region->host, region->desc.size_bytes, false);
	}
	executor->merge.pending = true;
}

void ebb_merge_mode_changed(struct ebb_executor *executor, uint32_t old_mode)
{
	struct ebb_guidance *guidance = &executor->status.guidance;
	uint32_t mode = ebb_merge_mode(&executor->merge);
	bool hinting = mode == EBB_MERGE_HINTED;

	if (mode == old_mode)
		return;
	executor->merge.pending = true;
	if (hinting == (old_mode == EBB_MERGE_HINTED))
		return;
	/* What was hinted while nobody listened is not known: the guest begins anew. */
	ebb_merge_forget_hints(executor);
	guidance->hinting = hinting ? VIRTIO_EBB_HINTING_RUN : VIRTIO_EBB_HINTING_REST;
	guidance->hint_generation += hinting;
	executor->guide_pending = true;
}

int ebb_executor_set_merge(struct ebb_executor *executor, uint32_t merge)
{
	uint32_t old;

	if (merge >= EBB_MERGE_MAX)
		return -EINVAL;
	pthread_mutex_lock(&executor->lock);
	old = ebb_merge_mode(&executor->merge);
	executor->merge.operator_mode = merge;
	ebb_merge_mode_changed(executor, old);
	pthread_mutex_unlock(&executor->lock);
	ebb_executor_wake(executor);
	return 0;
}

/* Lock held. */
static void take_hint(struct ebb_executor *executor, const struct ebb_hint *hint)
{
	uint64_t gpa = hint->gpa, left_bytes = hint->bytes;

	while (left_bytes) {
		struct ebb_region *region = ebb_ram_map_find(&executor->map, gpa);
		uint64_t offset_bytes = gpa - region->desc.start_gpa;
		uint64_t bytes = region->desc.size_bytes - offset_bytes;

		bytes = bytes < left_bytes ? bytes : left_bytes;
		ebb_merge_hint_region(region, region->host + offset_bytes, bytes, hint->merge);
		gpa += bytes;
		left_bytes -= bytes;
	}
}

int ebb_executor_hint(struct ebb_executor *executor, const struct ebb_hint *hints, uint32_t nr,
		      enum virtio_ebb_fault *fault)
{
	uint32_t i;
	int ret = 0;

	*fault = VIRTIO_EBB_FAULT_NONE;
	pthread_mutex_lock(&executor->lock);
	for (i = 0; i < nr && !ret; i++)
		if (ebb_ram_map_covers(&executor->map, hints[i].gpa, hints[i].bytes) == -ENOENT)
			ret = -EPROTO;
	if (ret) {
		*fault = VIRTIO_EBB_FAULT_NOT_RAM;
		executor->status.counters.violations++;
		executor->status.broken = true;
	} else {
		for (i = 0; i < nr; i++)
			take_hint(executor, &hints[i]);
		executor->status.counters.requests++;
		executor->merge.pending = true;
	}
	pthread_mutex_unlock(&executor->lock);
	if (!ret)
		ebb_executor_wake(executor);
	return ret;
}

void ebb_merge_status(const struct ebb_executor *executor, struct ebb_merge_status *status)
{
	const struct ebb_merge *merge = &executor->merge;
	uint32_t i;

	*status = (struct ebb_merge_status){
		.mode = ebb_merge_mode(merge),
		.full = merge->full,
		.no_ksm = merge->no_ksm,
		.pending = merge->pending || merge->running,
		.marks = merge->marks,
		.unmarks = merge->unmarks,
		.failures = merge->failures,
		.nsec = merge->nsec,
		.longest_nsec = merge->longest_nsec,
	};
	for (i = 0; i < executor->map.nr; i++) {
		const struct ebb_region *region = executor->map.regions[i];

		status->whole |= region->mergeable && !region->look_pending;
		status->hinted_bytes += region->nr_hinted * EBB_BLOCK_BYTES;
		status->marked_bytes += region->nr_merge_blocks * EBB_BLOCK_BYTES;
		status->areas += 2 * region->nr_merge_runs;
	}
}
