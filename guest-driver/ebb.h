/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ebb.h - the driver's inner interfaces
 *
 * main.c     the device's life: probe, stop, reset, suspend, shutdown, configuration
 * request.c  a request on the report queue: send it, wait for its answer
 * report.c   free page reporting: offers, and running it at once
 * marks.c    the kernel's Reported marks: count them, clear them
 * command.c  the command queue
 * stats.c    the guest's figures
 * hint.c     blocks that are worth merging
 *
 * The files of /dev/ebb are in volatile.h.
 */
#ifndef EBB_H
#define EBB_H

#include <linux/completion.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/page_reporting.h>
#include <linux/spinlock.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/workqueue.h>

#include "virtio_ebb.h"
#include "virtio_ebb_check.h"

/*
 * Two offers, free and volatile, hints and a reply may be in flight at once, of two descriptors
 * each.
 */
#define EBB_REPORT_ENTRIES 8

/* In one request of hints. */
#define EBB_HINT_ENTRIES 64

/* Commands that the device may have waiting. */
#define EBB_COMMAND_BUFFERS 8

/* One request on the report queue. Its buffers belong to the device while in_flight. */
struct ebb_request {
	struct completion answered;
	struct virtio_ebb_req_hdr *out; /* header, then the entries */
	struct virtio_ebb_resp_hdr *in; /* header, then the verdicts */
	unsigned int used_bytes;	/* what the device says that it wrote */
	int err;			/* -ENODEV: a reset came before the answer */
	bool in_flight;			/* under vq_lock */
};

/* What the worker wants of the reporting work, and what came of it. Under need_lock. */
struct ebb_need {
	u64 command_id; /* of the release or collection under way; 0: none */
	bool collect;	/* a collection: what the host leaves for its rest counts as well */
	u64 wanted_bytes;
	u64 offered_bytes;
	u64 accepted_bytes; /* of these, marked or discarded by the host */
	u64 flagged_bytes;  /* of these, in batches that now count as reported */
	u32 passes;
	long oom_events; /* at its start */
	bool guest_is_short;
};

/* What is worth merging. hint_work alone writes it, ebb_hints_stop() when that is over. */
struct ebb_hints {
	struct delayed_work work;
	struct ebb_request request;
	u32 max_count;	      /* entries that a request has room for */
	u32 count;	      /* entries in it that are not sent yet */
	u32 generation;	      /* of the configuration */
	unsigned long *map;   /* of blocks that are hinted */
	unsigned long blocks; /* in it */
	unsigned long next_block;
	u64 pass_cache_pages; /* clean pages of files seen in worthy blocks in this pass */
	/* Read by the statistics. */
	u64 cache_pages; /* in the last whole pass */
	u64 hinted_blocks;
	u64 passes;
	u64 nsec;
};

struct ebb_device {
	struct virtio_device *vdev;
	struct virtqueue *report_vq;
	struct virtqueue *command_vq;
	u32 max_ranges;	     /* in one request, at most EBB_BATCH_RANGES */
	u32 volatile_ranges; /* likewise, of volatile memory; 0: the device takes none of this guest
			      */

	spinlock_t vq_lock; /* leaf: both virtqueues, in_flight, accepting */
	bool accepting;	    /* false: stopping, or broken; nothing is sent any more */

	struct mutex reset_lock;      /* one reset at a time */
	struct completion reset_done; /* the device has let go of everything */
	struct work_struct reset_work;

	struct ebb_request offer;	   /* report() alone uses it */
	struct ebb_request reply;	   /* the worker alone uses it */
	struct ebb_request volatile_offer; /* the offers' worker alone uses it, see volatile.h */
	struct ebb_hints hints;

	struct page_reporting_dev_info prdev;
	bool registered; /* prdev is; written by start, stop and the worker */
	bool told_busy;
	bool poisoned;	    /* free pages hold a pattern */
	u64 isolated_bytes; /* off the free lists, in report() alone; the OOM notifier reads it */

	spinlock_t need_lock; /* leaf: need, flagged_total_bytes */
	struct ebb_need need;
	u64 flagged_total_bytes; /* since probe */
	u64 cleared_total_bytes; /* worker alone: of these, whose mark we cleared */
	u64 reused_bytes;	 /* worker alone: the estimate last told */

	struct workqueue_struct *wq;	/* "the worker": ordered */
	struct work_struct config_work; /* not on wq: it never waits for an answer */
	struct work_struct pass_work;
	struct work_struct command_work;
	struct virtio_ebb_collect *commands; /* EBB_COMMAND_BUFFERS of them */
	struct virtio_ebb_collect command;   /* the worker alone: the one that it obeys */
	bool hollow_marks; /* under need_lock: blocks count as reported of which nothing was taken
			    */

	bool run;		/* config.reporting; config_work writes it */
	u32 reoffer_generation; /* config_work alone */
	bool offer_anew;	/* what was reported before is to be offered again */

	struct notifier_block reboot_nb;
	struct notifier_block oom_nb;
	atomic_long_t oom_events;
};

/* main.c */
void ebb_fail(struct ebb_device *ebb, const char *what);
bool ebb_is_accepting(struct ebb_device *ebb);
bool ebb_look_for_trouble(struct ebb_device *ebb);

/* request.c */
int ebb_request_init(struct ebb_request *rq, size_t out_bytes, size_t in_bytes);
void ebb_request_destroy(struct ebb_request *rq);
int ebb_request_send(struct ebb_device *ebb, struct ebb_request *rq, u16 type, u32 count,
		     u64 command_id);
int ebb_bad_answer(struct ebb_device *ebb, enum virtio_ebb_fault fault);
void ebb_request_abort(struct ebb_device *ebb, struct ebb_request *rq);
void ebb_report_vq_callback(struct virtqueue *vq);

/* report.c */
bool ebb_reason_is_general(u16 reason);
void ebb_report_register(struct ebb_device *ebb);
void ebb_report_unregister(struct ebb_device *ebb);
u32 ebb_release(struct ebb_device *ebb, const struct virtio_ebb_command *cmd,
		struct ebb_need *outcome);
u32 ebb_collect(struct ebb_device *ebb, const struct virtio_ebb_collect *cmd,
		struct ebb_need *outcome);
void ebb_pass_work(struct work_struct *work);
u64 ebb_report_await(struct ebb_device *ebb);

/* marks.c */
u64 ebb_marks_count(void);
u64 ebb_marks_clear(u64 limit_bytes);
u64 ebb_marks_clear_range(u64 gpa, u64 bytes);

/* command.c */
void ebb_command_post_all(struct ebb_device *ebb);
void ebb_command_vq_callback(struct virtqueue *vq);
void ebb_command_work(struct work_struct *work);

/* stats.c */
bool ebb_guest_is_short(void);
u32 ebb_stats_fill(struct ebb_device *ebb, struct virtio_ebb_stat *stats);
int ebb_oom_notify(struct notifier_block *nb, unsigned long unused, void *freed_pages);

/* hint.c */
int ebb_hints_init(struct ebb_device *ebb);
void ebb_hints_destroy(struct ebb_device *ebb);
void ebb_hints_kick(struct ebb_device *ebb);
void ebb_hints_stop(struct ebb_device *ebb);

#endif /* EBB_H */
