/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * object.h - objects of /dev/ebb for the programs that check what it promises
 *
 * What fails here ends the program: a check relies on it.
 */
#ifndef EBB_TEST_OBJECT_H
#define EBB_TEST_OBJECT_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "ebb.h"

#define PAGE 4096ul

struct object {
	int fd;
	unsigned char *at;
	size_t bytes;
};

int new_opener(void);
unsigned char *map(int fd, size_t bytes);
struct object create_as(size_t pages, uint32_t kind, uint32_t unit_pages, uint32_t flags);
struct object create(size_t pages, uint32_t kind);

/* The calls: what ioctl() returns. */
int mark(int fd, uint64_t offset, uint64_t bytes);
int purge(int fd, uint64_t offset, uint64_t bytes);
int unmark(int fd, uint64_t offset, uint64_t bytes);
int unmark_which(int fd, uint64_t offset, uint64_t bytes, uint64_t *bitmap); /* of 64 pages */
struct ebb_query query(const struct object *obj);

/* This thread, on that processor alone. */
void run_on(int cpu);

/* A figure of /proc/meminfo or a file like it; name ends in a colon. 0: there is none. */
size_t kib_in(const char *path, const char *name);

/* The content of a page follows from a seed and its number, and is never zero. */
void fill(struct object *obj, int seed);
bool is_filled(const struct object *obj, size_t page, int seed);
bool is_zero(const struct object *obj, size_t page);

/* After catch_bus() SIGBUS returns to the sigsetjmp(bus_return, 1) of this thread. */
extern _Thread_local sigjmp_buf bus_return;
extern void *volatile bus_address;
void catch_bus(void);
bool read_gets_bus(const unsigned char *at);

struct check {
	const char *name;
	void (*run)(void);
};

/* "all": each in a process of its own; else the one of that name; -1: there is none. */
int run_checks(const struct check *checks, size_t count, const char *name);

#endif /* EBB_TEST_OBJECT_H */
