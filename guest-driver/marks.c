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

/*
 * The free block that holds pfn, with its order; NULL: there is none of a pageblock or more.
 * Under the zone's lock.
 */
static struct page *ebb_free_block(struct zone *zone, unsigned long pfn, unsigned int *order)
{
	struct page *page;

	for (*order = pageblock_order; *order <= EBB_MAX_ORDER; (*order)++) {
		page = pfn_to_online_page(ALIGN_DOWN(pfn, 1UL << *order));
		if (page && page_zone(page) == zone && PageBuddy(page) &&
		    ebb_buddy_order(page) >= *order) {
			*order = ebb_buddy_order(page);
			return page;
		}
	}
	return NULL;
}

/*
 * Clear the marks of the free blocks of a zone that [pfn, end) lies in, if all of it is free.
 * False: it is not, or not of this zone. *bytes grows by the blocks whose mark was cleared.
 */
static bool ebb_marks_clear_block(struct zone *zone, unsigned long pfn, unsigned long end,
				  u64 *bytes)
{
	unsigned long at, next;
	struct page *page;
	unsigned int order;
	bool is_free = true;

	spin_lock_irq(&zone->lock);
	for (at = pfn; at < end && is_free; at = next) {
		is_free = ebb_free_block(zone, at, &order);
		next = is_free ? ALIGN_DOWN(at, 1UL << order) + (1UL << order) : end;
	}
	for (at = pfn; at < end && is_free; at = next) {
		page = ebb_free_block(zone, at, &order);
		next = ALIGN_DOWN(at, 1UL << order) + (1UL << order);
		if (!PageReported(page))
			continue;
		__ClearPageReported(page);
		*bytes += (u64)PAGE_SIZE << order;
	}
	spin_unlock_irq(&zone->lock);
	return is_free;
}

/* The same in whatever zone it is. */
static u64 ebb_marks_clear_anywhere(unsigned long pfn, unsigned long end)
{
	struct zone *zone;
	u64 bytes = 0;
	int nid, i;

	for_each_online_node(nid) {
		for (i = 0; i < MAX_NR_ZONES; i++) {
			zone = NODE_DATA(nid)->node_zones + i;
			if (populated_zone(zone) && zone_spans_pfn(zone, pfn) &&
			    ebb_marks_clear_block(zone, pfn, end, &bytes))
				return bytes;
		}
	}
	return 0;
}

/*
 * Clear the marks of those blocks of the range that are wholly free, so that the reporting work
 * offers them again. A larger free block loses its mark as a whole. Returns on how much.
 */
u64 ebb_marks_clear_range(u64 gpa, u64 bytes)
{
	unsigned long pfn = PHYS_PFN(gpa), end = PHYS_PFN(gpa + bytes), next;
	u64 cleared_bytes = 0;

	/* Above it there are no page frames. */
	end = min_t(u64, end, ebb_end_of_memory());
	for (; pfn < end; pfn = next) {
		next = min(pfn + pageblock_nr_pages, end);
		cleared_bytes += ebb_marks_clear_anywhere(pfn, next);
		cond_resched();
	}
	return cleared_bytes;
}
