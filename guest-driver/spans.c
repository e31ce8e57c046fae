// SPDX-License-Identifier: GPL-2.0-only
/*
 * spans - which ranges of an object are declared volatile
 *
 * A mark is one entry for its whole range, whatever its length: nothing is touched.
 *
 * Owns:    the trees of ranges.
 * Thread:  any that may sleep.
 * Locks:   the object's lock, held by the caller; ebb_spans_has() alone needs none. The trees'
 *          own spinlocks are leaves.
 * Never:   looks at pages.
 */
#include "volatile.h"

/*
 * MT_FLAGS_ALLOC_RANGE for the kind of inner nodes that mm's tree has: the kernel frees a tree of
 * readers without a lock in a walk that, in nodes of the other kind, takes what is written over the
 * last slot of one that is not full for a child (seen in Linux 6.1, with some thousand ranges).
 */
void ebb_spans_init(struct ebb_spans *spans)
{
	mt_init_flags(&spans->tree, MT_FLAGS_ALLOC_RANGE | MT_FLAGS_USE_RCU);
	spans->pages = 0;
}

void ebb_spans_destroy(struct ebb_spans *spans)
{
	mtree_destroy(&spans->tree);
	spans->pages = 0;
}

/* The first range that ends at or after from; false: there is none. */
static bool ebb_spans_find(struct ebb_spans *spans, pgoff_t from, pgoff_t *first, pgoff_t *last,
			   u64 *epoch)
{
	MA_STATE(mas, &spans->tree, from, from);
	void *entry;

	mas_lock(&mas);
	entry = mas_find(&mas, ULONG_MAX);
	*first = mas.index;
	*last = mas.last;
	mas_unlock(&mas);
	if (!entry)
		return false;
	*epoch = xa_to_value(entry);
	return true;
}

bool ebb_spans_has(struct ebb_spans *spans, pgoff_t index)
{
	return mtree_load(&spans->tree, index);
}

static u64 ebb_spans_covered(struct ebb_spans *spans, pgoff_t first, pgoff_t last)
{
	pgoff_t from = first, start, end;
	u64 epoch, pages = 0;

	while (from <= last && ebb_spans_find(spans, from, &start, &end, &epoch) && start <= last) {
		pages += min(end, last) - max(start, first) + 1;
		from = end + 1;
	}
	return pages;
}

int ebb_spans_set(struct ebb_spans *spans, pgoff_t first, pgoff_t last, u64 epoch)
{
	u64 covered = ebb_spans_covered(spans, first, last);
	int err;

	err = mtree_store_range(&spans->tree, first, last, xa_mk_value(epoch), GFP_KERNEL_ACCOUNT);
	if (!err)
		spans->pages += last - first + 1 - covered;
	return err;
}

int ebb_spans_clear(struct ebb_spans *spans, pgoff_t first, pgoff_t last)
{
	u64 covered = ebb_spans_covered(spans, first, last);
	int err;

	if (!covered)
		return 0;
	err = mtree_store_range(&spans->tree, first, last, NULL, GFP_KERNEL_ACCOUNT);
	if (!err)
		spans->pages -= covered;
	return err;
}

/* Move *first and *last to the next range at or after *first that is in these spans. */
static bool ebb_spans_narrow(struct ebb_spans *spans, pgoff_t *first, pgoff_t *last, u64 *epoch)
{
	pgoff_t start, end;
	u64 marked;

	if (!ebb_spans_find(spans, *first, &start, &end, &marked))
		return false;
	*first = max(*first, start);
	*last = min(*last, end);
	*epoch = max(*epoch, marked);
	return true;
}

/*
 * The next range from `from` on that everybody who has a say has marked; epoch: when the last of
 * them did.
 */
bool ebb_spans_common(struct ebb_object *obj, pgoff_t from, pgoff_t *first, pgoff_t *last,
		      u64 *epoch)
{
	struct ebb_opener *opener;
	pgoff_t start;

	*first = from;
	if (list_empty(&obj->openers))
		return false;
	do {
		start = *first;
		*last = obj->pages - 1;
		*epoch = 0;
		if (obj->flags & EBB_CREATE_F_GLOBAL)
			return ebb_spans_narrow(&obj->global, first, last, epoch);
		list_for_each_entry(opener, &obj->openers, list)
			if (!ebb_spans_narrow(&opener->own, first, last, epoch))
				return false;
	} while (*first != start); /* one has moved it on: ask the others again */
	return true;
}

/*
 * Likewise, with what follows without a gap, up to bound: small ranges that were marked one by one
 * are one range together, as young as the youngest.
 */
bool ebb_spans_joined(struct ebb_object *obj, pgoff_t from, pgoff_t bound, pgoff_t *first,
		      pgoff_t *last, u64 *epoch)
{
	pgoff_t next_first, next_last;
	u64 next_epoch;

	if (!ebb_spans_common(obj, from, first, last, epoch))
		return false;
	while (*last < bound &&
	       ebb_spans_common(obj, *last + 1, &next_first, &next_last, &next_epoch) &&
	       next_first == *last + 1) {
		*last = next_last;
		*epoch = max(*epoch, next_epoch);
	}
	return true;
}

/* At most so many pages are volatile. */
u64 ebb_spans_volatile_pages(struct ebb_object *obj)
{
	struct ebb_opener *opener;
	u64 pages = obj->pages;

	if (obj->flags & EBB_CREATE_F_GLOBAL)
		return obj->global.pages;
	list_for_each_entry(opener, &obj->openers, list)
		pages = min(pages, opener->own.pages);
	return pages;
}
