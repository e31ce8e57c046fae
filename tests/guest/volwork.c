// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * volwork - use volatile memory at random and check each answer against a model
 *
 * A model knows what each page of an object must hold: 512 words made from (seed, page,
 * generation), or zeros. Whole means bit-identical. A page that was purged is never seen again:
 * it gives SIGBUS (or, content-free, zeros) until it is made non-volatile, and zeros then. A page
 * that is not volatile is never purged. Every eighth generation begins with a word of zero, since
 * zero is also what tells a purged page.
 *
 * Owns:    an object for each process.
 * Thread:  one for each process (-p); they share nothing but the memory that they fight for.
 * Locks:   none.
 * Never:   stops at a wrong answer: it counts it. Exit status 1 if there was any.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ebb.h"
#include "random.h"

#define PAGE	  4096ul
#define WORDS	  (PAGE / 8)
#define MAX_RANGE 256u

struct page_model {
	uint32_t generation; /* 0: zeros */
	bool is_volatile;    /* may be purged */
	bool is_purged;	     /* we have seen that it is */
};

struct totals {
	uint64_t whole;	 /* pages that came back */
	uint64_t purged; /* pages that did not */
	uint64_t bad;
	uint64_t calls;
};

static struct page_model *model;
static uint64_t pages, seed = 1, random_state;
static uint32_t kind = EBB_KIND_OPTIMISTIC, next_generation;
static unsigned char *memory;
static int fd;
static struct totals total;
static const char *until; /* go on until there is such a file */
static sigjmp_buf bus_return;

static uint64_t random_below(uint64_t limit)
{
	return random_next(&random_state) % limit;
}

static void expected(uint64_t page, uint64_t *words)
{
	uint32_t generation = model[page].generation;
	uint64_t w = mix(seed ^ mix(page + 1)) ^ mix((uint64_t)generation << 32);

	if (!generation) {
		memset(words, 0, PAGE);
		return;
	}
	for (size_t i = 0; i < WORDS; i++) {
		w = w * 6364136223846793005ULL + 1442695040888963407ULL;
		words[i] = w;
	}
	if (generation % 8 == 0)
		words[0] = 0;
}

static void bad(uint64_t page, const char *what)
{
	const uint64_t *at = (const uint64_t *)(memory + page * PAGE);

	if (total.bad++ < 8)
		printf("bad page %llu: %s; generation %u%s%s; word 0 %016llx, word 1 %016llx\n",
		       (unsigned long long)page, what, model[page].generation,
		       model[page].is_volatile ? " volatile" : "",
		       model[page].is_purged ? " purged" : "", (unsigned long long)at[0],
		       (unsigned long long)at[1]);
}

static bool is_as_expected(uint64_t page)
{
	uint64_t want[WORDS];

	expected(page, want);
	return !memcmp(memory + page * PAGE, want, PAGE);
}

static void on_bus(int number)
{
	siglongjmp(bus_return, 1);
}

/* Touch a page: true if it was there. */
static bool touch(uint64_t page)
{
	if (sigsetjmp(bus_return, 1))
		return false;
	(void)*(volatile unsigned char *)(memory + page * PAGE + random_below(PAGE));
	return true;
}

static void write_page(uint64_t page)
{
	if (++next_generation == 0)
		next_generation = 1;
	model[page].generation = next_generation;
	expected(page, (uint64_t *)(memory + page * PAGE));
}

/* After a touch that went well: the content is settled, whatever comes. */
static void check_touched(uint64_t page)
{
	struct page_model *m = &model[page];

	if (kind == EBB_KIND_CONTENT_FREE && m->is_volatile && !is_as_expected(page)) {
		m->generation = 0;
		total.purged++;
	} else {
		total.whole += m->is_volatile;
	}
	/* From here on it is non-volatile, so it stays what it is. */
	if (kind == EBB_KIND_CONTENT_FREE)
		m->is_volatile = false;
	if (m->is_purged)
		bad(page, "a purged page was seen again");
	if (!is_as_expected(page))
		bad(page, "not what it must hold");
}

/*
 * A touch of an optimistic page ends its volatility only where it was unmapped already, so the
 * model goes on to take it for volatile: another touch, in the middle of a comparison, may then
 * meet SIGBUS.
 */
static void use_page(uint64_t page)
{
	struct page_model *m = &model[page];

	if (sigsetjmp(bus_return, 1)) {
		if (!m->is_volatile)
			bad(page, "SIGBUS on what is not volatile");
		m->is_purged = true;
		return;
	}
	if (!touch(page)) {
		if (!m->is_volatile || kind == EBB_KIND_CONTENT_FREE)
			bad(page, "SIGBUS on what is not volatile");
		m->is_purged = true;
		return;
	}
	/* touch() has set bus_return anew. */
	if (sigsetjmp(bus_return, 1)) {
		m->is_purged = true;
		return;
	}
	check_touched(page);
	if (random_below(2))
		write_page(page);
}

static void random_range(uint64_t *first, uint64_t *count)
{
	uint64_t limit = pages < MAX_RANGE ? pages : MAX_RANGE;

	*count = 1 + random_below(random_below(4) ? limit : pages);
	*first = random_below(pages - *count + 1);
}

static void mark(uint64_t first, uint64_t count)
{
	struct ebb_range args = { .offset = first * PAGE, .bytes = count * PAGE };

	total.calls++;
	if (ioctl(fd, EBB_IOC_VOLATILE, &args)) {
		bad(first, "VOLATILE failed");
		return;
	}
	for (uint64_t page = first; page < first + count; page++)
		model[page].is_volatile = true;
}

static void unmark(uint64_t first, uint64_t count, uint64_t *bitmap)
{
	struct ebb_nonvolatile args = {
		.offset = first * PAGE,
		.bytes = count * PAGE,
		.bitmap = (uintptr_t)bitmap,
		.bitmap_bytes = (count + 63) / 64 * 8,
	};
	int result = ioctl(fd, EBB_IOC_NONVOLATILE, &args);
	uint64_t purged = 0;

	total.calls++;
	if (result < 0) {
		bad(first, "NONVOLATILE failed");
		return;
	}
	for (uint64_t i = 0; i < count; i++) {
		struct page_model *m = &model[first + i];
		bool said = bitmap[i / 64] >> (i % 64) & 1;

		if (said && !m->is_volatile)
			bad(first + i, "said to be purged, was not volatile");
		if (m->is_purged && !said)
			bad(first + i, "purged, and said to be whole");
		if (said)
			m->generation = 0;
		total.purged += said;
		total.whole += m->is_volatile && !said;
		purged += said;
		m->is_purged = m->is_volatile = false;
		if (!is_as_expected(first + i))
			bad(first + i, said ? "purged, and not zeros" : "said to be whole, is not");
		if (said || !random_below(8))
			write_page(first + i);
	}
	if (args.purged_pages != purged || (result == 1) != (purged != 0))
		bad(first, "result, count and bitmap differ");
}

static void purge(uint64_t first, uint64_t count)
{
	struct ebb_range args = { .offset = first * PAGE, .bytes = count * PAGE };

	total.calls++;
	if (ioctl(fd, EBB_IOC_PURGE, &args))
		bad(first, "PURGE failed");
}

static void pause_usec(unsigned long usec)
{
	struct timespec t = { .tv_nsec = (long)usec * 1000 };

	nanosleep(&t, NULL);
}

static void step(uint64_t *bitmap)
{
	uint64_t first, count;

	random_range(&first, &count);
	switch (random_below(12)) {
	case 0 ... 4:
		mark(first, count);
		pause_usec(random_below(4000));
		break;
	case 5 ... 9:
		unmark(first, count, bitmap);
		break;
	case 10:
		for (uint64_t i = 0; i < count && i < 64; i++)
			use_page(first + i);
		break;
	case 11:
		if (!random_below(16))
			purge(first, count < 16 ? count : 16);
		break;
	}
}

static int run(uint64_t takebacks)
{
	struct ebb_create args = { .bytes = pages * PAGE, .kind = kind };
	uint64_t *bitmap = calloc((pages + 63) / 64, 8);
	struct sigaction action = { .sa_handler = on_bus };

	fd = open("/dev/ebb", O_RDWR);
	model = calloc(pages, sizeof(*model));
	if (fd < 0 || !model || !bitmap || ioctl(fd, EBB_IOC_CREATE, &args)) {
		printf("no object: %s\n", strerror(errno));
		return 2;
	}
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED || sigaction(SIGBUS, &action, NULL))
		return 2;
	for (uint64_t page = 0; page < pages; page++)
		write_page(page);
	while (total.whole + total.purged < takebacks || (until && access(until, F_OK)))
		step(bitmap);
	unmark(0, pages, bitmap);
	printf("takebacks %llu, whole %llu, purged %llu, calls %llu, bad %llu\n",
	       (unsigned long long)(total.whole + total.purged), (unsigned long long)total.whole,
	       (unsigned long long)total.purged, (unsigned long long)total.calls,
	       (unsigned long long)total.bad);
	return total.bad ? 1 : 0;
}

static uint32_t kind_of(const char *name)
{
	if (!strcmp(name, "explicit"))
		return EBB_KIND_EXPLICIT;
	return strcmp(name, "content-free") ? EBB_KIND_OPTIMISTIC : EBB_KIND_CONTENT_FREE;
}

int main(int argc, char **argv)
{
	unsigned long mib = 16, takebacks = 100000, processes = 1;
	int opt, status, worst = 0;

	while ((opt = getopt(argc, argv, "s:m:n:p:k:f:")) != -1) {
		switch (opt) {
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'm':
			mib = strtoul(optarg, NULL, 0);
			break;
		case 'n':
			takebacks = strtoul(optarg, NULL, 0);
			break;
		case 'p':
			processes = strtoul(optarg, NULL, 0);
			break;
		case 'f':
			until = optarg;
			break;
		case 'k':
			kind = kind_of(optarg);
			break;
		default:
			fprintf(stderr, "usage: volwork [-s SEED] [-m MIB] [-n TAKEBACKS] [-p "
					"PROCESSES] [-k explicit|optimistic|content-free] "
					"[-f FILE-THAT-ENDS-IT]\n");
			return 2;
		}
	}
	pages = mib << 8;
	for (unsigned long i = 0; i < processes; i++) {
		if (fork() == 0) {
			seed += i;
			random_state = seed;
			status = run(takebacks);
			fflush(stdout);
			_exit(status);
		}
	}
	while (wait(&status) > 0) {
		status = WIFEXITED(status) ? WEXITSTATUS(status) : 2;
		worst = status > worst ? status : worst;
	}
	return worst;
}
