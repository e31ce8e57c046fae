// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * volbench - what /dev/ebb costs a program, by the size of the range, beside plain memory
 *
 * usage: volbench sizes MIB REPEATS THREADS HUGE    all sizes from 4 KiB to MIB, by four
 *        volbench one MIB UNIT_MIB                  an object of which the host takes a little
 *        volbench cost MIB HUGE                     an object, once, by the processor's time
 *
 * "sizes" prints a line for each size, "bytes N NAME NSEC ...": medians. THREADS others fault on
 * memory of their own meanwhile, on the second processor. HUGE: plain memory is in huge pages.
 * "one" prints where a page in the middle lies, waits for a line, and says what was lost. "cost" is
 * for a guest whose clock counts instructions (QEMU's -icount): what all its tasks have run for is
 * what it took, without the host's part.
 *
 * Owns:    its mappings and its objects.
 * Thread:  main; the others only fault.
 * Locks:   none.
 * Never:   judges: a figure is for whoever reads it. What fails ends it.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "object.h"

#define MIB	    (1ul << 20)
#define MAX_REPEATS 100
#define NSEC	    1000000000ull
#define STILL_NSEC  (3 * NSEC) /* without progress for so long: there will be none */

static uint64_t now_nsec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NSEC + (uint64_t)now.tv_nsec;
}

/* What is measured of each size. */
enum figure {
	PLAIN_FREE,	/* MADV_FREE of plain memory that was touched */
	PLAIN_REUSE,	/* ... touched again */
	PLAIN_DONTNEED, /* MADV_DONTNEED of it */
	PLAIN_REFILL,	/* ... touched again */
	BARE_OFFER,	/* a word of each page saved and replaced, and MADV_FREE */
	BARE_BACK,	/* ... each put back by compare-and-swap */
	MARK,		/* EBB_IOC_VOLATILE */
	BACK_SOON,	/* EBB_IOC_NONVOLATILE before anything was unmapped */
	OFFER,		/* from the mark until the host has all of it, ageing (0) included */
	BACK,		/* EBB_IOC_NONVOLATILE of what the host has */
	BACK_TOUCH,	/* ... a touch of each page after that */
	PURGE,		/* EBB_IOC_PURGE */
	REFILL,		/* ... and EBB_IOC_NONVOLATILE and a touch of each page */
	NR_FIGURES
};

static const char *const names[NR_FIGURES] = {
	"plain_free", "plain_reuse", "plain_dontneed", "plain_refill", "bare_offer",
	"bare_back",  "mark",	     "back_soon",      "offer",	       "back",
	"back_touch", "purge",	     "refill",
};

static uint64_t taken[NR_FIGURES][MAX_REPEATS];
static int repeat;
static uint64_t started_nsec;

static void begin(void)
{
	started_nsec = now_nsec();
}

static void end(enum figure figure)
{
	taken[figure][repeat] = now_nsec() - started_nsec;
}

/*
 * Written, not read first: a read maps the zero page, which Linux 6.1 splits at the write where it
 * is a huge one, and whose replacement is told to all processors that run the program.
 */
static void touch(unsigned char *at, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += PAGE)
		((volatile unsigned char *)at)[i] = 1;
}

/* What is not measured is done while the other threads rest. */
static volatile bool resting;

static void touch_alone(unsigned char *at, size_t bytes)
{
	resting = true;
	touch(at, bytes);
	resting = false;
}

static void plain(size_t bytes, bool huge)
{
	size_t room = bytes + 2 * MIB;
	unsigned char *mapping =
		mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *at;
	uint64_t *saved = malloc(bytes / PAGE * sizeof(*saved));

	CHECK(mapping != MAP_FAILED && saved);
	at = (unsigned char *)(((uintptr_t)mapping + 2 * MIB - 1) & ~(2 * MIB - 1));
	madvise(at, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	touch_alone(at, bytes);
	CHECK(!huge || bytes < 2 * MIB ||
	      kib_in("/proc/self/smaps_rollup", "AnonHugePages:") >= bytes / 2 / 1024);
	memset(saved, 1, bytes / PAGE * sizeof(*saved));

	begin();
	CHECK(madvise(at, bytes, MADV_FREE) == 0);
	end(PLAIN_FREE);
	begin();
	touch(at, bytes);
	end(PLAIN_REUSE);
	begin();
	CHECK(madvise(at, bytes, MADV_DONTNEED) == 0);
	end(PLAIN_DONTNEED);
	begin();
	touch(at, bytes);
	end(PLAIN_REFILL);

	begin();
	for (size_t i = 0; i < bytes / PAGE; i++)
		saved[i] =
			__atomic_exchange_n((uint64_t *)(at + i * PAGE), i + 77, __ATOMIC_SEQ_CST);
	CHECK(madvise(at, bytes, MADV_FREE) == 0);
	end(BARE_OFFER);
	begin();
	for (size_t i = 0; i < bytes / PAGE; i++) {
		uint64_t cookie = i + 77;

		__atomic_compare_exchange_n((uint64_t *)(at + i * PAGE), &cookie, saved[i], false,
					    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
	end(BARE_BACK);
	munmap(mapping, room);
	free(saved);
}

/*
 * Until the host has all of it. What it does not take (parts of its huge pages) is never offered:
 * false, after a while without any progress.
 */
static bool wait_offered(const struct object *obj, size_t pages)
{
	uint64_t offered_pages = 0, progress_nsec = now_nsec();

	while (offered_pages < pages) {
		uint64_t seen_pages = query(obj).offered_pages, now = now_nsec();

		/* More than ever: what is refused is offered again, and refused again. */
		if (seen_pages > offered_pages) {
			offered_pages = seen_pages;
			progress_nsec = now;
		} else if (now - progress_nsec > STILL_NSEC) {
			return false;
		}
		/* Each look counts the object's pages: of a large one, not so often. */
		usleep((useconds_t)(200 + (now - started_nsec) / 1000 / 50));
	}
	return true;
}

static void object(size_t bytes)
{
	struct object obj = create(bytes / PAGE, EBB_KIND_EXPLICIT);

	touch_alone(obj.at, bytes);
	/* Who marks now and then has the caches of who does something else: the second of two. */
	for (int i = 0; i < 2; i++) {
		begin();
		CHECK(mark(obj.fd, 0, bytes) == 0);
		end(MARK);
		begin();
		CHECK(unmark(obj.fd, 0, bytes) == 0);
		end(BACK_SOON);
	}

	begin();
	CHECK(mark(obj.fd, 0, bytes) == 0);
	if (wait_offered(&obj, bytes / PAGE))
		end(OFFER);
	else
		taken[OFFER][repeat] = 0;
	begin();
	CHECK(unmark(obj.fd, 0, bytes) >= 0);
	end(BACK);
	begin();
	touch(obj.at, bytes);
	end(BACK_TOUCH);

	CHECK(mark(obj.fd, 0, bytes) == 0);
	begin();
	CHECK(purge(obj.fd, 0, bytes) == 0);
	end(PURGE);
	begin();
	CHECK(unmark(obj.fd, 0, bytes) >= 0);
	touch(obj.at, bytes);
	end(REFILL);
	munmap(obj.at, bytes);
	close(obj.fd);
}

/*
 * How long other tasks than this have run, on all processors: the seventh figure of each, and the
 * first of our own (Linux 2.6.20 and newer).
 */
static uint64_t others_nsec(void)
{
	unsigned long long nsec, sum = 0;
	char line[512];
	FILE *file;

	/* A processor's sum has what a task runs for when it stops running, so we do. */
	usleep(1000);
	file = fopen("/proc/schedstat", "r");
	CHECK(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "cpu%*u %*u %*u %*u %*u %*u %*u %llu", &nsec) == 1)
			sum += nsec;
	fclose(file);
	file = fopen("/proc/self/schedstat", "r");
	CHECK(file && fscanf(file, "%llu", &nsec) == 1);
	fclose(file);
	return sum - nsec;
}

static void cost(size_t bytes, bool huge)
{
	static const enum figure figures[] = { PLAIN_DONTNEED, BARE_OFFER, OFFER, BARE_BACK, BACK };
	struct object obj = create(bytes / PAGE, EBB_KIND_EXPLICIT);
	uint64_t before;

	touch(obj.at, bytes);
	before = others_nsec();
	CHECK(mark(obj.fd, 0, bytes) == 0);
	while (query(&obj).offered_pages < bytes / PAGE)
		usleep(10000);
	taken[OFFER][0] = others_nsec() - before;
	begin();
	CHECK(unmark(obj.fd, 0, bytes) >= 0);
	end(BACK);
	/* Last: what it frees is reported to the host, which would be in the figures above. */
	plain(bytes, huge);
	printf("pages %zu", bytes / PAGE);
	for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++)
		printf(" %s %llu", names[figures[i]], (unsigned long long)taken[figures[i]][0]);
	printf("\n");
}

/*
 * Faults on memory of its own, in the same address space. Given back by madvise(): mmap() and
 * munmap() would hold mmap_lock for writing, and everybody's faults wait for that.
 */
static void *fault_for_ever(void *unused)
{
	unsigned char *at =
		mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(at != MAP_FAILED);
	madvise(at, 2 * MIB, MADV_NOHUGEPAGE); /* a fault for each page */
	run_on(1);
	for (;;) {
		while (resting)
			usleep(100);
		touch(at, 2 * MIB);
		CHECK(madvise(at, 2 * MIB, MADV_DONTNEED) == 0);
	}
	return unused;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void sizes(size_t max_bytes, int repeats, int threads, bool huge)
{
	pthread_t thread;

	CHECK(repeats > 0 && repeats <= MAX_REPEATS);
	/* On a processor of their own the others cost us no time but for locks and interrupts. */
	if (threads)
		run_on(0);
	for (int i = 0; i < threads; i++)
		CHECK(pthread_create(&thread, NULL, fault_for_ever, NULL) == 0);
	for (size_t bytes = PAGE; bytes <= max_bytes; bytes *= 4) {
		for (repeat = 0; repeat < repeats; repeat++) {
			plain(bytes, huge);
			object(bytes);
		}
		printf("bytes %zu", bytes);
		for (int i = 0; i < NR_FIGURES; i++) {
			qsort(taken[i], (size_t)repeats, sizeof(taken[i][0]), by_size);
			printf(" %s %llu", names[i], (unsigned long long)taken[i][repeats / 2]);
		}
		printf("\n");
		fflush(stdout);
	}
}

static uint64_t gpa_of(const void *at)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry;

	CHECK(fd >= 0);
	CHECK(pread(fd, &entry, 8, (off_t)((uintptr_t)at / PAGE * 8)) == 8);
	close(fd);
	return (entry & ((1ull << 55) - 1)) * PAGE;
}

static void one(size_t bytes, size_t unit_bytes)
{
	struct object obj =
		create_as(bytes / PAGE, EBB_KIND_EXPLICIT, (uint32_t)(unit_bytes / PAGE), 0);
	static uint64_t bitmap[1 << 14];
	struct ebb_nonvolatile args = {
		.bytes = bytes,
		.bitmap = (uintptr_t)bitmap,
		.bitmap_bytes = bytes / PAGE / 8,
	};
	struct rusage before, after;
	char line[16];

	CHECK(bytes / PAGE / 8 <= sizeof(bitmap));
	touch(obj.at, bytes);
	printf("gpa %llu\n", (unsigned long long)gpa_of(obj.at + bytes / 2));
	CHECK(mark(obj.fd, 0, bytes) == 0);
	while (query(&obj).offered_pages < bytes / PAGE)
		usleep(1000);
	printf("offered\n");
	fflush(stdout);
	CHECK(fgets(line, sizeof(line), stdin));
	getrusage(RUSAGE_SELF, &before);
	begin();
	CHECK(ioctl(obj.fd, EBB_IOC_NONVOLATILE, &args) >= 0);
	for (size_t page = 0; page < bytes / PAGE; page++)
		if (bitmap[page / 64] >> (page % 64) & 1)
			memset(obj.at + page * PAGE, 7, PAGE);
	end(REFILL);
	getrusage(RUSAGE_SELF, &after);
	printf("purged_pages %llu faults %ld refill %llu\n", (unsigned long long)args.purged_pages,
	       after.ru_minflt - before.ru_minflt, (unsigned long long)taken[REFILL][0]);
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "sizes"))
		sizes((size_t)atoi(argv[2]) * MIB, atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
	else if (argc == 4 && !strcmp(argv[1], "one"))
		one((size_t)atoi(argv[2]) * MIB, (size_t)atoi(argv[3]) * MIB);
	else if (argc == 4 && !strcmp(argv[1], "cost"))
		cost((size_t)atoi(argv[2]) * MIB, atoi(argv[3]));
	else
		return 2;
	return 0;
}
