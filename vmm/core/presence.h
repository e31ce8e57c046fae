/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * presence.h - which pages of a block are there
 */
#ifndef EBB_PRESENCE_H
#define EBB_PRESENCE_H

#include "ram_map.h"

/* What the kernel can tell; found out once, at the start. */
struct ebb_presence {
	int pagemap_fd; /* -1: no word about swap */
	bool can_scan;	/* PAGEMAP_SCAN answers */
	bool no_huge;	/* this process gets no huge pages */
};

/* The pages of one block: bit n % 64 of word n / 64. */
struct ebb_block_pages {
	uint64_t present[EBB_BLOCK_WORDS]; /* with content: not the kernel's page of zeros */
	uint64_t swapped[EBB_BLOCK_WORDS];
	bool huge; /* mapped as a huge page, or nobody can tell */
};

void ebb_presence_init(struct ebb_presence *presence);
void ebb_presence_deinit(struct ebb_presence *presence);

/* Can pages that are gone be told from those that are in swap? */
static inline bool ebb_presence_knows_swap(const struct ebb_presence *presence)
{
	return presence->pagemap_fd >= 0;
}

/* Look at the block at host. 0 or a negative errno. */
int ebb_presence_read(const struct ebb_presence *presence, uintptr_t host,
		      struct ebb_block_pages *pages);

#endif /* EBB_PRESENCE_H */
