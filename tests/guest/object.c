// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * object - objects of /dev/ebb for the programs that check what it promises
 *
 * Owns:    nothing.
 * Thread:  any.
 * Locks:   none.
 * Never:   goes on after what it relies on has failed.
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "object.h"

int new_opener(void)
{
	int fd = open("/dev/ebb", O_RDWR);

	CHECK(fd >= 0);
	return fd;
}

unsigned char *map(int fd, size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	CHECK(at != MAP_FAILED);
	return at;
}

struct object create_as(size_t pages, uint32_t kind, uint32_t unit_pages, uint32_t flags)
{
	struct ebb_create args = {
		.bytes = pages * PAGE,
		.kind = kind,
		.unit = unit_pages ? EBB_UNIT_WHOLE : EBB_UNIT_PAGES,
		.unit_bytes = unit_pages * PAGE,
		.flags = flags,
	};
	struct object obj = { .fd = new_opener(), .bytes = pages * PAGE };

	CHECK(ioctl(obj.fd, EBB_IOC_CREATE, &args) == 0);
	obj.at = map(obj.fd, obj.bytes);
	return obj;
}

struct object create(size_t pages, uint32_t kind)
{
	return create_as(pages, kind, 0, 0);
}

int mark(int fd, uint64_t offset, uint64_t bytes)
{
	struct ebb_range args = { .offset = offset, .bytes = bytes };

	return ioctl(fd, EBB_IOC_VOLATILE, &args);
}

int purge(int fd, uint64_t offset, uint64_t bytes)
{
	struct ebb_range args = { .offset = offset, .bytes = bytes };

	return ioctl(fd, EBB_IOC_PURGE, &args);
}

int unmark(int fd, uint64_t offset, uint64_t bytes)
{
	struct ebb_nonvolatile args = { .offset = offset, .bytes = bytes };

	return ioctl(fd, EBB_IOC_NONVOLATILE, &args);
}

int unmark_which(int fd, uint64_t offset, uint64_t bytes, uint64_t *bitmap)
{
	struct ebb_nonvolatile args = {
		.offset = offset,
		.bytes = bytes,
		.bitmap = (uintptr_t)bitmap,
		.bitmap_bytes = 8,
	};

	return ioctl(fd, EBB_IOC_NONVOLATILE, &args);
}

struct ebb_query query(const struct object *obj)
{
	struct ebb_query args = { .offset = 0, .bytes = obj->bytes };

	CHECK(ioctl(obj->fd, EBB_IOC_QUERY, &args) == 0);
	return args;
}

void fill(struct object *obj, int seed)
{
	for (size_t page = 0; page < obj->bytes / PAGE; page++)
		memset(obj->at + page * PAGE, (int)(seed + page) | 1, PAGE);
}

bool is_filled(const struct object *obj, size_t page, int seed)
{
	unsigned char want[PAGE];

	memset(want, (int)(seed + page) | 1, PAGE);
	return !memcmp(obj->at + page * PAGE, want, PAGE);
}

bool is_zero(const struct object *obj, size_t page)
{
	static const unsigned char zeros[PAGE];

	return !memcmp(obj->at + page * PAGE, zeros, PAGE);
}

/* ---- SIGBUS ---- */

_Thread_local sigjmp_buf bus_return;
void *volatile bus_address;

static void on_bus(int number, siginfo_t *info, void *context)
{
	bus_address = info->si_addr;
	siglongjmp(bus_return, 1);
}

void catch_bus(void)
{
	struct sigaction action = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };

	CHECK(sigaction(SIGBUS, &action, NULL) == 0);
}

bool read_gets_bus(const unsigned char *at)
{
	if (sigsetjmp(bus_return, 1))
		return true;
	(void)*(const volatile unsigned char *)at;
	return false;
}

/* ---- checks with a name ---- */

static int run_all(const struct check *checks, size_t count)
{
	int status, failed = 0;
	pid_t child;

	for (size_t i = 0; i < count; i++) {
		fflush(stdout);
		child = fork();
		if (!child) {
			checks[i].run();
			fflush(stdout);
			_exit(0);
		}
		if (child < 0 || waitpid(child, &status, 0) != child)
			return 2;
		printf("%s %s", status ? "failed" : "ok", checks[i].name);
		if (WIFSIGNALED(status))
			printf(" by signal %d", WTERMSIG(status));
		printf("\n");
		failed += status != 0;
	}
	return failed != 0;
}

int run_checks(const struct check *checks, size_t count, const char *name)
{
	if (!strcmp(name, "all"))
		return run_all(checks, count);
	for (size_t i = 0; i < count; i++) {
		if (!strcmp(name, checks[i].name)) {
			checks[i].run();
			return 0;
		}
	}
	return -1;
}

void run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	CHECK(sched_setaffinity(0, sizeof(set), &set) == 0);
}

size_t kib_in(const char *path, const char *name)
{
	FILE *file = fopen(path, "r");
	char line[128];
	size_t kib = 0;

	CHECK(file);
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)))
			kib = strtoul(line + strlen(name), NULL, 10);
	fclose(file);
	return kib;
}
