// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * volfuzz - random calls of /dev/ebb, valid and not, each answer held against a model
 *
 * One object after the other, with one to three openers; what happens follows from the seed alone,
 * but where a host purges meanwhile (-h). Several processes (-p) do so side by side. The last line
 * of each is an account; the first wrong answer ends it, and says with which seed and at which
 * call.
 *
 * Owns:    its objects.
 * Thread:  one in each process.
 * Locks:   none.
 * Never:   goes on after a wrong answer.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ebb.h"
#include "volmodel.h"
#include "random.h"

#define PAGE	   4096ul
#define WORDS	   (PAGE / 8)
#define CALLS_EACH 300

static struct model model;
static struct opener {
	int fd; /* -1: closed, but perhaps still mapped */
	uint64_t *at;
} openers[MODEL_OPENERS];

static uint64_t seed, state, calls, errors, whole, purged, buses, last_sequence[MODEL_OPENERS];
static sigjmp_buf bus_return;

/* ---- chance ---- */

static uint64_t below(uint64_t limit)
{
	return random_next(&state) % limit;
}

static bool one_in(uint64_t n)
{
	return !below(n);
}

#define WRONG(...)                                                                          \
	do {                                                                                \
		printf("WRONG (seed %#llx, call %llu): ", (unsigned long long)seed,         \
		       (unsigned long long)calls);                                          \
		printf(__VA_ARGS__);                                                        \
		printf(" (errno %s; %zu pages, kind %u%s)\n", strerror(errno), model.pages, \
		       model.kind, model.global ? ", global" : "");                         \
		fflush(stdout);                                                             \
		_exit(1);                                                                   \
	} while (0)

/* A call that must fail in one way, or must not fail. */
static void expect(const char *what, int status, int number)
{
	if (number ? status != -1 || errno != number : status < 0)
		WRONG("%s gave %d, wanted %s", what, status, number ? strerror(number) : "success");
	errors += number != 0;
}

/* ---- ranges ---- */

struct range {
	uint64_t offset, bytes;
	bool valid;
	size_t outer_first, outer_count; /* pages that it touches */
	size_t inner_first, inner_count; /* pages that lie in it */
};

static uint64_t wild_number(void)
{
	return random_next(&state) >> below(64);
}

static struct range random_range(void)
{
	uint64_t size = model.pages * PAGE, end;
	struct range r;

	r.offset = below(model.pages) * PAGE;
	r.bytes = (1 + below(one_in(4) ? model.pages - r.offset / PAGE : 4)) * PAGE;
	if (one_in(4))
		r.offset += below(PAGE);
	if (one_in(4))
		r.bytes += below(PAGE);
	if (one_in(12))
		r.offset = one_in(2) ? -below(4 * PAGE) : wild_number();
	if (one_in(12))
		r.bytes = one_in(2) ? below(PAGE) : wild_number();
	r.valid = r.bytes >= PAGE && r.offset <= size && r.bytes <= size - r.offset;
	end = r.offset + r.bytes;
	r.outer_first = r.offset / PAGE;
	r.outer_count = (end + PAGE - 1) / PAGE - r.outer_first;
	r.inner_first = (r.offset + PAGE - 1) / PAGE;
	r.inner_count = end / PAGE > r.inner_first ? end / PAGE - r.inner_first : 0;
	return r;
}

static uint32_t mostly_zero(void)
{
	return one_in(30) ? 1u << below(32) : 0;
}

static size_t some_opener(void)
{
	size_t i;

	do {
		i = below(MODEL_OPENERS);
	} while (!model.has_say[i]);
	return i;
}

/* ---- pages ---- */

static void on_bus(int number)
{
	siglongjmp(bus_return, 1);
}

/* False: SIGBUS. */
static bool read_word(const volatile uint64_t *at, uint64_t *word)
{
	if (sigsetjmp(bus_return, 1))
		return false;
	*word = *at;
	return true;
}

static void touch(size_t i, size_t page, bool write)
{
	volatile uint64_t *at = openers[i].at + page * WORDS;
	uint64_t first = 0;
	bool bus = !read_word(at, &first); /* it decides; the rest of the page must be like it */

	buses += bus;
	if (!model_touch(&model, i, page, bus, first))
		WRONG("page %zu %s %#llx, the model has %#llx", page, bus ? "SIGBUS" : "reads",
		      (unsigned long long)first, (unsigned long long)model.stamp[page]);
	if (bus || model_volatile(&model, page) != NO)
		return; /* it may go under our eyes */
	for (size_t word = 1; word < WORDS; word++)
		if (at[word] != first)
			WRONG("page %zu word %zu is %#llx, the first is %#llx", page, word,
			      (unsigned long long)at[word], (unsigned long long)first);
	if (!write)
		return;
	first = random_next(&state) | 1;
	for (size_t word = 0; word < WORDS; word++)
		at[word] = first;
	model_wrote(&model, page, first);
}

static void check_pages(size_t i, size_t first, size_t count)
{
	for (size_t page = first; page < first + count; page++)
		if (model_volatile(&model, page) == NO)
			touch(i, page, false);
}

/* ---- calls ---- */

static void do_mark(size_t i)
{
	struct range r = random_range();
	struct ebb_range args = { r.offset, r.bytes, mostly_zero(), mostly_zero() };
	bool valid = r.valid && !args.flags && !args.reserved;

	expect("VOLATILE", ioctl(openers[i].fd, EBB_IOC_VOLATILE, &args), valid ? 0 : EINVAL);
	if (valid)
		model_mark(&model, i, r.inner_first, r.inner_count);
}

static void do_purge(size_t i)
{
	struct range r = random_range();
	struct ebb_range args = { r.offset, r.bytes, mostly_zero(), mostly_zero() };
	bool valid = r.valid && !args.flags && !args.reserved;

	expect("PURGE", ioctl(openers[i].fd, EBB_IOC_PURGE, &args), valid ? 0 : EINVAL);
	if (valid)
		model_purge(&model, r.inner_first, r.inner_count);
}

static void settle_unmark(size_t i, const struct range *r, const uint64_t *bitmap, int status,
			  uint64_t told)
{
	uint64_t seen = 0;

	for (size_t n = 0; n < r->outer_count; n++) {
		bool gone = bitmap[n / 64] >> (n % 64) & 1;

		seen += gone;
		if (!model_unmark(&model, i, r->outer_first + n, gone))
			WRONG("NONVOLATILE says that page %zu is %s", r->outer_first + n,
			      gone ? "purged" : "whole");
	}
	if (seen != told || status != (told != 0))
		WRONG("NONVOLATILE gave %d and %llu pages, its bitmap %llu", status,
		      (unsigned long long)told, (unsigned long long)seen);
	purged += seen;
	whole += r->outer_count - seen;
	check_pages(i, r->outer_first, r->outer_count);
}

static void do_unmark(size_t i)
{
	static uint64_t bitmap[MODEL_PAGES / 64 + 2];
	struct range r = random_range();
	struct ebb_nonvolatile args = {
		.offset = r.offset,
		.bytes = r.bytes,
		.bitmap = (uintptr_t)bitmap,
		.bitmap_bytes = sizeof(bitmap),
		.flags = mostly_zero(),
		.reserved = mostly_zero(),
	};
	bool valid = r.valid && !args.flags && !args.reserved;
	int status;

	if (one_in(20))
		args.bitmap_bytes = below(64);
	valid = valid && args.bitmap_bytes % 8 == 0 &&
		args.bitmap_bytes >= (r.outer_count + 63) / 64 * 8;
	memset(bitmap, 0xff, sizeof(bitmap));
	status = ioctl(openers[i].fd, EBB_IOC_NONVOLATILE, &args);
	expect("NONVOLATILE", status, valid ? 0 : EINVAL);
	if (valid)
		settle_unmark(i, &r, bitmap, status, args.purged_pages);
}

static void do_query(size_t i)
{
	struct range r = random_range();
	struct ebb_query args = {
		.offset = r.offset,
		.bytes = r.bytes,
		.volatile_pages = random_next(&state),
		.flags = mostly_zero(),
		.reserved = mostly_zero(),
	};
	bool valid = r.valid && !args.flags && !args.reserved;

	expect("QUERY", ioctl(openers[i].fd, EBB_IOC_QUERY, &args), valid ? 0 : EINVAL);
	if (!valid)
		return;
	if (args.object_bytes != model.pages * PAGE || args.kind != model.kind ||
	    args.object_flags != (model.global ? EBB_CREATE_F_GLOBAL : 0) ||
	    !model_query(&model, i, r.outer_first, r.outer_count, args.volatile_pages,
			 args.purged_pages))
		WRONG("QUERY of %zu pages from %zu: %llu volatile, %llu purged", r.outer_count,
		      r.outer_first, (unsigned long long)args.volatile_pages,
		      (unsigned long long)args.purged_pages);
}

static void do_events(size_t i)
{
	struct ebb_event events[3];
	ssize_t got =
		read(openers[i].fd, events, one_in(4) ? below(sizeof(events)) : sizeof(events));

	if (got < 0) {
		if (errno != EAGAIN && errno != EINVAL)
			WRONG("read of events");
		return;
	}
	for (size_t n = 0; n < got / sizeof(events[0]); n++) {
		struct ebb_event *e = &events[n];

		if (e->sequence <= last_sequence[i] || e->offset % PAGE || !e->bytes ||
		    e->bytes % PAGE || e->offset + e->bytes > model.pages * PAGE)
			WRONG("event %llu: offset %#llx, %#llx bytes",
			      (unsigned long long)e->sequence, (unsigned long long)e->offset,
			      (unsigned long long)e->bytes);
		last_sequence[i] = e->sequence;
	}
}

static void do_advise(size_t i)
{
	static const int advice[] = { MADV_DONTNEED, MADV_COLD, MADV_PAGEOUT, MADV_RANDOM };
	size_t first = below(model.pages), count = 1 + below(model.pages - first);

	expect("madvise", madvise(openers[i].at + first * WORDS, count * PAGE, advice[below(4)]),
	       0);
}

static void do_nonsense(size_t i)
{
	unsigned int number = _IOC(below(4), 'E', below(256), below(1 << 14));
	struct ebb_create create = { .bytes = PAGE };
	void *at;

	switch (below(4)) {
	case 0: /* none of these numbers is one of ours */
		if (_IOC_NR(number) < 0xb0 || _IOC_NR(number) > 0xb5)
			expect("ioctl", ioctl(openers[i].fd, number, &create), ENOTTY);
		break;
	case 1:
		expect("CREATE", ioctl(openers[i].fd, EBB_IOC_CREATE, &create), EBUSY);
		break;
	case 2:
		expect("QUERY", ioctl(openers[i].fd, EBB_IOC_QUERY, wild_number() % PAGE), EFAULT);
		break;
	case 3:
		at = mmap(NULL, (model.pages + 1) * PAGE, PROT_READ, MAP_SHARED, openers[i].fd, 0);
		expect("mmap", at == MAP_FAILED ? -1 : 0, EINVAL);
		break;
	}
}

/* ---- objects and openers ---- */

static void open_one(size_t i)
{
	openers[i].fd = open("/dev/ebb", O_RDWR | O_NONBLOCK);
	if (openers[i].fd < 0)
		WRONG("open");
	last_sequence[i] = 0;
}

static void map_one(size_t i)
{
	openers[i].at = mmap(NULL, model.pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
			     openers[i].fd, 0);
	if (openers[i].at == MAP_FAILED)
		WRONG("mmap");
}

static void do_join(size_t i, size_t other)
{
	struct ebb_join args = { .fd = openers[other].fd, .flags = mostly_zero() };

	if (model.has_say[i])
		return;
	open_one(i);
	expect("JOIN", ioctl(openers[i].fd, EBB_IOC_JOIN, &args), args.flags ? EINVAL : 0);
	if (args.flags) {
		close(openers[i].fd);
		return;
	}
	model_join(&model, i);
	map_one(i);
}

/* The first one stays: the others are joined to it. */
static void do_leave(size_t i)
{
	if (!i)
		return;
	munmap(openers[i].at, model.pages * PAGE);
	close(openers[i].fd);
	model_leave(&model, i);
}

static void new_object(bool host)
{
	struct ebb_create args = {
		.kind = (uint32_t)below(3),
		.flags = one_in(3) ? EBB_CREATE_F_GLOBAL : 0,
		.reserved = { mostly_zero(), mostly_zero(), mostly_zero() },
	};
	size_t pages = 1 + below(40);
	bool valid;

	/* A purge passes over huge content-free memory of which something was touched. */
	if (args.kind != EBB_KIND_CONTENT_FREE && one_in(4))
		pages = 500 + below(MODEL_PAGES - 500);
	args.bytes = pages * PAGE - (one_in(4) ? below(PAGE) : 0);
	if (one_in(3)) {
		args.unit = EBB_UNIT_WHOLE;
		args.unit_bytes = (1 + below(8)) * PAGE - (one_in(20) ? below(PAGE) : 0);
	}
	if (one_in(30))
		args.kind += wild_number();
	valid = args.kind <= EBB_KIND_CONTENT_FREE && args.unit_bytes % PAGE == 0 &&
		!args.reserved[0] && !args.reserved[1] && !args.reserved[2];
	open_one(0);
	expect("CREATE", ioctl(openers[0].fd, EBB_IOC_CREATE, &args), valid ? 0 : EINVAL);
	if (!valid) {
		args = (struct ebb_create){ .bytes = pages * PAGE };
		expect("CREATE", ioctl(openers[0].fd, EBB_IOC_CREATE, &args), 0);
	}
	model_init(&model, args.kind, args.flags & EBB_CREATE_F_GLOBAL, host, pages);
	map_one(0);
	for (size_t page = 0; page < pages; page++)
		touch(0, page, !one_in(8));
}

static void one_call(void)
{
	size_t i = some_opener();

	calls++;
	/* Time for the background to arm what is marked. */
	if (model.host && one_in(30))
		usleep(10000);
	switch (below(16)) {
	case 0 ... 3:
		do_mark(i);
		break;
	case 4 ... 5:
		do_unmark(i);
		break;
	case 6 ... 7:
		do_purge(i);
		break;
	case 8:
		do_query(i);
		break;
	case 9:
		do_events(i);
		break;
	case 10:
		do_advise(i);
		break;
	case 11:
		do_nonsense(i);
		break;
	case 12:
		if (one_in(2))
			do_join(below(MODEL_OPENERS), i);
		else if (one_in(2))
			do_leave(i);
		break;
	case 13 ... 15:
		touch(i, below(model.pages), one_in(2));
		break;
	}
}

static int run(unsigned long seconds, bool host)
{
	time_t end = time(NULL) + (time_t)seconds;
	uint64_t objects = 0;

	do {
		new_object(host);
		for (size_t n = 0; n < CALLS_EACH; n++)
			one_call();
		for (size_t i = MODEL_OPENERS; i-- > 0;) {
			if (!model.has_say[i])
				continue;
			munmap(openers[i].at, model.pages * PAGE);
			close(openers[i].fd);
		}
		objects++;
	} while (time(NULL) < end);
	printf("objects %llu, calls %llu, refused %llu, whole %llu, purged %llu, SIGBUS %llu\n",
	       (unsigned long long)objects, (unsigned long long)calls, (unsigned long long)errors,
	       (unsigned long long)whole, (unsigned long long)purged, (unsigned long long)buses);
	return 0;
}

static int run_side_by_side(unsigned long processes, unsigned long seconds, bool host)
{
	int status, failed = 0;

	for (unsigned long n = 0; n < processes; n++) {
		fflush(stdout);
		if (!fork()) {
			seed += n;
			state = seed;
			status = run(seconds, host);
			fflush(stdout);
			_exit(status);
		}
	}
	while (wait(&status) > 0)
		failed |= status != 0;
	return failed;
}

int main(int argc, char **argv)
{
	unsigned long seconds = 5, processes = 1;
	struct sigaction action = { .sa_handler = on_bus };
	bool host = false;
	int option;

	while ((option = getopt(argc, argv, "s:t:p:h")) != -1) {
		if (option == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (option == 't')
			seconds = strtoul(optarg, NULL, 0);
		else if (option == 'p')
			processes = strtoul(optarg, NULL, 0);
		else if (option == 'h')
			host = true;
		else
			goto usage;
	}
	if (optind != argc || !processes || sigaction(SIGBUS, &action, NULL))
		goto usage;
	return run_side_by_side(processes, seconds, host);

usage:
	fprintf(stderr, "usage: volfuzz [-h] [-s SEED] [-t SECONDS] [-p PROCESSES]\n");
	return 2;
}
