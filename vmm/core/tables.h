/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tables.h - page tables of the guest's RAM that hold nothing any more
 */
#ifndef EBB_TABLES_H
#define EBB_TABLES_H

#include "ram_map.h"

#define EBB_TABLE_BYTES EBB_PAGE_BYTES

/* What frees the page table of an isolated block. */
enum ebb_tables_way {
	EBB_TABLES_PROBE,    /* in a configuration: what the kernel is found to do */
	EBB_TABLES_NOTHING,  /* nothing that is safe here */
	EBB_TABLES_DONTNEED, /* MADV_DONTNEED of the whole block (CONFIG_PT_RECLAIM) */
	EBB_TABLES_MOVE,     /* and then moved out of it: see tables_move.c */
};

/* How it is known which blocks have a table without an entry. */
enum ebb_tables_finder {
	EBB_TABLES_BLIND,   /* it is not */
	EBB_TABLES_HISTORY, /* nothing is in it now, and it was worked on */
	EBB_TABLES_SCAN,    /* the kernel says so */
};

struct ebb_tables {
	/* Constant. */
	int pagemap_fd;
	bool can_scan; /* PAGEMAP_SCAN is there */
	enum ebb_tables_finder finder;
	enum ebb_tables_way way;
};

/* What is known of a block's table. */
enum ebb_table_state {
	EBB_TABLE_NONE,	 /* there is none */
	EBB_TABLE_EMPTY, /* it is there and has no entry; by history: if it is there */
	EBB_TABLE_USED,	 /* it has entries, or a huge page is in its place, or nobody knows */
};

/* no_scan: as on a kernel without PAGEMAP_SCAN. */
void ebb_tables_init(struct ebb_tables *tables, enum ebb_tables_way way, bool no_scan);
void ebb_tables_deinit(struct ebb_tables *tables);

/* VmPTE of this process; 0: not known. */
uint64_t ebb_tables_vm_pte_bytes(void);

/* So many tables fewer than when VmPTE was before_bytes; 0: more, or not known. */
uint32_t ebb_tables_fewer(uint64_t before_bytes);

/* Can empty tables be found and freed here? */
static inline bool ebb_tables_can(const struct ebb_tables *tables)
{
	return tables->way != EBB_TABLES_NOTHING && tables->finder != EBB_TABLES_BLIND;
}

/*
 * Move what is mapped in whole blocks out of them and unmap it: with it go their page tables. The
 * area stays as it is. 0, or a negative errno: the tables are still there. -EFAULT: the range is
 * not of one area. To be called where MADV_DONTNEED has just succeeded, which locked and special
 * memory refuses.
 */
int ebb_tables_move_out(uintptr_t host, uint64_t bytes);

/*
 * Move the tables of blocks that were just discarded out of a region; those that are gone are not
 * "worked on" any more.
 */
void ebb_tables_move(struct ebb_region *region, uint64_t block, uint32_t nr);

/* Rule 12: moving stalls page faults, so not while the host is short. */
static inline bool ebb_tables_must_wait(const struct ebb_tables *tables, uint32_t stage)
{
	return tables->way == EBB_TABLES_MOVE && stage == EBB_STAGE_SHORT;
}

/* Look at nr_blocks blocks from host on: an enum ebb_table_state for each. */
#define EBB_TABLES_MAX_LOOK 512u
void ebb_tables_look(const struct ebb_tables *tables, uintptr_t host, uint32_t nr_blocks,
		     uint8_t *states);

/*
 * A call was made on [offset, offset + bytes): tables of blocks there may be empty from now on.
 * freed: of those that lie wholly inside the table is gone.
 */
void ebb_tables_worked_on(struct ebb_region *region, uint64_t offset_bytes, uint64_t bytes,
			  bool freed);

#endif /* EBB_TABLES_H */
