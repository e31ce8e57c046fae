/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * ebb.h - /dev/ebb: memory with content that may be volatile
 *
 * An open descriptor is an opener. EBB_IOC_CREATE gives it an object of memory, EBB_IOC_JOIN the
 * object of another opener; then mmap() with MAP_SHARED. Passing the descriptor shares the opener.
 * A range that is marked volatile may be purged at any time: by the host under pressure, by this
 * system under its own. EBB_IOC_NONVOLATILE says what of it is still there. docs/dev-ebb.md has
 * the meaning of each word.
 *
 * Flags without a name and reserved fields are 0, else EINVAL.
 */
#ifndef _UAPI_LINUX_EBB_H
#define _UAPI_LINUX_EBB_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* kind of an object: what a touch of a volatile page does */
#define EBB_KIND_EXPLICIT     0 /* meant to be made non-volatile before; else as OPTIMISTIC */
#define EBB_KIND_OPTIMISTIC   1 /* whole: non-volatile from then on; purged: SIGBUS, EFAULT */
#define EBB_KIND_CONTENT_FREE 2 /* old content or zeros, non-volatile from then on */

/* unit: what a purge takes at least, once a part of it is lost */
#define EBB_UNIT_PAGES 0 /* nothing more: unit_bytes is 0 */
#define EBB_UNIT_WHOLE 1 /* unit_bytes, a multiple of the page size, counted from offset 0 */

/* flags of EBB_IOC_CREATE */
#define EBB_CREATE_F_GLOBAL 0x1 /* one opener's mark or unmark is everybody's */

struct ebb_create {
	__u64 bytes;	  /* rounded up to whole pages */
	__u64 unit_bytes; /* for EBB_UNIT_WHOLE */
	__u32 kind;	  /* EBB_KIND_* */
	__u32 unit;	  /* EBB_UNIT_* */
	__u32 flags;	  /* EBB_CREATE_F_* */
	__u32 reserved[3];
};

struct ebb_join {
	__s32 fd; /* an opener that has an object */
	__u32 flags;
	__u32 reserved[2];
};

/* EBB_IOC_VOLATILE (rounded inward to whole pages), EBB_IOC_PURGE (likewise) */
struct ebb_range {
	__u64 offset;
	__u64 bytes; /* at least a page */
	__u32 flags;
	__u32 reserved;
};

/*
 * EBB_IOC_NONVOLATILE, rounded outward: the call returns 0 if all of the range is whole, 1 if any
 * page of it was purged. Either way it is usable and non-volatile afterwards; purged pages read
 * zeros, or what another opener has put there since. bitmap: a bit for each page of the rounded
 * range, set if the page was purged; bit 0 of the first __u64 is its first page. It may lie in the
 * object itself. EFAULT: the range is non-volatile, what was lost is not told.
 */
struct ebb_nonvolatile {
	__u64 offset;
	__u64 bytes;	    /* at least a page */
	__u64 bitmap;	    /* user address of __u64s, or 0 */
	__u64 bitmap_bytes; /* room there: a multiple of 8, enough for the range */
	__u64 purged_pages; /* out */
	__u32 flags;
	__u32 reserved;
};

/* EBB_IOC_QUERY: changes nothing and touches nothing, so it tells no purge that nobody noticed */
struct ebb_query {
	__u64 offset; /* rounded outward */
	__u64 bytes;
	__u64 volatile_pages; /* out: of the range, volatile for all who have a say */
	__u64 offered_pages;  /* out: of these, in the host's hands */
	__u64 purged_pages;   /* out: known to be purged */
	__u64 object;	      /* out: its number, as in events */
	__u64 object_bytes;   /* out */
	__u64 unit_bytes;     /* out: 0 for EBB_UNIT_PAGES */
	__u32 kind;	      /* out */
	__u32 object_flags;   /* out: EBB_CREATE_F_* */
	__u32 flags;
	__u32 reserved;
};

/* read(): whole events, as many as there is room for */
struct ebb_event {
	__u64 object;
	__u64 sequence; /* counts this opener's events; merged ones leave gaps */
	__u64 offset;	/* purged pages lie in [offset, offset + bytes) */
	__u64 bytes;
};

#define EBB_IOC_CREATE	    _IOW('E', 0xb0, struct ebb_create)
#define EBB_IOC_JOIN	    _IOW('E', 0xb1, struct ebb_join)
#define EBB_IOC_VOLATILE    _IOW('E', 0xb2, struct ebb_range)
#define EBB_IOC_NONVOLATILE _IOWR('E', 0xb3, struct ebb_nonvolatile)
#define EBB_IOC_QUERY	    _IOWR('E', 0xb4, struct ebb_query)
#define EBB_IOC_PURGE	    _IOW('E', 0xb5, struct ebb_range)

#endif /* _UAPI_LINUX_EBB_H */
