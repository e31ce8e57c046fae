// SPDX-License-Identifier: GPL-2.0-only
/*
 * offer - arm volatile pages, and offer them to the host
 *
 * What was marked long enough ago is armed: unmapped everywhere, found to be held by nobody but
 * its file and us, its first word saved and a random cookie put in its place. Then it is offered;
 * a batch is in flight for one exchange, and never more than one batch.
 *
 * Why nobody else holds an armed page: with the page's lock held it cannot be mapped again, since
 * a fault maps under that lock and looks at the bits first. The references are counted after it
 * was unmapped. Who looks a page up in the page tables without a lock (GUP-fast) takes a reference
 * first and then reads the entry again: either it did so before we counted, and the page is left
 * out; or its reference came after the entry was cleared, and it finds that and gives the
 * reference back without a look at the page. Who holds the page from before (direct I/O, io_uring,
 * vmsplice, a processor's list of pages on their way to the LRU) is in the count.
 *
 * Reclaim, migration and khugepaged may still find the page in its file. The latter two give up
 * at our reference before they read it. Reclaim would write it to swap first: so the file is
 * unevictable while anything of it is armed, which reclaim looks at with the page's lock held.
 *
 * Owns:    the batch; which device is the host.
 * Thread:  the offers' workqueue, ordered.
 * Locks:   the object's lock, for one chunk at a time; in it, locks of pages that are only tried.
 * Never:   offers while the host has plenty or the guest is short; waits for the host with a lock
 *          held; touches what is not going to be offered.
 */
#include <linux/highmem.h>
#include <linux/module.h>
#include <linux/prandom.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/swap.h>

#include "compat.h"
#include "ebb.h"
#include "trace.h"
#include "volatile.h"

static unsigned int age_msec = 500;
module_param(age_msec, uint, 0644);
MODULE_PARM_DESC(age_msec, "how long a range of /dev/ebb is volatile before it is offered, ms");

/* Pages that somebody held are tried again after this long, and then ever less often. */
#define RETRY_MIN (HZ / 4)
#define RETRY_MAX (30 * HZ)

/* A host with huge pages that has refused a part of one is not asked for another one so long. */
#define REFUSED_REST (5 * HZ)

/* At once: a page each costs as much again ten times over, the call to the other processors. */
#define UNMAP_PAGES 64

/* In flight: 32 MiB or 1/64 of RAM (rule 9), but a block. */
#define FLIGHT_MAX_PAGES   (32ul << (20 - PAGE_SHIFT))
#define FLIGHT_RAM_DIVISOR 64

/* Pages of one chunk, contiguous in the object and in the guest's memory. */
struct ebb_seg {
	struct ebb_object *obj; /* our reference */
	struct ebb_chunk *chunk;
	pgoff_t first;
	u32 pages;
	u32 range; /* of the request */
	u64 gpa;
	u64 epoch;
};

struct ebb_batch {
	struct ebb_seg *segs;
	u32 count;
	u32 max_count;
	u64 pages;
	u64 max_pages;
	bool no_room; /* for the huge page that is next: it is offered whole or not at all */
	bool give_up; /* refused for a reason that would meet any other page, too */
};

static struct workqueue_struct *ebb_offers_wq;
static struct ebb_batch ebb_batch;   /* the worker's */
static struct rnd_state ebb_cookies; /* likewise */
static u64 ebb_left_out;	     /* in this pass */
static unsigned long ebb_retry = RETRY_MIN;

static DEFINE_MUTEX(ebb_host_lock);
static struct ebb_device *ebb_host; /* written with the worker at rest */
static bool ebb_all_anew;	    /* the host has lost its marks, or takes more than before */
static u64 ebb_anew_epoch;	    /* what was marked by then is old enough */

static void ebb_offer_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(ebb_work, ebb_offer_work);

static bool ebb_batch_is_full(const struct ebb_batch *batch)
{
	return batch->no_room || batch->count == batch->max_count ||
	       batch->pages >= batch->max_pages;
}

static void ebb_batch_add(struct ebb_batch *batch, struct ebb_object *obj, struct ebb_chunk *chunk,
			  pgoff_t index, struct page *page, u64 epoch)
{
	struct ebb_seg *seg = batch->segs + batch->count - 1;
	u64 gpa = page_to_phys(page);

	batch->pages++;
	if (batch->count && seg->chunk == chunk && seg->first + seg->pages == index &&
	    seg->gpa + ((u64)seg->pages << PAGE_SHIFT) == gpa && seg->epoch == epoch) {
		seg->pages++;
		return;
	}
	kref_get(&obj->ref);
	chunk->flying++;
	batch->segs[batch->count++] = (struct ebb_seg){
		.obj = obj,
		.chunk = chunk,
		.first = index,
		.pages = 1,
		.gpa = gpa,
		.epoch = epoch,
	};
}

/* ---- arming: with the object's lock ---- */

/*
 * Told from what else may stand in a page, and seen by no program: the quick generator, seeded for
 * each pass, will do. With get_random_u64() half of an offer was that.
 */
static u64 ebb_new_cookie(void)
{
	u64 cookie;

	do {
		cookie = (u64)prandom_u32_state(&ebb_cookies) << 32;
		cookie |= prandom_u32_state(&ebb_cookies);
	} while (!cookie);
	return cookie;
}

static void ebb_arm_page(struct ebb_object *obj, struct ebb_chunk *chunk, pgoff_t index,
			 struct page *page)
{
	struct ebb_slot *slot = &chunk->slots[index & (EBB_CHUNK_PAGES - 1)];
	u64 *at = kmap_local_page(page);

	get_page(page);
	slot->page = page;
	slot->cookie = ebb_new_cookie();
	slot->saved = *at;
	WRITE_ONCE(*at, slot->cookie);
	kunmap_local(at);
	obj->offered_pages++;
	set_bit(index, obj->offered);
}

/* Unmap a folio and see that nobody but its file, and we where offered, holds it. Locked. */
static bool ebb_folio_isolate(struct ebb_object *obj, struct folio *folio)
{
	pgoff_t index, end = min(folio->index + folio_nr_pages(folio), obj->pages);
	long ours = 1;

	if (folio_mapped(folio))
		unmap_mapping_pages(ebb_mapping(obj), folio->index, folio_nr_pages(folio), false);
	for (index = find_next_bit(obj->offered, end, folio->index); index < end;
	     index = find_next_bit(obj->offered, end, index + 1))
		ours++;
	/* Count after the entries were cleared: see above. */
	smp_mb();
	return !folio_mapped(folio) && folio_ref_count(folio) == folio_nr_pages(folio) + ours;
}

/* From index on, the first page in a chunk that is to be armed; behind last: there is none. */
static pgoff_t ebb_next_to_arm(struct ebb_object *obj, pgoff_t index, pgoff_t last,
			       const unsigned long *touched)
{
	while (index <= last && (test_bit(index, obj->offered) || test_bit(index, obj->purged) ||
				 test_bit(index & (EBB_CHUNK_PAGES - 1), touched)))
		index++;
	return index;
}

/*
 * Arm what lies in [*next, last] of a folio and was not touched, until the batch is full; false:
 * it is held.
 */
static bool ebb_arm_folio(struct ebb_object *obj, struct ebb_chunk *chunk, struct folio *folio,
			  pgoff_t *next, pgoff_t last, u64 epoch, const unsigned long *touched)
{
	struct page *page;
	pgoff_t index;

	if (folio->mapping != ebb_mapping(obj) || !folio_test_uptodate(folio) ||
	    folio_test_writeback(folio) || folio_test_mlocked(folio) || folio_test_hwpoison(folio))
		return false;
	last = min(last, folio->index + folio_nr_pages(folio) - 1);
	index = ebb_next_to_arm(obj, *next, last, touched);
	if (index <= last && !ebb_folio_isolate(obj, folio))
		return false;
	for (; index <= last && !ebb_batch_is_full(&ebb_batch);
	     index = ebb_next_to_arm(obj, index + 1, last, touched)) {
		page = folio_page(folio, index - folio->index);
		ebb_arm_page(obj, chunk, index, page);
		ebb_batch_add(&ebb_batch, obj, chunk, index, page, epoch);
	}
	*next = index;
	return true;
}

/* The chunk, made if it is not there. The guest's own shortage is no reason to try hard. */
static struct ebb_chunk *ebb_chunk_get(struct ebb_object *obj, pgoff_t index)
{
	struct ebb_chunk *chunk = xa_load(&obj->chunks, index >> EBB_CHUNK_SHIFT);
	gfp_t gfp = GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN;

	if (chunk)
		return chunk;
	chunk = kvzalloc(sizeof(*chunk), gfp);
	if (!chunk)
		return NULL;
	if (xa_err(xa_store(&obj->chunks, index >> EBB_CHUNK_SHIFT, chunk, gfp))) {
		kvfree(chunk);
		return NULL;
	}
	return chunk;
}

/*
 * Unmap some pages from index on at once: each call tells all processors that run the program.
 * Returns where what it did not unmap begins. Content-free memory was unmapped by its mark, and
 * unmapping what is locked would unlock it.
 */
static pgoff_t ebb_unmap_ahead(struct ebb_object *obj, pgoff_t index, pgoff_t last)
{
	pgoff_t end = min(last + 1, index + UNMAP_PAGES);
	XA_STATE(xas, &ebb_mapping(obj)->i_pages, index);
	bool locked = false;
	void *entry;

	if (obj->kind == EBB_KIND_CONTENT_FREE)
		return end;
	rcu_read_lock();
	xas_for_each(&xas, entry, end - 1)
		if (!xas_retry(&xas, entry) && !xa_is_value(entry))
			locked |= folio_test_mlocked(entry);
	rcu_read_unlock();
	if (!locked)
		unmap_mapping_pages(ebb_mapping(obj), index, end - index, false);
	return end;
}

/*
 * A page of a content-free object that is mapped was touched since its mark, which unmapped it
 * (MADV_COLLAPSE maps what nobody touched): it is non-volatile. Noted in a bit for each page of
 * the chunk; false: that could not be noted for good.
 */
static bool ebb_note_touched(struct ebb_object *obj, struct folio *folio, pgoff_t first,
			     pgoff_t last, unsigned long *touched)
{
	struct ebb_opener *opener;
	pgoff_t index;
	int err = 0;

	bitmap_zero(touched, EBB_CHUNK_PAGES);
	if (obj->kind != EBB_KIND_CONTENT_FREE || !folio_mapped(folio))
		return true;
	last = min(last, folio->index + folio_nr_pages(folio) - 1);
	for (index = first; index <= last; index++) {
		if (!ebb_page_is_mapped(folio, folio_page(folio, index - folio->index)))
			continue;
		__set_bit(index & (EBB_CHUNK_PAGES - 1), touched);
		err |= ebb_spans_clear(&obj->global, index, index);
		list_for_each_entry(opener, &obj->openers, list)
			err |= ebb_spans_clear(&opener->own, index, index);
	}
	ebb_object_count(obj);
	return !err;
}

/* False: the folio is held by somebody. */
static bool ebb_arm_or_pass(struct ebb_object *obj, struct ebb_chunk *chunk, struct folio *folio,
			    pgoff_t *next, pgoff_t last, u64 epoch)
{
	DECLARE_BITMAP(touched, EBB_CHUNK_PAGES);
	bool done = false;

	if (folio_trylock(folio)) {
		done = ebb_note_touched(obj, folio, *next, last, touched) &&
		       ebb_arm_folio(obj, chunk, folio, next, last, epoch, touched);
		folio_unlock(folio);
	}
	return done;
}

/* Arm [first, last] of one chunk, until the batch is full. Returns where to go on. */
static pgoff_t ebb_arm(struct ebb_object *obj, pgoff_t first, pgoff_t last, u64 epoch)
{
	struct ebb_chunk *chunk = ebb_chunk_get(obj, first);
	unsigned long index = find_next_zero_bit(obj->offered, last + 1, first);
	pgoff_t next, unmapped = first;
	struct folio *folio;

	if (!chunk || chunk->refused_epoch == epoch || index > last)
		return last + 1;
	/* Before any of its pages is armed, and each is looked at with its lock held. */
	if (!obj->offered_pages)
		mapping_set_unevictable(ebb_mapping(obj));
	while (!ebb_batch_is_full(&ebb_batch) &&
	       xa_find(&ebb_mapping(obj)->i_pages, &index, last, XA_PRESENT)) {
		folio = ebb_get_folio(ebb_mapping(obj), index);
		if (!folio) {
			index++; /* swapped out: it lies well there */
			continue;
		}
		if (folio_test_large(folio) && ebb_batch.count &&
		    ebb_batch.pages + folio_nr_pages(folio) > ebb_batch.max_pages) {
			ebb_batch.no_room = true;
			folio_put(folio);
			break;
		}
		if (index >= unmapped && !folio_test_large(folio))
			unmapped = ebb_unmap_ahead(obj, index, last);
		next = index;
		if (!ebb_arm_or_pass(obj, chunk, folio, &next, last, epoch))
			ebb_left_out++;
		/* Not moved: held, or touched. */
		index = next > index ? next : folio->index + folio_nr_pages(folio);
		folio_put(folio);
		index = find_next_zero_bit(obj->offered, last + 1, index);
		if (index > last)
			break;
	}
	if (!obj->offered_pages)
		mapping_clear_unevictable(ebb_mapping(obj));
	return ebb_batch_is_full(&ebb_batch) ? index : last + 1;
}

/* ---- the exchange: without a lock ---- */

static int ebb_seg_compare(const void *a, const void *b)
{
	const struct ebb_seg *x = a, *y = b;

	return x->gpa < y->gpa ? -1 : x->gpa > y->gpa;
}

/* Segments that follow each other in memory become one range. Returns how many ranges. */
static u32 ebb_batch_fill(struct ebb_batch *batch, struct virtio_ebb_range *ranges)
{
	u64 gpa = 0, bytes = 0, seg_bytes;
	struct ebb_seg *seg;
	u32 count = 0;

	sort(batch->segs, batch->count, sizeof(*batch->segs), ebb_seg_compare, NULL);
	for (seg = batch->segs; seg < batch->segs + batch->count; seg++) {
		seg_bytes = (u64)seg->pages << PAGE_SHIFT;
		if (count && gpa + bytes == seg->gpa) {
			bytes += seg_bytes;
		} else {
			gpa = seg->gpa;
			bytes = seg_bytes;
			count++;
		}
		seg->range = count - 1;
		ebb_put_le64(&ranges[count - 1].gpa, gpa);
		ebb_put_le64(&ranges[count - 1].bytes, bytes);
	}
	return count;
}

static int ebb_check_verdicts(struct ebb_device *ebb, u32 count)
{
	const struct virtio_ebb_range *ranges = (const void *)(ebb->volatile_offer.out + 1);
	struct virtio_ebb_verdict *verdicts = (void *)(ebb->volatile_offer.in + 1);
	enum virtio_ebb_fault fault;
	u32 i;

	if (ebb_get_le32(&ebb->volatile_offer.in->status) != VIRTIO_EBB_RESP_OK)
		return -EOPNOTSUPP;
	for (i = 0; i < count; i++) {
		fault = virtio_ebb_check_verdict(&verdicts[i], ebb_get_le64(&ranges[i].bytes));
		if (fault)
			return ebb_bad_answer(ebb, fault);
		trace_ebb_verdict(&ranges[i], &verdicts[i]);
	}
	return 0;
}

/*
 * An offer of a segment has been answered, or came to nothing: then its pages are taken back. With
 * the object's lock held.
 */
static void ebb_seg_land(struct ebb_seg *seg, bool refused, bool for_good)
{
	struct ebb_object *obj = seg->obj;

	if (refused) {
		ebb_counter_add(EBB_C_REFUSED, seg->pages);
		ebb_take_range(obj, seg->first, seg->first + seg->pages - 1);
		if (for_good) {
			seg->chunk->refused_epoch = seg->epoch;
			seg->chunk->parts_due = ebb_now() + REFUSED_REST;
		} else {
			WRITE_ONCE(obj->has_news, true);
		}
	}
	WRITE_ONCE(seg->chunk->flying, seg->chunk->flying - 1);
}

/* Land all of obj that follows segs[i]; each has a reference. Returns behind the last of them. */
static u32 ebb_object_lands(struct ebb_device *ebb, struct ebb_batch *batch, u32 i, int err)
{
	struct virtio_ebb_verdict *verdicts = (void *)(ebb->volatile_offer.in + 1);
	struct ebb_object *obj = batch->segs[i].obj;
	bool refused, general;
	u32 range, end = i;

	mutex_lock(&obj->lock);
	for (; end < batch->count && batch->segs[end].obj == obj; end++) {
		range = batch->segs[end].range;
		refused = err || ebb_get_le16(&verdicts[range].verdict) == VIRTIO_EBB_NOT_MARKED;
		general = err || ebb_reason_is_general(ebb_get_le16(&verdicts[range].reason));
		if (refused && general)
			batch->give_up = true;
		ebb_seg_land(&batch->segs[end], refused, !general);
	}
	mutex_unlock(&obj->lock);
	wake_up_all(&obj->wait);
	for (; i < end; i++)
		ebb_object_put(obj);
	return end;
}

static void ebb_batch_send(struct ebb_device *ebb, struct ebb_batch *batch)
{
	struct virtio_ebb_range *ranges = (void *)(ebb->volatile_offer.out + 1);
	u32 count, i;
	int err;

	if (!batch->count)
		return;
	count = ebb_batch_fill(batch, ranges);
	ebb_counter_add(EBB_C_OFFERED, batch->pages);
	trace_ebb_offer(0, count, batch->pages << PAGE_SHIFT);
	err = ebb_request_send(ebb, &ebb->volatile_offer, VIRTIO_EBB_REQ_VOLATILE, count, 0);
	if (!err)
		err = ebb_check_verdicts(ebb, count);
	if (err)
		batch->give_up = true;
	for (i = 0; i < batch->count;)
		i = ebb_object_lands(ebb, batch, i, err);
	batch->count = 0;
	batch->pages = 0;
	batch->no_room = false;
}

/* ---- a pass over everything that is volatile ---- */

/* How long until a range marked then is old enough; 0: it is. */
static unsigned long ebb_time_left(u64 epoch)
{
	u64 due = epoch + msecs_to_jiffies(READ_ONCE(age_msec)), now = ebb_now();

	if (epoch <= ebb_anew_epoch)
		return 0;
	return due > now ? due - now : 0;
}

/*
 * A range that is a part of a chunk: if all of the chunk is volatile and old enough, in whatever
 * pieces, they are offered together, for a host with huge pages takes only whole blocks. Else it
 * goes by itself: of a cache some pieces are always young.
 */
static void ebb_widen(struct ebb_object *obj, pgoff_t *first, pgoff_t *last, u64 *epoch)
{
	pgoff_t chunk_first = *first & ~(EBB_CHUNK_PAGES - 1);
	pgoff_t chunk_last = chunk_first + EBB_CHUNK_PAGES - 1;
	pgoff_t all_first, all_last;
	u64 all_epoch;

	if (*first != chunk_first || *last >= chunk_last || chunk_last >= obj->pages)
		return;
	if (!ebb_spans_joined(obj, chunk_first, chunk_last, &all_first, &all_last, &all_epoch) ||
	    all_first != chunk_first || all_last < chunk_last || ebb_time_left(all_epoch))
		return;
	*first = chunk_first;
	*last = chunk_last;
	*epoch = all_epoch;
}

/* How long until [first, last] of one chunk may be offered, if that is not all of it; 0: now. */
static unsigned long ebb_part_left(struct ebb_object *obj, pgoff_t first, pgoff_t last)
{
	struct ebb_chunk *chunk = xa_load(&obj->chunks, first >> EBB_CHUNK_SHIFT);
	u64 now = ebb_now();

	if (!chunk || last - first == EBB_CHUNK_PAGES - 1)
		return 0;
	return chunk->parts_due > now ? chunk->parts_due - now : 0;
}

/* Arm a piece from *from on, which moves; false: there is nothing more. */
static bool ebb_offer_piece(struct ebb_object *obj, pgoff_t *from, unsigned long *delay)
{
	pgoff_t first, last;
	unsigned long left;
	bool found;
	u64 epoch;

	mutex_lock(&obj->lock);
	found = *from < obj->pages && ebb_spans_common(obj, *from, &first, &last, &epoch);
	if (found) {
		ebb_widen(obj, &first, &last, &epoch);
		left = ebb_time_left(epoch);
		if (!left) {
			last = min(last, first | (EBB_CHUNK_PAGES - 1));
			left = ebb_part_left(obj, first, last);
		}
		if (left) {
			*delay = min(*delay, left);
			WRITE_ONCE(obj->has_news, true);
			*from = last + 1;
		} else {
			*from = ebb_arm(obj, first, last, epoch);
		}
	}
	mutex_unlock(&obj->lock);
	return found;
}

static bool ebb_may_offer(struct ebb_device *ebb)
{
	return ebb_is_accepting(ebb) && READ_ONCE(ebb->run) && !ebb_guest_is_short();
}

/*
 * What is armed, of one chunk, from *from on, which moves; false: there is nothing more. It stays
 * armed and is not touched: taken back it would be the guest's until it is offered, all of it at
 * the moment at which the host needs it.
 */
static bool ebb_resend_piece(struct ebb_object *obj, pgoff_t *from)
{
	struct ebb_chunk *chunk;
	pgoff_t index, end;
	bool found;

	mutex_lock(&obj->lock);
	index = find_next_bit(obj->offered, obj->pages, *from);
	found = index < obj->pages;
	if (found) {
		chunk = xa_load(&obj->chunks, index >> EBB_CHUNK_SHIFT);
		end = min(obj->pages, (index | (EBB_CHUNK_PAGES - 1)) + 1);
		/* A block that is armed as a whole goes as a whole. */
		if (ebb_batch.count && ebb_batch.pages + end - index > ebb_batch.max_pages)
			ebb_batch.no_room = true;
		for (; index < end && !ebb_batch_is_full(&ebb_batch);
		     index = find_next_bit(obj->offered, end, index + 1))
			ebb_batch_add(&ebb_batch, obj, chunk, index,
				      chunk->slots[index & (EBB_CHUNK_PAGES - 1)].page, 0);
		*from = index;
	}
	mutex_unlock(&obj->lock);
	return found;
}

/* False: nothing more can be offered now. */
static bool ebb_batch_goes_on(struct ebb_device *ebb, struct ebb_object *obj)
{
	if (ebb_batch_is_full(&ebb_batch))
		ebb_batch_send(ebb, &ebb_batch);
	if (ebb_batch.give_up || !ebb_may_offer(ebb)) {
		WRITE_ONCE(obj->has_news, true);
		return false;
	}
	cond_resched();
	return true;
}

static void ebb_offer_object(struct ebb_device *ebb, struct ebb_object *obj, unsigned long *delay)
{
	u64 left_out = ebb_left_out;
	pgoff_t from = 0;

	WRITE_ONCE(obj->has_news, false);
	while (obj->send_again && ebb_resend_piece(obj, &from))
		if (!ebb_batch_goes_on(ebb, obj))
			return;
	obj->send_again = false;
	from = 0;
	while (ebb_offer_piece(obj, &from, delay))
		if (!ebb_batch_goes_on(ebb, obj))
			return;
	if (ebb_left_out != left_out)
		WRITE_ONCE(obj->has_news, true);
}

/* Pages that reclaim met while the file was unevictable go back to where it looks for pages. */
static void ebb_move_evictable(struct ebb_object *obj)
{
	struct address_space *mapping = ebb_mapping(obj);
	struct folio_batch folios;
	pgoff_t index = 0;

	obj->was_unevictable = false;
	folio_batch_init(&folios);
	while (!mapping_unevictable(mapping) &&
	       filemap_get_folios(mapping, &index, ULONG_MAX, &folios)) {
		check_move_unevictable_folios(&folios);
		folio_batch_release(&folios);
		cond_resched();
	}
}

/* What was refused, another host may take. */
static void ebb_forget_refusals(struct ebb_object *obj)
{
	struct ebb_chunk *chunk;
	unsigned long i;

	xa_for_each(&obj->chunks, i, chunk) chunk->refused_epoch = chunk->parts_due = 0;
}

/* All is offered anew, and what is armed taken back first if the host that knows of it goes. */
static void ebb_set_all_anew(bool take_back)
{
	u64 pass = ebb_object_new_pass();
	struct ebb_object *obj;

	while ((obj = ebb_object_next(pass))) {
		mutex_lock(&obj->lock);
		if (take_back)
			ebb_take_range(obj, 0, obj->pages - 1);
		obj->send_again = !take_back;
		ebb_forget_refusals(obj);
		WRITE_ONCE(obj->has_news, true);
		mutex_unlock(&obj->lock);
		ebb_object_put(obj);
	}
}

static void ebb_drain_work(struct work_struct *work)
{
	ebb_drain_this_cpu();
}

/* Pages that were touched lately wait on a processor's own list for the LRU lists, and are held. */
void ebb_drain_all(void)
{
	struct work_struct work;
	int cpu;

	for_each_online_cpu(cpu) {
		INIT_WORK_ONSTACK(&work, ebb_drain_work);
		schedule_work_on(cpu, &work);
		flush_work(&work);
		destroy_work_on_stack(&work);
	}
}

static void ebb_offer_work(struct work_struct *work)
{
	struct ebb_device *ebb = ebb_host;
	unsigned long delay = MAX_JIFFY_OFFSET;
	bool may = ebb && ebb_may_offer(ebb);
	struct ebb_object *obj;
	u64 pass;

	if (xchg(&ebb_all_anew, false)) {
		ebb_set_all_anew(false);
		ebb_anew_epoch = ebb_now();
	}
	if (may)
		ebb_drain_all();
	prandom_seed_state(&ebb_cookies, get_random_u64());
	ebb_left_out = 0;
	ebb_batch.give_up = false;
	pass = ebb_object_new_pass();
	while ((obj = ebb_object_next(pass))) {
		if (READ_ONCE(obj->was_unevictable))
			ebb_move_evictable(obj);
		if (may && !ebb_batch.give_up && READ_ONCE(obj->has_news))
			ebb_offer_object(ebb, obj, &delay);
		ebb_object_put(obj);
	}
	if (ebb)
		ebb_batch_send(ebb, &ebb_batch);

	ebb_retry = ebb_left_out ? min_t(unsigned long, 2 * ebb_retry, RETRY_MAX) : RETRY_MIN;
	if (ebb_left_out)
		delay = min(delay, ebb_retry);
	if (ebb_batch.give_up || (ebb && READ_ONCE(ebb->run) && ebb_guest_is_short()))
		delay = min_t(unsigned long, delay, RETRY_MAX);
	ebb_counter_add(EBB_C_LEFT_OUT, ebb_left_out);
	if (delay != MAX_JIFFY_OFFSET)
		queue_delayed_work(ebb_offers_wq, &ebb_work, delay);
}

/* At this time at the latest. */
void ebb_offers_kick(unsigned long delay)
{
	if (!delayed_work_pending(&ebb_work) || !delay)
		mod_delayed_work(ebb_offers_wq, &ebb_work, delay);
}

/* A range was marked: it is due when it has aged, and nothing is when nobody would take it. */
void ebb_offers_marked(void)
{
	struct ebb_device *ebb = READ_ONCE(ebb_host);

	unsigned long delay = msecs_to_jiffies(READ_ONCE(age_msec)) + 1;

	ebb_retry = RETRY_MIN;
	/* Not moved while it is due sooner: who marks all the time would put it off for ever. */
	if (ebb && (!delayed_work_pending(&ebb_work) ||
		    time_before(jiffies + delay, READ_ONCE(ebb_work.timer.expires))))
		mod_delayed_work(ebb_offers_wq, &ebb_work, delay);
}

void ebb_offers_queue_free(struct work_struct *work)
{
	queue_work(ebb_offers_wq, work);
}

/* The host has lost its marks, or got shorter: all that is volatile is offered anew, of any age. */
void ebb_offers_anew(struct ebb_device *ebb)
{
	if (READ_ONCE(ebb_host) != ebb)
		return;
	WRITE_ONCE(ebb_all_anew, true);
	ebb_offers_kick(0);
}

/* The device can be sent to. Of several the first is the host. */
void ebb_offers_start(struct ebb_device *ebb)
{
	u64 ram = totalram_pages();

	if (!virtio_has_feature(ebb->vdev, VIRTIO_EBB_F_VOLATILE))
		return;
	mutex_lock(&ebb_host_lock);
	if (!ebb_host) {
		ebb_batch.max_count = ebb->volatile_ranges;
		ebb_batch.max_pages =
			clamp_t(u64, ram / FLIGHT_RAM_DIVISOR, EBB_CHUNK_PAGES, FLIGHT_MAX_PAGES);
		WRITE_ONCE(ebb_host, ebb);
	}
	mutex_unlock(&ebb_host_lock);
	ebb_offers_kick(0);
}

/*
 * The device has been reset, so that nothing is in flight: take everything back. Before a suspend
 * and an unbinding, with no new offer possible.
 */
void ebb_offers_stop(struct ebb_device *ebb)
{
	mutex_lock(&ebb_host_lock);
	if (ebb_host == ebb) {
		cancel_delayed_work_sync(&ebb_work);
		WRITE_ONCE(ebb_host, NULL);
		ebb_set_all_anew(true);
	}
	mutex_unlock(&ebb_host_lock);
}

int ebb_offers_init(void)
{
	ebb_batch.segs = kvcalloc(VIRTIO_EBB_MAX_RANGES_LIMIT, sizeof(*ebb_batch.segs), GFP_KERNEL);
	ebb_offers_wq = alloc_ordered_workqueue("ebb_volatile", 0);
	if (ebb_batch.segs && ebb_offers_wq)
		return 0;
	ebb_offers_exit();
	return -ENOMEM;
}

void ebb_offers_exit(void)
{
	if (ebb_offers_wq) {
		cancel_delayed_work_sync(&ebb_work);
		destroy_workqueue(ebb_offers_wq);
	}
	kvfree(ebb_batch.segs);
}
