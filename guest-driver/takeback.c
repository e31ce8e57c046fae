// SPDX-License-Identifier: GPL-2.0-only
/*
 * takeback - take pages back from the host: whole, or purged
 *
 * A page that was offered has a cookie in place of its first word (rule 3). Zero there means that
 * the host has purged it. It is only read: a swap that fails would write, and so allocate the
 * page anew. Otherwise one atomic swap of cookie to saved word either succeeds: then the page is
 * whole, and dirty, and so safe from that moment on; or the page counts as purged. No call of the
 * host is on this path.
 *
 * Owns:    the slots of pages in the host's hands, while nothing of them is in flight.
 * Thread:  any that may sleep.
 * Locks:   the object's lock, held by the caller. Waiting for an offer in flight (rule 4) is done
 *          without it.
 * Never:   reads more of a volatile page than its first word, but after the swap.
 */
#include <linux/highmem.h>
#include <linux/slab.h>

#include "volatile.h"

/* Is an offer on its way that holds pages of the range? Also without the lock, to wait for it. */
bool ebb_range_flies(struct ebb_object *obj, pgoff_t first, pgoff_t last)
{
	struct ebb_chunk *chunk;
	unsigned long at;

	xa_for_each_range(&obj->chunks, at, chunk, first >> EBB_CHUNK_SHIFT,
			  last >> EBB_CHUNK_SHIFT) if (READ_ONCE(chunk->flying)) return true;
	return false;
}

/* Take the object's lock at a moment at which nothing of the range is in flight. */
int ebb_lock_landed(struct ebb_object *obj, pgoff_t first, pgoff_t last)
{
	mutex_lock(&obj->lock);
	while (obj->offered_pages && ebb_range_flies(obj, first, last)) {
		mutex_unlock(&obj->lock);
		if (wait_event_killable(obj->wait, !ebb_range_flies(obj, first, last)))
			return -ERESTARTSYS;
		mutex_lock(&obj->lock);
	}
	return 0;
}

static struct ebb_slot *ebb_slot_of(struct ebb_object *obj, pgoff_t index)
{
	struct ebb_chunk *chunk = xa_load(&obj->chunks, index >> EBB_CHUNK_SHIFT);

	return &chunk->slots[index & (EBB_CHUNK_PAGES - 1)];
}

/*
 * Nothing is offered any more: the guest may swap the object out again. What lies on the list of
 * unevictable pages meanwhile is moved by the worker.
 */
static void ebb_pages_are_evictable(struct ebb_object *obj)
{
	mapping_clear_unevictable(ebb_mapping(obj));
	obj->was_unevictable = true;
	ebb_offers_kick(HZ);
}

/* The page is ours again; the word in it is settled. */
static void ebb_slot_close(struct ebb_object *obj, pgoff_t index, struct ebb_slot *slot)
{
	struct page *page = slot->page;

	*slot = (struct ebb_slot){};
	if (!--obj->offered_pages)
		ebb_pages_are_evictable(obj);
	/* Whoever finds the bit clear finds the page as it is now. */
	smp_mb__before_atomic();
	clear_bit(index, obj->offered);
	put_page(page);
}

/* Take an offered page back. Returns whether it is whole; else it reads zeros. Not counted. */
static bool ebb_take_slot(struct ebb_object *obj, pgoff_t index, struct ebb_slot *slot)
{
	void *at = kmap_local_page(slot->page);
	u64 seen = READ_ONCE(*(u64 *)at);
	bool whole = false;

	if (seen) {
		seen = cmpxchg64((u64 *)at, slot->cookie, slot->saved);
		whole = seen == slot->cookie;
		if (!whole && seen) {
			clear_page(at);
			ebb_counter_add(EBB_C_STRANGE, 1);
			pr_warn_ratelimited("page %lu of volatile object %llu was written by "
					    "somebody else: it counts as purged\n",
					    index, obj->id);
		}
	}
	kunmap_local(at);

	if (!whole)
		set_bit(index, obj->purged);
	ebb_slot_close(obj, index, slot);
	return whole;
}

bool ebb_take_page(struct ebb_object *obj, pgoff_t index)
{
	bool whole = ebb_take_slot(obj, index, ebb_slot_of(obj, index));

	ebb_counter_add(whole ? EBB_C_WHOLE : EBB_C_PURGED, 1);
	return whole;
}

/* Give up what is in an offered page: it is freed or zeroed by the caller. */
void ebb_drop_page(struct ebb_object *obj, pgoff_t index)
{
	ebb_slot_close(obj, index, ebb_slot_of(obj, index));
}

/* Nothing of the range is in flight. What was purged is noted, and told to nobody. */
void ebb_take_range(struct ebb_object *obj, pgoff_t first, pgoff_t last)
{
	u64 pages = 0, whole = 0;
	struct ebb_chunk *chunk;
	pgoff_t index, end;

	if (!obj->offered_pages)
		return;
	index = find_next_bit(obj->offered, last + 1, first);
	while (index <= last) {
		chunk = xa_load(&obj->chunks, index >> EBB_CHUNK_SHIFT);
		end = min(last, index | (EBB_CHUNK_PAGES - 1));
		for (; index <= end; index = find_next_bit(obj->offered, last + 1, index + 1)) {
			whole += ebb_take_slot(obj, index,
					       &chunk->slots[index & (EBB_CHUNK_PAGES - 1)]);
			pages++;
		}
	}
	ebb_counter_add(EBB_C_WHOLE, whole);
	ebb_counter_add(EBB_C_PURGED, pages - whole);
}

/* The other openers who have marked the page are told when they ask themselves. */
static void ebb_lost_to_others(struct ebb_opener *opener, pgoff_t index)
{
	struct ebb_opener *other;

	list_for_each_entry(other, &opener->obj->openers, list)
		if (other != opener && other->lost && ebb_spans_has(&other->own, index))
			set_bit(index, other->lost);
}

/*
 * What of the range is purged is told to this opener now, and zeros from now on; what it has lost
 * may have content of another by now. Bit 0 of bitmap is first.
 */
u64 ebb_forget_purged(struct ebb_opener *opener, pgoff_t first, pgoff_t last, unsigned long *bitmap)
{
	struct ebb_object *obj = opener->obj;
	pgoff_t index;
	u64 pages = 0;

	for (index = find_next_bit(obj->purged, last + 1, first); index <= last;
	     index = find_next_bit(obj->purged, last + 1, index + 1)) {
		if (bitmap)
			__set_bit(index - first, bitmap);
		ebb_lost_to_others(opener, index);
		if (opener->lost)
			clear_bit(index, opener->lost);
		/* A fault that finds it clear finds what others have lost. */
		smp_mb__before_atomic();
		clear_bit(index, obj->purged);
		pages++;
	}
	if (!opener->lost)
		return pages;
	for (index = find_next_bit(opener->lost, last + 1, first); index <= last;
	     index = find_next_bit(opener->lost, last + 1, index + 1)) {
		if (bitmap)
			__set_bit(index - first, bitmap);
		clear_bit(index, opener->lost);
		pages++;
	}
	return pages;
}
