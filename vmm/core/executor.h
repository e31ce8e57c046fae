/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * executor.h - what the files of the executor share; not for a VMM
 *
 * Each member says who writes it. "Lock" is struct ebb_executor's lock: a leaf, never
 * held across a system call that can block, an allocation or a callback.
 */
#ifndef EBB_EXECUTOR_H
#define EBB_EXECUTOR_H

#include <pthread.h>

#include "ebb_core.h"
#include "content.h"
#include "ksm.h"
#include "link.h"
#include "merge.h"
#include "policy.h"
#include "ram_map.h"
#include "scan.h"
#include "spans.h"
#include "tables.h"

#define NSEC_PER_SEC  1000000000ull
#define NSEC_PER_MSEC 1000000ull
#define NSEC_PER_USEC 1000ull

enum ebb_flight_state {
	EBB_FLIGHT_FREE,
	EBB_FLIGHT_QUEUED,    /* may be cancelled */
	EBB_FLIGHT_RUNNING,   /* system calls are made; may be cancelled between two of them */
	EBB_FLIGHT_ANSWERING, /* all system calls returned; batch_done is being called */
};

/* A batch between submit and the return of batch_done. All under the lock. */
struct ebb_flight {
	enum ebb_flight_state state;
	struct ebb_batch *batch;
	struct ebb_span *spans; /* room for VIRTIO_EBB_MAX_RANGES_LIMIT */
	uint32_t nr_spans;
};

/* One more than may be in flight: what is being answered is in flight no more. */
#define EBB_MAX_FLIGHTS (EBB_MAX_BATCHES + 1)

enum ebb_release_state {
	EBB_RELEASE_NONE,
	EBB_RELEASE_WANTED, /* the thread has yet to ask the VMM */
	EBB_RELEASE_ACTIVE,
};

/* The release that is under way. Under the lock. */
struct ebb_release {
	enum ebb_release_state state;
	bool asking; /* ops->release() is being called */
	uint64_t id;
	uint64_t agent_id; /* ebbd's; 0: asked for by the operator */
	uint64_t bytes;
	uint32_t flags;
	uint64_t discarded_bytes;
	uint64_t start_nsec;
	uint64_t last_answer_nsec; /* 0: none */
};

enum ebb_collect_state {
	EBB_COLLECT_NONE,
	EBB_COLLECT_WANTED, /* the thread looks for candidates and asks the VMM */
	EBB_COLLECT_ACTIVE,
	EBB_COLLECT_ANSWERED, /* or ended otherwise: the thread has yet to see to it */
};

/* The collection of page tables that is under way. */
struct ebb_collect {
	/* Under the lock. */
	enum ebb_collect_state state;
	bool asking;	   /* ops->collect() is being called */
	uint64_t id;	   /* of the candidates that the guest is asked for now */
	uint64_t agent_id; /* ebbd's; 0: asked for by the operator */
	uint32_t status;   /* ANSWERED: VIRTIO_EBB_DONE_* or EBB_RELEASE_* */
	uint64_t start_nsec;
	struct ebb_link_tables tables;
	/* The same, but constant while it is under way. */
	bool background;       /* a pass: gives way to pressure */
	bool asks;	       /* there is somebody to ask */
	uint64_t most_tables;  /* asked for */
	uint64_t least_tables; /* worth asking for in one exchange */
	uint64_t most_blocks;  /* looked at */
	/* Executor thread. */
	bool fresh;	    /* not begun with */
	bool unplugged;	    /* what needs no question is done */
	bool walked;	    /* to the end, or as far as it may */
	bool full;	    /* no more candidates in this exchange */
	uint64_t looked;    /* blocks */
	uint64_t used;	    /* of these; each needs its table, a huge page as well */
	uint64_t gpa;	    /* where the walk goes on */
	uint64_t found_now; /* tables of the candidates */
	struct ebb_candidate ranges[VIRTIO_EBB_MAX_COLLECT];
	uint32_t nr_ranges;
};

/* Passes in the background. Executor thread. */
struct ebb_pass {
	uint64_t next_nsec;	/* 0: none is planned */
	uint64_t put_off_nsec;	/* for a busy guest, since it was due */
	uint64_t seen_requests; /* at the last look */
	uint64_t gpa;		/* where the next one goes on */
};

/* The purge that is under way. */
struct ebb_purge {
	/* Under the lock. */
	bool active;
	uint64_t agent_id; /* ebbd's; 0: asked for by the operator, or it is not there any more */
	uint64_t bytes;
	uint64_t start_nsec;
	/* Executor thread, while it is active. */
	bool fresh;	    /* not begun with */
	uint32_t limit_age; /* what was marked from here on is left alone */
	uint64_t purged_bytes;
};

struct ebb_executor {
	/* Constant after ebb_executor_new(). */
	const struct ebb_vmm_ops *ops;
	void *vmm;
	char name[EBB_AGENT_NAME_BYTES];
	pthread_t thread;
	int wake_fd;
	bool can_free; /* the kernel has MADV_FREE */

	pthread_mutex_t lock;
	pthread_cond_t idle; /* a flight, a callback or a scan ended */

	/* Lock. */
	struct ebb_ram_map map;
	struct ebb_flight flights[EBB_MAX_FLIGHTS];
	struct ebb_batch *queue_head;
	struct ebb_batch *queue_tail;
	uint32_t pause_depth;
	bool stop;
	bool sleeping; /* the thread is in ppoll() or about to be */
	bool guide_pending;
	bool look_pending; /* regions came whose flags the kernel was not asked for */
	struct ebb_policy policy;
	struct ebb_tables_policy tables_policy;
	struct ebb_release release;
	struct ebb_purge purge;
	struct ebb_collect collect;
	uint64_t next_release_id;	   /* of collections, too */
	struct ebb_status status;	   /* what is not computed on demand */
	const struct ebb_region *scanning; /* the thread looks at its blocks */
	struct {
		const struct ebb_region *region; /* the thread frees tables of its blocks */
		uint64_t first;
		uint64_t end;
	} emptying;

	/* Executor thread. */
	struct ebb_ksm ksm;
	struct ebb_link link;
	struct ebb_scan scan;
	struct ebb_content content; /* says itself who writes what */
	struct ebb_tables tables;
	struct ebb_pass pass;
	struct ebb_merge merge; /* says itself who writes what */
	bool marked;		/* something was marked, at any time */
};

uint64_t ebb_now_nsec(void);

/* Make the thread look at what changed. Without the lock. */
void ebb_executor_wake(struct ebb_executor *executor);

/* One line for the VMM's log; executor thread only, without the lock. */
void ebb_log(struct ebb_executor *executor, int level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The region at gpa; it stays while a flight or the scan holds it. Takes the lock. */
struct ebb_region *ebb_executor_region_at(struct ebb_executor *executor, uint64_t gpa);

/* Recompute what follows from the policy. Lock held; old: the policy before. */
void ebb_executor_policy_changed(struct ebb_executor *executor, const struct ebb_policy *old);

/* flights.c. All with the lock held but ebb_flights_run(). */

/*
 * Check a batch and queue it: 0, -EPROTO with a fault, -EBUSY if the executor is paused,
 * too much is in flight or a region of it is being removed.
 */
int ebb_flights_enqueue(struct ebb_executor *executor, struct ebb_batch *batch,
			enum virtio_ebb_fault *fault);
/*
 * Cancel what touches [gpa, gpa + bytes). What is QUEUED does not begin, what is RUNNING
 * ends after the system call that it is in, if it has begun with one.
 */
void ebb_flights_cancel(struct ebb_executor *executor, uint64_t gpa, uint64_t bytes);
/* Is something in flight or being answered that touches [gpa, gpa + bytes)? */
bool ebb_flights_busy(const struct ebb_executor *executor, uint64_t gpa, uint64_t bytes);
/* Executor thread: run what is queued, but no more than a full queue. */
void ebb_flights_run(struct ebb_executor *executor);

/*
 * memops.c: run a batch that is RUNNING, fill its verdicts. Returns whether something
 * was marked. Executor thread, no lock.
 */
bool ebb_memops_run(struct ebb_executor *executor, struct ebb_flight *flight);
/* Answer a batch without touching memory. */
void ebb_memops_refuse(struct ebb_executor *executor, struct ebb_batch *batch, uint16_t reason);
/* Does the VMM allow discards now? Keeps status.inhibited. */
bool ebb_memops_begin(struct ebb_executor *executor);
void ebb_memops_end(struct ebb_executor *executor);

/* purge.c. */

/* -EBUSY: one is under way. -EPERM: hardened, or mode off. Lock held. */
int ebb_purge_start(struct ebb_executor *executor, uint64_t agent_id, uint64_t bytes);
/* Executor thread: go on with it. */
void ebb_purge_work(struct ebb_executor *executor);

/* collect.c. */

/* Errors as of ebb_executor_collect(). Lock held. */
int ebb_collect_start(struct ebb_executor *executor, uint64_t agent_id);
/* The guest has answered, or nobody will: VIRTIO_EBB_DONE_*, EBB_RELEASE_*. Lock held. */
void ebb_collect_answer(struct ebb_executor *executor, uint32_t status);
/* Executor thread: go on with it. */
void ebb_collect_work(struct ebb_executor *executor);
/* Executor thread: begin a pass that is due. When to call it again; UINT64_MAX: never. */
uint64_t ebb_collect_plan(struct ebb_executor *executor);

/* unplugged.c. */

/* Nothing is pending or being worked on any more. Lock held, let go while it waits. */
void ebb_unplugged_forget(struct ebb_executor *executor);
/* Lock held. */
bool ebb_unplugged_any(const struct ebb_executor *executor);
/* Executor thread: free the tables of what is pending. False: it gave way, call it again. */
bool ebb_unplugged_work(struct ebb_executor *executor);

/* release.c. All with the lock held but ebb_release_ask(). */
int ebb_release_start(struct ebb_executor *executor, uint64_t agent_id, uint64_t bytes,
		      uint32_t flags);
void ebb_release_end(struct ebb_executor *executor, uint32_t status, uint32_t passes,
		     uint64_t offered_bytes);
/* Executor thread: tell the VMM of a release that is wanted. */
void ebb_release_ask(struct ebb_executor *executor);

#endif /* EBB_EXECUTOR_H */
