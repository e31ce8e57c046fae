/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libebb.h - memory that a program can make again, and lends out while it does not need it
 *
 * ebb_alloc() gives memory. A range of it that is marked volatile may be purged at any time, by
 * the virtual machine's host or by its own kernel, instead of anything being swapped or killed.
 * ebb_nonvolatile() ends that and says whether the range is still whole. libebb(3) has it all.
 *
 * Where there is no /dev/ebb, or it may not be opened, the memory is ordinary shared memory: every
 * call works, and nothing is ever purged. ebb_available() and ebb_is_purgeable() say which it is.
 *
 * Any thread may call anything at any time; only two calls for one and the same memory, one of
 * them ebb_free(), are the caller's to keep apart. No call takes a lock or allocates by malloc(),
 * so all but ebb_alloc() and ebb_free() may be made in a signal handler, that of SIGBUS above all.
 *
 * Calls return 0 or more, or -1 and errno. EINVAL: a range that is not in memory of ebb_alloc(), or
 * in more than one. EBADF: the program has closed a descriptor that is the library's.
 */
#ifndef LIBEBB_H
#define LIBEBB_H

#include <stddef.h>
#include <stdint.h>

#include <linux/ebb.h> /* EBB_KIND_*, and the ioctls for use with ebb_fd() */

#ifdef __cplusplus
extern "C" {
#endif

#define EBB_PUBLIC __attribute__((visibility("default")))

/* Fail with ENODEV, or why /dev/ebb cannot be opened, rather than give memory never purged. */
#define EBB_ALLOC_DEVICE 0x1

struct ebb_options {
	uint32_t kind;	   /* EBB_KIND_*: what a touch of volatile memory does */
	uint32_t flags;	   /* EBB_ALLOC_* */
	size_t unit_bytes; /* what is worthless once a part of it is gone; 0: nothing is */
	size_t alignment;  /* a power of two; 0: 2 MiB for 2 MiB and more, else a page */
};

/* 1: /dev/ebb can be opened here. 0: it cannot, and errno says why. */
EBB_PUBLIC int ebb_available(void);

/*
 * Zeroed, non-volatile, shared with children by fork(). options: NULL is the same as all 0.
 * NULL and errno: EINVAL; ENOMEM; EDQUOT: over a limit of the driver; EMFILE, ENFILE.
 */
EBB_PUBLIC void *ebb_alloc(size_t bytes, const struct ebb_options *options);
EBB_PUBLIC int ebb_free(void *memory);

/* 1: this memory can be purged. 0: it is of ebb_alloc(), but there was no /dev/ebb. */
EBB_PUBLIC int ebb_is_purgeable(const void *addr);

/* The whole pages in [addr, addr + bytes); without any, 0 and nothing changes. */
EBB_PUBLIC int ebb_volatile(void *addr, size_t bytes);

/*
 * All pages that [addr, addr + bytes) touches. 0: whole. 1: some of it was purged and reads zeros.
 * Either way it is non-volatile now. bitmap: a bit for each page, set if it was purged; bit 0 of
 * bitmap[0] is the page of addr.
 */
EBB_PUBLIC int ebb_nonvolatile(void *addr, size_t bytes);
EBB_PUBLIC int ebb_nonvolatile_pages(void *addr, size_t bytes, uint64_t *bitmap,
				     size_t bitmap_bytes);

/* Have the volatile pages in [addr, addr + bytes) purged now, for tests. */
EBB_PUBLIC int ebb_purge(void *addr, size_t bytes);

/*
 * The shape of madvise(): addr at a page, length rounded up. VOLATILE: 0. NONVOLATILE: 0, or -1 and
 * ENOMEM: purged, non-volatile now. What the kernel calls ENOMEM is EAGAIN here: nothing changed.
 */
#define EBB_MADV_VOLATILE    0x4501
#define EBB_MADV_NONVOLATILE 0x4502
EBB_PUBLIC int ebb_madvise(void *addr, size_t length, int advice);

/*
 * The descriptor behind it, for poll() and read() of events and for the ioctls of <linux/ebb.h>;
 * it stays the library's. offset, if not NULL: that of addr in the object. ENODEV: no /dev/ebb.
 */
EBB_PUBLIC int ebb_fd(const void *addr, uint64_t *offset);

/*
 * Regions: the semantics of Android's ashmem. A descriptor to map with MAP_SHARED and to pass on;
 * its pins are one set for all who have it. A region begins pinned. An offset lies at a page, bytes
 * is whole pages, 0 for all up to the end. Other than with ashmem, a touch of unpinned memory that
 * was purged gives SIGBUS, not zeros; after a pin it reads zeros.
 */
enum {
	EBB_REGION_NOT_PURGED = 0,
	EBB_REGION_WAS_PURGED = 1,
	EBB_REGION_IS_UNPINNED = 0,
	EBB_REGION_IS_PINNED = 1,
};

EBB_PUBLIC int ebb_region_create(const char *name, size_t bytes);
EBB_PUBLIC int ebb_region_pin(int fd, size_t offset, size_t bytes);
EBB_PUBLIC int ebb_region_unpin(int fd, size_t offset, size_t bytes);
/* IS_UNPINNED if any page of it is. Without /dev/ebb all is pinned always. */
EBB_PUBLIC int ebb_region_pin_status(int fd, size_t offset, size_t bytes);
/* Its size in bytes. */
EBB_PUBLIC int64_t ebb_region_size(int fd);

#ifdef __cplusplus
}
#endif

#endif /* LIBEBB_H */
