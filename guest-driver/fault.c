// SPDX-License-Identifier: GPL-2.0-only
/*
 * fault - touching the memory of an object
 *
 * What the host holds is unmapped, so each touch of it comes here, also that of a system call, of
 * ptrace and of a core dump. A page is mapped with its lock held, and armed with its lock held:
 * under that lock its bits are looked at a last time.
 *
 * Owns:    nothing.
 * Thread:  whoever touches.
 * Locks:   mmap_lock (held), then the object's lock or the page's, never both.
 * Never:   maps a page that is offered or was purged; waits for the host with mmap_lock held where
 *          it can be dropped.
 */
#include <linux/shmem_fs.h>

#include "compat.h"
#include "volatile.h"

static bool ebb_pages_are_special(struct ebb_opener *opener, pgoff_t first, pgoff_t end)
{
	struct ebb_object *obj = opener->obj;

	if (find_next_bit(obj->offered, end, first) < end ||
	    find_next_bit(obj->purged, end, first) < end)
		return true;
	if (!opener->lost)
		return false;
	/* It is noted as lost before it is purged no more. */
	smp_rmb();
	return find_next_bit(opener->lost, end, first) < end;
}

/* Of a content-free object also what is marked: a touch ends that. */
static bool ebb_page_is_special(struct ebb_opener *opener, pgoff_t index)
{
	return ebb_pages_are_special(opener, index, index + 1) ||
	       (opener->obj->kind == EBB_KIND_CONTENT_FREE &&
		ebb_spans_has(ebb_spans_of(opener), index));
}

static bool ebb_folio_is_special(struct ebb_opener *opener, struct folio *folio)
{
	pgoff_t first = folio->index;

	return ebb_pages_are_special(opener, first,
				     min(first + folio_nr_pages(folio), opener->obj->pages));
}

/* An offer that is in flight holds the page (rule 4). */
static vm_fault_t ebb_fault_wait(struct vm_fault *vmf, struct ebb_opener *opener)
{
	struct ebb_object *obj = opener->obj;
	pgoff_t index = vmf->pgoff;
	int err;

	if (vmf->flags & FAULT_FLAG_ALLOW_RETRY && vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_RETRY;
	if (!fault_flag_allow_retry_first(vmf->flags)) {
		err = wait_event_killable(obj->wait, !ebb_range_flies(obj, index, index));
		return err ? VM_FAULT_SIGBUS : 0;
	}
	/* The area may go as soon as its lock is dropped. */
	ebb_opener_get(opener);
	ebb_release_fault_lock(vmf);
	wait_event_killable(obj->wait, !ebb_range_flies(obj, index, index));
	ebb_opener_put(opener);
	return VM_FAULT_RETRY;
}

/* A touched page is non-volatile from then on, unless it was purged. */
static vm_fault_t ebb_fault_settle(struct vm_fault *vmf, struct ebb_opener *opener)
{
	struct ebb_object *obj = opener->obj;
	pgoff_t index = vmf->pgoff;
	vm_fault_t result = 0;

	mutex_lock(&obj->lock);
	if (opener->lost && test_bit(index, opener->lost)) {
		mutex_unlock(&obj->lock);
		return VM_FAULT_SIGBUS;
	}
	if (test_bit(index, obj->offered)) {
		if (ebb_range_flies(obj, index, index)) {
			mutex_unlock(&obj->lock);
			return ebb_fault_wait(vmf, opener);
		}
		if (ebb_take_page(obj, index) &&
		    ebb_spans_clear(ebb_spans_of(opener), index, index))
			result = VM_FAULT_OOM;
		ebb_object_count(obj);
	}
	if (test_bit(index, obj->purged) && obj->kind != EBB_KIND_CONTENT_FREE)
		result = VM_FAULT_SIGBUS;
	else if (obj->kind == EBB_KIND_CONTENT_FREE) {
		if (ebb_spans_clear(ebb_spans_of(opener), index, index))
			result = VM_FAULT_OOM;
		else
			clear_bit(index, obj->purged);
		ebb_object_count(obj);
	}
	mutex_unlock(&obj->lock);
	return result;
}

/*
 * A large folio of which a part is offered or purged must not be mapped whole, nor any of a
 * content-free object: the first touch of each page after a mark must come here.
 */
static bool ebb_fault_is_for_one(struct ebb_opener *opener, struct folio *folio)
{
	return folio_test_large(folio) &&
	       (opener->obj->kind == EBB_KIND_CONTENT_FREE || ebb_folio_is_special(opener, folio));
}

/* Where a page table is there already no huge page is mapped; apply_to_page_range() makes one. */
static int ebb_no_touch(pte_t *pte, unsigned long address, void *unused)
{
	return 0;
}

/*
 * The page is in hand, its folio locked and in its place. 0: it is not to be mapped, or not yet:
 * look again.
 */
static vm_fault_t ebb_fault_map(struct vm_fault *vmf, struct ebb_opener *opener, struct page *page)
{
	struct folio *folio = page_folio(page);
	bool for_one = ebb_fault_is_for_one(opener, folio), needs_table;
	vm_fault_t result = 0;

	needs_table = for_one && pmd_none(*vmf->pmd);
	if (!ebb_page_is_special(opener, vmf->pgoff)) {
		result = for_one ? ebb_map_one(vmf, page) : ebb_map_huge(vmf, folio);
		if (!result && !needs_table) {
			vmf->page = page;
			return VM_FAULT_LOCKED;
		}
	}
	folio_unlock(folio);
	folio_put(folio);
	if (!result && needs_table &&
	    apply_to_page_range(vmf->vma->vm_mm, vmf->address & PAGE_MASK, PAGE_SIZE, ebb_no_touch,
				NULL))
		result = VM_FAULT_OOM;
	return result;
}

static vm_fault_t ebb_fault(struct vm_fault *vmf)
{
	struct ebb_opener *opener = vmf->vma->vm_private_data;
	struct address_space *mapping = ebb_mapping(opener->obj);
	pgoff_t index = vmf->pgoff;
	vm_fault_t result = 0;
	struct folio *folio;
	struct page *page;

	if (index >= opener->obj->pages)
		return VM_FAULT_SIGBUS;
	while (!result) {
		if (ebb_page_is_special(opener, index))
			result = ebb_fault_settle(vmf, opener);
		if (result)
			break;
		page = shmem_read_mapping_page_gfp(mapping, index, mapping_gfp_mask(mapping));
		if (IS_ERR(page))
			return PTR_ERR(page) == -ENOMEM ? VM_FAULT_OOM : VM_FAULT_SIGBUS;
		folio = page_folio(page);
		folio_lock(folio);
		if (folio->mapping == mapping) {
			result = ebb_fault_map(vmf, opener, page);
		} else {
			folio_unlock(folio);
			folio_put(folio);
		}
	}
	return result;
}

/*
 * A range of a content-free object has been marked: unmap it, since each touch from now on has to
 * come here. Who looked before the mark and maps the page just now holds its lock meanwhile.
 */
void ebb_unmap_marked(struct ebb_object *obj, pgoff_t first, pgoff_t last)
{
	struct address_space *mapping = ebb_mapping(obj);
	XA_STATE(xas, &mapping->i_pages, first);
	struct folio *folio;
	pgoff_t index;
	void *entry;

	unmap_mapping_pages(mapping, first, last - first + 1, false);
	for (index = first; index <= last; index = xas.xa_index + 1) {
		rcu_read_lock();
		xas_set(&xas, index);
		xas_for_each(&xas, entry, last)
			if (!xas_retry(&xas, entry) && !xa_is_value(entry) &&
			    folio_test_locked(entry))
				break;
		rcu_read_unlock();
		if (!entry)
			break;
		folio = ebb_get_folio(mapping, xas.xa_index);
		if (!folio)
			continue;
		folio_wait_locked(folio);
		unmap_mapping_pages(mapping, folio->index, folio_nr_pages(folio), false);
		folio_put(folio);
	}
}

static void ebb_vm_open(struct vm_area_struct *vma)
{
	ebb_opener_get(vma->vm_private_data);
}

static void ebb_vm_close(struct vm_area_struct *vma)
{
	ebb_opener_put(vma->vm_private_data);
}

const struct vm_operations_struct ebb_vm_ops = {
	.open = ebb_vm_open,
	.close = ebb_vm_close,
	.fault = ebb_fault,
};
