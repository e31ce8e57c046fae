/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ram_map.h - the guest's RAM: regions by guest-physical address, and their blocks
 */
#ifndef EBB_RAM_MAP_H
#define EBB_RAM_MAP_H

#include "ebb_core.h"

/*
 * What is known of a block: 2 MiB of host address space, aligned. It lives in its
 * region and dies with it (rule 11). Only the executor thread reads or writes it.
 */
#define EBB_BLOCK_MARKED    0x01u /* MADV_FREE was its last whole operation */
#define EBB_BLOCK_DISCARDED 0x02u /* MADV_DONTNEED was */
#define EBB_BLOCK_CONTENT   0x04u /* may hold volatile content (rule 3) */
#define EBB_BLOCK_LAZY	    0x08u /* may hold what MADV_FREE took as free, at any time */
#define EBB_BLOCK_TABLE	    0x10u /* was worked on since its page table was last freed */
#define EBB_BLOCK_ASKED	    0x20u /* the guest is asked for it, for its page table's sake */
#define EBB_BLOCK_MERGE	    0x40u /* we have marked it mergeable; then KSM as well */
#define EBB_BLOCK_KSM	    0x80u /* may hold KSM pages: never MADV_FREE it (rule 2) */
/* What no mark or discard changes by itself. */
#define EBB_BLOCK_OF_TABLE   (EBB_BLOCK_TABLE | EBB_BLOCK_ASKED)

#define EBB_PAGE_BYTES	     VIRTIO_EBB_OFFER_ALIGN_BYTES
#define EBB_BLOCK_PAGES	     (EBB_BLOCK_BYTES / EBB_PAGE_BYTES)
#define EBB_BLOCK_WORDS	     ((int)(EBB_BLOCK_PAGES / 64))

#define EBB_RESIDENT_UNKNOWN 0xffffu

struct ebb_region {
	struct ebb_region_desc desc;
	uintptr_t host;

	/* Executor's lock. */
	bool removing;	    /* takes no new batch */
	uint64_t nr_hinted; /* blocks */
	uint8_t *unplugged; /* empty by contract, and not looked at since: see unplugged.c */
	uint64_t nr_unplugged;

	/* Written by the executor thread under the executor's lock, read there without. */
	bool look_pending; /* the kernel was not asked yet whether it merges this region */
	bool mergeable;	   /* KSM may merge into it now, or nobody can tell */
	bool locked;	   /* the kernel refuses advice: locked or special memory */
	uint64_t nr_ksm_blocks;
	uint64_t nr_merge_blocks; /* marked mergeable by us */
	uint64_t nr_merge_runs;	  /* of such blocks, next to each other */

	/* Executor thread. */
	uint64_t nr_blocks;	    /* wholly inside; 0 if not private anonymous */
	uintptr_t block_host;	    /* of the first whole block */
	uint8_t *blocks;	    /* EBB_BLOCK_* */
	uint16_t *resident;	    /* pages at the last look, of MARKED blocks */
	uint64_t *content;	    /* EBB_BLOCK_WORDS for each block, see content.c */
	uint32_t *content_age;	    /* when it was marked last; 0: not worth a purge */
	uint8_t *content_tries;	    /* purges since then that left some of it */
	uint64_t nr_content_blocks; /* atomic: read by any thread */
	uint8_t *hints;		    /* the guest has hinted it; atomic, written under the lock */
	uint64_t undone_bytes;	    /* how far the VMM's own mark is taken back */
	bool touched;		    /* a page of it was, before it was divided */
	bool said_failed;	    /* the log knows that calls fail here */
	bool looking;		    /* a look at smaps is under way: */
	bool found_mergeable;
	bool found_locked;
	uint64_t found_bytes;
};

/* Sorted by gpa. The executor's lock protects the array, not what its entries say. */
struct ebb_ram_map {
	struct ebb_region **regions;
	uint32_t nr;
	uint32_t capacity;
};

int ebb_region_new(struct ebb_region **ret, const struct ebb_region_desc *desc);
void ebb_region_free(struct ebb_region *region);

static inline bool ebb_region_contains(const struct ebb_region *region, uint64_t gpa)
{
	return gpa >= region->desc.start_gpa &&
	       gpa - region->desc.start_gpa < region->desc.size_bytes;
}

/* Blocks wholly inside [host, host + bytes), as [*first, *end). */
void ebb_region_blocks(const struct ebb_region *region, uintptr_t host, uint64_t bytes,
		       uint64_t *first, uint64_t *end);

/* Every block of the region may hold KSM pages, or none of them. */
void ebb_region_set_ksm(struct ebb_region *region, bool ksm);

void ebb_ram_map_deinit(struct ebb_ram_map *map);

/*
 * Room for one more region: grow, outside of the lock, returns a larger array or NULL
 * with *ret_capacity 0 if there is room; insert takes it and gives the old one back.
 */
struct ebb_region **ebb_ram_map_grow(const struct ebb_ram_map *map, uint32_t *ret_capacity);
int ebb_ram_map_insert(struct ebb_ram_map *map, struct ebb_region *region,
		       struct ebb_region ***spare, uint32_t spare_capacity);
void ebb_ram_map_take_out(struct ebb_ram_map *map, const struct ebb_region *region);

/* The region that holds gpa, or NULL. */
struct ebb_region *ebb_ram_map_find(const struct ebb_ram_map *map, uint64_t gpa);

/*
 * 0: [gpa, gpa + bytes) is RAM without a hole. -ENOENT: it is not. -EBUSY: it is, but a
 * region of it is being removed.
 */
int ebb_ram_map_covers(const struct ebb_ram_map *map, uint64_t gpa, uint64_t bytes);

#endif /* EBB_RAM_MAP_H */
