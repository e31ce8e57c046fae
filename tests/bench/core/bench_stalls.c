// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * bench_stalls - how long page faults wait while page tables are freed
 *
 * One thread plays a vCPU: it touches memory that was never touched, page by page, and times each
 * touch. Another makes tables, empties them and frees 64 at a time: not at all, by MADV_DONTNEED
 * (which frees them from Linux 6.14 on), by moving them, and by moving them where KSM may work. All
 * waits for mmap_lock are in it. Compare the rows: the machine's own noise is in all of them.
 *
 * usage: bench_stalls [ROUNDS]
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "executor.h"

#define BLOCKS	     64u
#define PIECE_BLOCKS 32u
#define POOL_BYTES   (64ull << 20)
#define BUCKETS	     64u

enum how { HOW_NOT, HOW_DONTNEED, HOW_MOVE, HOW_MOVE_MERGEABLE, NR_HOW };

static const char *const names[NR_HOW] = { "not freed", "MADV_DONTNEED", "moved",
					   "moved, mergeable" };

static bool stop;
static uint64_t nr_touches, sum_nsec, longest_nsec;
static uint64_t buckets[BUCKETS]; /* by powers of two of nsec, in halves */

static char *map(uint64_t bytes)
{
	char *at = mmap(NULL, bytes + EBB_BLOCK_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED) {
		perror("bench_stalls: mmap");
		exit(1);
	}
	madvise(at, bytes + EBB_BLOCK_BYTES, MADV_NOHUGEPAGE);
	return (char *)(((uintptr_t)at + EBB_BLOCK_BYTES - 1) & ~(EBB_BLOCK_BYTES - 1));
}

static unsigned int bucket_of(uint64_t nsec)
{
	unsigned int log = 63 - (unsigned int)__builtin_clzll(nsec | 1);
	unsigned int bucket = 2 * log + (log ? (nsec >> (log - 1)) & 1 : 0);

	return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static void *touch(void *pool)
{
	uint64_t at = POOL_BYTES, start_nsec, nsec;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		if (at == POOL_BYTES) {
			madvise(pool, POOL_BYTES, MADV_DONTNEED);
			at = 0;
		}
		start_nsec = ebb_now_nsec();
		*((volatile char *)pool + at) = 1;
		nsec = ebb_now_nsec() - start_nsec;
		at += EBB_PAGE_BYTES;
		nr_touches++;
		sum_nsec += nsec;
		buckets[bucket_of(nsec)]++;
		if (nsec > longest_nsec)
			longest_nsec = nsec;
	}
	return NULL;
}

/* The time below which so many of a thousand touches were; the upper end of a bucket. */
static double per_mille_usec(uint64_t per_mille)
{
	uint64_t seen = 0;
	unsigned int i;

	for (i = 0; i < BUCKETS; i++) {
		seen += buckets[i];
		if (seen * 1000 >= nr_touches * per_mille)
			break;
	}
	i++;
	return (double)((1ull << (i / 2)) + (i & 1 ? 1ull << (i / 2) >> 1 : 0)) / 1e3;
}

static uint64_t free_tables(char *ram, enum how how)
{
	uint64_t start_nsec = ebb_now_nsec(), i, bytes = PIECE_BLOCKS * EBB_BLOCK_BYTES;

	for (i = 0; i < BLOCKS; i += PIECE_BLOCKS) {
		uintptr_t at = (uintptr_t)ram + i * EBB_BLOCK_BYTES;

		if (how != HOW_NOT)
			madvise((void *)at, bytes, MADV_DONTNEED);
		if (how >= HOW_MOVE && ebb_tables_move_out(at, bytes))
			abort();
	}
	return ebb_now_nsec() - start_nsec;
}

static void measure(enum how how, char *ram, char *pool, unsigned int rounds)
{
	uint64_t nsec = 0, i;
	unsigned int round;
	pthread_t thread;

	if (how == HOW_MOVE_MERGEABLE)
		madvise(ram, BLOCKS * EBB_BLOCK_BYTES, MADV_MERGEABLE);
	nr_touches = sum_nsec = longest_nsec = 0;
	for (i = 0; i < BUCKETS; i++)
		buckets[i] = 0;
	stop = false;
	if (pthread_create(&thread, NULL, touch, pool))
		abort();
	for (round = 0; round < rounds; round++) {
		for (i = 0; i < BLOCKS; i++) {
			ram[i * EBB_BLOCK_BYTES] = 1;
			madvise(ram + i * EBB_BLOCK_BYTES, EBB_PAGE_BYTES, MADV_DONTNEED);
		}
		nsec += free_tables(ram, how);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	printf("%-18s %10.2f %10.1f %10.1f %10.0f %14.2f\n", names[how],
	       (double)sum_nsec / (double)nr_touches / 1e3, per_mille_usec(990),
	       per_mille_usec(999), (double)longest_nsec / 1e3,
	       (double)nsec / rounds / BLOCKS / 1e3);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	unsigned int rounds = argc > 1 ? (unsigned int)strtoul(argv[1], NULL, 10) : 2000, how;
	char *ram = map(BLOCKS * EBB_BLOCK_BYTES), *pool = map(POOL_BYTES);

	if (!rounds) {
		fprintf(stderr, "usage: bench_stalls [ROUNDS]\n");
		return 2;
	}
	printf("%-18s %10s %10s %10s %10s %14s\n", "usec", "a touch", "99 %", "99.9 %", "longest",
	       "a table freed");
	for (how = 0; how < NR_HOW; how++)
		measure(how, ram, pool, rounds);
	return 0;
}
