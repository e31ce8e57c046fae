// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * torture - use a guest's memory in random order, and know what every page must hold
 *
 * Workers take 2 MiB blocks, fill, verify, change, free and refill them, fork, and go through
 * files. A page holds 512 words made from (seed, owner, generation, index): old content, another
 * page's, zeros and torn pages are all told apart from the right one. A share of the blocks has
 * content that is the same in all guests, so that KSM has something to merge. How much is in use
 * goes up and down like a tide: much is free for a while, and then all of it is wanted at once.
 *
 * A reader goes through a file that all guests have in common, as guests of one image do: its
 * pages in the page cache are what is worth merging. It drops them when the tide turns, and reads
 * them anew. `torture -S SHARED-SEED -I FILE -m MIB` makes that file, and ends; `-v FILE` verifies
 * it once.
 *
 * Now and then, at the turn of the tide, a line of totals. A bad page is printed at once. At the
 * end of stdin all workers verify everything once more and end. Exit status 1 if a page was
 * bad, 2 if it did not run.
 *
 * Owns:    the totals, in memory that all its processes share; each worker its arena and files.
 * Thread:  one in each process: the supervisor, the reader, the workers, a child of each worker
 *          at most.
 * Locks:   none; totals are added to atomically.
 * Never:   stops at a bad page; keeps more than it was told, but for a child's few copies.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "content.h"
#include "random.h"

#define BLOCK_BYTES	(2UL << 20)
#define BLOCK_PAGES	(BLOCK_BYTES / PAGE_BYTES)
#define MAX_WORKERS	16
#define MAX_BAD_REPORTS 20
#define CHILD_BLOCKS	3     /* the most that a child keeps of its parent's */
#define COMMON_PAGES	16384 /* different contents that all guests have in common */
#define FILE_PAGES	1024
#define RUN_PAGES	64

enum total { CHECKED, BAD, FILLS, FREES, FORKS, FILE_CHECKED, COMMON_FILLS, IMAGE_CHECKED, TOTALS };

static const char *const total_names[TOTALS] = {
	"checked", "bad",	   "fills",	   "frees",
	"forks",   "file-checked", "common-fills", "image-checked",
};

struct shared {
	uint64_t totals[TOTALS];
	uint32_t processes; /* numbers handed out */
	uint32_t tide;	    /* percent of what may be in use */
	uint32_t stop;
	uint32_t spoil; /* pages that a worker is to spoil */
	uint32_t calm;	/* the workers use no memory anew */
};

struct block {
	uint64_t ids[BLOCK_PAGES];
	bool mapped;
};

struct file {
	int fd;
	off_t start;
	bool on_disk;
	uint64_t index; /* of its first page, where no arena has one */
	uint64_t ids[FILE_PAGES];
};

static uint64_t seed = 1, random_state;
static unsigned int guest, worker, common_percent = 50;
static uint64_t owner, generation;
static struct shared *shared;
static unsigned char *arena;
static struct block *blocks;
static size_t nr_blocks, nr_used;
static struct file files[2];
static size_t nr_files;
static bool tide_is_told;

static uint64_t next_random(uint64_t below)
{
	return random_next(&random_state) % below;
}

static void count(enum total which, uint64_t n)
{
	__atomic_fetch_add(&shared->totals[which], n, __ATOMIC_RELAXED);
}

static void take_number(void)
{
	owner = (uint64_t)guest << 16 |
		(__atomic_add_fetch(&shared->processes, 1, __ATOMIC_RELAXED) & 0xffff);
	generation = 0;
}

static void check_page(const uint64_t *words, uint64_t id, uint64_t index, const char *when)
{
	size_t wrong = content_first_wrong(words, id, index);

	if (wrong < PAGE_WORDS &&
	    __atomic_fetch_add(&shared->totals[BAD], 1, __ATOMIC_RELAXED) < MAX_BAD_REPORTS)
		content_report(words, id, index, wrong, when);
}

static __attribute__((noreturn)) void fail(const char *what)
{
	dprintf(1, "error: %s: %s\n", what, strerror(errno));
	_exit(3);
}

static uint64_t *page_at(size_t b, size_t i)
{
	return (uint64_t *)(arena + b * BLOCK_BYTES + i * PAGE_BYTES);
}

static uint64_t index_of(uint64_t id, size_t b, size_t i)
{
	return ID_OWNER(id) == OWNER_SHARED ? 0 : (uint64_t)worker << 32 | (b * BLOCK_PAGES + i);
}

static void verify_block(size_t b, const char *when)
{
	uint64_t n = 0;

	for (size_t i = 0; i < BLOCK_PAGES; i++) {
		uint64_t id = blocks[b].ids[i];

		if (!id)
			continue;
		check_page(page_at(b, i), id, index_of(id, b, i), when);
		n++;
	}
	count(CHECKED, n);
}

static void map_block(size_t b)
{
	void *at = page_at(b, 0);

	if (mmap(at, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		 -1, 0) == MAP_FAILED)
		fail("mmap");
	madvise(at, BLOCK_BYTES, next_random(4) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	blocks[b].mapped = true;
	nr_used++;
}

/* Fill a page that has content or none; a new page must be zero. */
static void fill_page(size_t b, size_t i, uint64_t id)
{
	uint64_t *words = page_at(b, i);

	if (!blocks[b].ids[i]) {
		/* A write first: reading an untouched page would only map the zero page. */
		*(volatile uint64_t *)words = 0;
		check_page(words, 0, 0, "new page");
	}
	content_write(words, id, index_of(id, b, i));
	blocks[b].ids[i] = id;
}

static void fill_block(size_t b)
{
	bool common = next_random(100) < common_percent;
	uint64_t fresh = 0;

	if (!blocks[b].mapped)
		map_block(b);
	generation++;
	for (size_t i = 0; i < BLOCK_PAGES; i++) {
		fresh += !blocks[b].ids[i];
		fill_page(b, i,
			  common ? ID(OWNER_SHARED, 1 + next_random(COMMON_PAGES))
				 : ID(owner, generation));
	}
	count(CHECKED, fresh);
	count(FILLS, BLOCK_PAGES);
	if (common)
		count(COMMON_FILLS, BLOCK_PAGES);
}

static void free_pages(size_t b, size_t first, size_t n)
{
	if (madvise(page_at(b, first), n * PAGE_BYTES, MADV_DONTNEED))
		fail("madvise");
	memset(&blocks[b].ids[first], 0, n * sizeof(blocks[b].ids[0]));
	count(FREES, n);
}

static void free_block(size_t b)
{
	/* The address stays reserved. */
	if (mmap(page_at(b, 0), BLOCK_BYTES, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		fail("mmap");
	memset(&blocks[b], 0, sizeof(blocks[b]));
	nr_used--;
	count(FREES, BLOCK_PAGES);
}

/* A block that is mapped or not, from a random one on; nr_blocks if there is none. */
static size_t find_block(bool mapped)
{
	size_t from = next_random(nr_blocks);

	for (size_t n = 0; n < nr_blocks; n++) {
		size_t b = (from + n) % nr_blocks;

		if (blocks[b].mapped == mapped)
			return b;
	}
	return nr_blocks;
}

static void change_some(size_t b)
{
	size_t n = 1 + next_random(RUN_PAGES), first = next_random(BLOCK_PAGES - n);

	if (next_random(3) == 0) {
		free_pages(b, first, n);
		return;
	}
	for (size_t i = first; i < first + n; i++)
		fill_page(b, i, ID(owner, ++generation));
	count(FILLS, n);
}

/* Free several neighbours and want them back at once. */
static void burst(void)
{
	size_t n = 2 + next_random(6), from = next_random(nr_blocks), freed = 0;

	for (size_t b = from; b < from + n; b++) {
		if (!blocks[b % nr_blocks].mapped)
			continue;
		free_block(b % nr_blocks);
		freed++;
	}
	for (size_t b = from; freed; b++) {
		if (blocks[b % nr_blocks].mapped)
			continue;
		fill_block(b % nr_blocks);
		freed--;
	}
}

/* The child: what it inherited is right, and its copies are its own. */
static __attribute__((noreturn)) void child(void)
{
	size_t from = next_random(nr_blocks), kept = 0;

	for (size_t n = 0; n < nr_blocks; n++) {
		size_t b = (from + n) % nr_blocks;

		if (!blocks[b].mapped)
			continue;
		if (kept < CHILD_BLOCKS)
			kept++;
		else
			free_block(b);
	}
	take_number();
	for (int turn = 0; turn < 3; turn++) {
		for (size_t b = 0; b < nr_blocks; b++) {
			if (!blocks[b].mapped)
				continue;
			verify_block(b, turn ? "a child's copy" : "inherited");
			change_some(b);
		}
	}
	_exit(0);
}

static void fork_child(void)
{
	static pid_t running;
	pid_t pid;

	if (running && waitpid(running, NULL, WNOHANG) == 0)
		return;
	random_state ^= 1ULL << 60;
	pid = fork();
	if (pid < 0)
		fail("fork");
	if (!pid)
		child();
	running = pid;
	random_state = mix(random_state);
	count(FORKS, 1);
}

static void read_pages(struct file *f, size_t first, size_t n)
{
	static uint64_t buffer[PAGE_WORDS * RUN_PAGES];
	uint64_t checked = 0;

	if (pread(f->fd, buffer, n * PAGE_BYTES, f->start + (off_t)(first * PAGE_BYTES)) !=
	    (ssize_t)(n * PAGE_BYTES))
		fail("read");
	for (size_t i = 0; i < n; i++) {
		if (!f->ids[first + i])
			continue;
		check_page(buffer + i * PAGE_WORDS, f->ids[first + i], f->index + first + i,
			   f->on_disk ? "disk" : "file");
		checked++;
	}
	count(CHECKED, checked);
	count(FILE_CHECKED, checked);
}

static void write_pages(struct file *f, size_t first, size_t n)
{
	static uint64_t buffer[PAGE_WORDS * RUN_PAGES];
	uint64_t id = ID(owner, ++generation);

	for (size_t i = 0; i < n; i++) {
		content_write(buffer + i * PAGE_WORDS, id, f->index + first + i);
		f->ids[first + i] = id;
	}
	if (pwrite(f->fd, buffer, n * PAGE_BYTES, f->start + (off_t)(first * PAGE_BYTES)) !=
	    (ssize_t)(n * PAGE_BYTES))
		fail("write");
}

static void drop_pages(struct file *f)
{
	if (f->on_disk) {
		if (fdatasync(f->fd) ||
		    posix_fadvise(f->fd, f->start, FILE_PAGES * PAGE_BYTES, POSIX_FADV_DONTNEED))
			fail("drop the page cache");
		return;
	}
	if (ftruncate(f->fd, 0) || ftruncate(f->fd, FILE_PAGES * PAGE_BYTES))
		fail("truncate");
	memset(f->ids, 0, sizeof(f->ids));
}

static void use_file(void)
{
	struct file *f = &files[next_random(nr_files)];
	size_t n = 1 + next_random(RUN_PAGES), first = next_random(FILE_PAGES - n);
	uint64_t what = next_random(16);

	if (what == 0)
		drop_pages(f);
	else if (what < 7)
		write_pages(f, first, n);
	else
		read_pages(f, first, n);
}

static void open_files(const char *disk)
{
	char name[32];

	snprintf(name, sizeof(name), "/tmp/torture.%u", worker);
	files[0].fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	files[0].index = 1ULL << 62;
	nr_files = 1;
	if (files[0].fd < 0 || ftruncate(files[0].fd, FILE_PAGES * PAGE_BYTES))
		fail(name);
	if (!disk)
		return;
	files[1].fd = open(disk, O_RDWR | O_CLOEXEC);
	files[1].start = (off_t)(worker * FILE_PAGES * PAGE_BYTES);
	files[1].on_disk = true;
	files[1].index = 1ULL << 63 | (uint64_t)worker << 32;
	nr_files = 2;
	if (files[1].fd < 0)
		fail(disk);
}

static void write_setting(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		fail(path);
	close(fd);
}

static int make_image(const char *path, size_t pages)
{
	static uint64_t words[PAGE_WORDS];
	FILE *file = fopen(path, "we");
	size_t i;

	for (i = 0; file && i < pages; i++) {
		content_write(words, IMAGE_ID, IMAGE_INDEX + i);
		if (fwrite(words, PAGE_BYTES, 1, file) != 1)
			break;
	}
	if (!file || fclose(file) || i < pages) {
		perror(path);
		return 2;
	}
	return 0;
}

static int open_image(const char *path, size_t *pages)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	*pages = fd < 0 ? 0 : (size_t)lseek(fd, 0, SEEK_END) / PAGE_BYTES;
	if (*pages < 2 * RUN_PAGES)
		fail(path);
	return fd;
}

static void read_image_pages(int fd, size_t first, size_t end)
{
	static uint64_t buffer[PAGE_WORDS * RUN_PAGES];

	while (first < end) {
		size_t n = end - first < RUN_PAGES ? end - first : RUN_PAGES;

		if (pread(fd, buffer, n * PAGE_BYTES, (off_t)(first * PAGE_BYTES)) !=
		    (ssize_t)(n * PAGE_BYTES))
			fail("read the image");
		for (size_t i = 0; i < n; i++)
			check_page(buffer + i * PAGE_WORDS, IMAGE_ID, IMAGE_INDEX + first + i,
				   "image");
		count(CHECKED, n);
		count(IMAGE_CHECKED, n);
		first += n;
	}
}

/*
 * When the tide has turned, maybe anew: what the page cache had is free memory then, or in use for
 * something else, and KSM may still hold it. At low tide into blocks of its own, which are what
 * the driver hints: the workers stand back, and what is free lies together.
 */
static void read_image_anew(int fd, size_t pages, bool low)
{
	if (low) {
		usleep(300000);
		__atomic_store_n(&shared->calm, 1, __ATOMIC_RELAXED);
		usleep(20000);
	}
	if (next_random(4) < (low ? 3 : 1) && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED))
		fail("drop the image");
	if (low)
		write_setting("/proc/sys/vm/compact_memory", "1");
	read_image_pages(fd, 0, pages);
	if (low) /* for the driver, the host and KSM */
		usleep((useconds_t)next_random(1000000));
	__atomic_store_n(&shared->calm, 0, __ATOMIC_RELAXED);
}

/* All of it as the tide turns, and parts of it meanwhile. */
static __attribute__((noreturn)) void read_image(const char *path)
{
	size_t pages;
	int fd = open_image(path, &pages);
	uint32_t tide = 0, before = 101;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	random_state = mix(seed) ^ mix(MAX_WORKERS + 1);
	while (!__atomic_load_n(&shared->stop, __ATOMIC_RELAXED)) {
		tide = __atomic_load_n(&shared->tide, __ATOMIC_RELAXED);
		if (tide != before) {
			read_image_anew(fd, pages, tide < 50);
			before = tide;
		} else {
			size_t first = next_random(pages - RUN_PAGES);

			read_image_pages(fd, first, first + 1 + next_random(RUN_PAGES));
		}
		usleep((useconds_t)next_random(300000));
	}
	read_image_pages(fd, 0, pages);
	_exit(0);
}

static void one_step(size_t goal)
{
	bool calm = __atomic_load_n(&shared->calm, __ATOMIC_RELAXED);
	uint64_t what = next_random(100);
	size_t used = find_block(true), unused = find_block(false);

	if (calm && used == nr_blocks)
		usleep(1000);
	else if (calm)
		verify_block(used, "in use");
	else if (what < 55 && nr_used < goal)
		fill_block(unused);
	else if (what < 55 && nr_used > goal)
		free_block(used);
	else if (what < 65)
		use_file();
	else if (used == nr_blocks)
		fill_block(unused);
	else if (what < 82)
		verify_block(used, "in use");
	else if (what < 88)
		change_some(used);
	else if (what < 94)
		burst();
	else if (what < 97)
		fill_block(used);
	else
		fork_child();
}

/* So that a test can see that a bad page is found. */
static void spoil(void)
{
	size_t b = find_block(true);

	if (b == nr_blocks || !blocks[b].ids[0] ||
	    !__atomic_exchange_n(&shared->spoil, 0, __ATOMIC_RELAXED))
		return;
	page_at(b, 0)[17] ^= 1;
	verify_block(b, "spoiled");
}

static size_t tide_goal(void)
{
	uint32_t percent = __atomic_load_n(&shared->tide, __ATOMIC_RELAXED);

	return nr_blocks * percent / 100;
}

static __attribute__((noreturn)) void work(const char *disk)
{
	size_t goal = nr_blocks;
	unsigned char *p = mmap(NULL, (nr_blocks + 1) * BLOCK_BYTES, PROT_NONE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	blocks = calloc(nr_blocks, sizeof(*blocks));
	if (!blocks || p == MAP_FAILED)
		fail("memory");
	arena = (unsigned char *)(((uintptr_t)p + BLOCK_BYTES - 1) & ~(BLOCK_BYTES - 1));
	open_files(disk);
	take_number();
	random_state = mix(seed) ^ mix(worker + 1);
	/* What was to be spoiled is, also by one that is told to end at once. */
	while (!__atomic_load_n(&shared->stop, __ATOMIC_RELAXED) ||
	       __atomic_load_n(&shared->spoil, __ATOMIC_RELAXED)) {
		/* Mostly with the tide. */
		if (next_random(8) == 0)
			goal = next_random(16) ? tide_goal() : next_random(nr_blocks + 1);
		one_step(goal);
		if (__atomic_load_n(&shared->spoil, __ATOMIC_RELAXED))
			spoil();
	}
	for (size_t b = 0; b < nr_blocks; b++)
		verify_block(b, "at the end");
	_exit(0);
}

static void start_reader(const char *image, unsigned long *processes)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (!pid)
		read_image(image);
	++*processes;
}

static int verify_image(const char *path)
{
	size_t pages;
	int fd = open_image(path, &pages);

	read_image_pages(fd, 0, pages);
	close(fd);
	printf("pages checked %llu, bad %llu\n", (unsigned long long)shared->totals[CHECKED],
	       (unsigned long long)shared->totals[BAD]);
	return shared->totals[BAD] ? 1 : 0;
}

static void print_totals(const char *head)
{
	fputs(head, stdout);
	for (int i = 0; i < TOTALS; i++)
		printf(" %s %llu", total_names[i],
		       (unsigned long long)__atomic_load_n(&shared->totals[i], __ATOMIC_RELAXED));
	printf(" tide %u\n", shared->tide);
	fflush(stdout);
}

static void turn_tide(void)
{
	if (!tide_is_told && next_random(5) < 3)
		shared->tide = shared->tide < 50 ? 100 : next_random(3) ? 0 : next_random(40);
	else if (shared->tide <
		 50) /* What is left lies scattered: only whole blocks are offered. */
		write_setting("/proc/sys/vm/compact_memory", "1");
}

/* Waits for workers that have ended; returns how many are left. */
static unsigned int reap(unsigned int left, bool wait)
{
	int status;

	while (left && waitpid(-1, &status, wait ? 0 : WNOHANG) > 0) {
		left--;
		if (status) {
			printf("error: a worker ended with status %#x\n", status);
			fflush(stdout);
			_exit(2);
		}
	}
	return left;
}

/* Waits so long for words: "spoil", "tide PERCENT", and whatever else is the end. */
static bool told_to_end(int msec)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };
	char text[64], *rest = text, *word;
	unsigned int percent;
	ssize_t n;

	if (poll(&input, 1, msec) <= 0)
		return false;
	n = read(0, text, sizeof(text) - 1);
	if (n <= 0)
		return true;
	text[n] = '\0';
	while ((word = strsep(&rest, "\n")) && *word) {
		if (sscanf(word, "tide %u", &percent) == 1 && percent <= 100) {
			shared->tide = percent;
			tide_is_told = true;
		} else if (strcmp(word, "spoil") == 0) {
			shared->spoil = 1;
		} else {
			return true;
		}
	}
	return false;
}

int main(int argc, char **argv)
{
	unsigned long mib = 64, workers = 2;
	uint64_t common_seed = 1;
	const char *disk = NULL, *image = NULL, *new_image = NULL, *verified = NULL;
	int opt;

	while ((opt = getopt(argc, argv, "s:S:g:m:w:d:c:i:I:v:")) != -1) {
		if (opt == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (opt == 'S')
			common_seed = strtoull(optarg, NULL, 0);
		else if (opt == 'g')
			guest = (unsigned int)strtoul(optarg, NULL, 0) & 0xff;
		else if (opt == 'm')
			mib = strtoul(optarg, NULL, 0);
		else if (opt == 'w')
			workers = strtoul(optarg, NULL, 0);
		else if (opt == 'd')
			disk = optarg;
		else if (opt == 'i')
			image = optarg;
		else if (opt == 'I')
			new_image = optarg;
		else if (opt == 'v')
			verified = optarg;
		else if (opt == 'c')
			common_percent = (unsigned int)strtoul(optarg, NULL, 0);
		else
			workers = 0;
	}
	nr_blocks = workers ? mib / 2 / workers : 0;
	if (optind != argc || workers > MAX_WORKERS || (nr_blocks < 8 && !new_image && !verified)) {
		fprintf(stderr, "usage: torture [-s SEED] [-S SHARED-SEED] [-g GUEST] [-m MIB] "
				"[-w WORKERS] [-d DISK] [-i IMAGE] [-c COMMON-PERCENT]\n"
				"       torture [-S SHARED-SEED] [-m MIB] -I NEW-IMAGE\n"
				"       torture [-S SHARED-SEED] -v IMAGE\n");
		return 2;
	}
	content_seed(seed, common_seed);
	if (new_image)
		return make_image(new_image, mib * 256);
	shared = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		fail("mmap");
	if (verified)
		return verify_image(verified);
	/* Guests of less than 512 MiB have no huge pages by themselves. */
	write_setting("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
	for (worker = 0; worker < workers; worker++) {
		pid_t pid = fork();

		if (pid < 0)
			fail("fork");
		if (!pid)
			work(disk);
	}
	if (image)
		start_reader(image, &workers);
	random_state = ~seed;
	while (!told_to_end(100 + (int)next_random(2000))) {
		turn_tide();
		print_totals("so far:");
		workers = reap((unsigned int)workers, false);
	}
	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELAXED);
	reap((unsigned int)workers, true);
	print_totals("total:");
	return shared->totals[BAD] ? 1 : 0;
}
