// SPDX-License-Identifier: GPL-2.0-only
/*
 * hint - tell the host which blocks are worth merging, and when they are not any more
 *
 * A block is worth it if it is dense in clean page cache of files: what several guests of
 * one image have in common. One page of anything else in use (anonymous memory, shared
 * memory, the kernel's own, what /dev/ebb holds) rules a block out: the host would compare
 * and share that, too. All memory is looked through in slices with rests between them,
 * again and again, so a block that has changed its use is withdrawn within one pass.
 *
 * A page is looked at without a reference: its flags and the low bits of its mapping are
 * read, nothing is followed. What is read may be wrong a moment later; a hint promises
 * nothing but that it will be withdrawn.
 *
 * Owns:    the bitmap of hinted blocks, the request buffer for hints.
 * Thread:  hint_work, on system_long_wq.
 * Locks:   zone->lock for one block at a time, which keeps its memory map (see marks.c).
 * Never:   touches the content of a page; pins, isolates or waits for anything but the
 *          device's answer; looks while the guest is short of memory.
 */
#include <linux/ktime.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/moduleparam.h>
#include <linux/vmalloc.h>

#include "compat.h"
#include "ebb.h"
#include "trace.h"
#include "volatile.h"

#define BLOCK_PAGES (1UL << (21 - PAGE_SHIFT))
/* Between two looks at the clock. */
#define BLOCKS_PER_LOOK 16

/*
 * docs/merging.md says what they are for. A slice of 1 ms and a rest of 100 ms are 1 % of one
 * processor, and some 300 MiB; a pass begins 10 s after the end of the one before.
 */
static unsigned int hint_slice_usec = 1000;
module_param(hint_slice_usec, uint, 0644);
MODULE_PARM_DESC(hint_slice_usec, "time in which memory is looked through without a rest");
static unsigned int hint_rest_msec = 100;
module_param(hint_rest_msec, uint, 0644);
MODULE_PARM_DESC(hint_rest_msec, "rest after each slice");
static unsigned int hint_pass_msec = 10000;
module_param(hint_pass_msec, uint, 0644);
MODULE_PARM_DESC(hint_pass_msec, "rest after all memory was looked through");
static unsigned int hint_min_pages = 64;
module_param(hint_min_pages, uint, 0644);
MODULE_PARM_DESC(hint_min_pages, "clean pages of files that make a block of 512 worth merging");

/* What there is in a block. */
struct ebb_census {
	unsigned int cache; /* clean page cache of files */
	unsigned int other; /* in use for anything but files */
};

/* A page of the page cache of a file may be dirty: then it is neither worth merging nor secret. */
static void ebb_census_page(struct page *page, struct ebb_census *census)
{
	unsigned long mapping, flags;

	/* Free, or on its way to the free lists or from them; a slab may have no reference. */
	if (PageBuddy(page) ||
	    (!page_count(page) && !PageCompound(page) && !PageSlab(page) && !page_has_type(page)))
		return;
	page = compound_head(page);
	flags = ebb_page_flags(page);
	mapping = (unsigned long)READ_ONCE(page->mapping);
	if (!(flags & (1UL << PG_lru)) || (flags & (1UL << PG_swapbacked)) || !mapping ||
	    (mapping & EBB_MAPPING_NO_FILE)) {
		census->other++;
		return;
	}
	if ((flags & (1UL << PG_uptodate)) &&
	    !(flags & ((1UL << PG_dirty) | (1UL << PG_writeback) | (1UL << PG_locked))))
		census->cache++;
}

/* Under the lock of the zone. */
static bool ebb_census_locked(struct zone *zone, unsigned long pfn, struct ebb_census *census)
{
	struct page *page = pfn_to_online_page(pfn);
	unsigned int i;

	/* A section, which is online or not as a whole, has many blocks. */
	if (!page || page_zone(page) != zone)
		return false;
	for (i = 0; i < BLOCK_PAGES && !census->other; i++)
		ebb_census_page(page + i, census);
	return true;
}

static bool ebb_census_block(unsigned long pfn, struct ebb_census *census)
{
	struct zone *zone;
	bool found = false;
	int nid, i;

	*census = (struct ebb_census){};
	for_each_online_node(nid) {
		for (i = 0; i < MAX_NR_ZONES && !found; i++) {
			zone = NODE_DATA(nid)->node_zones + i;
			if (!populated_zone(zone) || !zone_spans_pfn(zone, pfn))
				continue;
			spin_lock_irq(&zone->lock);
			found = ebb_census_locked(zone, pfn, census);
			spin_unlock_irq(&zone->lock);
		}
	}
	return found;
}

/* A hinted block is withdrawn at half of what it was hinted for: no back and forth. */
static bool ebb_is_worth(const struct ebb_census *census, bool is_hinted)
{
	unsigned int min_pages = clamp(READ_ONCE(hint_min_pages), 2u, (unsigned int)BLOCK_PAGES);

	return !census->other && census->cache >= (is_hinted ? min_pages / 2 : min_pages);
}

static unsigned long ebb_end_of_nodes(void)
{
	unsigned long end = 0;
	int nid;

	for_each_online_node(nid)
		end = max(end, node_end_pfn(nid));
	return end;
}

/* Room for as much memory as there is now; what is known of it stays. */
static bool ebb_hints_grow(struct ebb_hints *hints)
{
	unsigned long blocks = DIV_ROUND_UP(ebb_end_of_nodes(), BLOCK_PAGES);
	unsigned long *map;

	if (blocks <= hints->blocks)
		return true;
	map = vzalloc(BITS_TO_LONGS(blocks) * sizeof(*map));
	if (!map)
		return hints->blocks;
	if (hints->map)
		memcpy(map, hints->map, BITS_TO_LONGS(hints->blocks) * sizeof(*map));
	vfree(hints->map);
	hints->map = map;
	hints->blocks = blocks;
	return true;
}

static void ebb_hints_forget(struct ebb_hints *hints)
{
	if (hints->map)
		bitmap_zero(hints->map, hints->blocks);
	WRITE_ONCE(hints->hinted_blocks, 0);
	WRITE_ONCE(hints->cache_pages, 0);
	hints->next_block = 0;
	hints->pass_cache_pages = 0;
	hints->count = 0;
}

/* Send what was gathered. */
static int ebb_hints_flush(struct ebb_device *ebb)
{
	struct ebb_hints *hints = &ebb->hints;
	u32 count = hints->count;
	int err;

	hints->count = 0;
	if (!count)
		return 0;
	trace_ebb_hint(count, hints->hinted_blocks);
	err = ebb_request_send(ebb, &hints->request, VIRTIO_EBB_REQ_HINT, count, 0);
	if (!err && ebb_get_le32(&hints->request.in->status) != VIRTIO_EBB_RESP_OK)
		err = -EOPNOTSUPP;
	return err;
}

/* In order of address, so that a block either goes on from the last entry or begins one. */
static int ebb_hints_add(struct ebb_device *ebb, unsigned long block, bool merge)
{
	struct ebb_hints *hints = &ebb->hints;
	struct virtio_ebb_hint *entries = (void *)(hints->request.out + 1);
	struct virtio_ebb_hint *last = &entries[hints->count - !!hints->count];
	u64 gpa = (u64)block * BLOCK_PAGES << PAGE_SHIFT;
	u64 block_bytes = BLOCK_PAGES << PAGE_SHIFT;
	u32 flags = merge ? VIRTIO_EBB_HINT_F_MERGE : 0;
	int err = 0;

	if (hints->count && ebb_get_le32(&last->flags) == flags &&
	    ebb_get_le64(&last->gpa) + ebb_get_le64(&last->bytes) == gpa) {
		ebb_put_le64(&last->bytes, ebb_get_le64(&last->bytes) + block_bytes);
		return 0;
	}
	if (hints->count == hints->max_count)
		err = ebb_hints_flush(ebb);
	if (err)
		return err;
	last = &entries[hints->count++];
	*last = (struct virtio_ebb_hint){};
	ebb_put_le64(&last->gpa, gpa);
	ebb_put_le64(&last->bytes, block_bytes);
	ebb_put_le32(&last->flags, flags);
	return 0;
}

static int ebb_hints_look(struct ebb_device *ebb, unsigned long block)
{
	struct ebb_hints *hints = &ebb->hints;
	bool is_hinted = test_bit(block, hints->map), is_worth = false;
	struct ebb_census census;

	if (ebb_census_block(block * BLOCK_PAGES, &census))
		is_worth = ebb_is_worth(&census, is_hinted);
	if (is_worth)
		hints->pass_cache_pages += census.cache;
	if (is_worth == is_hinted)
		return 0;
	if (is_worth)
		__set_bit(block, hints->map);
	else
		__clear_bit(block, hints->map);
	WRITE_ONCE(hints->hinted_blocks, hints->hinted_blocks + (is_worth ? 1 : -1));
	return ebb_hints_add(ebb, block, is_worth);
}

/* One slice; *done: the pass is over. */
static int ebb_hints_slice(struct ebb_device *ebb, bool *done)
{
	struct ebb_hints *hints = &ebb->hints;
	u64 start = ktime_get_ns(), limit = start + READ_ONCE(hint_slice_usec) * 1000ull;
	unsigned int i = 0;
	int err = 0;

	/* A page cache that is not on the LRU lists yet would be taken for something else. */
	if (!hints->next_block)
		ebb_drain_all();
	while (!err && hints->next_block < hints->blocks) {
		err = ebb_hints_look(ebb, hints->next_block++);
		cond_resched();
		if (++i % BLOCKS_PER_LOOK == 0 && ktime_get_ns() >= limit)
			break;
	}
	WRITE_ONCE(hints->nsec, hints->nsec + ktime_get_ns() - start);
	if (!err)
		err = ebb_hints_flush(ebb);
	*done = hints->next_block >= hints->blocks;
	if (*done) {
		WRITE_ONCE(hints->cache_pages, hints->pass_cache_pages);
		WRITE_ONCE(hints->passes, hints->passes + 1);
		hints->pass_cache_pages = 0;
		hints->next_block = 0;
	}
	return err;
}

static bool ebb_hints_read_config(struct ebb_device *ebb)
{
	struct ebb_hints *hints = &ebb->hints;
	u32 hinting, generation;

	virtio_cread_le(ebb->vdev, struct virtio_ebb_config, hinting, &hinting);
	virtio_cread_le(ebb->vdev, struct virtio_ebb_config, hint_generation, &generation);
	if (hinting != VIRTIO_EBB_HINTING_RUN || generation != hints->generation)
		ebb_hints_forget(hints);
	hints->generation = generation;
	return hinting == VIRTIO_EBB_HINTING_RUN;
}

static void ebb_hint_work(struct work_struct *work)
{
	struct ebb_device *ebb = container_of(work, struct ebb_device, hints.work.work);
	struct ebb_hints *hints = &ebb->hints;
	bool done = false;
	int err = 0;

	if (!ebb_is_accepting(ebb) || !ebb_hints_read_config(ebb))
		return;
	if (ebb_guest_is_short() || !ebb_hints_grow(hints))
		done = true;
	else
		err = ebb_hints_slice(ebb, &done);
	if (err) {
		/* Nothing of ours stands after a reset, and nothing is sent before it. */
		ebb_hints_forget(hints);
		return;
	}
	queue_delayed_work(
		system_long_wq, &hints->work,
		msecs_to_jiffies(done ? READ_ONCE(hint_pass_msec) : READ_ONCE(hint_rest_msec)));
}

/* The device has started, or its configuration changed. */
void ebb_hints_kick(struct ebb_device *ebb)
{
	if (virtio_has_feature(ebb->vdev, VIRTIO_EBB_F_HINT) && ebb_is_accepting(ebb))
		mod_delayed_work(system_long_wq, &ebb->hints.work, 0);
}

/* After the reset: the device knows no hint any more. */
void ebb_hints_stop(struct ebb_device *ebb)
{
	cancel_delayed_work_sync(&ebb->hints.work);
	ebb_hints_forget(&ebb->hints);
}

int ebb_hints_init(struct ebb_device *ebb)
{
	INIT_DELAYED_WORK(&ebb->hints.work, ebb_hint_work);
	return ebb_request_init(&ebb->hints.request,
				sizeof(struct virtio_ebb_req_hdr) +
					EBB_HINT_ENTRIES * sizeof(struct virtio_ebb_hint),
				sizeof(struct virtio_ebb_resp_hdr));
}

void ebb_hints_destroy(struct ebb_device *ebb)
{
	ebb_request_destroy(&ebb->hints.request);
	vfree(ebb->hints.map);
}
