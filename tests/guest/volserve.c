// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * volserve - one volatile object that does what it is told on stdin, a line for each command
 *
 * Owns:    the object, a pipe that holds a page of it when told to, the disk that DISK names.
 * Thread:  one, and one for direct I/O that is under way.
 * Locks:   none.
 * Never:   takes a page for whole without a look at all of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ebb.h"
#include "uring.h"

#define PAGE	   4096ul
#define EVENT_MSEC 100000

static int fd, pipes[2];
static unsigned char *memory;
static unsigned long pages;
static sigjmp_buf bus_return;

static void pattern(unsigned long page, unsigned char *at)
{
	for (size_t i = 0; i < PAGE; i++)
		at[i] = (unsigned char)(page + i % 251 + 1);
}

static bool is_whole(unsigned long page)
{
	unsigned char want[PAGE];

	pattern(page, want);
	return !memcmp(memory + page * PAGE, want, PAGE);
}

static void on_bus(int number)
{
	siglongjmp(bus_return, 1);
}

static int mark(unsigned long first, unsigned long count)
{
	struct ebb_range args = { .offset = first * PAGE, .bytes = count * PAGE };

	return ioctl(fd, EBB_IOC_VOLATILE, &args);
}

/* Prints how many pages were purged; what is said to be whole is looked at, the rest refilled. */
static int unmark(unsigned long first, unsigned long count)
{
	uint64_t *bitmap = calloc((count + 63) / 64, 8);
	struct ebb_nonvolatile args = {
		.offset = first * PAGE,
		.bytes = count * PAGE,
		.bitmap = (uintptr_t)bitmap,
		.bitmap_bytes = (count + 63) / 64 * 8,
	};
	static const unsigned char zeros[PAGE];
	unsigned long wrong = 0;

	if (!bitmap || ioctl(fd, EBB_IOC_NONVOLATILE, &args) < 0) {
		free(bitmap);
		return -1;
	}
	for (unsigned long i = 0; i < count; i++) {
		if (!(bitmap[i / 64] >> (i % 64) & 1)) {
			wrong += !is_whole(first + i);
			continue;
		}
		wrong += memcmp(memory + (first + i) * PAGE, zeros, PAGE) != 0;
		pattern(first + i, memory + (first + i) * PAGE);
	}
	free(bitmap);
	printf("%s purged %llu wrong %lu\n", wrong ? "error" : "ok",
	       (unsigned long long)args.purged_pages, wrong);
	return 0;
}

static int query(unsigned long first, unsigned long count)
{
	struct ebb_query args = { .offset = first * PAGE, .bytes = count * PAGE };

	if (ioctl(fd, EBB_IOC_QUERY, &args))
		return -1;
	printf("ok volatile %llu offered %llu purged %llu\n",
	       (unsigned long long)args.volatile_pages, (unsigned long long)args.offered_pages,
	       (unsigned long long)args.purged_pages);
	return 0;
}

static int touch(unsigned long page)
{
	if (sigsetjmp(bus_return, 1)) {
		printf("ok bus\n");
		return 0;
	}
	(void)*(volatile unsigned char *)(memory + page * PAGE);
	printf("ok %s\n", is_whole(page) ? "whole" : "other");
	return 0;
}

/* The pipe holds the page itself, not a copy. */
static int hold(unsigned long page)
{
	struct iovec io = { .iov_base = memory + page * PAGE, .iov_len = PAGE };

	if (vmsplice(pipes[1], &io, 1, 0) != (ssize_t)PAGE)
		return -1;
	printf("ok held\n");
	return 0;
}

static int let_go(unsigned long page)
{
	unsigned char got[PAGE], want[PAGE];

	pattern(page, want);
	if (read(pipes[0], got, PAGE) != (ssize_t)PAGE)
		return -1;
	printf("%s\n", memcmp(got, want, PAGE) ? "error the held page has changed" : "ok same");
	return 0;
}

/* ---- direct I/O of a page, from or to the same place on the disk ---- */

static struct {
	int disk;
	bool by_ring, out;
	unsigned long page;
	pthread_t thread;
	struct uring ring;
} io = { .disk = -1 };

static void *transfer(void *unused)
{
	unsigned char *at = memory + io.page * PAGE;
	off_t offset = (off_t)(io.page * PAGE);
	ssize_t got = io.out ? pwrite(io.disk, at, PAGE, offset) : pread(io.disk, at, PAGE, offset);

	return (void *)(got < 0 ? -errno : got);
}

static int start_io(bool by_ring, bool out, unsigned long page)
{
	int status;

	if (io.disk < 0) {
		io.disk = open(getenv("DISK") ?: "", O_RDWR | O_DIRECT);
		status = io.disk < 0 ? -errno : uring_open(&io.ring);
		if (status) {
			errno = -status;
			return -1;
		}
	}
	io.by_ring = by_ring;
	io.out = out;
	io.page = page;
	if (by_ring)
		status = uring_start(&io.ring, out ? IORING_OP_WRITE : IORING_OP_READ, io.disk,
				     memory + page * PAGE, PAGE, page * PAGE);
	else
		status = -pthread_create(&io.thread, NULL, transfer, NULL);
	errno = -status;
	if (!status)
		printf("ok\n");
	return status ? -1 : 0;
}

/* Memory and disk must hold the same then; the memory gets its pattern again. */
static int finish_io(void)
{
	unsigned char *check = aligned_alloc(PAGE, PAGE);
	void *result;
	bool same;

	if (io.by_ring)
		result = (void *)(intptr_t)uring_wait(&io.ring);
	else
		pthread_join(io.thread, &result);
	if (result != (void *)PAGE || !check ||
	    pread(io.disk, check, PAGE, (off_t)(io.page * PAGE)) != (ssize_t)PAGE) {
		printf("error the transfer has come to %ld\n", (long)(intptr_t)result);
		free(check);
		return 0;
	}
	same = !memcmp(check, memory + io.page * PAGE, PAGE);
	if (io.out)
		same = same && is_whole(io.page);
	pattern(io.page, memory + io.page * PAGE);
	printf("%s\n", same ? "ok same" : "error memory and disk differ");
	free(check);
	return 0;
}

static int event(void)
{
	struct pollfd look = { .fd = fd, .events = POLLIN };
	struct ebb_event got;

	errno = ETIMEDOUT;
	if (poll(&look, 1, EVENT_MSEC) != 1 || read(fd, &got, sizeof(got)) != sizeof(got))
		return -1;
	printf("ok event offset %llu bytes %llu\n", (unsigned long long)got.offset,
	       (unsigned long long)got.bytes);
	return 0;
}

static int obey(const char *line)
{
	unsigned long first = 0, count = pages;
	char word[16] = "";

	sscanf(line, "%15s %lu %lu", word, &first, &count);
	errno = EINVAL;
	if (!strcmp(word, "mark")) {
		if (mark(first, count))
			return -1;
		printf("ok\n");
		return 0;
	}
	if (!strcmp(word, "unmark"))
		return unmark(first, count);
	if (!strcmp(word, "query"))
		return query(first, count);
	if (!strcmp(word, "touch"))
		return touch(first);
	if (!strcmp(word, "hold"))
		return hold(first);
	if (!strcmp(word, "letgo"))
		return let_go(first);
	if (!strcmp(word, "event"))
		return event();
	if (!strcmp(word, "read") || !strcmp(word, "write"))
		return start_io(false, word[0] == 'w', first);
	if (!strcmp(word, "uread") || !strcmp(word, "uwrite"))
		return start_io(true, word[1] == 'w', first);
	if (!strcmp(word, "landed"))
		return finish_io();
	return -1;
}

int main(int argc, char **argv)
{
	struct ebb_create args = { .kind = EBB_KIND_OPTIMISTIC };
	struct sigaction action = { .sa_handler = on_bus };
	char line[128];

	if (argc < 2) {
		fprintf(stderr, "usage: volserve PAGES [UNIT_PAGES]\n");
		return 2;
	}
	pages = strtoul(argv[1], NULL, 0);
	args.bytes = pages * PAGE;
	if (argc > 2) {
		args.unit = EBB_UNIT_WHOLE;
		args.unit_bytes = strtoul(argv[2], NULL, 0) * PAGE;
	}
	fd = open("/dev/ebb", O_RDWR);
	if (fd < 0 || ioctl(fd, EBB_IOC_CREATE, &args) || pipe(pipes) ||
	    sigaction(SIGBUS, &action, NULL)) {
		perror("volserve");
		return 2;
	}
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return 2;
	for (unsigned long page = 0; page < pages; page++)
		pattern(page, memory + page * PAGE);
	while (fgets(line, sizeof(line), stdin) && strncmp(line, "quit", 4)) {
		if (obey(line))
			printf("error %s\n", strerror(errno));
		fflush(stdout);
	}
	return 0;
}
