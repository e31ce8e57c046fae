// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * barecalls - what it takes the kernel to discard memory when nothing is around it
 *
 * Reads lines "BYTES CALL_BYTES ORDER"; for each touches BYTES of private memory, discards them
 * with MADV_DONTNEED in calls of CALL_BYTES and answers the nanoseconds that the calls took.
 * ORDER is a file with the number of each page (uint32_t, host byte order) in the order in which
 * they are to be touched, or "-" for one after the other. The memory asks for huge pages, as
 * QEMU's does; whether it gets them is for the caller to choose (PR_SET_THP_DISABLE is inherited).
 *
 * Owns:    one mapping at a time.
 * Thread:  one.
 * Locks:   none.
 * Never:   times anything but the calls.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define BLOCK_BYTES (2ul << 20)
#define PAGE_BYTES  4096ul

static uint64_t now_nsec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Returns -1 if the file is not the order of just these pages. */
static int touch(volatile char *at, size_t pages, const char *order)
{
	FILE *file;
	uint32_t page;
	size_t done;

	if (!strcmp(order, "-")) {
		for (size_t i = 0; i < pages; i++)
			at[i * PAGE_BYTES] = 1;
		return 0;
	}
	file = fopen(order, "rb");
	if (!file)
		return -1;
	for (done = 0; fread(&page, sizeof(page), 1, file) == 1 && page < pages; done++)
		at[page * PAGE_BYTES] = 1;
	fclose(file);
	return done == pages ? 0 : -1;
}

/* Returns 0 if the memory could not be had or a call failed. */
static uint64_t discard_nsec(size_t bytes, size_t call_bytes, const char *order)
{
	size_t room = bytes + BLOCK_BYTES;
	char *map = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at = (char *)(((uintptr_t)map + BLOCK_BYTES - 1) & ~(BLOCK_BYTES - 1));
	uint64_t start, nsec = 0;

	if (map == MAP_FAILED)
		return 0;
	madvise(at, bytes, MADV_HUGEPAGE);
	if (touch(at, bytes / PAGE_BYTES, order))
		goto out;
	start = now_nsec();
	for (size_t done = 0; done < bytes; done += call_bytes) {
		size_t left = bytes - done;

		if (madvise(at + done, left < call_bytes ? left : call_bytes, MADV_DONTNEED))
			goto out;
	}
	nsec = now_nsec() - start;
out:
	munmap(map, room);
	return nsec;
}

int main(void)
{
	size_t bytes, call_bytes;
	char order[256];

	while (scanf("%zu %zu %255s", &bytes, &call_bytes, order) == 3) {
		uint64_t nsec = bytes && call_bytes ? discard_nsec(bytes, call_bytes, order) : 0;

		if (!nsec) {
			fprintf(stderr,
				"barecalls: cannot discard %zu bytes in calls of %zu, "
				"touched in the order of %s\n",
				bytes, call_bytes, order);
			return 1;
		}
		printf("%llu\n", (unsigned long long)nsec);
		fflush(stdout);
	}
	return 0;
}
