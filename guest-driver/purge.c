// SPDX-License-Identifier: GPL-2.0-only
/*
 * purge - what is volatile goes: the host has taken it, this guest is short, or it is told to
 *
 * The host's notice is only a hint where to look: each page of the range is found by its own
 * number, and believed to be one of ours only when its slot says so. A page that was purged is
 * freed to the guest's allocator. Under the guest's own pressure the objects that were marked
 * longest ago go first; nothing is read, and nothing that is in flight is waited for.
 *
 * Owns:    the shrinker, the OOM notifier.
 * Thread:  the command worker; whoever reclaims memory.
 * Locks:   the object's lock, only tried where memory is reclaimed.
 * Never:   allocates; follows what a notice says without a check.
 */
#include <linux/highmem.h>
#include <linux/memory_hotplug.h>
#include <linux/oom.h>
#include <linux/shmem_fs.h>
#include <linux/shrinker.h>

#include "compat.h"
#include "volatile.h"

/*
 * Of a huge page, for which this guest's pressure splits it. Measured: a split takes as long as
 * purging some 90 pages, and the nodes of the tree that it needs some 10 KiB.
 */
#define PART_MIN_PAGES 32

static void ebb_truncate(struct ebb_object *obj, pgoff_t first, pgoff_t last)
{
	shmem_truncate_range(file_inode(obj->file), (loff_t)first << PAGE_SHIFT,
			     ((loff_t)(last + 1) << PAGE_SHIFT) - 1);
}

/* Pages that are to go, next to each other; freed together. */
struct ebb_run {
	struct ebb_object *obj;
	pgoff_t first, last; /* last < first: empty */
	u64 pages;
};

/*
 * Unmapped at once, since truncation unmaps page by page, and each time tells all processors that
 * run the program.
 */
static void ebb_run_flush(struct ebb_run *run)
{
	if (run->last < run->first)
		return;
	unmap_mapping_pages(ebb_mapping(run->obj), run->first, run->last - run->first + 1, false);
	ebb_truncate(run->obj, run->first, run->last);
	ebb_events_purged(run->obj, run->first, run->last);
	run->first = 1;
	run->last = 0;
}

/* Marked as purged by the caller, with nothing of it in the host's hands. */
static void ebb_run_add(struct ebb_run *run, pgoff_t first, pgoff_t last)
{
	if (run->last < run->first || first != run->last + 1) {
		ebb_run_flush(run);
		run->first = first;
	}
	run->last = last;
	run->pages += last - first + 1;
}

/* May this folio go? A page of a content-free object that is mapped was touched since its mark. */
static bool ebb_folio_may_go(struct ebb_object *obj, struct folio *folio, pgoff_t first,
			     pgoff_t last)
{
	bool may;

	if (folio->mapping != ebb_mapping(obj) || folio->index < first ||
	    folio->index + folio_nr_pages(folio) - 1 > last)
		return false;
	if (ebb_range_flies(obj, folio->index, folio->index)) {
		ebb_counter_add(EBB_C_LEFT_FLYING, folio_nr_pages(folio));
		return false;
	}
	/* Whoever holds the lock may be waiting for memory, which is what we are here for. */
	if (!folio_trylock(folio))
		return false;
	may = !(obj->kind == EBB_KIND_CONTENT_FREE && folio_mapped(folio));
	folio_unlock(folio);
	return may;
}

static void ebb_purge_folio(struct ebb_run *run, pgoff_t first, pgoff_t last)
{
	struct ebb_object *obj = run->obj;
	pgoff_t index;

	for (index = first; index <= last; index++) {
		set_bit(index, obj->purged);
		if (test_bit(index, obj->offered))
			ebb_drop_page(obj, index);
	}
	ebb_run_add(run, first, last);
}

/*
 * Of a huge page only a part is to go. That frees nothing, so only who asked for it by name gets
 * it: zeros in place. What is mapped of a content-free object was touched since its mark.
 */
static u64 ebb_purge_part(struct ebb_object *obj, struct folio *folio, pgoff_t first, pgoff_t last)
{
	bool content_free = obj->kind == EBB_KIND_CONTENT_FREE;
	struct page *page;
	u64 pages = 0;
	pgoff_t index;

	folio_lock(folio);
	if (folio->mapping != ebb_mapping(obj)) {
		folio_unlock(folio);
		return 0;
	}
	if (!content_free)
		unmap_mapping_pages(ebb_mapping(obj), first, last - first + 1, false);
	for (index = first; index <= last; index++) {
		page = folio_page(folio, index - folio->index);
		if (content_free && ebb_page_is_mapped(folio, page))
			continue;
		set_bit(index, obj->purged);
		if (test_bit(index, obj->offered))
			ebb_drop_page(obj, index);
		clear_highpage(page);
		pages++;
	}
	folio_unlock(folio);
	if (pages)
		ebb_events_purged(obj, first, last);
	return pages;
}

/* PURGE: all that there is in a volatile range of which nothing is in flight. */
void ebb_purge_now(struct ebb_object *obj, pgoff_t first, pgoff_t last)
{
	unsigned long index = first;
	struct folio *folio;
	pgoff_t end;

	ebb_purge_range(obj, first, last, U64_MAX);
	while (index <= last && xa_find(&ebb_mapping(obj)->i_pages, &index, last, XA_PRESENT)) {
		end = index;
		folio = ebb_get_folio(ebb_mapping(obj), index);
		if (folio) {
			end = min(last, folio->index + folio_nr_pages(folio) - 1);
			if (folio_test_large(folio))
				ebb_counter_add(EBB_C_OWN_PURGED,
						ebb_purge_part(obj, folio, index, end));
			folio_put(folio);
		}
		index = end + 1;
	}
}

/*
 * Purge what there is in a volatile range, up to about max_pages. Under the object's lock.
 * Returns pages.
 */
u64 ebb_purge_range(struct ebb_object *obj, pgoff_t first, pgoff_t last, u64 max_pages)
{
	struct ebb_run run = { .obj = obj, .first = 1, .last = 0 };
	unsigned long index = first;
	pgoff_t start, end;
	struct folio *folio;
	void *entry;
	bool may;

	while (run.pages < max_pages &&
	       (entry = xa_find(&ebb_mapping(obj)->i_pages, &index, last, XA_PRESENT))) {
		start = end = index;
		if (xa_is_value(entry)) { /* swapped out */
			may = true;
		} else {
			folio = ebb_get_folio(ebb_mapping(obj), index);
			may = folio && ebb_folio_may_go(obj, folio, first, last);
			if (folio) {
				start = folio->index;
				end = start + folio_nr_pages(folio) - 1;
				folio_put(folio);
			}
		}
		if (may)
			ebb_purge_folio(&run, start, end);
		index = end + 1;
		if (index > last)
			break;
	}
	ebb_run_flush(&run);
	ebb_counter_add(EBB_C_OWN_PURGED, run.pages);
	return run.pages;
}

/* A unit that has lost a page is worthless: the rest of it, where it is volatile. */
static u64 ebb_purge_unit(struct ebb_object *obj, pgoff_t index)
{
	pgoff_t first, last, from, end;
	u64 epoch, pages = 0;

	from = index - index % obj->unit_pages;
	end = min(from + obj->unit_pages, obj->pages) - 1;
	while (from <= end && ebb_spans_joined(obj, from, end, &first, &last, &epoch) &&
	       first <= end) {
		last = min(last, end);
		pages += ebb_purge_range(obj, first, last, U64_MAX);
		from = last + 1;
	}
	return pages;
}

static u64 ebb_purge_damaged(struct ebb_object *obj, u64 want_pages)
{
	pgoff_t index = find_first_bit(obj->purged, obj->pages);
	u64 pages = 0;

	while (index < obj->pages && pages < want_pages) {
		pages += ebb_purge_unit(obj, index);
		index = find_next_bit(obj->purged, obj->pages,
				      index - index % obj->unit_pages + obj->unit_pages);
	}
	return pages;
}

static bool ebb_part_may_go(struct ebb_object *obj, struct folio *folio, pgoff_t first,
			    pgoff_t last)
{
	pgoff_t end = min(folio->index + folio_nr_pages(folio), obj->pages), index;

	if (folio->mapping != ebb_mapping(obj) || ebb_range_flies(obj, first, first))
		return false;
	/* Who holds a page of it, as we do what is offered, keeps it from being split. */
	if (find_next_bit(obj->offered, first, folio->index) < first ||
	    find_next_bit(obj->offered, end, last + 1) < end)
		return false;
	for (index = first; obj->kind == EBB_KIND_CONTENT_FREE && index <= last; index++)
		if (ebb_page_is_mapped(folio, folio_page(folio, index - folio->index)))
			return false;
	return true;
}

/*
 * [first, last] is to go of this folio, of which the rest stays. It is zeroed in place should the
 * folio not be split after all, so nobody may have it mapped then.
 */
static void ebb_purge_folio_part(struct ebb_run *run, struct folio *folio, pgoff_t first,
				 pgoff_t last)
{
	if (!folio_trylock(folio))
		return;
	if (ebb_part_may_go(run->obj, folio, first, last)) {
		ebb_purge_folio(run, first, last);
		unmap_mapping_pages(ebb_mapping(run->obj), first, last - first + 1, false);
	}
	folio_unlock(folio);
}

/*
 * The parts of huge pages that lie in a volatile range: to free them splits the huge page. Only
 * parts that are worth that.
 */
static u64 ebb_purge_parts(struct ebb_object *obj, pgoff_t first, pgoff_t last, u64 max_pages)
{
	struct ebb_run run = { .obj = obj, .first = 1, .last = 0 };
	unsigned long index = first;
	pgoff_t start, end;
	struct folio *folio;
	void *entry;

	while (index <= last && run.pages < max_pages &&
	       (entry = xa_find(&ebb_mapping(obj)->i_pages, &index, last, XA_PRESENT))) {
		start = end = index;
		folio = xa_is_value(entry) ? NULL : ebb_get_folio(ebb_mapping(obj), index);
		if (folio) {
			start = max(first, folio->index);
			end = min(last, folio->index + folio_nr_pages(folio) - 1);
			if (folio_test_large(folio) && end - start + 1 >= PART_MIN_PAGES)
				ebb_purge_folio_part(&run, folio, start, end);
			folio_put(folio);
			ebb_run_flush(&run); /* with no reference of ours */
		}
		index = end + 1;
	}
	ebb_counter_add(EBB_C_OWN_PURGED, run.pages);
	return run.pages;
}

typedef u64 ebb_purge_fn(struct ebb_object *obj, pgoff_t first, pgoff_t last, u64 max_pages);

/* All volatile ranges of an object, under its lock. */
static u64 ebb_purge_ranges(struct ebb_object *obj, u64 want_pages, ebb_purge_fn *purge)
{
	pgoff_t from = 0, first, last;
	u64 epoch, pages = 0;

	while (pages < want_pages && from < obj->pages &&
	       ebb_spans_joined(obj, from, obj->pages - 1, &first, &last, &epoch)) {
		pages += purge(obj, first, last, want_pages - pages);
		from = last + 1;
	}
	return pages;
}

/* Under the object's lock. */
static u64 ebb_purge_object(struct ebb_object *obj, u64 want_pages)
{
	u64 pages = 0;

	if (obj->unit_pages)
		pages = ebb_purge_damaged(obj, want_pages);
	if (pages < want_pages)
		pages += ebb_purge_ranges(obj, want_pages - pages, ebb_purge_range);
	if (pages < want_pages)
		pages += ebb_purge_ranges(obj, want_pages - pages, ebb_purge_parts);
	return pages;
}

static u64 ebb_purge_oldest(u64 want_pages)
{
	u64 pass = ebb_object_new_pass(), pages = 0;
	struct ebb_object *obj;

	while (pages < want_pages && (obj = ebb_object_next(pass))) {
		if (mutex_trylock(&obj->lock)) {
			pages += ebb_purge_object(obj, want_pages - pages);
			mutex_unlock(&obj->lock);
		}
		ebb_object_put(obj);
	}
	return pages;
}

/* ---- the host's notices ---- */

/* The index of a page of ours in its object; false: it is none. */
static bool ebb_page_identify(struct page *page, struct ebb_object **obj, pgoff_t *index)
{
	struct folio *folio = page_folio(page);
	struct address_space *mapping;
	bool found = false;

	if (!folio_try_get(folio))
		return false;
	mapping = READ_ONCE(folio->mapping);
	if (page_folio(page) == folio && mapping) {
		*index = folio->index + folio_page_idx(folio, page);
		if (!*obj || ebb_mapping(*obj) != mapping) {
			if (*obj)
				ebb_object_put(*obj);
			*obj = ebb_object_of_mapping(mapping);
		}
		found = *obj;
	}
	folio_put(folio);
	return found;
}

/* Is it in the host's hands, and gone? A look at the word, as in a take-back, but no swap. */
static bool ebb_page_is_gone(struct ebb_object *obj, pgoff_t index, struct page *page)
{
	struct ebb_chunk *chunk = xa_load(&obj->chunks, index >> EBB_CHUNK_SHIFT);
	struct ebb_slot *slot;
	bool gone = false;
	u64 *at;

	if (index >= obj->pages || !chunk || chunk->flying || !test_bit(index, obj->offered))
		return false;
	slot = &chunk->slots[index & (EBB_CHUNK_PAGES - 1)];
	if (slot->page != page)
		return false;
	at = kmap_local_page(page);
	gone = !READ_ONCE(*at);
	kunmap_local(at);
	return gone;
}

/* Is every page of the folio purged and none offered, so that it can be freed? */
static bool ebb_folio_is_gone(struct ebb_object *obj, pgoff_t first, pgoff_t last)
{
	return find_next_zero_bit(obj->purged, last + 1, first) > last &&
	       find_next_bit(obj->offered, last + 1, first) > last;
}

static void ebb_notice_page(struct ebb_run *run, pgoff_t index, struct page *page, bool complete)
{
	struct folio *folio = page_folio(page);
	struct ebb_object *obj = run->obj;
	pgoff_t first, last;

	if (!ebb_page_is_gone(obj, index, page))
		return;
	/* Our reference keeps it one of ours until here. */
	first = folio->index;
	last = first + folio_nr_pages(folio) - 1;
	ebb_take_page(obj, index);
	if (ebb_folio_is_gone(obj, first, last)) {
		ebb_run_add(run, first, last);
	} else if (first != last) {
		ebb_run_flush(run);
		ebb_events_purged(obj, index, index);
	}
	if (complete && obj->unit_pages) {
		ebb_run_flush(run);
		ebb_purge_unit(obj, index);
	}
}

/* One run of pages whose numbers follow each other, of one object or of none of ours. */
static u64 ebb_notice_some(u64 pfn, u64 end_pfn, bool complete)
{
	struct ebb_object *obj = NULL, *locked = NULL;
	struct ebb_run run = { .first = 1, .last = 0 };
	struct page *page;
	pgoff_t index;

	for (; pfn < end_pfn; pfn++) {
		page = pfn_to_online_page(pfn);
		if (!page || !ebb_page_identify(page, &obj, &index))
			continue;
		if (locked && locked != obj)
			break;
		if (!locked) {
			locked = obj;
			kref_get(&locked->ref);
			run.obj = locked;
			mutex_lock(&locked->lock);
		}
		ebb_notice_page(&run, index, page, complete);
	}
	if (locked) {
		ebb_run_flush(&run);
		mutex_unlock(&locked->lock);
		ebb_object_put(locked);
	}
	if (obj)
		ebb_object_put(obj);
	return pfn;
}

void ebb_purge_notice(u64 gpa, u64 bytes, bool complete)
{
	u64 pfn = gpa >> PAGE_SHIFT, end_pfn = (gpa + bytes) >> PAGE_SHIFT;

	end_pfn = min_t(u64, end_pfn, ebb_end_of_memory());
	while (pfn < end_pfn) {
		pfn = ebb_notice_some(pfn, min(end_pfn, pfn + EBB_CHUNK_PAGES), complete);
		cond_resched();
	}
}

/* ---- the guest's own pressure ---- */

/* Objects that one scan looks at. */
#define SCAN_OBJECTS 16

struct ebb_victims {
	struct ebb_object *objs[SCAN_OBJECTS];
	unsigned int count;
};

struct list_lru ebb_lru;
static bool ebb_lru_is_ready;

static EBB_LRU_CALLBACK(ebb_lru_sum, item, arg)
{
	struct ebb_object *obj = container_of(item, struct ebb_object, lru);

	*(u64 *)arg += min_t(u64, READ_ONCE(obj->volatile_pages), ebb_mapping(obj)->nrpages);
	return LRU_SKIP;
}

static EBB_LRU_CALLBACK(ebb_lru_pick, item, arg)
{
	struct ebb_object *obj = container_of(item, struct ebb_object, lru);
	struct ebb_victims *victims = arg;

	if (victims->count < SCAN_OBJECTS && READ_ONCE(obj->volatile_pages) &&
	    ebb_mapping(obj)->nrpages && kref_get_unless_zero(&obj->ref))
		victims->objs[victims->count++] = obj;
	return LRU_SKIP;
}

static unsigned long ebb_shrink_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	unsigned long all = ULONG_MAX;
	u64 pages = 0;

	if (!smp_load_acquire(&ebb_lru_is_ready) || !list_lru_shrink_count(&ebb_lru, sc))
		return SHRINK_EMPTY;
	list_lru_walk_one(&ebb_lru, sc->nid, sc->memcg, ebb_lru_sum, &pages, &all);
	return pages;
}

static unsigned long ebb_shrink_scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct ebb_victims victims = {};
	unsigned long all = ULONG_MAX;
	struct ebb_object *obj;
	unsigned int i;
	u64 pages = 0;

	/* Truncating a file is work for a file system. */
	if (!(sc->gfp_mask & __GFP_FS))
		return SHRINK_STOP;
	list_lru_walk_one(&ebb_lru, sc->nid, sc->memcg, ebb_lru_pick, &victims, &all);
	for (i = 0; i < victims.count; i++) {
		obj = victims.objs[i];
		if (pages < sc->nr_to_scan && mutex_trylock(&obj->lock)) {
			pages += ebb_purge_object(obj, sc->nr_to_scan - pages);
			mutex_unlock(&obj->lock);
		}
		ebb_object_put(obj);
	}
	sc->nr_scanned = pages;
	ebb_account_reclaimed(pages);
	return pages ?: SHRINK_STOP;
}

static int ebb_purge_oom(struct notifier_block *nb, unsigned long unused, void *freed_pages)
{
	*(unsigned long *)freed_pages += ebb_purge_oldest(8 * SWAP_CLUSTER_MAX);
	return NOTIFY_OK;
}

static struct notifier_block ebb_oom_nb = { .notifier_call = ebb_purge_oom };
static struct shrinker *ebb_shrinker;

int ebb_purge_init(void)
{
	int err;

	/* The list has to know the shrinker's number, which comes with its registration. */
	ebb_shrinker = ebb_shrinker_register("ebb-volatile", ebb_shrink_count, ebb_shrink_scan);
	if (!ebb_shrinker)
		return -ENOMEM;
	err = list_lru_init_memcg(&ebb_lru, ebb_shrinker);
	if (err)
		goto err_shrinker;
	smp_store_release(&ebb_lru_is_ready, true);
	err = register_oom_notifier(&ebb_oom_nb);
	if (!err)
		return 0;
	ebb_shrinker_unregister(ebb_shrinker);
	list_lru_destroy(&ebb_lru);
	return err;

err_shrinker:
	ebb_shrinker_unregister(ebb_shrinker);
	return err;
}

void ebb_purge_exit(void)
{
	unregister_oom_notifier(&ebb_oom_nb);
	ebb_shrinker_unregister(ebb_shrinker);
	list_lru_destroy(&ebb_lru);
}
