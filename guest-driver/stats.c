// SPDX-License-Identifier: GPL-2.0-only
/*
 * stats - the guest's figures, and whether it is short of memory itself
 *
 * Owns:    the count of OOM events and the estimate of what was used again.
 * Thread:  the worker; ebb_guest_is_short() and the OOM notifier run anywhere.
 * Locks:   need_lock (leaf).
 * Never:   frees anything in the OOM notifier: the one batch in flight is the device's until it
 *          has answered, so all that can be done is to wait for that.
 */
#include <linux/mm.h>

#include "compat.h"
#include "ebb.h"
#include "volatile.h"

/*
 * Below this much available memory a guest is left alone. Page reporting's own watermark
 * (low + 64 MiB of free memory in the zone) comes first on most guests.
 */
#define SHORT_DIVISOR	64
#define SHORT_MIN_PAGES (16ul << (20 - PAGE_SHIFT))

bool ebb_guest_is_short(void)
{
	long limit_pages = max(totalram_pages() / SHORT_DIVISOR, SHORT_MIN_PAGES);

	return si_mem_available() < limit_pages;
}

int ebb_oom_notify(struct notifier_block *nb, unsigned long unused, void *freed_pages)
{
	struct ebb_device *ebb = container_of(nb, struct ebb_device, oom_nb);

	/* From now on a batch that comes is given back at once. */
	atomic_long_inc(&ebb->oom_events);
	*(unsigned long *)freed_pages += ebb_report_await(ebb) >> PAGE_SHIFT;
	return NOTIFY_OK;
}

/*
 * Reported at some time and in use again: flagged by the kernel, not cleared by us, and no
 * longer marked. Merging with a free neighbour loses a mark as well, so this is an
 * estimate; it never falls.
 */
static u64 ebb_reused_bytes(struct ebb_device *ebb, u64 marked_bytes)
{
	u64 flagged_bytes, gone_bytes;

	spin_lock(&ebb->need_lock);
	flagged_bytes = ebb->flagged_total_bytes;
	spin_unlock(&ebb->need_lock);

	gone_bytes = ebb->cleared_total_bytes + marked_bytes;
	if (flagged_bytes > gone_bytes)
		ebb->reused_bytes = max(ebb->reused_bytes, flagged_bytes - gone_bytes);
	return ebb->reused_bytes;
}

static u64 ebb_flags(struct ebb_device *ebb)
{
	if (!virtio_has_feature(ebb->vdev, VIRTIO_EBB_F_REPORT))
		return 0;
	if (ebb->poisoned)
		return VIRTIO_EBB_S_FLAG_POISON;
	return ebb->registered ? 0 : VIRTIO_EBB_S_FLAG_NO_REPORTING;
}

static void ebb_stat_put(struct virtio_ebb_stat **stat, u16 tag, u64 value)
{
	**stat = (struct virtio_ebb_stat){};
	ebb_put_le16(&(*stat)->tag, tag);
	ebb_put_le64(&(*stat)->value, value);
	(*stat)++;
}

/* Returns how many entries were written, fewer than VIRTIO_EBB_S_MAX. */
u32 ebb_stats_fill(struct ebb_device *ebb, struct virtio_ebb_stat *stats)
{
	const struct ebb_hints *hints = &ebb->hints;
	struct virtio_ebb_stat *stat = stats;
	u64 marked_bytes = ebb->registered ? ebb_marks_count() : 0;
	struct sysinfo info;

	si_meminfo(&info);
	ebb_stat_put(&stat, VIRTIO_EBB_S_TOTAL, (u64)info.totalram << PAGE_SHIFT);
	ebb_stat_put(&stat, VIRTIO_EBB_S_FREE, (u64)info.freeram << PAGE_SHIFT);
	ebb_stat_put(&stat, VIRTIO_EBB_S_AVAILABLE, (u64)si_mem_available() << PAGE_SHIFT);
	ebb_stat_put(&stat, VIRTIO_EBB_S_CACHED, ebb_page_cache_pages() << PAGE_SHIFT);
	ebb_stat_put(&stat, VIRTIO_EBB_S_REPORTED, marked_bytes);
	ebb_stat_put(&stat, VIRTIO_EBB_S_REUSED, ebb_reused_bytes(ebb, marked_bytes));
	ebb_stat_put(&stat, VIRTIO_EBB_S_OOM_EVENTS, atomic_long_read(&ebb->oom_events));
	ebb_stat_put(&stat, VIRTIO_EBB_S_FLAGS, ebb_flags(ebb));
	if (virtio_has_feature(ebb->vdev, VIRTIO_EBB_F_VOLATILE)) {
		ebb_stat_put(&stat, VIRTIO_EBB_S_VOLATILE,
			     ebb_objects_offered_pages() << PAGE_SHIFT);
		ebb_stat_put(&stat, VIRTIO_EBB_S_TAKEN_WHOLE, ebb_counter(EBB_C_WHOLE));
		ebb_stat_put(&stat, VIRTIO_EBB_S_TAKEN_PURGED, ebb_counter(EBB_C_PURGED));
	}
	if (virtio_has_feature(ebb->vdev, VIRTIO_EBB_F_HINT)) {
		ebb_stat_put(&stat, VIRTIO_EBB_S_HINTED, READ_ONCE(hints->hinted_blocks) << 21);
		ebb_stat_put(&stat, VIRTIO_EBB_S_HINT_CACHE,
			     READ_ONCE(hints->cache_pages) << PAGE_SHIFT);
		ebb_stat_put(&stat, VIRTIO_EBB_S_HINT_PASSES, READ_ONCE(hints->passes));
		ebb_stat_put(&stat, VIRTIO_EBB_S_HINT_USEC,
			     div_u64(READ_ONCE(hints->nsec), NSEC_PER_USEC));
	}
	return stat - stats;
}
