/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * agent.h - the wire between an executor (in a VMM) and ebbd
 *
 * UNIX socket, SOCK_SEQPACKET: one message, one packet. The specification is
 * docs/agent-protocol.md. All fields are little-endian, naturally aligned and of
 * fixed size. Reserved fields are zero; a receiver refuses a message in which they
 * are not: the format grows by version, which HELLO and WELCOME agree upon.
 *
 * The executor connects and says HELLO. ebbd takes the peer's identity from the
 * socket (SO_PEERCRED), never from a message: name in HELLO is a label for people.
 */
#ifndef EBB_AGENT_H
#define EBB_AGENT_H

#include <linux/types.h>
#include "virtio_ebb.h"

#define EBB_AGENT_VERSION_MIN 1
#define EBB_AGENT_VERSION_MAX 3

#define EBB_AGENT_NAME_BYTES  64    /* label, NUL-terminated, printable ASCII, no '/' */
#define EBB_AGENT_MAX_BYTES   1024u /* no message is longer */

/* Message types. Odd: executor to ebbd. Even: ebbd to executor. */
#define EBB_MSG_HELLO	     1
#define EBB_MSG_WELCOME	     2
#define EBB_MSG_SAMPLE	     3
#define EBB_MSG_POLICY	     4
#define EBB_MSG_RELEASE_DONE 5
#define EBB_MSG_RELEASE	     6
#define EBB_MSG_REFUSE	     8 /* text says why; ebbd then closes */
/* From version 2 on: */
#define EBB_MSG_PURGE_DONE 9
#define EBB_MSG_PURGE	   10
#define EBB_MSG_CONTENT	   11
/* From version 3 on: */
#define EBB_MSG_TABLES_POLICY 16
#define EBB_MSG_COLLECT_DONE  17
#define EBB_MSG_COLLECT	      18
#define EBB_MSG_TABLES	      19
#define EBB_MSG_MERGE	      12
#define EBB_MSG_MERGE_STATE   13

struct ebb_msg_hdr {
	__le16 type; /* EBB_MSG_* */
	__le16 reserved;
	__le32 length_bytes; /* of the whole message, this header included */
};

/* Which device carries the executor */
#define EBB_FRONT_EBB	  1 /* virtio-ebb: can rest, be asked, release */
#define EBB_FRONT_BALLOON 2 /* virtio-balloon: an unmodified guest; cannot be asked */

struct ebb_msg_hello {
	struct ebb_msg_hdr hdr;
	__le16 version_min;
	__le16 version_max;
	__le32 front; /* EBB_FRONT_* */
	char name[EBB_AGENT_NAME_BYTES];
};

struct ebb_msg_welcome {
	struct ebb_msg_hdr hdr;
	__le32 version;
	__le32 sample_interval_msec; /* one SAMPLE each; 100 to 3,600,000 */
};

/* How free memory is treated */
#define EBB_MODE_KEEP  0 /* in POLICY: what the VMM's own configuration says */
#define EBB_MODE_OFF   1
#define EBB_MODE_LAZY  2
#define EBB_MODE_EAGER 3
#define EBB_MODE_AUTO  4
#define EBB_MODE_MAX   5

/* What mode AUTO follows */
#define EBB_STAGE_PLENTY  1 /* nothing is reported or marked */
#define EBB_STAGE_NEARING 2 /* all that is free is offered anew and marked lazily */
#define EBB_STAGE_SHORT	  3 /* and discarded at once */
#define EBB_STAGE_MAX	  4

struct ebb_msg_policy {
	struct ebb_msg_hdr hdr;
	__le32 mode;  /* EBB_MODE_* */
	__le32 stage; /* EBB_STAGE_* */
};

struct ebb_msg_release {
	struct ebb_msg_hdr hdr;
	__le64 id;    /* chosen by ebbd, not 0 */
	__le64 bytes; /* wanted, not 0 */
	__le32 flags; /* VIRTIO_EBB_RELEASE_F_* */
	__le32 reserved;
};

/* status of RELEASE_DONE: VIRTIO_EBB_DONE_*, or these of the executor's own */
#define EBB_RELEASE_NO_DRIVER 16 /* no driver of ours runs in the guest */
#define EBB_RELEASE_BUSY      17 /* one is under way */
#define EBB_RELEASE_OFF	      18 /* mode is off, or discards are inhibited */
#define EBB_RELEASE_MAX	      19

struct ebb_msg_release_done {
	struct ebb_msg_hdr hdr;
	__le64 id;
	__le64 offered_bytes;	/* by the guest */
	__le64 discarded_bytes; /* of these, given back to the host */
	__le64 usec;		/* from the message to the last answer */
	__le32 status;
	__le32 passes;
};

/* flags of SAMPLE */
#define EBB_SAMPLE_F_DRIVER    0x1  /* a driver runs in the guest */
#define EBB_SAMPLE_F_BROKEN    0x2  /* the guest broke the rules; its device waits for a reset */
#define EBB_SAMPLE_F_INHIBITED 0x4  /* the VMM forbids discards at the moment */
#define EBB_SAMPLE_F_MERGEABLE 0x8  /* some RAM may hold KSM pages: never marked */
#define EBB_SAMPLE_F_GUEST     0x10 /* guest[] is filled */
#define EBB_SAMPLE_F_MASK      0x1f

/* Tags of the guest in SAMPLE: those that version 1 knew. */
#define EBB_SAMPLE_TAGS 9

struct ebb_msg_sample {
	struct ebb_msg_hdr hdr;
	__le32 flags; /* EBB_SAMPLE_F_* */
	__le32 mode;  /* in force, EBB_MODE_*, not KEEP */
	__le32 stage; /* in force, EBB_STAGE_* */
	__le32 reserved;
	__le64 ram_bytes;	  /* guest RAM that the device knows */
	__le64 refused_ram_bytes; /* of this, whose backing allows nothing */
	__le64 requests;	  /* answered, since the device was made; so are all below */
	__le64 ranges;
	__le64 violations;	  /* requests against the specification */
	__le64 marked_bytes;	  /* MADV_FREE, cumulative: what is reclaimable the kernel knows */
	__le64 discarded_bytes;	  /* MADV_DONTNEED or the VMM's helper */
	__le64 purged_seen_bytes; /* marked memory that a scan found gone */
	__le64 released_bytes;	  /* of discarded_bytes, on RELEASE */
	__le64 not_marked_bytes[VIRTIO_EBB_REASON_MAX]; /* by reason */
	__le64 guest[EBB_SAMPLE_TAGS];			/* by tag; 0 where not told */
};

/* Let the kernel take memory with content that the guest has marked volatile. */
struct ebb_msg_purge {
	struct ebb_msg_hdr hdr;
	__le64 id;    /* chosen by ebbd, not 0 */
	__le64 bytes; /* wanted, not 0 */
};

#define EBB_PURGE_OK	  0 /* as much as asked is gone */
#define EBB_PURGE_PARTIAL 1 /* all that could go is gone; it is less */
#define EBB_PURGE_BUSY	  2 /* one is under way */
#define EBB_PURGE_OFF	  3 /* content is hardened, or discards are inhibited */
#define EBB_PURGE_MAX	  4

struct ebb_msg_purge_done {
	struct ebb_msg_hdr hdr;
	__le64 id;
	__le64 purged_bytes; /* found gone, and were there before */
	__le64 usec;
	__le32 status; /* EBB_PURGE_* */
	__le32 reserved;
};

/* flags of CONTENT */
#define EBB_CONTENT_F_HARDENED 0x1 /* nothing with content is marked at the moment */
#define EBB_CONTENT_F_GUEST    0x2 /* guest_* are filled */
#define EBB_CONTENT_F_MASK     0x3

/* Memory with content: comes with each SAMPLE. */
struct ebb_msg_content {
	struct ebb_msg_hdr hdr;
	__le32 flags; /* EBB_CONTENT_F_* */
	__le32 reserved;
	__le64 block_bytes;		 /* of blocks that may hold marked content now */
	__le64 marked_bytes;		 /* since the device was made; so are the next two */
	__le64 purged_bytes;		 /* marked content that a scan found gone */
	__le64 notices;			 /* sent to the guest */
	__le64 guest_volatile_bytes;	 /* the guest's words: VIRTIO_EBB_S_VOLATILE */
	__le64 guest_taken_whole_pages;	 /* VIRTIO_EBB_S_TAKEN_WHOLE */
	__le64 guest_taken_purged_pages; /* VIRTIO_EBB_S_TAKEN_PURGED */
};

/* When empty page tables of guest RAM are collected */
#define EBB_TABLES_KEEP		  0 /* in TABLES_POLICY: what the VMM's own configuration says */
#define EBB_TABLES_OFF		  1
#define EBB_TABLES_ON_DEMAND	  2
#define EBB_TABLES_BACKGROUND	  3 /* and on demand */
#define EBB_TABLES_MAX		  4

#define EBB_TABLES_DELAY_MIN_MSEC 100u
#define EBB_TABLES_DELAY_MAX_MSEC 86400000u

/* Follows POLICY, and comes again when it changes. */
struct ebb_msg_tables_policy {
	struct ebb_msg_hdr hdr;
	__le32 mode;	      /* EBB_TABLES_* */
	__le32 delay_msec;    /* between two passes in the background */
	__le64 amount_tables; /* at most asked for in such a pass, not 0 */
	__le64 least_tables;  /* fewer in one exchange are not worth asking the guest */
};

/* Collect empty page tables now, by asking the guest for the free memory behind them. */
struct ebb_msg_collect {
	struct ebb_msg_hdr hdr;
	__le64 id; /* chosen by ebbd, not 0 */
};

/* status of COLLECT_DONE: VIRTIO_EBB_DONE_*, EBB_RELEASE_*, or these */
#define EBB_COLLECT_NO_KERNEL 19 /* this host's kernel cannot find or free them */
#define EBB_COLLECT_HOST_SHORT \
	20 /* the host is short, and its kernel's way would stall the guest */
#define EBB_COLLECT_MAX 21

struct ebb_msg_collect_done {
	struct ebb_msg_hdr hdr;
	__le64 id;
	__le64 found_tables;   /* empty, by looking for them */
	__le64 asked_tables;   /* of the guest */
	__le64 offered_tables; /* by the guest, of these */
	__le64 freed_tables;
	__le64 refused_tables; /* offered, and not empty any more */
	__le64 usec;
	__le32 status;
	__le32 reserved;
};

/* Why page tables of RAM are left alone, the first that applies */
#define EBB_SKIPPED_OTHER   0 /* read-only, persistent or encrypted memory */
#define EBB_SKIPPED_LOCKED  1 /* locked in memory, or special to the kernel */
#define EBB_SKIPPED_HUGETLB 2
#define EBB_SKIPPED_SHARED  3 /* mapped shared, a file or not */
#define EBB_SKIPPED_FILE    4 /* a private mapping of a file */
#define EBB_SKIPPED_MAX	    5

/* flags of TABLES */
#define EBB_TABLES_F_CAN   0x1 /* this host's kernel can find and free them */
#define EBB_TABLES_F_MOVES 0x2 /* by moving them, as before Linux 6.14; not while it is short */
#define EBB_TABLES_F_MASK  0x3

/* Page tables of guest RAM: comes with each SAMPLE. Since the device was made. */
struct ebb_msg_tables {
	struct ebb_msg_hdr hdr;
	__le32 flags; /* EBB_TABLES_F_* */
	__le32 mode;  /* in force, EBB_TABLES_*, not KEEP */
	__le64 collections;
	__le64 found_tables;
	__le64 asked_tables;
	__le64 offered_tables;
	__le64 freed_tables;
	__le64 refused_tables;
	__le64 skipped_bytes;	 /* of RAM whose tables are left alone for its backing */
	__le64 failed_tables;	 /* offered and discarded, but the kernel did not free the table */
	__le64 unplugged_tables; /* freed without asking: virtio-mem had taken the memory back */
	__le64 skipped_by_bytes[EBB_SKIPPED_MAX]; /* skipped_bytes by reason, EBB_SKIPPED_* */
};

/* What of the guest's RAM KSM may merge */
#define EBB_MERGE_KEEP	 0 /* what the VMM's own configuration says, and nothing of ours */
#define EBB_MERGE_OFF	 1 /* nothing */
#define EBB_MERGE_HINTED 2 /* blocks that the guest has hinted */
#define EBB_MERGE_ALL	 3 /* all of it */
#define EBB_MERGE_MAX	 4

struct ebb_msg_merge {
	struct ebb_msg_hdr hdr;
	__le32 mode; /* EBB_MERGE_*; KEEP: what the VMM's own configuration says */
	__le32 reserved;
};

/* flags of MERGE_STATE */
#define EBB_MERGE_F_WHOLE   0x1	 /* RAM is mergeable that we have not marked */
#define EBB_MERGE_F_FULL    0x2	 /* no more areas: some hints are not followed */
#define EBB_MERGE_F_NO_KSM  0x4	 /* the host's kernel has no KSM */
#define EBB_MERGE_F_PENDING 0x8	 /* marks are yet to be set or taken back */
#define EBB_MERGE_F_GUEST   0x10 /* guest_* are filled */
#define EBB_MERGE_F_MASK    0x1f

/* Merging: comes with each SAMPLE, from version 3 on. */
struct ebb_msg_merge_state {
	struct ebb_msg_hdr hdr;
	__le32 flags;	     /* EBB_MERGE_F_* */
	__le32 mode;	     /* in force, EBB_MERGE_* */
	__le64 hinted_bytes; /* of blocks that the guest has hinted now */
	__le64 marked_bytes; /* of blocks that we have marked mergeable now */
	__le64 areas;	     /* memory areas that these marks make at most */
	__le64 marks;	     /* calls that marked, since the device was made; so are all below */
	__le64 unmarks;	     /* calls that took a mark back */
	__le64 failures;     /* of either */
	__le64 usec;	     /* in these calls */
	__le64 longest_usec; /* of one call: so long the guest's page faults may have waited */
	__le64 guest_hinted_bytes; /* the guest's words: VIRTIO_EBB_S_HINTED */
	__le64 guest_cache_bytes;  /* VIRTIO_EBB_S_HINT_CACHE */
	__le64 guest_passes;	   /* VIRTIO_EBB_S_HINT_PASSES */
	__le64 guest_usec;	   /* VIRTIO_EBB_S_HINT_USEC */
};

#define EBB_REFUSE_TEXT_BYTES 128

struct ebb_msg_refuse {
	struct ebb_msg_hdr hdr;
	char text[EBB_REFUSE_TEXT_BYTES]; /* NUL-terminated, printable ASCII */
};

#endif /* EBB_AGENT_H */
