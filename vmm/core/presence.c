// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * presence - which pages of a block are there?
 *
 * PAGEMAP_SCAN (Linux 6.7) says it in runs, tells the page of zeros from content and knows
 * huge pages; reading pagemap says it page by page; mincore() knows nothing of swap.
 *
 * Owns:    the descriptor of pagemap.
 * Thread:  the executor thread.
 * Locks:   none.
 * Never:   touches guest memory; changes anything in the kernel.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "pagemap_scan.h"
#include "presence.h"

#define MAX_RUNS 64

static void set_bits(uint64_t *words, uint64_t first, uint64_t end)
{
	for (; first < end; first++)
		words[first / 64] |= 1ull << (first % 64);
}

static int read_by_scan(const struct ebb_presence *presence, uintptr_t host, uint64_t bytes,
			struct ebb_block_pages *pages)
{
	struct scan_run runs[MAX_RUNS];
	struct scan_order order = {
		.size = sizeof(order),
		.start = host,
		.end = host + bytes,
		.runs = (uintptr_t)runs,
		.max_runs = MAX_RUNS,
		.any_of = SCAN_PRESENT | SCAN_SWAPPED,
		.wanted = SCAN_PRESENT | SCAN_SWAPPED | SCAN_ZEROS | SCAN_HUGE,
	};
	int nr, i;

	while (order.start < host + bytes) {
		nr = ioctl(presence->pagemap_fd, SCAN_IOCTL, &order);
		if (nr < 0)
			return -errno;
		for (i = 0; i < nr; i++) {
			uint64_t first = (runs[i].start - host) / EBB_PAGE_BYTES;
			uint64_t end = (runs[i].end - host) / EBB_PAGE_BYTES;

			if (runs[i].categories & SCAN_SWAPPED)
				set_bits(pages->swapped, first, end);
			else if (!(runs[i].categories & SCAN_ZEROS))
				set_bits(pages->present, first, end);
			if (runs[i].categories & SCAN_HUGE)
				pages->huge = true;
		}
		if (order.walk_end <= order.start)
			return -EIO;
		order.start = order.walk_end;
	}
	return 0;
}

static int read_by_pagemap(const struct ebb_presence *presence, uintptr_t host,
			   struct ebb_block_pages *pages)
{
	uint64_t entries[EBB_BLOCK_PAGES];
	uint64_t i;
	ssize_t n;

	n = pread(presence->pagemap_fd, entries, sizeof(entries),
		  (off_t)(host / EBB_PAGE_BYTES * sizeof(entries[0])));
	if (n != (ssize_t)sizeof(entries))
		return n < 0 ? -errno : -EIO;
	for (i = 0; i < EBB_BLOCK_PAGES; i++) {
		if (entries[i] & PAGEMAP_SWAPPED)
			set_bits(pages->swapped, i, i + 1);
		else if (entries[i] & PAGEMAP_PRESENT)
			set_bits(pages->present, i, i + 1);
	}
	return 0;
}

static int read_by_mincore(uintptr_t host, struct ebb_block_pages *pages)
{
	unsigned char there[EBB_BLOCK_PAGES];
	uint64_t i;

	if (mincore((void *)host, EBB_BLOCK_BYTES, there) < 0)
		return -errno;
	for (i = 0; i < EBB_BLOCK_PAGES; i++)
		if (there[i] & 1)
			set_bits(pages->present, i, i + 1);
	return 0;
}

int ebb_presence_read(const struct ebb_presence *presence, uintptr_t host,
		      struct ebb_block_pages *pages)
{
	*pages = (struct ebb_block_pages){ 0 };
	if (presence->can_scan)
		return read_by_scan(presence, host, EBB_BLOCK_BYTES, pages);
	pages->huge = !presence->no_huge;
	if (presence->pagemap_fd >= 0)
		return read_by_pagemap(presence, host, pages);
	return read_by_mincore(host, pages);
}

/* Does PAGEMAP_SCAN say of three pages what is known of them: there, not there, zeros? */
static bool can_scan(const struct ebb_presence *presence)
{
	size_t bytes = 3 * EBB_PAGE_BYTES;
	char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ebb_block_pages pages = { 0 };
	bool right;

	if (at == MAP_FAILED)
		return false;
	madvise(at, bytes, MADV_NOHUGEPAGE);
	*(volatile char *)at = 1;
	(void)*(volatile char *)(at + 2 * EBB_PAGE_BYTES);
	right = read_by_scan(presence, (uintptr_t)at, bytes, &pages) == 0 &&
		pages.present[0] == 1 && pages.swapped[0] == 0;
	munmap(at, bytes);
	return right;
}

void ebb_presence_init(struct ebb_presence *presence)
{
	*presence = (struct ebb_presence){
		.pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
		.no_huge = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1,
	};
	if (presence->pagemap_fd >= 0)
		presence->can_scan = can_scan(presence);
}

void ebb_presence_deinit(struct ebb_presence *presence)
{
	if (presence->pagemap_fd >= 0)
		close(presence->pagemap_fd);
	presence->pagemap_fd = -1;
}
