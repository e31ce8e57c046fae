/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * pagemap_scan.h - the kernel's PAGEMAP_SCAN (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst)
 *
 * The headers of older distributions do not have it. Addresses are of this process, in bytes.
 */
#ifndef EBB_PAGEMAP_SCAN_H
#define EBB_PAGEMAP_SCAN_H

#include <stdint.h>
#include <sys/ioctl.h>

/* Categories of a page */
#define SCAN_WRITTEN (1ull << 1)
#define SCAN_PRESENT (1ull << 3)
#define SCAN_SWAPPED (1ull << 4)
#define SCAN_ZEROS   (1ull << 5)
#define SCAN_HUGE    (1ull << 6)

struct scan_run {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

struct scan_order {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end; /* out: where it stopped */
	uint64_t runs;
	uint64_t max_runs;
	uint64_t max_pages;
	uint64_t inverted;
	uint64_t all_of;
	uint64_t any_of;
	uint64_t wanted;
};

#define SCAN_IOCTL _IOWR('f', 16, struct scan_order)

/* Bits of an entry of /proc/self/pagemap, for kernels without it */
#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)

#endif /* EBB_PAGEMAP_SCAN_H */
