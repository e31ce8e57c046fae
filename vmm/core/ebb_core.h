/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ebb_core.h - the executor: what a VMM links to mark and discard its guest's RAM
 *
 * The VMM tells the executor where guest RAM is (regions), hands it batches of
 * ranges that the guest has isolated, and gets each batch back once, with verdicts,
 * after the last system call for it has returned. Between the two calls, and at no
 * other time, the executor changes the content of these ranges (rule 1).
 *
 * Threads: one executor thread for each instance runs all memory operations, the
 * agent link and all callbacks of struct ebb_vmm_ops. The functions below may be
 * called from any other thread, but for one instance by one thread at a time (in
 * QEMU: under the big lock). None of them may be called from a callback but those
 * that say so. Callbacks must not wait for the calling thread: region removal,
 * quiesce and free wait for the executor thread.
 *
 * Errors: negative errno. Addresses and lengths are bytes. No header of any VMM is
 * needed here.
 */
#ifndef EBB_CORE_H
#define EBB_CORE_H

#include <stdbool.h>
#include <stdint.h>
#include "agent.h"
#include "virtio_ebb_check.h"

#define EBB_BLOCK_BYTES (2ull << 20)

struct ebb_executor;

/* What a batch offers. */
enum ebb_offer {
	EBB_OFFER_FREE,	   /* free memory: marked or discarded */
	EBB_OFFER_CONTENT, /* its owner may want the content back: marked, never discarded */
};

/* What may be done with a region's memory (rule 6). */
enum ebb_backing {
	EBB_BACKING_PRIVATE_ANON, /* MADV_FREE and MADV_DONTNEED */
	EBB_BACKING_HELPER,	  /* this guest's alone, but not private anonymous (memfd, hugetlb):
				     whole pages, discarded by ebb_vmm_ops.discard, never marked */
	EBB_BACKING_REFUSED,	  /* nothing; why says so */
};

struct ebb_region_desc {
	uint64_t start_gpa;
	uint64_t size_bytes;
	void *host;	     /* where start_gpa is mapped in this process; not used if REFUSED */
	uint64_t page_bytes; /* of the backing: 4096, or the huge page size of hugetlb */
	enum ebb_backing backing;
	const char *why;  /* REFUSED: words for people, static storage; else NULL */
	uint32_t skipped; /* not PRIVATE_ANON: why its page tables are left alone, EBB_SKIPPED_* */
	void *opaque;	  /* given to ebb_vmm_ops.discard */
	/*
	 * Where the VMM keeps whether it has made this memory mergeable, or NULL if it never does
	 * so later on. Set after the memory was. The executor clears it before it undoes that.
	 * Atomic; stays as long as the region.
	 */
	bool *vmm_merges;
};

/* One offered range and, after execution, its verdict. */
struct ebb_range {
	uint64_t gpa;
	uint64_t bytes;
	uint64_t done_bytes; /* marked or discarded */
	uint16_t verdict;    /* VIRTIO_EBB_MARKED, ... */
	uint16_t reason;     /* VIRTIO_EBB_REASON_* */
};

/*
 * A batch belongs to the caller until ebb_executor_submit() returned 0, then to the
 * executor until batch_done, then to the VMM again. ranges may be in any order.
 */
struct ebb_batch {
	enum ebb_offer offer;
	uint64_t command_id; /* the release that it answers; 0: none */
	uint32_t nr_ranges;
	struct ebb_range *ranges;
	void *opaque; /* the VMM's own */
	/* the executor's own */
	struct ebb_batch *next;
	bool cancelled;
};

/* Words of the guest, by VIRTIO_EBB_S_* tag. */
struct ebb_guest_stats {
	uint64_t value[VIRTIO_EBB_S_MAX];
};

/* What the guest's driver shall do; computed from mode and stage. */
struct ebb_guidance {
	uint32_t reporting;	     /* VIRTIO_EBB_REPORTING_* */
	uint32_t reoffer_generation; /* grows when all is to be offered anew */
	uint32_t hinting;	     /* VIRTIO_EBB_HINTING_* */
	uint32_t hint_generation;    /* grows when all is to be hinted anew */
};

/* Memory that is in use: worth merging, or not any more. */
struct ebb_hint {
	uint64_t gpa;
	uint64_t bytes;
	bool merge;
};

/* Merging by KSM, see struct ebb_msg_merge_state. */
struct ebb_merge_status {
	uint32_t mode; /* in force, EBB_MERGE_* */
	bool whole;    /* RAM is mergeable that we have not marked */
	bool full;
	bool no_ksm;
	bool pending;
	uint64_t hinted_bytes;
	uint64_t marked_bytes;
	uint64_t areas;
	uint64_t marks;
	uint64_t unmarks;
	uint64_t failures;
	uint64_t nsec;
	uint64_t longest_nsec;
};

/* Blocks whose page tables are there and seem to be empty. */
struct ebb_candidate {
	uint64_t gpa;
	uint64_t bytes;
};

/* All are called in the executor thread. */
struct ebb_vmm_ops {
	/*
	 * Around the destructive calls of each batch. begin returns 0 if discards are
	 * allowed until end, else a negative errno: the batch is answered INHIBITED.
	 */
	int (*discard_begin)(void *vmm);
	void (*discard_end)(void *vmm);
	/* EBB_BACKING_HELPER: discard; returns 0 or a negative errno. */
	int (*discard)(void *vmm, void *region_opaque, uint64_t offset_bytes, uint64_t bytes);
	/* Exactly once for each batch that was submitted. */
	void (*batch_done)(void *vmm, struct ebb_batch *batch);
	/* The guidance changed: tell the guest (configuration space). */
	void (*guide)(void *vmm, struct ebb_guidance guidance);
	/*
	 * Ask the guest's driver for bytes of free memory, as command id. Returns 0 if the
	 * command will be sent, -ENODEV if no driver can obey. Ends with
	 * ebb_executor_release_done() or ebb_executor_reset().
	 */
	int (*release)(void *vmm, uint64_t id, uint64_t bytes, uint32_t flags);
	/*
	 * Ask the guest's driver for those blocks of ranges that are free now, as command id.
	 * Returns as release does and ends as it does. The array is the executor's, for the
	 * duration of the call. NULL: this guest cannot be asked.
	 */
	int (*collect)(void *vmm, uint64_t id, const struct ebb_candidate *ranges,
		       uint32_t nr_ranges);
	/* Ask the guest for statistics; the answer comes by ebb_executor_guest_stats(). */
	void (*want_stats)(void *vmm);
	/* There are notices: ebb_executor_take_notice() gives them to any thread. May be NULL. */
	void (*purged)(void *vmm);
	/*
	 * What the VMM had made mergeable of a region (vmm_merges) is undone: do the same with what
	 * belongs to the same memory and is in no region. May be NULL.
	 */
	void (*merge_undone)(void *vmm);
	/* One line for people; level is that of syslog(3). May be NULL. */
	void (*log)(void *vmm, int level, const char *line);
};

struct ebb_executor_config {
	const char *name;	/* label for people, checked as in struct ebb_msg_hello */
	const char *agent_path; /* ebbd's socket; NULL: no agent */
	uint32_t front;		/* EBB_FRONT_*; BALLOON cannot rest: AUTO marks lazily at PLENTY */
	uint32_t mode;		/* EBB_MODE_*, not KEEP */
	uint32_t tables_mode;	/* EBB_TABLES_*; 0: ON_DEMAND */
	uint32_t tables_way;	/* enum ebb_tables_way; 0: what the kernel is found to do */
	bool tables_no_scan;	/* for tests: find tables as on kernels without PAGEMAP_SCAN */
	uint32_t merge;		/* EBB_MERGE_*; KEEP: mergeable is what the VMM has made so */
};

/* Counters since creation; see struct ebb_msg_sample for their meaning. */
struct ebb_counters {
	uint64_t requests;
	uint64_t ranges;
	uint64_t violations;
	uint64_t marked_bytes;
	uint64_t discarded_bytes;
	uint64_t purged_seen_bytes;
	uint64_t released_bytes;
	uint64_t releases;
	uint64_t not_marked_bytes[VIRTIO_EBB_REASON_MAX];
	uint64_t content_marked_bytes;
	uint64_t content_purged_bytes; /* that a scan found gone */
	uint64_t notices;	       /* taken by the VMM */
	uint64_t purges;
	uint64_t collections;	 /* that are over, also those of passes in the background */
	uint64_t passes;	 /* begun in the background */
	uint64_t tables_found;	 /* empty, by looking for them; so are the next three, of tables */
	uint64_t tables_asked;	 /* of the guest */
	uint64_t tables_offered; /* by the guest, of these */
	uint64_t tables_freed;
	uint64_t tables_refused; /* offered, and left because there was something in them again */
	uint64_t tables_failed;	 /* offered and discarded, but the kernel did not free the table */
	uint64_t tables_unplugged; /* freed without asking: a memory device had it back; at least */
	uint64_t madvise_calls;
	uint64_t madvise_nsec; /* in system calls that mark or discard */
};

struct ebb_status {
	struct ebb_counters counters;
	struct ebb_guest_stats guest;
	bool guest_valid;
	bool driver; /* as told by ebb_executor_set_driver() */
	bool broken;
	bool inhibited; /* the last discard_begin refused */
	bool mergeable; /* RAM may hold KSM pages that we have not marked (rule 2) */
	bool connected; /* to ebbd */
	bool hardened;	/* nothing with content is marked now */
	uint32_t mode;	/* in force */
	uint32_t stage;
	struct ebb_guidance guidance;
	uint64_t ram_bytes;
	uint64_t refused_ram_bytes;
	uint32_t tables_mode;	    /* in force, EBB_TABLES_* */
	bool can_collect;	    /* this host's kernel can find and free empty page tables */
	bool moves_tables;	    /* by moving them, so not while the host is short */
	uint64_t skipped_ram_bytes; /* whose page tables are left alone for its backing */
	uint64_t skipped_by_bytes[EBB_SKIPPED_MAX]; /* the same by reason */
	uint64_t content_block_bytes;		    /* of blocks that may hold volatile content */
	const char *refused_why;		    /* of one such region, or NULL */
	struct ebb_merge_status merge;
};

/*
 * Create an executor and start its thread. Without an agent ever heard, AUTO acts as
 * at EBB_STAGE_NEARING; an agent that goes away leaves its last word in force.
 */
int ebb_executor_new(struct ebb_executor **ret, const struct ebb_executor_config *config,
		     const struct ebb_vmm_ops *ops, void *vmm);

/* Cancels what is queued, waits for what runs, ends the thread. NULL is allowed. */
void ebb_executor_free(struct ebb_executor *executor);

/*
 * Add guest RAM. The VMM holds a reference to the memory until the region is removed.
 * -EEXIST: overlaps a region. A new region starts as "may hold KSM pages" unless the
 * kernel says otherwise.
 */
int ebb_executor_region_add(struct ebb_executor *executor, const struct ebb_region_desc *desc);

/*
 * Remove the region that starts at start_gpa: batches that touch it and do not run yet
 * are answered CANCELLED, one that runs is waited for: it ends after its system call, the
 * rest of it is CANCELLED. -ENOENT: there is none.
 */
int ebb_executor_region_remove(struct ebb_executor *executor, uint64_t start_gpa);

/*
 * Queue a batch. 0: batch_done will follow. -EPROTO: against the specification, *fault
 * says how; the batch stays the caller's and the VMM breaks that guest's device; it is
 * counted here. -EBUSY: the executor is paused or being removed, or too much is in
 * flight (EBB_MAX_BATCHES): the caller tries again later.
 */
#define EBB_MAX_BATCHES 8
int ebb_executor_submit(struct ebb_executor *executor, struct ebb_batch *batch,
			enum virtio_ebb_fault *fault);

/*
 * A memory device has taken [gpa, gpa + bytes) back from the guest: it is empty, and the guest
 * does not use it before ebb_executor_plugged(). Not to be called while the VMM itself fills RAM
 * (incoming migration). Forgotten at each pause.
 */
void ebb_executor_unplugged(struct ebb_executor *executor, uint64_t gpa, uint64_t bytes);
/* The guest is about to get it again. Returns when nothing is done to it any more. */
void ebb_executor_plugged(struct ebb_executor *executor, uint64_t gpa, uint64_t bytes);

/* Count a violation that the VMM's decoder found and, until reset, report "broken". */
void ebb_executor_violation(struct ebb_executor *executor);

/*
 * Return when nothing is in flight: batch_done has been called for every batch.
 * cancel: those that do not run yet are answered CANCELLED. Nobody may submit meanwhile.
 */
void ebb_executor_quiesce(struct ebb_executor *executor, bool cancel);

/* VM stop: quiesce (no cancel) and take nothing until resume. May be nested; counted. */
void ebb_executor_pause(struct ebb_executor *executor);
void ebb_executor_resume(struct ebb_executor *executor);

/*
 * Before anything copies guest RAM (migration, snapshot, stop): end the volatility of all
 * that is marked with content and keep what of it is there, and mark nothing with content
 * until as many calls of unharden; then the guest is asked to offer anew. Returns when it
 * is done: 0, or a negative errno if some of it may still be volatile. May be called by
 * any thread at any time, but not by a callback.
 */
int ebb_executor_harden(struct ebb_executor *executor);

/*
 * While it is hardened and discards are forbidden, before guest RAM is write-protected for a
 * background snapshot: what is free and marked becomes permanent as well, and what is gone of
 * it is mapped. The kernel protects pages only, and a purged one it would lose.
 */
int ebb_executor_settle(struct ebb_executor *executor);
void ebb_executor_unharden(struct ebb_executor *executor);

/*
 * Let the kernel take so much memory with content now, what was marked longest ago first.
 * Returns at once: -EBUSY one is under way, -EPERM hardened or mode off.
 */
int ebb_executor_purge(struct ebb_executor *executor, uint64_t bytes);

/* A range in which memory with content is gone. */
struct ebb_notice {
	uint64_t gpa;
	uint64_t bytes;
	bool complete; /* the host is short: what is worthless without it may go, too */
};

/* Take one notice for the guest; false: there is none. May be called by any thread. */
bool ebb_executor_take_notice(struct ebb_executor *executor, struct ebb_notice *notice);

/* The device was reset: cancel what is queued, end a release, forget the driver. */
void ebb_executor_reset(struct ebb_executor *executor);

/* A driver came up (DRIVER_OK) or went. */
void ebb_executor_set_driver(struct ebb_executor *executor, bool present);

/* The operator's mode for this guest; ebbd's word, unless KEEP, goes before it. */
int ebb_executor_set_mode(struct ebb_executor *executor, uint32_t mode);

/* What KSM may merge, by the operator's word; ebbd's word, unless KEEP, goes before it. */
int ebb_executor_set_merge(struct ebb_executor *executor, uint32_t merge);

/*
 * The guest's hints, checked as virtio_ebb_check_hint() does. Nothing is done to the memory
 * before this returns. -EPROTO: not RAM, *fault says so; none is taken, and it is counted here.
 */
int ebb_executor_hint(struct ebb_executor *executor, const struct ebb_hint *hints, uint32_t nr,
		      enum virtio_ebb_fault *fault);

/* After an incoming migration or loadvm: marks are lost, ask for all anew (rule 3). */
void ebb_executor_reoffer(struct ebb_executor *executor);

/* The guest's page poison value: not 0 means that free memory must not change. */
void ebb_executor_set_poison(struct ebb_executor *executor, bool poison);

/* Ask for a release by the operator's hand (without ebbd). -EBUSY, -ENODEV, -EPERM (off). */
int ebb_executor_release(struct ebb_executor *executor, uint64_t bytes, uint32_t flags);

/*
 * Find empty page tables and collect them from the guest's free memory, by the operator's hand.
 * Returns at once: -EBUSY one is under way, -EPERM mode or tables mode off, -ENODEV no driver,
 * -ENOSYS this host's kernel cannot do it, -EAGAIN the host is short and its kernel's way would
 * stall the guest.
 */
int ebb_executor_collect(struct ebb_executor *executor);

/* The operator's EBB_TABLES_* for this guest; ebbd's word, unless KEEP, goes before it. */
int ebb_executor_set_tables_mode(struct ebb_executor *executor, uint32_t mode);

/* The driver has ended command id, a release or a collection. Unknown ids are ignored. */
void ebb_executor_release_done(struct ebb_executor *executor, uint64_t id, uint32_t status,
			       uint32_t passes, uint64_t offered_bytes);

void ebb_executor_guest_stats(struct ebb_executor *executor, const struct ebb_guest_stats *stats);

/* A consistent copy. May be called from callbacks. */
void ebb_executor_status(struct ebb_executor *executor, struct ebb_status *status);

#endif /* EBB_CORE_H */
