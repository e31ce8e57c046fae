// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * libcheck - what libebb promises, checked one by one
 *
 * "libcheck device" where there is /dev/ebb, "libcheck plain" where there is none.
 *
 * Owns:    its memory.
 * Thread:  one, but where a check says otherwise.
 * Locks:   none.
 * Never:   goes on after what it relies on has failed.
 */
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"
#include "libebb.h"

#define PAGE 4096ul

static bool has_device;

static unsigned char *alloc_kind(size_t pages, uint32_t kind)
{
	struct ebb_options options = { .kind = kind };
	unsigned char *at = ebb_alloc(pages * PAGE, &options);

	CHECK(at);
	return at;
}

static void fill(unsigned char *at, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		memset(at + i * PAGE, (int)(i * 7 + 3) | 1, PAGE);
}

static bool is_filled(const unsigned char *at, size_t page)
{
	unsigned char want[PAGE];

	memset(want, (int)(page * 7 + 3) | 1, PAGE);
	return !memcmp(at + page * PAGE, want, PAGE);
}

static bool is_zero(const unsigned char *at, size_t page)
{
	static const unsigned char zeros[PAGE];

	return !memcmp(at + page * PAGE, zeros, PAGE);
}

static void check_alloc(void)
{
	struct ebb_options bad_kind = { .kind = 7 }, bad_flags = { .flags = 0x80 };
	struct ebb_options bad_unit = { .unit_bytes = 100 }, bad_alignment = { .alignment = 3 };
	struct ebb_options device = { .flags = EBB_ALLOC_DEVICE };
	struct ebb_options aligned = { .alignment = 16 << 20 };
	unsigned char *at;

	errno = 0;
	CHECK(!ebb_alloc(0, NULL) && errno == EINVAL);
	CHECK(!ebb_alloc(SIZE_MAX, NULL) && errno == EINVAL);
	CHECK(!ebb_alloc(PAGE, &bad_kind) && errno == EINVAL);
	CHECK(!ebb_alloc(PAGE, &bad_flags) && errno == EINVAL);
	CHECK(!ebb_alloc(PAGE, &bad_unit) && errno == EINVAL);
	CHECK(!ebb_alloc(PAGE, &bad_alignment) && errno == EINVAL);

	CHECK(ebb_available() == has_device);
	at = ebb_alloc(PAGE, &device);
	CHECK(has_device ? at != NULL : !at && errno == ENODEV);
	if (at)
		CHECK(ebb_free(at) == 0);

	at = ebb_alloc(100, NULL);
	CHECK(at && (uintptr_t)at % PAGE == 0 && is_zero(at, 0));
	CHECK(ebb_is_purgeable(at) == has_device);
	CHECK_ERRNO(ebb_free(at + 1), EINVAL);
	CHECK(ebb_free(at) == 0);
	CHECK_ERRNO(ebb_free(at), EINVAL);
	CHECK_ERRNO(ebb_is_purgeable(at), EINVAL);

	at = ebb_alloc(4 << 20, NULL);
	CHECK(at && (uintptr_t)at % (2 << 20) == 0);
	CHECK(ebb_free(at) == 0);
	at = ebb_alloc(3 * PAGE, &aligned);
	CHECK(at && (uintptr_t)at % (16 << 20) == 0);
	CHECK(ebb_free(at) == 0);
}

static void check_unit(void)
{
	struct ebb_options options = { .unit_bytes = 4 * PAGE, .kind = EBB_KIND_OPTIMISTIC };
	unsigned char *at = ebb_alloc(16 * PAGE, &options);
	struct ebb_query query = { .bytes = PAGE };
	uint64_t offset;

	CHECK(at);
	if (!has_device) {
		CHECK_ERRNO(ebb_fd(at, NULL), ENODEV);
	} else {
		CHECK(ioctl(ebb_fd(at + 5 * PAGE + 7, &offset), EBB_IOC_QUERY, &query) == 0);
		CHECK(offset == 5 * PAGE + 7 && query.unit_bytes == 4 * PAGE);
		CHECK(query.kind == EBB_KIND_OPTIMISTIC && query.object_bytes == 16 * PAGE);
	}
	CHECK(ebb_free(at) == 0);
}

static uint64_t volatile_pages(const unsigned char *at, size_t pages)
{
	struct ebb_query query = { .bytes = pages * PAGE };

	if (!has_device)
		return 0;
	CHECK(ioctl(ebb_fd(at, NULL), EBB_IOC_QUERY, &query) == 0);
	return query.volatile_pages;
}

/* VOLATILE is rounded inward, NONVOLATILE outward, whatever the address. */
static void check_rounding(void)
{
	unsigned char *at = alloc_kind(16, EBB_KIND_EXPLICIT);
	const size_t one = has_device ? 1 : 0;

	fill(at, 16);
	CHECK(ebb_volatile(at + 1, PAGE) == 0 && volatile_pages(at, 16) == 0);
	CHECK(ebb_volatile(at + 1, 2 * PAGE) == 0 && volatile_pages(at, 16) == one);
	CHECK(ebb_volatile(at, 0) == 0 && ebb_nonvolatile(at, 0) == 0);
	CHECK(volatile_pages(at, 16) == one);
	CHECK(ebb_nonvolatile(at + 2 * PAGE - 1, 2) == 0 && volatile_pages(at, 16) == 0);
	CHECK(ebb_volatile(at, 16 * PAGE) == 0 && volatile_pages(at, 16) == 16 * one);
	CHECK(ebb_nonvolatile(at + 5 * PAGE + 9, 1) == 0 && volatile_pages(at, 16) == 15 * one);
	CHECK_ERRNO(ebb_volatile(at, 16 * PAGE + 1), EINVAL);
	CHECK_ERRNO(ebb_nonvolatile(at + 15 * PAGE, 2 * PAGE), EINVAL);
	CHECK_ERRNO(ebb_volatile(&has_device, PAGE), EINVAL);
	CHECK(ebb_free(at) == 0);
}

static void check_answers(void)
{
	unsigned char *at = alloc_kind(130, EBB_KIND_EXPLICIT);
	uint64_t bitmap[3] = { ~0ull, ~0ull, ~0ull };
	const int gone = has_device;

	fill(at, 130);
	CHECK(ebb_purge(at, 130 * PAGE) == 0);
	CHECK(ebb_nonvolatile(at, 130 * PAGE) == 0 && is_filled(at, 0));
	CHECK(ebb_volatile(at, 130 * PAGE) == 0);
	CHECK(ebb_purge(at + 64 * PAGE, PAGE) == 0 && ebb_purge(at + 129 * PAGE, PAGE) == 0);
	CHECK_ERRNO(ebb_nonvolatile_pages(at, 130 * PAGE, bitmap, 16), EINVAL);
	CHECK_ERRNO(ebb_nonvolatile_pages(at, 130 * PAGE, bitmap, 20), EINVAL);
	CHECK(ebb_nonvolatile_pages(at, 130 * PAGE, bitmap, sizeof(bitmap)) == gone);
	CHECK(bitmap[0] == 0 && bitmap[1] == (uint64_t)gone && bitmap[2] == (uint64_t)gone * 2);
	for (size_t i = 0; i < 130; i++)
		CHECK(gone && (i == 64 || i == 129) ? is_zero(at, i) : is_filled(at, i));
	CHECK(ebb_nonvolatile(at, 130 * PAGE) == 0);
	CHECK(ebb_free(at) == 0);
}

static void check_madvise(void)
{
	unsigned char *at = alloc_kind(8, EBB_KIND_EXPLICIT);

	fill(at, 8);
	CHECK_ERRNO(ebb_madvise(at + 1, PAGE, EBB_MADV_VOLATILE), EINVAL);
	CHECK_ERRNO(ebb_madvise(at, PAGE, MADV_FREE), EINVAL);
	CHECK_ERRNO(ebb_madvise(at, 9 * PAGE, EBB_MADV_VOLATILE), EINVAL);
	CHECK(ebb_madvise(at, 7 * PAGE + 1, EBB_MADV_VOLATILE) == 0);
	CHECK(volatile_pages(at, 8) == (has_device ? 8 : 0));
	CHECK(ebb_madvise(at, 4 * PAGE, EBB_MADV_NONVOLATILE) == 0);
	CHECK(ebb_purge(at, 8 * PAGE) == 0);
	if (has_device)
		CHECK_ERRNO(ebb_madvise(at, 8 * PAGE, EBB_MADV_NONVOLATILE), ENOMEM);
	CHECK(ebb_madvise(at, 8 * PAGE, EBB_MADV_NONVOLATILE) == 0);
	CHECK(is_filled(at, 3) && (has_device ? is_zero(at, 4) : is_filled(at, 4)));
	CHECK(ebb_free(at) == 0);
}

static unsigned char *bus_at;
static volatile int bus_seen;

/* What is touched while it is gone is made again in the handler. */
static void on_bus(int number, siginfo_t *info, void *context)
{
	unsigned char *page = (unsigned char *)((uintptr_t)info->si_addr & ~(PAGE - 1));

	if (ebb_nonvolatile(page, 1) != 1)
		_exit(3);
	memset(page, (int)((size_t)(page - bus_at) / PAGE * 7 + 3) | 1, PAGE);
	bus_seen++;
}

static void check_kinds(void)
{
	struct sigaction action = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };
	unsigned char *at = alloc_kind(8, EBB_KIND_OPTIMISTIC);

	CHECK(sigaction(SIGBUS, &action, NULL) == 0);
	bus_at = at;
	fill(at, 8);
	CHECK(ebb_volatile(at, 8 * PAGE) == 0 && ebb_purge(at, 5 * PAGE) == 0);
	for (size_t i = 0; i < 8; i++)
		CHECK(is_filled(at, i));
	CHECK(bus_seen == (has_device ? 5 : 0));
	CHECK(ebb_free(at) == 0);

	at = alloc_kind(8, EBB_KIND_CONTENT_FREE);
	fill(at, 8);
	CHECK(ebb_volatile(at, 8 * PAGE) == 0 && ebb_purge(at, 5 * PAGE) == 0);
	for (size_t i = 0; i < 8; i++)
		CHECK(has_device && i < 5 ? is_zero(at, i) : is_filled(at, i));
	CHECK(ebb_free(at) == 0);
}

/* Each touch of content-free memory is seen, also beside a page that is in use, and so mapped. */
static void check_touch_beside(void)
{
	const size_t pages = (4 << 20) / PAGE;
	unsigned char *at = alloc_kind(pages, EBB_KIND_CONTENT_FREE);

	fill(at, pages);
	for (size_t touched = 0; touched < pages; touched += 64) {
		CHECK(ebb_volatile(at, pages * PAGE) == 0);
		CHECK(is_filled(at, touched));
		CHECK(volatile_pages(at, pages) == (has_device ? pages - 1 : 0));
		CHECK(is_filled(at, touched + 5));
		memset(at + (touched + 7) * PAGE, (int)((touched + 7) * 7 + 3) | 1, PAGE);
		CHECK(volatile_pages(at, pages) == (has_device ? pages - 3 : 0));
	}
	CHECK(ebb_free(at) == 0);
}

/* More objects than a table has slots; what is freed is used again. */
static void check_many(void)
{
	unsigned char *at[200];

	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < 200; i++) {
			at[i] = alloc_kind(1 + i % 3, EBB_KIND_EXPLICIT);
			at[i][0] = (unsigned char)i;
			CHECK(ebb_volatile(at[i], PAGE) == 0);
		}
		for (size_t i = 0; i < 200; i += 3)
			CHECK(ebb_purge(at[i], PAGE) == 0);
		for (size_t i = 0; i < 200; i++) {
			CHECK(ebb_nonvolatile(at[i], PAGE) == (has_device && i % 3 == 0));
			CHECK(at[i][0] == (has_device && i % 3 == 0 ? 0 : i));
			CHECK(ebb_free(at[i]) == 0);
		}
	}
}

static void *thread(void *unused)
{
	unsigned char *at, *other;

	for (int i = 0; i < 200; i++) {
		at = alloc_kind(2, EBB_KIND_EXPLICIT);
		other = alloc_kind(1, EBB_KIND_EXPLICIT);
		fill(at, 2);
		CHECK(ebb_volatile(at, 2 * PAGE) == 0 && ebb_purge(at + PAGE, PAGE) == 0);
		CHECK(ebb_free(other) == 0);
		CHECK(ebb_nonvolatile(at, PAGE) == 0 && is_filled(at, 0));
		CHECK(ebb_nonvolatile(at + PAGE, PAGE) == has_device);
		CHECK(ebb_free(at) == 0);
	}
	return NULL;
}

/* Four threads and their forks: no answer is that of another's memory. */
static void check_threads(void)
{
	pthread_t threads[4];
	int status;

	for (int i = 0; i < 4; i++)
		CHECK(pthread_create(&threads[i], NULL, thread, NULL) == 0);
	for (int i = 0; i < 8; i++) {
		pid_t pid = fork();

		if (!pid) {
			unsigned char *at = alloc_kind(2, EBB_KIND_EXPLICIT);

			_exit(ebb_volatile(at, PAGE) || ebb_nonvolatile(at, PAGE));
		}
		CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	}
	for (int i = 0; i < 4; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

static void check_region(void)
{
	const int gone = has_device ? EBB_REGION_WAS_PURGED : EBB_REGION_NOT_PURGED;
	const int unpinned = has_device ? EBB_REGION_IS_UNPINNED : EBB_REGION_IS_PINNED;
	int fd = ebb_region_create("pins", 7 * PAGE + 1), pipes[2], status;
	struct ebb_range all = { .bytes = 8 * PAGE };
	unsigned char *at;
	pid_t pid;

	CHECK(fd >= 0 && ebb_region_size(fd) == 8 * (int64_t)PAGE);
	at = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(at != MAP_FAILED);
	fill(at, 8);
	CHECK(ebb_region_pin_status(fd, 0, 0) == EBB_REGION_IS_PINNED);
	CHECK_ERRNO(ebb_region_unpin(fd, 1, PAGE), EINVAL);
	CHECK_ERRNO(ebb_region_unpin(fd, 0, 9 * PAGE), EINVAL);
	CHECK_ERRNO(ebb_region_pin(fd, 8 * PAGE, 0), EINVAL);
	CHECK_ERRNO(ebb_region_pin(-1, 0, 0), EBADF);
	CHECK(pipe(pipes) == 0);
	CHECK_ERRNO(ebb_region_pin(pipes[0], 0, 0), EINVAL);

	/* Pins are the region's, so a child's unpin is seen here. */
	pid = fork();
	if (!pid)
		_exit(ebb_region_unpin(fd, 2 * PAGE, 0));
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(ebb_region_pin_status(fd, 0, 2 * PAGE) == EBB_REGION_IS_PINNED);
	CHECK(ebb_region_pin_status(fd, PAGE, 2 * PAGE) == unpinned);
	CHECK(ebb_region_pin_status(fd, 0, 0) == unpinned);
	CHECK(ebb_region_pin(fd, 2 * PAGE, PAGE) == EBB_REGION_NOT_PURGED);
	if (has_device)
		CHECK(ioctl(fd, EBB_IOC_PURGE, &all) == 0);
	CHECK(is_filled(at, 0) && is_filled(at, 2));
	CHECK(ebb_region_pin_status(fd, 3 * PAGE, PAGE) == unpinned);
	CHECK(ebb_region_pin(fd, 2 * PAGE, 2 * PAGE) == gone);
	CHECK(ebb_region_pin(fd, 2 * PAGE, 2 * PAGE) == EBB_REGION_NOT_PURGED);
	CHECK(has_device ? is_zero(at, 3) : is_filled(at, 3));
	CHECK(ebb_region_pin(fd, 0, 0) == gone);
	CHECK(ebb_region_pin_status(fd, 0, 0) == EBB_REGION_IS_PINNED);
}

static const struct {
	const char *name;
	void (*run)(void);
} checks[] = {
	{ "alloc", check_alloc },
	{ "unit", check_unit },
	{ "rounding", check_rounding },
	{ "answers", check_answers },
	{ "madvise", check_madvise },
	{ "kinds", check_kinds },
	{ "touch beside", check_touch_beside },
	{ "many", check_many },
	{ "threads", check_threads },
	{ "region", check_region },
};

int main(int argc, char **argv)
{
	int status, failed = 0;

	if (argc != 2 || (strcmp(argv[1], "device") && strcmp(argv[1], "plain"))) {
		fprintf(stderr, "usage: libcheck device|plain\n");
		return 2;
	}
	has_device = !strcmp(argv[1], "device");
	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		printf("%s\n", checks[i].name);
		fflush(stdout);
		if (!fork()) {
			checks[i].run();
			_exit(0);
		}
		if (wait(&status) < 0 || status) {
			printf("FAILED %s: status %#x\n", checks[i].name, status);
			failed = 1;
		}
	}
	return failed;
}
