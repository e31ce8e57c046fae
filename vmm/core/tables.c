// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * tables - which blocks have a page table without an entry, and what frees it
 *
 * What the kernel does is found out on scratch memory, not by its version. PAGEMAP_SCAN tells
 * an entry that is empty, in a table that is there, from no table: the one counts as written,
 * the other as nothing. That is no promise of the kernel's, so it is tried as well; where it
 * does not hold, a block in which nothing is, and on which something was done before, may have
 * an empty table. A marker of userfaultfd's write protection is an entry, and looks like swap.
 * In an area that it may protect no table looks like an empty one (measured on Linux 6.18), so
 * that there, too, only what was worked on is ever taken for one.
 *
 * Owns:    the descriptor of pagemap.
 * Thread:  the executor thread.
 * Locks:   none.
 * Never:   touches guest memory; changes anything of it in the kernel.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pagemap_scan.h"
#include "tables.h"

#define SCAN_ENTRY (SCAN_PRESENT | SCAN_SWAPPED)
#define MAX_RUNS   256

/* Book a run of pages without (empty) or with an entry to the blocks that it reaches into. */
static void book_run(uintptr_t host, const struct scan_run *run, uint8_t *states)
{
	uint64_t first = (run->start - host) / EBB_BLOCK_BYTES;
	uint64_t last = (run->end - 1 - host) / EBB_BLOCK_BYTES, block;

	for (block = first; block <= last; block++) {
		uint64_t start = host + block * EBB_BLOCK_BYTES;
		bool whole = run->start <= start && run->end >= start + EBB_BLOCK_BYTES;

		/* A table of which only a part is empty has an entry elsewhere. */
		states[block] =
			whole && !(run->categories & SCAN_ENTRY) ? EBB_TABLE_EMPTY : EBB_TABLE_USED;
	}
}

static int look_by_scan(int fd, bool find, uintptr_t host, uint32_t nr_blocks, uint8_t *states)
{
	struct scan_run runs[MAX_RUNS];
	struct scan_order order = {
		.size = sizeof(order),
		.start = host,
		.end = host + nr_blocks * EBB_BLOCK_BYTES,
		.runs = (uintptr_t)runs,
		.max_runs = MAX_RUNS,
		.any_of = SCAN_ENTRY | (find ? SCAN_WRITTEN : 0),
		.wanted = SCAN_ENTRY | (find ? SCAN_WRITTEN : 0),
	};
	int nr, i;

	while (order.start < order.end) {
		nr = ioctl(fd, SCAN_IOCTL, &order);
		if (nr < 0)
			return -errno;
		for (i = 0; i < nr; i++)
			book_run(host, &runs[i], states);
		if (order.walk_end <= order.start)
			return -EIO;
		order.start = order.walk_end;
	}
	return 0;
}

static int look_by_pagemap(int fd, uintptr_t host, uint8_t *state)
{
	uint64_t entries[EBB_BLOCK_PAGES];
	uint64_t i;
	ssize_t n;

	n = pread(fd, entries, sizeof(entries),
		  (off_t)(host / EBB_PAGE_BYTES * sizeof(entries[0])));
	if (n != (ssize_t)sizeof(entries))
		return n < 0 ? -errno : -EIO;
	for (i = 0; i < EBB_BLOCK_PAGES; i++)
		if (entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED))
			*state = EBB_TABLE_USED;
	return 0;
}

void ebb_tables_look(const struct ebb_tables *tables, uintptr_t host, uint32_t nr_blocks,
		     uint8_t *states)
{
	bool find = tables->finder == EBB_TABLES_SCAN;
	int ret = tables->finder == EBB_TABLES_BLIND ? -ENOSYS : 0;
	uint32_t i;

	memset(states, find ? EBB_TABLE_NONE : EBB_TABLE_EMPTY, nr_blocks);
	if (!ret && tables->can_scan)
		ret = look_by_scan(tables->pagemap_fd, find, host, nr_blocks, states);
	for (i = 0; !ret && !tables->can_scan && i < nr_blocks; i++)
		ret = look_by_pagemap(tables->pagemap_fd, host + i * EBB_BLOCK_BYTES, &states[i]);
	if (ret)
		memset(states, EBB_TABLE_USED, nr_blocks);
}

void ebb_tables_worked_on(struct ebb_region *region, uint64_t offset_bytes, uint64_t bytes,
			  bool freed)
{
	uintptr_t host = region->host + offset_bytes, end = host + bytes;
	uintptr_t at = host & ~(EBB_BLOCK_BYTES - 1);

	for (; at < end; at += EBB_BLOCK_BYTES) {
		uint64_t block = (at - region->block_host) / EBB_BLOCK_BYTES;

		if (at < region->block_host || block >= region->nr_blocks)
			continue;
		if (freed && at >= host && at + EBB_BLOCK_BYTES <= end)
			region->blocks[block] &= (uint8_t)~EBB_BLOCK_TABLE;
		else
			region->blocks[block] |= EBB_BLOCK_TABLE;
	}
}

/*
 * One call that moves tables: some 50 us, or 0.5 ms where KSM may work, for which page faults of
 * the guest wait.
 */
#define MOVE_BLOCKS 32u

void ebb_tables_move(struct ebb_region *region, uint64_t block, uint32_t nr)
{
	uint32_t n = MOVE_BLOCKS;
	int ret = 0;

	while (nr && (!ret || ret == -EFAULT)) {
		uintptr_t host = region->block_host + block * EBB_BLOCK_BYTES;

		n = nr < n ? nr : n;
		ret = ebb_tables_move_out(host, n * EBB_BLOCK_BYTES);
		/* Of more than one area: in smaller pieces. */
		if (ret == -EFAULT && n > 1) {
			n /= 2;
			continue;
		}
		if (!ret)
			ebb_tables_worked_on(region, host - region->host, n * EBB_BLOCK_BYTES,
					     true);
		block += n;
		nr -= n;
		n = MOVE_BLOCKS;
	}
}

/* ---- what does this kernel do? ---- */

/* Scratch blocks, aligned, of 4 KiB pages; the mapping has one more. */
static char *scratch(uint64_t nr_blocks, void **mapping)
{
	uint64_t bytes = (nr_blocks + 1) * EBB_BLOCK_BYTES;
	char *at;

	*mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (*mapping == MAP_FAILED)
		return NULL;
	madvise(*mapping, bytes, MADV_NOHUGEPAGE);
	at = (char *)(((uintptr_t)*mapping + EBB_BLOCK_BYTES - 1) & ~(EBB_BLOCK_BYTES - 1));
	return at;
}

/* Give blocks [first, end) an empty table each. */
static void make_tables(char *at, uint64_t first, uint64_t end)
{
	for (; first < end; first++) {
		char *page = at + first * EBB_BLOCK_BYTES + EBB_PAGE_BYTES;

		*(volatile char *)page = 1;
		madvise(page, EBB_PAGE_BYTES, MADV_DONTNEED);
	}
}

/* No table, an empty one, one with a page, and the first two again. */
static bool scan_tells_tables(const struct ebb_tables *tables)
{
	static const uint8_t right[] = { EBB_TABLE_NONE, EBB_TABLE_EMPTY, EBB_TABLE_USED,
					 EBB_TABLE_NONE, EBB_TABLE_EMPTY };
	uint8_t states[sizeof(right)] = { 0 };
	void *mapping;
	char *at = scratch(sizeof(right), &mapping);
	bool found = false;

	if (!at)
		return false;
	make_tables(at, 1, 2);
	make_tables(at, 4, 5);
	*(volatile char *)(at + 2 * EBB_BLOCK_BYTES) = 1;
	if (look_by_scan(tables->pagemap_fd, true, (uintptr_t)at, sizeof(right), states) == 0)
		found = memcmp(states, right, sizeof(right)) == 0;
	munmap(mapping, (sizeof(right) + 1) * EBB_BLOCK_BYTES);
	return found;
}

uint64_t ebb_tables_vm_pte_bytes(void)
{
	char text[8192];
	const char *line;
	unsigned long long kb = 0;
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	line = strstr(text, "VmPTE:");
	return line && sscanf(line, "VmPTE: %llu", &kb) == 1 ? kb << 10 : 0;
}

uint32_t ebb_tables_fewer(uint64_t before_bytes)
{
	uint64_t now_bytes = ebb_tables_vm_pte_bytes();

	if (now_bytes == 0 || now_bytes >= before_bytes)
		return 0;
	return (uint32_t)((before_bytes - now_bytes) / EBB_TABLE_BYTES);
}

/* Others may make tables meanwhile: of so many that fewer than half are left says enough. */
#define PROBE_TABLES 64u

static int free_by(enum ebb_tables_way way, char *at, uint64_t bytes)
{
	if (madvise(at, bytes, MADV_DONTNEED) < 0)
		return -errno;
	return way == EBB_TABLES_MOVE ? ebb_tables_move_out((uintptr_t)at, bytes) : 0;
}

static bool frees_tables(enum ebb_tables_way way)
{
	uint64_t before_bytes, bytes = PROBE_TABLES * EBB_BLOCK_BYTES, after_bytes;
	void *mapping;
	char *at = scratch(PROBE_TABLES, &mapping);
	bool freed, whole;

	if (!at)
		return false;
	make_tables(at, 0, PROBE_TABLES);
	before_bytes = ebb_tables_vm_pte_bytes();
	freed = free_by(way, at, bytes) == 0;
	after_bytes = ebb_tables_vm_pte_bytes();
	/* What is no mapping of one area any more cannot be advised. */
	whole = madvise(at, bytes, MADV_DONTNEED) == 0;
	munmap(mapping, bytes + EBB_BLOCK_BYTES);
	return freed && whole && after_bytes + PROBE_TABLES / 2 * EBB_TABLE_BYTES < before_bytes;
}

static bool has_scan(const struct ebb_tables *tables)
{
	void *mapping;
	char *at = scratch(1, &mapping);
	uint8_t state = EBB_TABLE_EMPTY;
	bool has;

	if (!at)
		return false;
	*(volatile char *)at = 1;
	has = look_by_scan(tables->pagemap_fd, false, (uintptr_t)at, 1, &state) == 0 &&
	      state == EBB_TABLE_USED;
	munmap(mapping, 2 * EBB_BLOCK_BYTES);
	return has;
}

/* What leaves more as it is goes first: the one takes mmap_lock for reading, the other for writing.
 */
static enum ebb_tables_way find_way(void)
{
	static const enum ebb_tables_way ways[] = { EBB_TABLES_DONTNEED, EBB_TABLES_MOVE };
	unsigned int i;

	for (i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		if (frees_tables(ways[i]))
			return ways[i];
	return EBB_TABLES_NOTHING;
}

void ebb_tables_init(struct ebb_tables *tables, enum ebb_tables_way way, bool no_scan)
{
	*tables = (struct ebb_tables){
		.pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
		.finder = EBB_TABLES_BLIND,
		.way = way,
	};
	/* A table is of a block only where pages are of this size. */
	if (tables->pagemap_fd >= 0 && sysconf(_SC_PAGESIZE) == (long)EBB_PAGE_BYTES) {
		tables->can_scan = !no_scan && has_scan(tables);
		tables->finder = EBB_TABLES_HISTORY;
		if (tables->can_scan && scan_tells_tables(tables))
			tables->finder = EBB_TABLES_SCAN;
	}
	if (way == EBB_TABLES_PROBE)
		tables->way = find_way();
}

void ebb_tables_deinit(struct ebb_tables *tables)
{
	if (tables->pagemap_fd >= 0)
		close(tables->pagemap_fd);
	tables->pagemap_fd = -1;
}
