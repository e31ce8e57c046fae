// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * torn-copy - are plain copies of volatile pages torn on this kernel?
 *
 * One thread copies pages that were given up by MADV_FREE while another has the kernel purge them
 * by MADV_PAGEOUT. A copy that begins before the purge and ends after it has its first word whole
 * and later words zero. So volatile content must not be read, but taken back first by a
 * compare-and-swap: that is rule 3.
 *
 * Prints a verdict. Exit status: 0 when the experiment ran, 77 when it cannot run here.
 *
 * Owns:    its memory.
 * Thread:  the copier (main) and the purger.
 * Locks:   a barrier at the start of each round.
 * Never:   concludes from one round; a torn copy is one in some ten thousands.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES 4096UL
#define PAGE_WORDS (PAGE_BYTES / 8)
#define PAGES	   4096UL
#define STEP_PAGES 16UL
#define MAX_ROUNDS 2000
#define ENOUGH	   3
#define SKIP	   77

static unsigned char *mem;
static pthread_barrier_t barrier;
static atomic_bool finished;
static atomic_ulong copied_pages;
static int pageout_error;

/* Stays at the copier's heels and a little ahead of them: that is where copies are torn. */
static void *purge(void *unused)
{
	for (;;) {
		pthread_barrier_wait(&barrier);
		if (finished)
			return NULL;
		for (size_t i = 0; i < PAGES; i += STEP_PAGES) {
			while (atomic_load(&copied_pages) + 2 * STEP_PAGES < i)
				;
			if (madvise(mem + i * PAGE_BYTES, STEP_PAGES * PAGE_BYTES, MADV_PAGEOUT))
				pageout_error = 1;
		}
		pthread_barrier_wait(&barrier);
	}
}

struct tally {
	unsigned long copied, purged, torn;
};

static void look(const uint64_t *copy, struct tally *t)
{
	t->copied++;
	if (!copy[0]) {
		t->purged++;
		return;
	}
	for (size_t k = 1; k < PAGE_WORDS; k++) {
		if (copy[k])
			continue;
		if (!t->torn++)
			printf("first torn copy: word 0 is %#llx, word %zu is zero\n",
			       (unsigned long long)copy[0], k);
		return;
	}
}

static void copy_round(struct tally *t)
{
	uint64_t copy[PAGE_WORDS];

	for (size_t i = 0; i < PAGES; i++) {
		memcpy(copy, mem + i * PAGE_BYTES, PAGE_BYTES);
		atomic_store(&copied_pages, i);
		look(copy, t);
	}
}

static int skip(const char *why)
{
	printf("torn-copy: SKIP: %s\n", why);
	return SKIP;
}

int main(void)
{
	struct tally t = { 0 };
	pthread_t thread;

	mem = mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		   -1, 0);
	if (mem == MAP_FAILED)
		return skip("no memory");
	madvise(mem, PAGES * PAGE_BYTES, MADV_NOHUGEPAGE);
	pthread_barrier_init(&barrier, NULL, 2);
	if (pthread_create(&thread, NULL, purge, NULL))
		return skip("no second thread");
	for (int round = 0; round < MAX_ROUNDS && t.torn < ENOUGH && !pageout_error; round++) {
		memset(mem, 0xa5, PAGES * PAGE_BYTES);
		if (madvise(mem, PAGES * PAGE_BYTES, MADV_FREE))
			break;
		atomic_store(&copied_pages, 0);
		pthread_barrier_wait(&barrier);
		copy_round(&t);
		atomic_store(&copied_pages, PAGES);
		pthread_barrier_wait(&barrier);
	}
	finished = true;
	pthread_barrier_wait(&barrier);
	pthread_join(thread, NULL);
	if (pageout_error || !t.copied)
		return skip("this kernel has no MADV_FREE or MADV_PAGEOUT");
	if (!t.purged)
		return skip("MADV_PAGEOUT purged nothing");
	printf("copied %lu volatile pages while they were purged: %lu were gone, %lu torn\n",
	       t.copied, t.purged, t.torn);
	printf("verdict: plain copies of volatile pages %s on this kernel\n",
	       t.torn ? "ARE TORN" : "were not seen torn");
	return 0;
}
