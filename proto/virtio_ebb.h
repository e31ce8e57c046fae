/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio_ebb.h - the wire between a guest's driver and the ebb device
 *
 * The specification is docs/device.md; this file is its ABI. All fields are
 * little-endian, naturally aligned and of fixed size. The sender zeroes what is
 * called reserved, the receiver ignores it; the format grows by feature bits.
 * Written against Virtual I/O Device (VIRTIO) Version 1.2.
 *
 * A guest offers ranges of memory that it has isolated: from the moment the
 * request is made available until the device has used the buffer, nobody in the
 * guest touches them. Within that window the device may mark or discard them;
 * after it, it may not. Each range gets a verdict.
 */
#ifndef VIRTIO_EBB_H
#define VIRTIO_EBB_H

#include <linux/types.h>

/*
 * Experimental: VIRTIO 1.2 assigns IDs up to 45, 60 to 63 are in private use.
 * This line is the only place that knows the number. PCI: 1af4:(0x1040 + ID).
 */
#define VIRTIO_ID_EBB 59

/* Feature bits. 5 to 23 are kept for later mechanisms of ebb. */
#define VIRTIO_EBB_F_REPORT  0 /* the device takes VIRTIO_EBB_REQ_FREE */
#define VIRTIO_EBB_F_RELEASE 1 /* the driver obeys VIRTIO_EBB_CMD_RELEASE */
#define VIRTIO_EBB_F_STATS   2 /* the driver obeys VIRTIO_EBB_CMD_STATS */
/* The device takes VIRTIO_EBB_REQ_VOLATILE, the driver obeys VIRTIO_EBB_CMD_PURGED. */
#define VIRTIO_EBB_F_VOLATILE 3
/*
 * The driver obeys VIRTIO_EBB_CMD_COLLECT. Its buffers for commands then hold struct
 * virtio_ebb_collect. Needs VIRTIO_EBB_F_REPORT.
 */
#define VIRTIO_EBB_F_COLLECT 5
/* The device takes VIRTIO_EBB_REQ_HINT and says in its configuration whether it wants any. */
#define VIRTIO_EBB_F_HINT 4

/* Virtqueues */
#define VIRTIO_EBB_VQ_REPORT  0 /* requests of the driver, answered by the device */
#define VIRTIO_EBB_VQ_COMMAND 1 /* empty buffers, filled by the device with commands */
#define VIRTIO_EBB_VQ_MAX     2

/* Limits that both sides may rely on. */
#define VIRTIO_EBB_MAX_RANGES_LIMIT 1024u /* config.max_ranges is 1 to this */
#define VIRTIO_EBB_MAX_STATS	    64u	  /* entries in VIRTIO_EBB_REQ_STATS */
#define VIRTIO_EBB_MAX_COLLECT	    62u	  /* ranges in one VIRTIO_EBB_CMD_COLLECT */

/* config.reporting */
#define VIRTIO_EBB_REPORTING_REST 0 /* the host has plenty: offer nothing of your own accord */
#define VIRTIO_EBB_REPORTING_RUN  1 /* report free memory */

/* config.hinting */
#define VIRTIO_EBB_HINTING_REST 0 /* the host merges nothing by hint: look for nothing */
#define VIRTIO_EBB_HINTING_RUN	1 /* look for blocks that are worth merging */

/*
 * Device configuration space, read-only for the driver. A change of reporting,
 * reoffer_generation, hinting or hint_generation is announced by a configuration change
 * notification.
 */
struct virtio_ebb_config {
	__le32 page_bytes;	   /* largest page size of the host under the guest's RAM that the
				      device works on; offers are multiples of 4096 in any case */
	__le32 block_bytes;	   /* granularity worth offering: 2 MiB */
	__le32 max_ranges;	   /* most ranges in one request */
	__le32 reporting;	   /* VIRTIO_EBB_REPORTING_* */
	__le32 reoffer_generation; /* when it changes, all free memory is to be offered anew, also
				      what was reported before (host lost its marks: migration, or
				      it wants stronger ones) */
	/* With VIRTIO_EBB_F_HINT, else reserved: */
	__le32 hinting;		/* VIRTIO_EBB_HINTING_* */
	__le32 hint_generation; /* when it changes, all hints are to be given anew: the host has
				   forgotten them */
	__le32 reserved[1];
};

/* Requests: a chain of device-readable bytes
 *	struct virtio_ebb_req_hdr, then count entries of the type's own struct
 * followed by device-writable bytes
 *	struct virtio_ebb_resp_hdr, then for REQ_FREE and REQ_VOLATILE count
 *	struct virtio_ebb_verdict.
 */
#define VIRTIO_EBB_REQ_FREE  1 /* entries: struct virtio_ebb_range, isolated free memory */
#define VIRTIO_EBB_REQ_DONE  2 /* entries: one struct virtio_ebb_done, the end of a command */
#define VIRTIO_EBB_REQ_STATS 3 /* entries: struct virtio_ebb_stat */
/*
 * Entries: struct virtio_ebb_range, isolated memory with content that its owner may want back.
 * Never discarded in the window; marked, each page of the host keeps its content or, from some
 * moment on, is zeros. The driver tells the two apart by a word that it wrote into each page of
 * page_bytes beforehand and that is not 0.
 */
#define VIRTIO_EBB_REQ_VOLATILE 4
/*
 * Entries: struct virtio_ebb_hint, in order of address, none overlapping another: memory that
 * is in use and stays so. What is hinted is likely to have equals in other guests (clean page
 * cache of files); the host may share such pages, which changes no content. Nothing is isolated,
 * nothing is awaited, the answer has no verdicts. A hint stands until it is withdrawn or the
 * device is reset.
 */
#define VIRTIO_EBB_REQ_HINT 5

struct virtio_ebb_req_hdr {
	__le16 type; /* VIRTIO_EBB_REQ_* */
	__le16 reserved0;
	__le32 count;	   /* entries that follow */
	__le64 command_id; /* the command that this belongs to; 0: of the driver's own accord */
};

struct virtio_ebb_range {
	__le64 gpa;   /* guest-physical address, multiple of 4096 */
	__le64 bytes; /* length, multiple of 4096, not 0 */
};

/* flags of struct virtio_ebb_hint */
#define VIRTIO_EBB_HINT_F_MERGE 0x1 /* worth merging; without it an earlier hint is withdrawn */

struct virtio_ebb_hint {
	__le64 gpa;   /* guest-physical address, multiple of 4096 */
	__le64 bytes; /* length, multiple of 4096, not 0; whole blocks are of use */
	__le32 flags; /* VIRTIO_EBB_HINT_F_*, no others */
	__le32 reserved;
};

/* Response */
#define VIRTIO_EBB_RESP_OK	    0
#define VIRTIO_EBB_RESP_UNSUPPORTED 1 /* type not known or its feature not negotiated */

struct virtio_ebb_resp_hdr {
	__le32 status; /* VIRTIO_EBB_RESP_* */
	__le32 count;  /* verdicts that follow */
};

/* Verdict: what became of a range */
#define VIRTIO_EBB_MARKED     1 /* volatile (MADV_FREE): old content or zeros from now on */
#define VIRTIO_EBB_DISCARDED  2 /* gone: reads zeros */
#define VIRTIO_EBB_NOT_MARKED 3 /* as it was; reason says why */

/* Reason of a NOT_MARKED verdict, or why part of a range was left out */
#define VIRTIO_EBB_REASON_NONE	    0
#define VIRTIO_EBB_REASON_OFF	    1 /* the operator has switched it off */
#define VIRTIO_EBB_REASON_REST	    2 /* the host has plenty */
#define VIRTIO_EBB_REASON_FRAGMENT  3 /* smaller than a block or than a page of the backing */
#define VIRTIO_EBB_REASON_INHIBITED 4 /* the VMM forbids discards at the moment */
#define VIRTIO_EBB_REASON_BACKING   5 /* the memory behind it does not allow it */
#define VIRTIO_EBB_REASON_POISON    6 /* the guest relies on a pattern in free memory */
#define VIRTIO_EBB_REASON_FAILED    7 /* the system call failed */
#define VIRTIO_EBB_REASON_CANCELLED 8 /* reset, stop or removal came first */
#define VIRTIO_EBB_REASON_MAX	    9

struct virtio_ebb_verdict {
	__le16 verdict; /* VIRTIO_EBB_MARKED, ...; DISCARDED only if all of bytes was */
	__le16 reason;	/* VIRTIO_EBB_REASON_*; of the part that was left out, if any */
	__le32 reserved;
	__le64 bytes; /* marked or discarded within the range */
};

/* Commands: the device fills buffers of the command queue, one in each. */
#define VIRTIO_EBB_CMD_RELEASE 1 /* offer bytes of free memory now, in REQ_FREE with this id */
#define VIRTIO_EBB_CMD_STATS   2 /* answer with REQ_STATS and this id */
/*
 * Pages in [gpa, gpa + bytes), offered by REQ_VOLATILE, are gone: look which. Without an id
 * (0) and without an end: what is lost between a look and another notice is found by the
 * take-back in any case.
 */
#define VIRTIO_EBB_CMD_PURGED 3
/*
 * The host keeps empty page tables for these ranges: offer those blocks of them that are wholly
 * free now, also what was reported before, in REQ_FREE with this id. What is not free is left
 * out. Nothing is allocated, touched or moved for it. The device discards what it finds empty.
 */
#define VIRTIO_EBB_CMD_COLLECT 5

/* flags of CMD_RELEASE */
#define VIRTIO_EBB_RELEASE_F_ANEW 0x1 /* also what was reported before */

/* flags of CMD_PURGED */
#define VIRTIO_EBB_PURGED_F_COMPLETE                                \
	0x1 /* the host is short: what is worthless now may go, too \
	     */

struct virtio_ebb_command {
	__le64 id;   /* ends with REQ_DONE (RELEASE, COLLECT) or REQ_STATS (STATS); 0 for PURGED
			alone */
	__le16 type; /* VIRTIO_EBB_CMD_* */
	__le16 flags;
	__le32 count; /* COLLECT: ranges that follow, 1 to VIRTIO_EBB_MAX_COLLECT; else reserved */
	__le64 bytes; /* RELEASE: how much is wanted; PURGED: length of the range;
			 COLLECT: of all ranges together */
	__le64 gpa;   /* PURGED: where it begins, multiple of 4096; else reserved */
};

/* CMD_COLLECT: the device writes as much of it as count says. */
struct virtio_ebb_collect {
	struct virtio_ebb_command command;
	struct virtio_ebb_range ranges[VIRTIO_EBB_MAX_COLLECT];
};

/* status of REQ_DONE */
#define VIRTIO_EBB_DONE_OK	0 /* bytes were offered, as asked */
#define VIRTIO_EBB_DONE_PARTIAL 1 /* all that is free was offered; it is less */
#define VIRTIO_EBB_DONE_SHORT	2 /* the guest is short of memory itself and stopped */
#define VIRTIO_EBB_DONE_UNSUPPORTED                                                             \
	3			    /* unknown command, or no reporting (another driver has it, \
				       page poisoning) */
#define VIRTIO_EBB_DONE_CANCELLED 4 /* suspend, shutdown or unload came first */
#define VIRTIO_EBB_DONE_MAX	  5

struct virtio_ebb_done {
	__le32 status; /* VIRTIO_EBB_DONE_* */
	__le32 passes; /* runs of the reporting work */
	__le64 bytes;  /* offered in all */
};

/* Statistics of the guest; unknown tags are ignored. Bytes unless said. */
#define VIRTIO_EBB_S_TOTAL	1 /* memory that the guest's kernel manages */
#define VIRTIO_EBB_S_FREE	2 /* MemFree */
#define VIRTIO_EBB_S_AVAILABLE	3 /* MemAvailable */
#define VIRTIO_EBB_S_CACHED	4 /* page cache */
#define VIRTIO_EBB_S_REPORTED	5 /* reported and still free: not touched since */
#define VIRTIO_EBB_S_REUSED	6 /* estimate: reported at some time, in use again (cumulative) */
#define VIRTIO_EBB_S_OOM_EVENTS 7 /* count of OOM notifications */
#define VIRTIO_EBB_S_FLAGS	8 /* VIRTIO_EBB_S_FLAG_* */
/* With VIRTIO_EBB_F_VOLATILE. Pages are those of config.page_bytes. */
#define VIRTIO_EBB_S_VOLATILE	  9  /* with content, marked volatile now */
#define VIRTIO_EBB_S_TAKEN_WHOLE  10 /* pages that were taken back whole (cumulative) */
#define VIRTIO_EBB_S_TAKEN_PURGED 11 /* pages that were found purged (cumulative) */
/* With VIRTIO_EBB_F_HINT. */
#define VIRTIO_EBB_S_HINTED	       12 /* in blocks that are hinted now */
#define VIRTIO_EBB_S_HINT_CACHE	       13 /* of these, clean page cache of files, when last looked at */
#define VIRTIO_EBB_S_HINT_PASSES       14 /* times that all memory was looked through (cumulative) */
#define VIRTIO_EBB_S_HINT_USEC	       15 /* time spent on looking, in microseconds (cumulative) */
#define VIRTIO_EBB_S_MAX	       16

#define VIRTIO_EBB_S_FLAG_NO_REPORTING 0x1 /* another driver has page reporting */
#define VIRTIO_EBB_S_FLAG_POISON       0x2 /* free memory holds a pattern: not reported */

struct virtio_ebb_stat {
	__le16 tag; /* VIRTIO_EBB_S_* */
	__le16 reserved[3];
	__le64 value;
};

#endif /* VIRTIO_EBB_H */
