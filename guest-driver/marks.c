// SPDX-License-Identifier: GPL-2.0-only
/*
 * marks - the kernel's Reported marks on free blocks: count them, clear them
 *
 * Page reporting passes over free blocks that carry the mark. A block without it is
 * offered again by the same work, which is how memory is offered anew without being
 * allocated or touched (rule 13).
 *
 * Owns:    nothing.
 * Thread:  the worker.
 * Locks:   zone->lock for WALK_BLOCKS blocks at a time. Under it a memory map that
 *          pfn_to_online_page() has seen stays: offlining takes the lock after it has
 *          marked the section offline and before the map is freed.
 * Never:   allocates; touches the content of a page.
 */
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/sched.h>

#include "compat.h"
#include "ebb.h"

/* 512 MiB of guest memory on x86: some ten microseconds with interrupts off. */
#define WALK_BLOCKS 256

/* Bytes of marked blocks in [*pfn, end), at most WALK_BLOCKS steps; *pfn moves on. */
static u64 ebb_marks_walk_piece(struct zone *zone, unsigned long *pfn, unsigned long end,
				u64 limit_bytes, bool clear)
{
	unsigned int order, steps;
	struct page *page;
	u64 bytes = 0;

	spin_lock_irq(&zone->lock);
	for (steps = 0; steps < WALK_BLOCKS && *pfn < end && bytes < limit_bytes; steps++) {
		page = pfn_to_online_page(*pfn);
		order = pageblock_order;
		if (page && page_zone(page) == zone && PageBuddy(page) &&
		    ebb_buddy_order(page) >= pageblock_order) {
			order = ebb_buddy_order(page);
			if (PageReported(page)) {
				bytes += (u64)PAGE_SIZE << order;
				if (clear)
					__ClearPageReported(page);
			}
		}
		*pfn += 1UL << order;
	}
	spin_unlock_irq(&zone->lock);
	return bytes;
}

static u64 ebb_marks_walk(u64 limit_bytes, bool clear)
{
	unsigned long pfn, end;
	struct zone *zone;
	u64 bytes = 0;
	int nid, i;

	for_each_online_node(nid) {
		for (i = 0; i < MAX_NR_ZONES; i++) {
			zone = NODE_DATA(nid)->node_zones + i;
			if (!populated_zone(zone))
				continue;
			pfn = ALIGN(zone->zone_start_pfn, pageblock_nr_pages);
			end = zone_end_pfn(zone);
			while (pfn < end && bytes < limit_bytes) {
				bytes += ebb_marks_walk_piece(zone, &pfn, end, limit_bytes - bytes,
							      clear);
				cond_resched();
			}
		}
	}
	return bytes;
}

/* Bytes in free blocks that were reported and not used since. */
u64 ebb_marks_count(void)
{
	return ebb_marks_walk(U64_MAX, false);
}

/* Clear marks on at least limit_bytes, if there are so many; returns on how many. */
u64 ebb_marks_clear(u64 limit_bytes)
{
	return ebb_marks_walk(limit_bytes, true);
}
