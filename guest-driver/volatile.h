/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * volatile.h - inner interfaces of /dev/ebb
 *
 * devnode.c   the device node: open, ioctl, mmap, read, poll
 * object.c    objects and openers: their lives, limits, the list of all
 * spans.c     which ranges are declared volatile
 * fault.c     touching the memory
 * offer.c     arming pages and offering them to the host
 * takeback.c  taking pages back: whole or purged
 * purge.c     purging: the host's notices, the guest's own pressure, on request
 * events.c    telling openers
 */
#ifndef EBB_VOLATILE_H
#define EBB_VOLATILE_H

#include <linux/kref.h>
#include <linux/list.h>
#include <linux/maple_tree.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/poll.h>
#include <linux/wait.h>
#include <linux/xarray.h>

#include "uapi/ebb.h"

struct ebb_device;
struct list_lru;

#define EBB_CHUNK_SHIFT (21 - PAGE_SHIFT)
#define EBB_CHUNK_PAGES (1ul << EBB_CHUNK_SHIFT)

/* Ranges of pages -> when they were marked, as declared. Under the object's lock. */
struct ebb_spans {
	struct maple_tree tree;
	u64 pages;
};

/* A page in the host's hands. */
struct ebb_slot {
	struct page *page; /* our reference */
	u64 saved;	   /* its first word */
	u64 cookie;	   /* what stands there meanwhile; not 0 */
};

/* 2 MiB of an object of which something was offered. Lives as long as the object. */
struct ebb_chunk {
	u32 flying;	   /* offers on their way that hold pages of it */
	u64 refused_epoch; /* pages marked then were refused: not to be offered again */
	u64 parts_due;	   /* something of it was refused: no part of it before then */
	struct ebb_slot slots[EBB_CHUNK_PAGES];
};

struct ebb_object {
	struct kref ref; /* openers, and who works on it */
	u64 id;
	struct file *file; /* the shmem file that is its memory */
	pgoff_t pages;
	pgoff_t unit_pages; /* 0: EBB_UNIT_PAGES */
	u32 kind;
	u32 flags;

	/*
	 * Openers, spans, chunks, and writing of the bitmaps. Under mmap_lock and around the
	 * locks of pages that are only tried; never held across a user copy or an exchange.
	 */
	struct mutex lock;
	struct list_head openers;
	struct ebb_spans global; /* in place of the openers' own, if EBB_CREATE_F_GLOBAL */
	struct xarray chunks;
	unsigned long *offered; /* read without the lock, but with the page's */
	unsigned long *purged;	/* likewise */
	pgoff_t offered_pages;
	u64 volatile_pages;	/* at most; read without the lock */
	bool was_unevictable;	/* pages may lie on the list of unevictable ones */
	bool has_news;		/* marked since the worker looked */
	bool send_again;	/* the worker's: what is armed, too */
	wait_queue_head_t wait; /* for offers in flight */

	struct list_head all;	   /* under ebb_objects_lock, marked longest ago first */
	struct hlist_node by_file; /* likewise, found by mapping */
	u64 seen_in_pass;	   /* likewise */
	struct list_head lru;	   /* of its control group, marked longest ago first */
	struct work_struct free_work;
};

#define EBB_EVENTS 32

struct ebb_opener {
	struct kref ref;	/* the descriptor, and each mapping */
	struct ebb_object *obj; /* set once */
	struct mutex setup_lock;
	struct list_head list; /* obj->openers */
	struct ebb_spans own;
	/*
	 * Purged while this opener had it marked, and told to another already; like obj->purged.
	 * NULL if the marks are everybody's or nobody wants the content back.
	 */
	unsigned long *lost;

	spinlock_t event_lock; /* leaf */
	struct ebb_event events[EBB_EVENTS];
	unsigned int event_count;
	u64 event_sequence;
	wait_queue_head_t event_wait;
};

/* Counters since the module was loaded. */
enum ebb_volatile_counter {
	EBB_C_OFFERED,	   /* pages */
	EBB_C_WHOLE,	   /* taken back whole */
	EBB_C_PURGED,	   /* found purged by the host */
	EBB_C_STRANGE,	   /* of these, neither cookie nor zero */
	EBB_C_LEFT_OUT,	   /* somebody held the page */
	EBB_C_REFUSED,	   /* by the host */
	EBB_C_OWN_PURGED,  /* by this guest's pressure or on request */
	EBB_C_LEFT_FLYING, /* passed over by pressure, since an offer was in flight */
	EBB_C_MAX,
};

extern atomic64_t ebb_counters[EBB_C_MAX];

static inline void ebb_counter_add(enum ebb_volatile_counter which, u64 n)
{
	atomic64_add(n, &ebb_counters[which]);
}

static inline u64 ebb_counter(enum ebb_volatile_counter which)
{
	return atomic64_read(&ebb_counters[which]);
}

static inline struct address_space *ebb_mapping(const struct ebb_object *obj)
{
	return obj->file->f_mapping;
}

static inline struct ebb_spans *ebb_spans_of(struct ebb_opener *opener)
{
	struct ebb_object *obj = opener->obj;

	return obj->flags & EBB_CREATE_F_GLOBAL ? &obj->global : &opener->own;
}

static inline u64 ebb_now(void)
{
	return get_jiffies_64();
}

/* devnode.c */
int ebb_devnode_init(void);
void ebb_devnode_exit(void);

/* object.c */
int ebb_objects_init(void);
void ebb_objects_exit(void);
struct ebb_opener *ebb_opener_new(void);
void ebb_opener_get(struct ebb_opener *opener);
void ebb_opener_put(struct ebb_opener *opener);
int ebb_object_create(struct ebb_opener *opener, const struct ebb_create *args);
int ebb_object_join(struct ebb_opener *opener, struct ebb_opener *other);
void ebb_object_put(struct ebb_object *obj);
struct ebb_object *ebb_object_next(u64 pass);
u64 ebb_object_new_pass(void);
struct ebb_object *ebb_object_of_mapping(struct address_space *mapping);
void ebb_object_marked(struct ebb_object *obj);
u64 ebb_objects_offered_pages(void);

/* spans.c */
void ebb_spans_init(struct ebb_spans *spans);
void ebb_spans_destroy(struct ebb_spans *spans);
int ebb_spans_set(struct ebb_spans *spans, pgoff_t first, pgoff_t last, u64 epoch);
int ebb_spans_clear(struct ebb_spans *spans, pgoff_t first, pgoff_t last);
bool ebb_spans_has(struct ebb_spans *spans, pgoff_t index);
bool ebb_spans_common(struct ebb_object *obj, pgoff_t from, pgoff_t *first, pgoff_t *last,
		      u64 *epoch);
bool ebb_spans_joined(struct ebb_object *obj, pgoff_t from, pgoff_t bound, pgoff_t *first,
		      pgoff_t *last, u64 *epoch);
u64 ebb_spans_volatile_pages(struct ebb_object *obj);

static inline void ebb_object_count(struct ebb_object *obj)
{
	WRITE_ONCE(obj->volatile_pages, ebb_spans_volatile_pages(obj));
}

/* fault.c */
void ebb_unmap_marked(struct ebb_object *obj, pgoff_t first, pgoff_t last);
extern const struct vm_operations_struct ebb_vm_ops;

/* offer.c */
int ebb_offers_init(void);
void ebb_offers_exit(void);
void ebb_offers_start(struct ebb_device *ebb);
void ebb_offers_stop(struct ebb_device *ebb);
void ebb_offers_kick(unsigned long delay);
/* Pages on their way to the LRU lists get there; sleeps. */
void ebb_drain_all(void);
void ebb_offers_marked(void);
void ebb_offers_anew(struct ebb_device *ebb);
void ebb_offers_queue_free(struct work_struct *work);

/* takeback.c */
bool ebb_range_flies(struct ebb_object *obj, pgoff_t first, pgoff_t last);
int ebb_lock_landed(struct ebb_object *obj, pgoff_t first, pgoff_t last);
bool ebb_take_page(struct ebb_object *obj, pgoff_t index);
void ebb_take_range(struct ebb_object *obj, pgoff_t first, pgoff_t last);
u64 ebb_forget_purged(struct ebb_opener *opener, pgoff_t first, pgoff_t last,
		      unsigned long *bitmap);
void ebb_drop_page(struct ebb_object *obj, pgoff_t index);

/* purge.c */
int ebb_purge_init(void);
void ebb_purge_exit(void);
u64 ebb_purge_range(struct ebb_object *obj, pgoff_t first, pgoff_t last, u64 max_pages);
void ebb_purge_now(struct ebb_object *obj, pgoff_t first, pgoff_t last);
void ebb_purge_notice(u64 gpa, u64 bytes, bool complete);
extern struct list_lru ebb_lru;

/* events.c */
void ebb_events_purged(struct ebb_object *obj, pgoff_t first, pgoff_t last);
ssize_t ebb_events_read(struct ebb_opener *opener, char __user *buffer, size_t bytes,
			bool nonblock);
__poll_t ebb_events_poll(struct ebb_opener *opener, struct file *file, poll_table *wait);

#endif /* EBB_VOLATILE_H */
