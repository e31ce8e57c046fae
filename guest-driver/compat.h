/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * compat.h - what depends on the kernel's version or configuration
 *
 * Every test of either kind in this driver lives here. Built and run: 6.1, 6.12 and 7.2
 * (tests/kernels/run). What changed somewhere between two of them may have a version here that
 * is a little off.
 */
#ifndef EBB_COMPAT_H
#define EBB_COMPAT_H

#include <linux/list_lru.h>
#include <linux/mm.h>
#include <linux/page_reporting.h>
#include <linux/pagemap.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/version.h>
#include <linux/virtio_config.h>
#include <linux/vmstat.h>
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
#include <linux/folio_batch.h>
#else
#include <linux/pagevec.h>
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "virtio_ebb needs Linux 6.1 or newer"
#endif

#if !IS_ENABLED(CONFIG_PAGE_REPORTING)
#error "virtio_ebb needs a kernel with CONFIG_PAGE_REPORTING"
#endif

/* Ranges that page reporting hands over in one batch. */
#define EBB_BATCH_RANGES PAGE_REPORTING_CAPACITY

/*
 * Does the kernel fill free pages with a pattern and look for it when it takes them?
 * A purged page reads zeros, which is no such pattern. init_on_free=1 fills with
 * zeros and looks for nothing: nothing is wrong with it.
 */
static inline bool ebb_free_pages_hold_pattern(void)
{
	return IS_ENABLED(CONFIG_PAGE_POISONING) && page_poisoning_enabled_static();
}

/* mm/internal.h keeps buddy_order() to itself. Only for PageBuddy(), under the zone's lock. */
static inline unsigned int ebb_buddy_order(struct page *page)
{
	return page_private(page);
}

/* The largest order of a free block. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
#define EBB_MAX_ORDER MAX_PAGE_ORDER
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
#define EBB_MAX_ORDER MAX_ORDER
#else
#define EBB_MAX_ORDER (MAX_ORDER - 1)
#endif

/* Page cache and buffers, without what is cached of swap. */
static inline u64 ebb_page_cache_pages(void)
{
	u64 pages = global_node_page_state(NR_FILE_PAGES);
	u64 swap_pages = 0;

#ifdef CONFIG_SWAP
	swap_pages = global_node_page_state(NR_SWAPCACHE);
#endif
	return pages > swap_pages ? pages - swap_pages : 0;
}

/* At most so many queues. */
#define EBB_VQS_MAX 4

static inline int ebb_virtio_find_vqs(struct virtio_device *vdev, unsigned int count,
				      struct virtqueue *vqs[], vq_callback_t *callbacks[],
				      const char *const names[])
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	struct virtqueue_info infos[EBB_VQS_MAX] = {};
	unsigned int i;

	for (i = 0; i < count; i++) {
		infos[i].name = names[i];
		infos[i].callback = callbacks[i];
	}
	return virtio_find_vqs(vdev, count, vqs, infos, NULL);
#else
	return virtio_find_vqs(vdev, count, vqs, callbacks, names, NULL);
#endif
}

/* Of a fault handler that may retry: let go of the area. */
static inline void ebb_release_fault_lock(struct vm_fault *vmf)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	release_fault_lock(vmf);
#else
	mmap_read_unlock(vmf->vma->vm_mm);
#endif
}

/* Where the system would map a file that has no wish of its own. */
static inline unsigned long ebb_find_area(struct file *file, unsigned long addr, unsigned long len,
					  unsigned long pgoff, unsigned long flags)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
	return mm_get_unmapped_area(file, addr, len, pgoff, flags);
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
	return mm_get_unmapped_area(current->mm, file, addr, len, pgoff, flags);
#else
	return current->mm->get_unmapped_area(file, addr, len, pgoff, flags);
#endif
}

/* For the memory of files, which is not reserved ahead. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
#define EBB_NORESERVE mk_vma_flags(VMA_NORESERVE_BIT)
#else
#define EBB_NORESERVE VM_NORESERVE
#endif

/* Pages that this processor is about to put on a list have a reference of it. */
static inline void ebb_drain_this_cpu(void)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	struct folio_batch batch;

	folio_batch_init(&batch);
	__folio_batch_release(&batch);
#else
	struct pagevec batch;

	pagevec_init(&batch);
	__pagevec_release(&batch);
#endif
}

/* The folio at index, with a reference, or NULL. */
static inline struct folio *ebb_get_folio(struct address_space *mapping, pgoff_t index)
{
	struct folio *folio = filemap_get_folio(mapping, index);

	return IS_ERR(folio) ? NULL : folio;
}

/*
 * Linux 6.18 and newer map all of a file's folio that a fault has returned a page of. There a page
 * that is to be mapped alone has to be mapped here, and so has a huge page in an area that is
 * closed to MADV_COLLAPSE. The folio is locked. 0: not here.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0)
static inline vm_fault_t ebb_map_one(struct vm_fault *vmf, struct page *page)
{
	return vmf_insert_page_mkwrite(vmf, page, vmf->flags & FAULT_FLAG_WRITE);
}

static inline vm_fault_t ebb_map_huge(struct vm_fault *vmf, struct folio *folio)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long start = vmf->address & PMD_MASK;

	if (folio_order(folio) != PMD_ORDER || !pmd_none(*vmf->pmd) || start < vma->vm_start ||
	    start + PMD_SIZE > vma->vm_end || linear_page_index(vma, start) != folio->index)
		return 0;
	return vmf_insert_folio_pmd(vmf, folio, vmf->flags & FAULT_FLAG_WRITE);
}
#else
static inline vm_fault_t ebb_map_one(struct vm_fault *vmf, struct page *page)
{
	return 0;
}

static inline vm_fault_t ebb_map_huge(struct vm_fault *vmf, struct folio *folio)
{
	return 0;
}
#endif

/* Of an area that is being made. */
static inline void ebb_vma_set_flags(struct vm_area_struct *vma, unsigned long flags)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

/*
 * Is this very page in a page table? Under the folio's lock no new entry comes. A kernel that
 * counts for whole folios alone says so for all pages of one that is mapped anywhere.
 */
static inline bool ebb_page_is_mapped(struct folio *folio, struct page *page)
{
	if (!folio_test_large(folio) || !folio_mapped(folio))
		return folio_mapped(folio);
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
	return page_mapcount(page) > 0;
#elif !IS_ENABLED(CONFIG_NO_PAGE_MAPCOUNT)
	return folio_entire_mapcount(folio) > 0 || atomic_read(&page->_mapcount) >= 0;
#else
	return true;
#endif
}

/* The low bits of page->mapping that say: this is no page cache of a file. */
#define EBB_MAPPING_NO_FILE 3UL

static inline unsigned long ebb_page_flags(const struct page *page)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0)
	return READ_ONCE(page->flags.f);
#else
	return READ_ONCE(page->flags);
#endif
}

/* The end of what pfn_to_online_page() may know. */
static inline u64 ebb_end_of_memory(void)
{
	return 1ull << (MAX_PHYSMEM_BITS - PAGE_SHIFT);
}

typedef unsigned long ebb_shrink_fn(struct shrinker *shrinker, struct shrink_control *sc);

/* A shrinker that memory control groups call as well. */
static inline struct shrinker *ebb_shrinker_register(const char *name, ebb_shrink_fn *count,
						     ebb_shrink_fn *scan)
{
	unsigned int flags = SHRINKER_MEMCG_AWARE | SHRINKER_NUMA_AWARE | SHRINKER_NONSLAB;
	struct shrinker *shrinker;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	shrinker = shrinker_alloc(flags, "%s", name);
	if (!shrinker)
		return NULL;
#else
	shrinker = kzalloc(sizeof(*shrinker), GFP_KERNEL);
	if (!shrinker)
		return NULL;
	shrinker->flags = flags;
#endif
	shrinker->count_objects = count;
	shrinker->scan_objects = scan;
	shrinker->seeks = DEFAULT_SEEKS;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	shrinker_register(shrinker);
#else
	if (register_shrinker(shrinker, "%s", name)) {
		kfree(shrinker);
		return NULL;
	}
#endif
	return shrinker;
}

static inline void ebb_shrinker_unregister(struct shrinker *shrinker)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	shrinker_free(shrinker);
#else
	unregister_shrinker(shrinker);
	kfree(shrinker);
#endif
}

/* To the end of the list of its control group. */
static inline void ebb_lru_move_to_tail(struct list_lru *lru, struct list_head *item)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	list_lru_del_obj(lru, item);
	list_lru_add_obj(lru, item);
#else
	list_lru_del(lru, item);
	list_lru_add(lru, item);
#endif
}

static inline void ebb_lru_del(struct list_lru *lru, struct list_head *item)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	list_lru_del_obj(lru, item);
#else
	list_lru_del(lru, item);
#endif
}

/* Tell the reclaim that called a shrinker what it freed besides slab, so that it stops in time. */
static inline void ebb_account_reclaimed(unsigned long pages)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	mm_account_reclaimed_pages(pages);
#else
	if (current->reclaim_state)
		current->reclaim_state->reclaimed_slab += pages;
#endif
}

/* A callback of list_lru_walk_one(). */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
#define EBB_LRU_CALLBACK(name, item, arg) \
	enum lru_status name(struct list_head *item, struct list_lru_one *list, void *arg)
#else
#define EBB_LRU_CALLBACK(name, item, arg)                                       \
	enum lru_status name(struct list_head *item, struct list_lru_one *list, \
			     spinlock_t *list_lock, void *arg)
#endif

#endif /* EBB_COMPAT_H */
