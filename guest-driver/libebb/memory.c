// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * memory - memory of /dev/ebb by its address
 *
 * A table says which object of /dev/ebb is mapped where. It is looked through from its begin, since
 * objects are few and large. Each slot has a sequence: odd while somebody changes the slot. A
 * reader who meets that passes on: memory that is being allocated or freed is not what it asks
 * for. So nobody ever waits, and fork() may come at any moment.
 *
 * Owns:    the table, and the mappings and descriptors in it.
 * Thread:  any, signal handlers too.
 * Locks:   none.
 * Never:   calls malloc(), since an allocator may stand on it; touches the memory itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libebb.h"

#define HUGE_BYTES ((size_t)2 << 20)
#define SLOTS	   64

#define NO_DEVICE  (-1) /* ordinary memory */
#define CLOSED	   (-2) /* by somebody else: nothing can be said of that memory any more */

struct slot {
	atomic_uint sequence;
	atomic_int fd; /* or NO_DEVICE, CLOSED */
	atomic_uintptr_t at;
	atomic_size_t bytes; /* 0: free */
};

struct table {
	struct slot slots[SLOTS];
	_Atomic(struct table *) next;
};

struct place {
	int fd;
	uint64_t offset;
	uint64_t rest_bytes; /* from there to the end of the object */
};

static struct table first_table;

static size_t page_bytes(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

static struct table *next_table(struct table *table)
{
	struct table *next = atomic_load(&table->next), *none = NULL;

	if (next)
		return next;
	next = mmap(NULL, sizeof(*next), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	if (next == MAP_FAILED)
		return NULL;
	if (atomic_compare_exchange_strong(&table->next, &none, next))
		return next;
	munmap(next, sizeof(*next));
	return none;
}

/* Whoever makes the sequence odd has the slot. */
static bool slot_take(struct slot *slot, unsigned int seen)
{
	return atomic_compare_exchange_strong(&slot->sequence, &seen, seen + 1);
}

static void slot_set(struct slot *slot, int fd, uintptr_t at, size_t bytes)
{
	atomic_store(&slot->fd, fd);
	atomic_store(&slot->at, at);
	atomic_store(&slot->bytes, bytes);
	atomic_fetch_add(&slot->sequence, 1);
}

/*
 * A descriptor that is new to us is in the table: somebody has closed ours. What can be said of
 * that memory without it is nothing.
 */
static void table_forget(int fd)
{
	for (struct table *table = &first_table; table; table = atomic_load(&table->next)) {
		for (size_t i = 0; i < SLOTS; i++) {
			struct slot *slot = &table->slots[i];
			unsigned int seen = atomic_load(&slot->sequence);

			if (fd >= 0 && atomic_load(&slot->bytes) && atomic_load(&slot->fd) == fd &&
			    !(seen & 1) && slot_take(slot, seen))
				slot_set(slot, CLOSED, atomic_load(&slot->at),
					 atomic_load(&slot->bytes));
		}
	}
}

static int table_add(int fd, void *at, size_t bytes)
{
	struct table *table = &first_table;
	unsigned int seen;

	table_forget(fd);
	for (; table; table = next_table(table)) {
		for (size_t i = 0; i < SLOTS; i++) {
			struct slot *slot = &table->slots[i];

			seen = atomic_load(&slot->sequence);
			if (seen & 1 || atomic_load(&slot->bytes) || !slot_take(slot, seen))
				continue;
			slot_set(slot, fd, (uintptr_t)at, bytes);
			return 0;
		}
	}
	errno = ENOMEM;
	return -1;
}

/* The slot of the memory that addr lies in, with what was in it at one moment. */
static struct slot *table_find(uintptr_t addr, int *fd, uintptr_t *at, size_t *bytes,
			       unsigned int *seen)
{
	for (struct table *table = &first_table; table; table = atomic_load(&table->next)) {
		for (size_t i = 0; i < SLOTS; i++) {
			struct slot *slot = &table->slots[i];

			*seen = atomic_load(&slot->sequence);
			*fd = atomic_load(&slot->fd);
			*at = atomic_load(&slot->at);
			*bytes = atomic_load(&slot->bytes);
			if (addr - *at < *bytes && !(*seen & 1) &&
			    atomic_load(&slot->sequence) == *seen)
				return slot;
		}
	}
	errno = EINVAL;
	return NULL;
}

static int find_place(const void *addr, size_t bytes, struct place *place)
{
	unsigned int seen;
	uintptr_t at;
	size_t all;

	if (!table_find((uintptr_t)addr, &place->fd, &at, &all, &seen))
		return -1;
	place->offset = (uintptr_t)addr - at;
	place->rest_bytes = all - place->offset;
	if (bytes > place->rest_bytes || place->fd == CLOSED) {
		errno = place->fd == CLOSED ? EBADF : EINVAL;
		return -1;
	}
	return 0;
}

int ebb_available(void)
{
	int fd = open("/dev/ebb", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return 0;
	close(fd);
	return 1;
}

/* An object of its own; -1 with ENODEV for any reason why there is no /dev/ebb to use. */
static int object_create(size_t bytes, const struct ebb_options *options)
{
	struct ebb_create create = {
		.bytes = bytes,
		.kind = options->kind,
		.unit = options->unit_bytes ? EBB_UNIT_WHOLE : EBB_UNIT_PAGES,
		.unit_bytes = options->unit_bytes,
	};
	int fd = open("/dev/ebb", O_RDWR | O_CLOEXEC), err;

	if (fd < 0) {
		if (errno == ENOENT || errno == ENXIO)
			errno = ENODEV;
		return -1;
	}
	if (ioctl(fd, EBB_IOC_CREATE, &create)) {
		err = errno;
		close(fd);
		errno = err;
		return -1;
	}
	return fd;
}

static bool is_no_device(int err)
{
	return err == ENODEV || err == EACCES || err == EPERM;
}

/* Map so that it is aligned: in the middle of what is larger, whose ends are given back. */
static void *map_aligned(int fd, size_t bytes, size_t alignment)
{
	int flags = MAP_SHARED | MAP_FIXED | (fd < 0 ? MAP_ANONYMOUS | MAP_NORESERVE : 0);
	size_t room = bytes + alignment, page = page_bytes(), skip;
	unsigned char *at;
	int err;

	if (room < bytes) {
		errno = ENOMEM;
		return NULL;
	}
	at = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return NULL;
	skip = -(uintptr_t)at & (alignment - 1);
	if (mmap(at + skip, bytes, PROT_READ | PROT_WRITE, flags, fd, 0) == MAP_FAILED) {
		err = errno;
		munmap(at, room);
		errno = err;
		return NULL;
	}
	if (skip)
		munmap(at, skip);
	if (alignment - skip >= page)
		munmap(at + skip + bytes, alignment - skip);
	return at + skip;
}

void *ebb_alloc(size_t bytes, const struct ebb_options *options)
{
	struct ebb_options wanted = options ? *options : (struct ebb_options){ 0 };
	size_t page = page_bytes(), alignment = wanted.alignment;
	void *at;
	int fd, err;

	if (!bytes || bytes > SIZE_MAX / 2 || wanted.kind > EBB_KIND_CONTENT_FREE ||
	    wanted.flags & ~(uint32_t)EBB_ALLOC_DEVICE || wanted.unit_bytes % page ||
	    alignment & (alignment - 1)) {
		errno = EINVAL;
		return NULL;
	}
	bytes = (bytes + page - 1) / page * page;
	if (!alignment && bytes >= HUGE_BYTES)
		alignment = HUGE_BYTES;
	if (alignment < page)
		alignment = page;

	fd = object_create(bytes, &wanted);
	if (fd < 0 && (wanted.flags & EBB_ALLOC_DEVICE || !is_no_device(errno)))
		return NULL;
	at = map_aligned(fd, bytes, alignment);
	if (at && !table_add(fd, at, bytes))
		return at;
	err = errno;
	if (at)
		munmap(at, bytes);
	if (fd >= 0)
		close(fd);
	errno = err;
	return NULL;
}

int ebb_free(void *memory)
{
	struct slot *slot;
	unsigned int seen;
	uintptr_t at;
	size_t bytes;
	int fd;

	slot = table_find((uintptr_t)memory, &fd, &at, &bytes, &seen);
	if (!slot)
		return -1;
	if (at != (uintptr_t)memory || !slot_take(slot, seen)) {
		errno = EINVAL;
		return -1;
	}
	/* Out of the table before anybody else can be given the address. */
	slot_set(slot, -1, 0, 0);
	munmap(memory, bytes);
	if (fd >= 0)
		close(fd);
	return 0;
}

int ebb_is_purgeable(const void *addr)
{
	struct place place;

	return find_place(addr, 0, &place) ? -1 : place.fd >= 0;
}

int ebb_fd(const void *addr, uint64_t *offset)
{
	struct place place;

	if (find_place(addr, 0, &place))
		return -1;
	if (place.fd < 0) {
		errno = ENODEV;
		return -1;
	}
	if (offset)
		*offset = place.offset;
	return place.fd;
}

/* The pages inside the range. */
static int call_inward(void *addr, size_t bytes, unsigned long request)
{
	struct ebb_range range = { 0 };
	size_t page = page_bytes();
	struct place place;
	uint64_t end;

	if (find_place(addr, bytes, &place))
		return -1;
	range.offset = (place.offset + page - 1) / page * page;
	end = (place.offset + bytes) / page * page;
	if (place.fd < 0 || end <= range.offset)
		return 0;
	range.bytes = end - range.offset;
	return ioctl(place.fd, request, &range);
}

int ebb_volatile(void *addr, size_t bytes)
{
	return call_inward(addr, bytes, EBB_IOC_VOLATILE);
}

int ebb_purge(void *addr, size_t bytes)
{
	return call_inward(addr, bytes, EBB_IOC_PURGE);
}

int ebb_nonvolatile_pages(void *addr, size_t bytes, uint64_t *bitmap, size_t bitmap_bytes)
{
	struct ebb_nonvolatile range = {
		.bitmap = (uintptr_t)bitmap,
		.bitmap_bytes = bitmap ? bitmap_bytes : 0,
	};
	size_t page = page_bytes();
	struct place place;
	uint64_t end, pages;

	if (find_place(addr, bytes, &place))
		return -1;
	range.offset = place.offset / page * page;
	end = (place.offset + bytes + page - 1) / page * page;
	range.bytes = end - range.offset;
	pages = range.bytes / page;
	if (bitmap && (bitmap_bytes % 8 || bitmap_bytes / 8 < (pages + 63) / 64)) {
		errno = EINVAL;
		return -1;
	}
	if (bytes && place.fd >= 0)
		return ioctl(place.fd, EBB_IOC_NONVOLATILE, &range);
	for (uint64_t i = 0; bitmap && i < (pages + 63) / 64; i++)
		bitmap[i] = 0;
	return 0;
}

int ebb_nonvolatile(void *addr, size_t bytes)
{
	return ebb_nonvolatile_pages(addr, bytes, NULL, 0);
}

int ebb_madvise(void *addr, size_t length, int advice)
{
	size_t page = page_bytes();
	int result;

	if ((uintptr_t)addr % page || length > SIZE_MAX - page) {
		errno = EINVAL;
		return -1;
	}
	length = (length + page - 1) / page * page;
	switch (advice) {
	case EBB_MADV_VOLATILE:
		result = ebb_volatile(addr, length);
		break;
	case EBB_MADV_NONVOLATILE:
		result = ebb_nonvolatile(addr, length);
		break;
	default:
		errno = EINVAL;
		return -1;
	}
	if (result < 0) {
		if (errno == ENOMEM)
			errno = EAGAIN;
		return -1;
	}
	if (result == 0)
		return 0;
	errno = ENOMEM;
	return -1;
}
