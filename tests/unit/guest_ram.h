/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * guest_ram.h - real memory that plays a guest's RAM, and a witness of every madvise()
 *
 * Linked with --wrap=madvise: each call on guest RAM is recorded, and a destructive one
 * (MADV_FREE, MADV_DONTNEED, to move it away) on a page that is not isolated at that moment is a
 * breach of rule 1, which is kept until the test asks.
 */
#ifndef EBB_TEST_GUEST_RAM_H
#define EBB_TEST_GUEST_RAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KIB  (1024ull)
#define MIB  (1024ull * KIB)
#define PAGE 4096ull

struct guest_ram {
	char *host;
	size_t bytes;
	char *mapping; /* host with guards around */
	size_t mapping_bytes;
	uint8_t *isolated; /* one byte a page, atomic */
};

/* host is 2 MiB aligned plus offset; huge: of huge pages, else of 4 KiB pages. */
void guest_ram_init(struct guest_ram *ram, size_t bytes, size_t offset, bool huge);
void guest_ram_deinit(struct guest_ram *ram);

/* The word that page holds after guest_ram_fill() with seed; never 0. */
uint64_t guest_ram_word(uint64_t page, uint64_t seed);
/* Write the first and the last word of each page. */
void guest_ram_fill(struct guest_ram *ram, size_t offset, size_t bytes, uint64_t seed);

enum page_is { PAGE_KEPT, PAGE_ZERO, PAGE_OTHER };
enum page_is guest_ram_page(const struct guest_ram *ram, uint64_t page, uint64_t seed);
/* Number of pages of [offset, offset + bytes) that are so. */
uint64_t guest_ram_count(const struct guest_ram *ram, size_t offset, size_t bytes, uint64_t seed,
			 enum page_is is);

/* The guest isolates a range, or uses it again. */
void guest_ram_isolate(struct guest_ram *ram, size_t offset, size_t bytes);
void guest_ram_use(struct guest_ram *ram, size_t offset, size_t bytes);

/*
 * What smaps says of the areas of ram that no use of the memory changes: where each begins and
 * ends, its protection, flags, name; for the caller to free.
 */
char *guest_ram_areas(const struct guest_ram *ram);
/* Of the mapping of ram, from smaps: "LazyFree", "AnonHugePages", "Rss". */
uint64_t guest_ram_smaps_bytes(const struct guest_ram *ram, const char *field);

/* The witness. Tables that are moved away count as a call with this advice. */
#define ADVICE_MOVE (-1)
struct advice {
	uint64_t offset; /* in the guest RAM that it fell into */
	uint64_t bytes;
	int advice;
	int error;
};

void witness_reset(void);
/* Calls with this advice on guest RAM since the reset. */
unsigned int witness_count(int advice);
/* The nth of all recorded calls, or NULL. */
const struct advice *witness_get(unsigned int n);
/* Destructive calls on pages that were not isolated. */
unsigned int witness_breaches(void);
/* The next calls with this advice fail so; 0: no more. */
void witness_fail(int advice, int error);
/* Called before each recorded call is made. */
void witness_hook(void (*hook)(void *opaque, int advice), void *opaque);
/* Called after each recorded call that succeeded, in the order in which they were made. */
void witness_watch(void (*watch)(uint64_t offset, uint64_t bytes, int advice));

#endif /* EBB_TEST_GUEST_RAM_H */
