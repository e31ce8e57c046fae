// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * libebb-jemalloc - jemalloc's memory from /dev/ebb, by LD_PRELOAD
 *
 * What jemalloc has no use for it purges: here that is a mark, content-free, and the memory comes
 * back by itself when it is touched again. Only what programs get lies in such memory; jemalloc's
 * own books, which it asks for in a larger alignment than a page, lie in ordinary memory.
 *
 * Memory of /dev/ebb is shared, the memory of a program after fork() must not be. So the child
 * replaces each object by a copy before it does anything else, and the parent waits for that.
 *
 * Owns:    the objects, which are never freed: jemalloc keeps and reuses what it has got.
 * Thread:  any, with locks of jemalloc's held; fork() in one thread at a time for each process.
 * Locks:   none.
 * Never:   calls malloc() once the constructor is done.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <jemalloc/jemalloc.h>

#include "libebb.h"

#define MAX_OBJECTS 4096
#define PAGE	    ((size_t)4096)

/* Not there if jemalloc was not preloaded. */
extern __typeof__(mallctl) mallctl __attribute__((weak));

/* In a slot the size is set last. */
static struct {
	unsigned char *at;
	atomic_size_t bytes;
} objects[MAX_OBJECTS];
static atomic_uint nr_objects;

/* Of the thread that is in fork(): the parent's end and the child's. */
static __thread int ends[2] __attribute__((tls_model("initial-exec")));

static void *alloc_ordinary(size_t bytes, size_t alignment)
{
	size_t room = bytes + alignment, skip;
	unsigned char *at;

	if (room < bytes)
		return NULL;
	at = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		  -1, 0);
	if (at == MAP_FAILED)
		return NULL;
	skip = -(uintptr_t)at & (alignment - 1);
	if (skip)
		munmap(at, skip);
	munmap(at + skip + bytes, alignment - skip);
	return at + skip;
}

static void *alloc_object(size_t bytes)
{
	struct ebb_options options = { .kind = EBB_KIND_CONTENT_FREE, .flags = EBB_ALLOC_DEVICE };
	unsigned int i;
	void *at;

	if (atomic_load(&nr_objects) >= MAX_OBJECTS)
		return NULL;
	i = atomic_fetch_add(&nr_objects, 1);
	if (i >= MAX_OBJECTS)
		return NULL;
	at = ebb_alloc(bytes, &options);
	if (!at)
		return NULL;
	objects[i].at = at;
	atomic_store(&objects[i].bytes, bytes);
	return at;
}

static void *hook_alloc(extent_hooks_t *hooks, void *new_addr, size_t size, size_t alignment,
			bool *zero, bool *commit, unsigned int arena)
{
	int err = errno;
	void *at = NULL;

	if (new_addr)
		return NULL;
	if (alignment <= PAGE)
		at = alloc_object(size);
	if (!at)
		at = alloc_ordinary(size, alignment);
	*zero = *commit = true;
	errno = err;
	return at;
}

/* Memory that is not ours is from before the constructor, or from a time without objects. */
static bool hook_purge_lazy(extent_hooks_t *hooks, void *addr, size_t size, size_t offset,
			    size_t length, unsigned int arena)
{
	unsigned char *at = (unsigned char *)addr + offset;
	int err = errno;
	bool failed;

	if (ebb_is_purgeable(at) == 1)
		failed = ebb_volatile(at, length) != 0;
	else
		failed = madvise(at, length, MADV_FREE) != 0;
	errno = err;
	return failed;
}

static bool hook_split(extent_hooks_t *hooks, void *addr, size_t size, size_t size_a, size_t size_b,
		       bool committed, unsigned int arena)
{
	return false;
}

/* Not from one object into another. */
static bool hook_merge(extent_hooks_t *hooks, void *a, size_t size_a, void *b, size_t size_b,
		       bool committed, unsigned int arena)
{
	uint64_t offset_a = 0, offset_b = 0;
	int err = errno, fd_a = ebb_fd(a, &offset_a), fd_b = ebb_fd(b, &offset_b);

	errno = err;
	return fd_a != fd_b || (fd_a >= 0 && offset_b != offset_a + size_a);
}

/*
 * There is no dalloc and no purge_forced: jemalloc then keeps what it has no use for, does not
 * take it for zeroed, and calls purge_lazy.
 */
static extent_hooks_t hooks = {
	.alloc = hook_alloc,
	.purge_lazy = hook_purge_lazy,
	.split = hook_split,
	.merge = hook_merge,
};

static void give_up(const char *what)
{
	static const char head[] = "libebb-jemalloc: fork: ";

	if (write(2, head, sizeof(head) - 1) < 0 || write(2, what, strlen(what)) < 0)
		_exit(127);
	abort();
}

/* All but volatile memory, of which nobody can expect anything. */
static void copy(unsigned char *to, const unsigned char *from, size_t bytes)
{
	struct ebb_query query = { .bytes = bytes };
	size_t half = bytes / PAGE / 2 * PAGE;
	uint64_t offset = 0;
	int fd = ebb_fd(from, &offset);

	query.offset = offset;
	if (fd < 0 || ioctl(fd, EBB_IOC_QUERY, &query))
		query.volatile_pages = 0;
	if (query.volatile_pages == bytes / PAGE)
		return;
	if (!query.volatile_pages) {
		memcpy(to, from, bytes);
		return;
	}
	copy(to, from, half);
	copy(to + half, from + half, bytes - half);
}

static void fork_prepare(void)
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		give_up("no socket pair\n");
}

static void fork_parent(void)
{
	int err = errno;
	char done;

	close(ends[1]);
	/* The end of a child that died is as good. */
	while (read(ends[0], &done, 1) < 0 && errno == EINTR)
		;
	close(ends[0]);
	errno = err;
}

static void fork_child(void)
{
	unsigned int nr = atomic_load(&nr_objects);

	close(ends[0]);
	for (unsigned int i = 0; i < nr && i < MAX_OBJECTS; i++) {
		size_t bytes = atomic_load(&objects[i].bytes);
		unsigned char *at = objects[i].at, *own;

		if (!bytes)
			continue;
		own = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (own == MAP_FAILED)
			give_up("no memory for a copy\n");
		copy(own, at, bytes);
		ebb_free(at);
		if (mremap(own, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) != at)
			give_up("the copy cannot be put in place\n");
		atomic_store(&objects[i].bytes, 0);
	}
	atomic_store(&nr_objects, 0);
	send(ends[1], "", 1, MSG_NOSIGNAL);
	close(ends[1]);
}

/* The arena for what is large comes into being when it is used. */
static void make_large_arena(void)
{
	size_t threshold = 0, bytes = sizeof(threshold);
	void *volatile large;

	if (!mallctl("opt.oversize_threshold", &threshold, &bytes, NULL, 0) && threshold) {
		large = malloc(threshold);
		free(large);
	}
}

__attribute__((constructor)) static void begin(void)
{
	extent_hooks_t *wanted = &hooks;
	unsigned int nr_arenas, done = 0;
	size_t bytes = sizeof(nr_arenas);
	char name[40];

	if (!mallctl) {
		fprintf(stderr, "libebb-jemalloc: this program has no jemalloc: "
				"LD_PRELOAD=\"libjemalloc.so.2 libebb-jemalloc.so\"\n");
		return;
	}
	/* Without /dev/ebb jemalloc's own way is the better one. */
	if (!ebb_available() || pthread_atfork(fork_prepare, fork_parent, fork_child))
		return;
	make_large_arena();
	if (mallctl("arenas.narenas", &nr_arenas, &bytes, NULL, 0))
		return;
	for (unsigned int i = 0; i < nr_arenas; i++) {
		snprintf(name, sizeof(name), "arena.%u.extent_hooks", i);
		done += !mallctl(name, NULL, NULL, &wanted, sizeof(wanted));
	}
	if (done < nr_arenas)
		fprintf(stderr, "libebb-jemalloc: %u of %u arenas stay in ordinary memory\n",
			nr_arenas - done, nr_arenas);
}
