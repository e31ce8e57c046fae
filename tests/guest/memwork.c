// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * memwork - fill, verify, free and reuse memory, and count every page that is not what it should be
 *
 * Memory is blocks of 2 MiB. Each page of a block in use holds 512 words made from (seed, page,
 * generation); a block that is filled again gets a new generation, so that old content, another
 * page's content, zeros and torn pages are all told apart from the right one. A new mapping must
 * read as zeros before it is filled. Everything follows from the seed, so a run can be repeated.
 *
 * Owns:    its arena; one mapping of its own for each block in use.
 * Thread:  one.
 * Locks:   none.
 * Never:   stops at a bad page: it counts it and goes on. The exit status is 1 if any page was bad,
 *          2 if the program could not do its work.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "random.h"

#define PAGE_BYTES	4096UL
#define PAGE_WORDS	(PAGE_BYTES / sizeof(uint64_t))
#define BLOCK_BYTES	(2UL << 20)
#define BLOCK_PAGES	(BLOCK_BYTES / PAGE_BYTES)
#define MAX_BAD_REPORTS 8

enum free_method { FREE_MUNMAP, FREE_DONTNEED };

struct block {
	uint32_t generation; /* 0: never filled */
	bool in_use;
	bool thin; /* of it only the first page is in use */
	bool mapped;
};

static uint64_t seed = 1;
static uint64_t random_state;
static unsigned char *arena;
static struct block *blocks;
static size_t block_count;
static uint64_t checked_pages, bad_pages;

static uint64_t next_random(void)
{
	return random_next(&random_state);
}

static void expected_page(uint64_t page, uint32_t generation, uint64_t *words)
{
	uint64_t w = mix(seed ^ mix(page + 1)) ^ mix((uint64_t)generation << 32);

	words[0] = page << 24 | (generation & 0xffffff) | 1ULL << 63;
	for (size_t i = 1; i < PAGE_WORDS; i++) {
		w = w * 6364136223846793005ULL + 1442695040888963407ULL;
		words[i] = w;
	}
}

static void report_bad(uint64_t page, const uint64_t *got, const uint64_t *want, const char *when)
{
	size_t first = 0, zeros = 0;

	if (bad_pages++ >= MAX_BAD_REPORTS)
		return;
	while (first < PAGE_WORDS - 1 && got[first] == want[first])
		first++;
	for (size_t i = 0; i < PAGE_WORDS; i++)
		zeros += !got[i];
	printf("bad page %llu (%s): word %zu is %016llx, want %016llx; %zu of 512 words are zero; "
	       "word 0 says page %llu generation %llu\n",
	       (unsigned long long)page, when, first, (unsigned long long)got[first],
	       (unsigned long long)want[first], zeros,
	       (unsigned long long)(got[0] >> 24 & 0x7fffffffffULL),
	       (unsigned long long)(got[0] & 0xffffff));
}

static void verify_block(size_t b)
{
	uint64_t want[PAGE_WORDS];

	for (size_t i = 0; i < (blocks[b].thin ? 1 : BLOCK_PAGES); i++) {
		uint64_t page = b * BLOCK_PAGES + i;
		const uint64_t *got = (const uint64_t *)(arena + page * PAGE_BYTES);

		expected_page(page, blocks[b].generation, want);
		checked_pages++;
		if (memcmp(got, want, PAGE_BYTES))
			report_bad(page, got, want, "in use");
	}
}

static void verify_all(void)
{
	for (size_t b = 0; b < block_count; b++)
		if (blocks[b].in_use)
			verify_block(b);
}

static int fill_block(size_t b)
{
	static const uint64_t zeros[PAGE_WORDS];
	unsigned char *at = arena + b * BLOCK_BYTES;

	if (!blocks[b].mapped) {
		void *p = mmap(at, BLOCK_BYTES, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

		if (p == MAP_FAILED)
			return -errno;
		blocks[b].mapped = true;
	}
	blocks[b].generation++;
	for (size_t i = 0; i < BLOCK_PAGES; i++) {
		uint64_t page = b * BLOCK_PAGES + i;
		uint64_t *words = (uint64_t *)(at + i * PAGE_BYTES);

		/* A write first: reading an untouched page would only map the zero page. */
		*(volatile uint64_t *)words = 0;
		if (!blocks[b].in_use) {
			checked_pages++;
			if (memcmp(words, zeros, PAGE_BYTES))
				report_bad(page, words, zeros, "new, must be zero");
		}
		expected_page(page, blocks[b].generation, words);
	}
	blocks[b].in_use = true;
	return 0;
}

static int free_block(size_t b, enum free_method how)
{
	unsigned char *at = arena + b * BLOCK_BYTES;

	blocks[b].in_use = false;
	blocks[b].thin = false;
	if (how == FREE_DONTNEED)
		return madvise(at, BLOCK_BYTES, MADV_DONTNEED) ? -errno : 0;
	blocks[b].mapped = false;
	/* The address stays reserved. */
	if (mmap(at, BLOCK_BYTES, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -errno;
	return 0;
}

static int fill(size_t mib)
{
	size_t want = mib >> 1;

	for (size_t b = 0; b < block_count && want; b++) {
		int err;

		if (blocks[b].in_use)
			continue;
		err = fill_block(b);
		if (err)
			return err;
		want--;
	}
	return want ? -ENOSPC : 0;
}

/* Frees about percent of the blocks in use; 100 frees all. */
static int free_some(unsigned int percent, enum free_method how)
{
	for (size_t b = 0; b < block_count; b++) {
		int err;

		if (!blocks[b].in_use || next_random() % 100 >= percent)
			continue;
		err = free_block(b, how);
		if (err)
			return err;
	}
	return 0;
}

/* Frees all pages but the first of each block in use: what is free lies in pieces. */
static int thin_all(void)
{
	for (size_t b = 0; b < block_count; b++) {
		if (!blocks[b].in_use || blocks[b].thin)
			continue;
		if (madvise(arena + b * BLOCK_BYTES + PAGE_BYTES, BLOCK_BYTES - PAGE_BYTES,
			    MADV_DONTNEED))
			return -errno;
		blocks[b].thin = true;
	}
	return 0;
}

static size_t in_use_mib(void)
{
	size_t n = 0;

	for (size_t b = 0; b < block_count; b++)
		n += blocks[b].in_use;
	return n * (BLOCK_BYTES >> 20);
}

static void print_totals(const char *head)
{
	printf("%sin use %zu MiB, pages checked %llu, bad %llu\n", head, in_use_mib(),
	       (unsigned long long)checked_pages, (unsigned long long)bad_pages);
	fflush(stdout);
}

/* One round: free a random part, verify the rest, use the freed part again, verify all. */
static int run_round(size_t mib, enum free_method how)
{
	int err = fill(mib - in_use_mib());

	if (!err)
		err = free_some(20 + (unsigned int)(next_random() % 60), how);
	if (err)
		return err;
	verify_all();
	err = fill(mib - in_use_mib());
	verify_all();
	return err;
}

static bool stdin_has_something(void)
{
	struct pollfd p = { .fd = 0, .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

/* Rounds until the number is done or, for 0, until something or the end comes on stdin. */
static int run_rounds(unsigned long rounds, size_t mib)
{
	for (unsigned long r = 0; rounds ? r < rounds : !stdin_has_something(); r++) {
		int err = run_round(mib, r & 1 ? FREE_DONTNEED : FREE_MUNMAP);

		if (err)
			return err;
		if (!rounds || r + 1 < rounds)
			print_totals("round: ");
	}
	return 0;
}

/* The timing of one fill, for what reuse costs: nanoseconds a page, without the check for zeros. */
static void touch_all(void)
{
	struct timespec a, b;
	unsigned char *p;
	size_t bytes = block_count * BLOCK_BYTES;

	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		printf("error: %s\n", strerror(errno));
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (size_t i = 0; i < bytes; i += PAGE_BYTES)
		*(volatile unsigned char *)(p + i) = 1;
	clock_gettime(CLOCK_MONOTONIC, &b);
	munmap(p, bytes);
	printf("ok touched %zu pages in %lld ns\n", bytes / PAGE_BYTES,
	       (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec);
}

/* Changes one bit, so that a test can see that a bad page is found. */
static int spoil(size_t page)
{
	if (page / BLOCK_PAGES >= block_count || !blocks[page / BLOCK_PAGES].in_use)
		return -EINVAL;
	arena[page * PAGE_BYTES + PAGE_BYTES - 1] ^= 1;
	return 0;
}

static int run_command(char *line)
{
	char how[16] = "munmap";
	unsigned long n = 0;
	int err = 0;

	line[strcspn(line, "\n")] = '\0';
	if (sscanf(line, "fill %lu", &n) == 1)
		err = fill(n);
	else if (!strcmp(line, "refill"))
		err = fill((block_count * BLOCK_BYTES >> 20) - in_use_mib());
	else if (sscanf(line, "free %lu %15s", &n, how) >= 1)
		err = free_some((unsigned int)n,
				!strcmp(how, "dontneed") ? FREE_DONTNEED : FREE_MUNMAP);
	else if (sscanf(line, "rounds %lu", &n) == 1)
		err = run_rounds(n, block_count * (BLOCK_BYTES >> 20));
	else if (sscanf(line, "spoil %lu", &n) == 1)
		err = spoil(n);
	else if (!strcmp(line, "thin"))
		err = thin_all();
	else if (!strcmp(line, "verify"))
		verify_all();
	else if (!strcmp(line, "touch"))
		touch_all();
	else if (strcmp(line, "report"))
		err = -EINVAL;
	if (err)
		printf("error: %s: %s\n", line, strerror(-err));
	else
		print_totals("ok ");
	fflush(stdout);
	return err;
}

static int init_arena(size_t mib)
{
	size_t bytes;
	unsigned char *p;

	block_count = mib >> 1;
	bytes = block_count * BLOCK_BYTES;
	blocks = calloc(block_count, sizeof(*blocks));
	p = mmap(NULL, bytes + BLOCK_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		 -1, 0);
	if (!blocks || p == MAP_FAILED)
		return -ENOMEM;
	arena = (unsigned char *)(((uintptr_t)p + BLOCK_BYTES - 1) & ~(BLOCK_BYTES - 1));
	return 0;
}

static int usage(void)
{
	fprintf(stderr,
		"usage: memwork [-s SEED] [-m MIB] [-r ROUNDS | -c]\n"
		"  -m  memory to use at most, MiB (64)\n"
		"  -r  rounds of free, verify, reuse (1); 0: until something comes on stdin\n"
		"  -c  commands from stdin: fill MIB, refill, free PERCENT [munmap|dontneed], "
		"verify,\n"
		"      thin, rounds N, touch, spoil PAGE, report, quit\n");
	return 2;
}

int main(int argc, char **argv)
{
	unsigned long mib = 64, rounds = 1;
	bool commands = false;
	char line[128];
	int opt, err = 0;

	while ((opt = getopt(argc, argv, "s:m:r:c")) != -1) {
		switch (opt) {
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'm':
			mib = strtoul(optarg, NULL, 0);
			break;
		case 'r':
			rounds = strtoul(optarg, NULL, 0);
			break;
		case 'c':
			commands = true;
			break;
		default:
			return usage();
		}
	}
	if (mib < 2 || optind != argc)
		return usage();
	random_state = seed;
	err = init_arena(mib);
	if (err) {
		fprintf(stderr, "memwork: no memory for %lu MiB\n", mib);
		return 2;
	}
	if (commands) {
		while (fgets(line, sizeof(line), stdin) && strncmp(line, "quit", 4))
			run_command(line);
	} else {
		err = run_rounds(rounds, block_count * (BLOCK_BYTES >> 20));
		if (err)
			fprintf(stderr, "memwork: %s\n", strerror(-err));
	}
	print_totals("total: ");
	return err ? 2 : bad_pages ? 1 : 0;
}
