/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio_ebb_check.h - is a message of the other side well-formed?
 *
 * Pure functions over bytes that were copied out of shared memory first. They look
 * at the message alone; whether a range is RAM is the executor's to say. They hold
 * no state, allocate nothing and read no more than they are told is there.
 */
#ifndef VIRTIO_EBB_CHECK_H
#define VIRTIO_EBB_CHECK_H

#include "virtio_ebb.h"
#include "ebb_le.h"

#define VIRTIO_EBB_OFFER_ALIGN_BYTES 4096ull

/* Why a message is refused; virtio_ebb_check_text() has words for it. */
enum virtio_ebb_fault {
	VIRTIO_EBB_FAULT_NONE = 0,
	VIRTIO_EBB_FAULT_SHORT,	  /* fewer bytes than the header */
	VIRTIO_EBB_FAULT_LENGTH,  /* bytes do not match type and count */
	VIRTIO_EBB_FAULT_COUNT,	  /* count is 0 or over the limit */
	VIRTIO_EBB_FAULT_ALIGN,	  /* range not on whole pages */
	VIRTIO_EBB_FAULT_EMPTY,	  /* range of no bytes */
	VIRTIO_EBB_FAULT_WRAP,	  /* range runs over the end of the address space */
	VIRTIO_EBB_FAULT_OVERLAP, /* ranges overlap each other or an offer in flight */
	VIRTIO_EBB_FAULT_NOT_RAM, /* range is not in the guest's RAM */
	VIRTIO_EBB_FAULT_ROOM,	  /* too few device-writable bytes for the answer */
	VIRTIO_EBB_FAULT_VALUE,	  /* a field has no meaning */
};

static inline const char *virtio_ebb_fault_text(enum virtio_ebb_fault fault)
{
	switch (fault) {
	case VIRTIO_EBB_FAULT_NONE:
		return "no fault";
	case VIRTIO_EBB_FAULT_SHORT:
		return "request is shorter than its header";
	case VIRTIO_EBB_FAULT_LENGTH:
		return "request length does not match its type and count";
	case VIRTIO_EBB_FAULT_COUNT:
		return "count is 0 or over the limit";
	case VIRTIO_EBB_FAULT_ALIGN:
		return "range is not on whole 4 KiB pages";
	case VIRTIO_EBB_FAULT_EMPTY:
		return "range has no bytes";
	case VIRTIO_EBB_FAULT_WRAP:
		return "range runs over the end of the address space";
	case VIRTIO_EBB_FAULT_OVERLAP:
		return "range overlaps another offer";
	case VIRTIO_EBB_FAULT_NOT_RAM:
		return "range is not in the guest's RAM";
	case VIRTIO_EBB_FAULT_ROOM:
		return "no room for the answer";
	case VIRTIO_EBB_FAULT_VALUE:
		return "a field has a value without meaning";
	}
	return "unknown fault";
}

/* A request's header in host byte order. */
struct virtio_ebb_req {
	__u16 type;
	__u32 count;
	__u64 command_id;
};

/* Bytes of one entry of a request's type; 0 for a type that is not known. */
static inline __u32 virtio_ebb_entry_bytes(__u16 type)
{
	switch (type) {
	case VIRTIO_EBB_REQ_FREE:
	case VIRTIO_EBB_REQ_VOLATILE:
		return sizeof(struct virtio_ebb_range);
	case VIRTIO_EBB_REQ_DONE:
		return sizeof(struct virtio_ebb_done);
	case VIRTIO_EBB_REQ_STATS:
		return sizeof(struct virtio_ebb_stat);
	case VIRTIO_EBB_REQ_HINT:
		return sizeof(struct virtio_ebb_hint);
	}
	return 0;
}

/* Does a request of this type offer ranges, each of which gets a verdict? */
static inline int virtio_ebb_offers(__u16 type)
{
	return type == VIRTIO_EBB_REQ_FREE || type == VIRTIO_EBB_REQ_VOLATILE;
}

/* Device-writable bytes that the answer to a well-formed request takes. */
static inline __u64 virtio_ebb_resp_bytes(const struct virtio_ebb_req *req)
{
	__u64 bytes = sizeof(struct virtio_ebb_resp_hdr);

	if (virtio_ebb_offers(req->type))
		bytes += (__u64)req->count * sizeof(struct virtio_ebb_verdict);
	return bytes;
}

/*
 * Device: check a request's header.
 * @hdr: copied out of the chain; @hdr_bytes: how much of it there was.
 * @readable_bytes, @writable_bytes: of the whole chain. @max_ranges: of the config.
 * A type that is not known passes if its header is there and an answer fits: it is
 * answered RESP_UNSUPPORTED, its entries are not read.
 */
static inline enum virtio_ebb_fault virtio_ebb_check_req(const struct virtio_ebb_req_hdr *hdr,
							 __u64 hdr_bytes, __u64 readable_bytes,
							 __u64 writable_bytes, __u32 max_ranges,
							 struct virtio_ebb_req *req)
{
	__u32 entry_bytes, max_count = 1;

	if (hdr_bytes < sizeof(*hdr) || readable_bytes < sizeof(*hdr))
		return VIRTIO_EBB_FAULT_SHORT;
	req->type = ebb_get_le16(&hdr->type);
	req->count = ebb_get_le32(&hdr->count);
	req->command_id = ebb_get_le64(&hdr->command_id);

	entry_bytes = virtio_ebb_entry_bytes(req->type);
	if (entry_bytes) {
		if (virtio_ebb_offers(req->type) || req->type == VIRTIO_EBB_REQ_HINT)
			max_count = max_ranges;
		else if (req->type == VIRTIO_EBB_REQ_STATS)
			max_count = VIRTIO_EBB_MAX_STATS;
		if (req->count == 0 || req->count > max_count)
			return VIRTIO_EBB_FAULT_COUNT;
		if (readable_bytes != sizeof(*hdr) + (__u64)req->count * entry_bytes)
			return VIRTIO_EBB_FAULT_LENGTH;
		if (req->type == VIRTIO_EBB_REQ_DONE && req->command_id == 0)
			return VIRTIO_EBB_FAULT_VALUE;
	}
	if (writable_bytes < virtio_ebb_resp_bytes(req))
		return VIRTIO_EBB_FAULT_ROOM;
	return VIRTIO_EBB_FAULT_NONE;
}

/* Device: check one range of an offer and give it in host byte order. */
static inline enum virtio_ebb_fault virtio_ebb_check_range(const struct virtio_ebb_range *range,
							   __u64 *gpa, __u64 *bytes)
{
	*gpa = ebb_get_le64(&range->gpa);
	*bytes = ebb_get_le64(&range->bytes);
	if (*bytes == 0)
		return VIRTIO_EBB_FAULT_EMPTY;
	if ((*gpa | *bytes) & (VIRTIO_EBB_OFFER_ALIGN_BYTES - 1))
		return VIRTIO_EBB_FAULT_ALIGN;
	if (*gpa + *bytes < *gpa)
		return VIRTIO_EBB_FAULT_WRAP;
	return VIRTIO_EBB_FAULT_NONE;
}

/*
 * Device: check one hint and give it in host byte order. @after: where the hint before it in
 * the same request ended, 0 for the first.
 */
static inline enum virtio_ebb_fault virtio_ebb_check_hint(const struct virtio_ebb_hint *hint,
							  __u64 after, __u64 *gpa, __u64 *bytes,
							  __u32 *flags)
{
	*gpa = ebb_get_le64(&hint->gpa);
	*bytes = ebb_get_le64(&hint->bytes);
	*flags = ebb_get_le32(&hint->flags);
	if (*flags & ~(__u32)VIRTIO_EBB_HINT_F_MERGE)
		return VIRTIO_EBB_FAULT_VALUE;
	if (*bytes == 0)
		return VIRTIO_EBB_FAULT_EMPTY;
	if ((*gpa | *bytes) & (VIRTIO_EBB_OFFER_ALIGN_BYTES - 1))
		return VIRTIO_EBB_FAULT_ALIGN;
	if (*gpa + *bytes < *gpa)
		return VIRTIO_EBB_FAULT_WRAP;
	if (*gpa < after)
		return VIRTIO_EBB_FAULT_OVERLAP;
	return VIRTIO_EBB_FAULT_NONE;
}

/* Device: check REQ_DONE's entry. */
static inline enum virtio_ebb_fault virtio_ebb_check_done(const struct virtio_ebb_done *done)
{
	if (ebb_get_le32(&done->status) >= VIRTIO_EBB_DONE_MAX)
		return VIRTIO_EBB_FAULT_VALUE;
	return VIRTIO_EBB_FAULT_NONE;
}

/* Driver: check the device's configuration. */
static inline enum virtio_ebb_fault virtio_ebb_check_config(__u32 page_bytes, __u32 block_bytes,
							    __u32 max_ranges)
{
	if (page_bytes < VIRTIO_EBB_OFFER_ALIGN_BYTES || (page_bytes & (page_bytes - 1)))
		return VIRTIO_EBB_FAULT_VALUE;
	if (block_bytes < page_bytes || (block_bytes & (block_bytes - 1)))
		return VIRTIO_EBB_FAULT_VALUE;
	if (max_ranges == 0 || max_ranges > VIRTIO_EBB_MAX_RANGES_LIMIT)
		return VIRTIO_EBB_FAULT_COUNT;
	return VIRTIO_EBB_FAULT_NONE;
}

/*
 * Driver: check an answer to an offer. @used_bytes: what the device wrote.
 * Of RESP_UNSUPPORTED only the header is there.
 */
static inline enum virtio_ebb_fault virtio_ebb_check_resp(const struct virtio_ebb_resp_hdr *resp,
							  __u64 used_bytes, __u32 count)
{
	if (used_bytes < sizeof(*resp))
		return VIRTIO_EBB_FAULT_SHORT;
	if (ebb_get_le32(&resp->status) != VIRTIO_EBB_RESP_OK)
		return VIRTIO_EBB_FAULT_NONE;
	if (ebb_get_le32(&resp->count) != count)
		return VIRTIO_EBB_FAULT_COUNT;
	if (used_bytes < sizeof(*resp) + (__u64)count * sizeof(struct virtio_ebb_verdict))
		return VIRTIO_EBB_FAULT_LENGTH;
	return VIRTIO_EBB_FAULT_NONE;
}

/* Driver: check a verdict on a range of @range_bytes. */
static inline enum virtio_ebb_fault
virtio_ebb_check_verdict(const struct virtio_ebb_verdict *verdict, __u64 range_bytes)
{
	__u16 kind = ebb_get_le16(&verdict->verdict);

	if (kind < VIRTIO_EBB_MARKED || kind > VIRTIO_EBB_NOT_MARKED)
		return VIRTIO_EBB_FAULT_VALUE;
	if (ebb_get_le16(&verdict->reason) >= VIRTIO_EBB_REASON_MAX)
		return VIRTIO_EBB_FAULT_VALUE;
	if (ebb_get_le64(&verdict->bytes) > range_bytes)
		return VIRTIO_EBB_FAULT_LENGTH;
	return VIRTIO_EBB_FAULT_NONE;
}

/*
 * Driver: check the ranges of COLLECT, of whose command virtio_ebb_check_command() has said that
 * it is well-formed. @used_bytes: what the device wrote.
 */
static inline enum virtio_ebb_fault
virtio_ebb_check_collect(const struct virtio_ebb_collect *collect, __u64 used_bytes)
{
	__u32 count = ebb_get_le32(&collect->command.count), i;
	enum virtio_ebb_fault fault;
	__u64 gpa, bytes;

	if (count == 0 || count > VIRTIO_EBB_MAX_COLLECT)
		return VIRTIO_EBB_FAULT_COUNT;
	if (used_bytes < sizeof(collect->command) + (__u64)count * sizeof(collect->ranges[0]))
		return VIRTIO_EBB_FAULT_LENGTH;
	for (i = 0; i < count; i++) {
		fault = virtio_ebb_check_range(&collect->ranges[i], &gpa, &bytes);
		if (fault)
			return fault;
	}
	return VIRTIO_EBB_FAULT_NONE;
}

/*
 * Driver: check a command. @used_bytes: what the device wrote. Whether the range of PURGED is
 * this guest's RAM is the driver's to look.
 */
static inline enum virtio_ebb_fault virtio_ebb_check_command(const struct virtio_ebb_command *cmd,
							     __u64 used_bytes)
{
	__u16 type;

	if (used_bytes < sizeof(*cmd))
		return VIRTIO_EBB_FAULT_SHORT;
	type = ebb_get_le16(&cmd->type);
	if (type == VIRTIO_EBB_CMD_PURGED) {
		__u64 gpa = ebb_get_le64(&cmd->gpa), bytes = ebb_get_le64(&cmd->bytes);

		if (ebb_get_le64(&cmd->id) != 0)
			return VIRTIO_EBB_FAULT_VALUE;
		if (bytes == 0)
			return VIRTIO_EBB_FAULT_EMPTY;
		if ((gpa | bytes) & (VIRTIO_EBB_OFFER_ALIGN_BYTES - 1))
			return VIRTIO_EBB_FAULT_ALIGN;
		return gpa + bytes < gpa ? VIRTIO_EBB_FAULT_WRAP : VIRTIO_EBB_FAULT_NONE;
	}
	if (ebb_get_le64(&cmd->id) == 0)
		return VIRTIO_EBB_FAULT_VALUE;
	if (type == VIRTIO_EBB_CMD_RELEASE && ebb_get_le64(&cmd->bytes) == 0)
		return VIRTIO_EBB_FAULT_EMPTY;
	return VIRTIO_EBB_FAULT_NONE;
}

#endif /* VIRTIO_EBB_CHECK_H */
