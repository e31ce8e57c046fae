// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * mergeload - a guest's memory for the bench of merging: a file that guests have in common, and
 * anonymous memory of their own
 *
 * The file is mapped, so that it stays in the page cache. The anonymous memory is huge pages; of
 * each block of 2 MiB some pages are the same in all guests, as libraries' heaps are, and the rest
 * is this guest's alone. Says which page frames both are in, runs as "file FIRST COUNT" and
 * "anon FIRST COUNT", and then "ready".
 *
 * On stdin: "work MSEC" uses random pages for so long ("touches N nsec T longest L": of one of
 * them); "frames" says once more where all is; "verify" compares all pages.
 *
 * With -R it only reads so much of the file, in runs at random, and says "ready".
 *
 * Owns:    its memory.
 * Thread:  one.
 * Locks:   none.
 * Never:   writes to what is common.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "content.h"
#include "random.h"

#define BLOCK_BYTES    (2UL << 20)
#define BLOCK_PAGES    (BLOCK_BYTES / PAGE_BYTES)
#define COMMON_ID      ID(OWNER_SHARED, 2)
#define MAX_RUN_PAGES  64
#define TOUCHES	       16 /* between two looks at the clock */
#define WORK_WORD      (PAGE_WORDS - 1)
#define FRAME_MASK     ((1ULL << 55) - 1)
#define FRAMES_AT_ONCE 512

static unsigned char *image, *anon;
static size_t image_pages, anon_pages;
static uint64_t own_id;
static unsigned int common_pages;

static __attribute__((noreturn)) void fail(const char *what)
{
	printf("error: %s: %s\n", what, strerror(errno));
	exit(2);
}

static uint64_t *anon_page(size_t i)
{
	return (uint64_t *)(anon + i * PAGE_BYTES);
}

static uint64_t id_of(size_t i)
{
	return i % BLOCK_PAGES < common_pages ? COMMON_ID : own_id;
}

static void map_image(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	static char buffer[64 * PAGE_BYTES];

	if (size <= 0)
		fail(path);
	image_pages = (size_t)size / PAGE_BYTES;
	lseek(fd, 0, SEEK_SET);
	while (read(fd, buffer, sizeof(buffer)) > 0)
		;
	image = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (image == MAP_FAILED)
		fail("mmap of the image");
}

/* 4 to 256 KiB, anywhere. The file stays open. */
static void read_about(const char *path, size_t mib, uint64_t random)
{
	static char buffer[MAX_RUN_PAGES * PAGE_BYTES];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	size_t left = mib << 20, pages = (size_t)size / PAGE_BYTES;

	if (size <= 0 || pages <= MAX_RUN_PAGES)
		fail(path);
	while (left) {
		size_t run = 1 + random_next(&random) % MAX_RUN_PAGES;
		size_t first = random_next(&random) % (pages - run);

		if (pread(fd, buffer, run * PAGE_BYTES, (off_t)(first * PAGE_BYTES)) < 0)
			fail("read");
		left -= left < run * PAGE_BYTES ? left : run * PAGE_BYTES;
	}
}

static void map_anon(size_t mib)
{
	unsigned char *p = mmap(NULL, (mib + 2) << 20, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		fail("mmap");
	anon = (unsigned char *)(((uintptr_t)p + BLOCK_BYTES - 1) & ~(BLOCK_BYTES - 1));
	anon_pages = mib * (1 << 20) / PAGE_BYTES;
	madvise(anon, anon_pages * PAGE_BYTES, MADV_HUGEPAGE);
	for (size_t i = 0; i < anon_pages; i++)
		content_write(anon_page(i), id_of(i), i);
}

static void print_frames(const char *name, const unsigned char *at, size_t pages)
{
	uint64_t entries[FRAMES_AT_ONCE], first = 0, count = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail("pagemap");
	for (size_t i = 0; i < pages; i++) {
		uint64_t frame;

		if (i % FRAMES_AT_ONCE == 0 &&
		    pread(fd, entries, sizeof(entries),
			  (off_t)(((uintptr_t)at / PAGE_BYTES + i) * 8)) < 0)
			fail("read pagemap");
		frame = entries[i % FRAMES_AT_ONCE] & FRAME_MASK;
		if (count && frame == first + count) {
			count++;
			continue;
		}
		if (count)
			printf("%s %llu %llu\n", name, (unsigned long long)first,
			       (unsigned long long)count);
		first = frame;
		count = 1;
	}
	printf("%s %llu %llu\n", name, (unsigned long long)first, (unsigned long long)count);
	close(fd);
}

static void say_frames(void)
{
	print_frames("file", image, image_pages);
	print_frames("anon", anon, anon_pages);
	puts("ready");
}

static uint64_t now_nsec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* The last word of a page is counted up and down again: its content stays. */
static void work(unsigned long msec)
{
	static uint64_t random = 1;
	uint64_t start = now_nsec(), end = start + msec * 1000000, now = start, touches = 0;
	uint64_t longest = 0, sum = 0;

	while (now < end) {
		uint64_t next;

		for (int i = 0; i < TOUCHES; i++) {
			size_t page = random_next(&random) % anon_pages;
			volatile uint64_t *words = anon_page(page);

			if (page % BLOCK_PAGES >= common_pages) {
				words[WORK_WORD]++;
				words[WORK_WORD]--;
			}
			sum += words[page % PAGE_WORDS];
			sum += *(volatile uint64_t *)(image + page % image_pages * PAGE_BYTES);
			touches++;
		}
		next = now_nsec();
		if (next - now > longest)
			longest = next - now;
		now = next;
	}
	printf("touches %llu nsec %llu longest %llu sum %llu\n", (unsigned long long)touches,
	       (unsigned long long)(now - start), (unsigned long long)longest,
	       (unsigned long long)sum);
}

static void verify(void)
{
	size_t bad = 0;

	for (size_t i = 0; i < image_pages; i++)
		bad += content_first_wrong((uint64_t *)(image + i * PAGE_BYTES), IMAGE_ID,
					   IMAGE_INDEX + i) < PAGE_WORDS;
	for (size_t i = 0; i < anon_pages; i++)
		bad += content_first_wrong(anon_page(i), id_of(i), i) < PAGE_WORDS;
	printf("pages checked %zu, bad %zu\n", image_pages + anon_pages, bad);
}

int main(int argc, char **argv)
{
	unsigned long mib = 64, guest = 1, read_mib = 0, msec;
	uint64_t seed = 1, random = 1;
	const char *path = NULL;
	char line[64];
	int opt;

	common_pages = 1;
	while ((opt = getopt(argc, argv, "i:m:S:g:c:R:s:")) != -1) {
		if (opt == 'i')
			path = optarg;
		else if (opt == 'm')
			mib = strtoul(optarg, NULL, 0);
		else if (opt == 'S')
			seed = strtoull(optarg, NULL, 0);
		else if (opt == 'g')
			guest = strtoul(optarg, NULL, 0);
		else if (opt == 'R')
			read_mib = strtoul(optarg, NULL, 0);
		else if (opt == 's')
			random = strtoull(optarg, NULL, 0);
		else if (opt == 'c')
			common_pages = (unsigned int)strtoul(optarg, NULL, 0);
	}
	if (!path || !mib) {
		fprintf(stderr, "usage: mergeload -i IMAGE [-m ANON-MIB] [-S SEED] [-g GUEST] "
				"[-c COMMON-PAGES-OF-A-BLOCK]\n"
				"       mergeload -i IMAGE -R MIB [-s SEED]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	content_seed(seed + guest, seed);
	own_id = ID(guest << 16, 1);
	if (read_mib) {
		read_about(path, read_mib, random);
		puts("ready");
	} else {
		map_anon(mib);
		map_image(path);
		say_frames();
	}
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "work %lu", &msec) == 1)
			work(msec);
		else if (strncmp(line, "frames", 6) == 0)
			say_frames();
		else if (strncmp(line, "verify", 6) == 0)
			verify();
		else
			break;
		fflush(stdout);
	}
	return 0;
}
