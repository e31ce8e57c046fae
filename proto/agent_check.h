/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * agent_check.h - is a packet of the agent protocol well-formed?
 *
 * Pure functions over one received packet. They hold no state, allocate nothing and
 * read no more than the packet's length. Each side calls the one for the direction
 * that it receives; a packet that fails ends that one connection.
 */
#ifndef EBB_AGENT_CHECK_H
#define EBB_AGENT_CHECK_H

#include "agent.h"
#include "ebb_le.h"

#define EBB_AGENT_SAMPLE_INTERVAL_MIN_MSEC 100u
#define EBB_AGENT_SAMPLE_INTERVAL_MAX_MSEC 3600000u

enum ebb_agent_fault {
	EBB_AGENT_FAULT_NONE = 0,
	EBB_AGENT_FAULT_LENGTH,	  /* packet length, length_bytes and type do not agree */
	EBB_AGENT_FAULT_TYPE,	  /* type not known in this direction */
	EBB_AGENT_FAULT_RESERVED, /* a reserved field is not zero */
	EBB_AGENT_FAULT_VALUE,	  /* a field has a value without meaning */
	EBB_AGENT_FAULT_TEXT,	  /* text is not NUL-terminated printable ASCII */
};

static inline const char *ebb_agent_fault_text(enum ebb_agent_fault fault)
{
	switch (fault) {
	case EBB_AGENT_FAULT_NONE:
		return "no fault";
	case EBB_AGENT_FAULT_LENGTH:
		return "message length does not match its type";
	case EBB_AGENT_FAULT_TYPE:
		return "message type is not known in this direction";
	case EBB_AGENT_FAULT_RESERVED:
		return "a reserved field is not zero";
	case EBB_AGENT_FAULT_VALUE:
		return "a field has a value without meaning";
	case EBB_AGENT_FAULT_TEXT:
		return "text is not NUL-terminated printable ASCII";
	}
	return "unknown fault";
}

/* The bytes of a message of this type; 0 for a type that is not known. */
static inline __u32 ebb_agent_msg_bytes(__u16 type)
{
	switch (type) {
	case EBB_MSG_HELLO:
		return sizeof(struct ebb_msg_hello);
	case EBB_MSG_WELCOME:
		return sizeof(struct ebb_msg_welcome);
	case EBB_MSG_SAMPLE:
		return sizeof(struct ebb_msg_sample);
	case EBB_MSG_POLICY:
		return sizeof(struct ebb_msg_policy);
	case EBB_MSG_RELEASE_DONE:
		return sizeof(struct ebb_msg_release_done);
	case EBB_MSG_RELEASE:
		return sizeof(struct ebb_msg_release);
	case EBB_MSG_REFUSE:
		return sizeof(struct ebb_msg_refuse);
	case EBB_MSG_PURGE_DONE:
		return sizeof(struct ebb_msg_purge_done);
	case EBB_MSG_PURGE:
		return sizeof(struct ebb_msg_purge);
	case EBB_MSG_CONTENT:
		return sizeof(struct ebb_msg_content);
	case EBB_MSG_TABLES_POLICY:
		return sizeof(struct ebb_msg_tables_policy);
	case EBB_MSG_COLLECT_DONE:
		return sizeof(struct ebb_msg_collect_done);
	case EBB_MSG_COLLECT:
		return sizeof(struct ebb_msg_collect);
	case EBB_MSG_TABLES:
		return sizeof(struct ebb_msg_tables);
	case EBB_MSG_MERGE:
		return sizeof(struct ebb_msg_merge);
	case EBB_MSG_MERGE_STATE:
		return sizeof(struct ebb_msg_merge_state);
	}
	return 0;
}

/* The version from which on a type may be used. */
static inline __u32 ebb_agent_msg_version(__u16 type)
{
	if (type > EBB_MSG_CONTENT)
		return 3;
	return type >= EBB_MSG_PURGE_DONE ? 2 : 1;
}

/* Printable ASCII without '/', at least one character, NUL-terminated, zeros after it. */
static inline enum ebb_agent_fault ebb_agent_check_text(const char *text, __u32 size_bytes,
							int is_name)
{
	__u32 i, end = 0;

	while (end < size_bytes && text[end] != '\0')
		end++;
	if (end == size_bytes || end == 0)
		return EBB_AGENT_FAULT_TEXT;
	for (i = 0; i < end; i++) {
		if (text[i] < 0x20 || text[i] > 0x7e)
			return EBB_AGENT_FAULT_TEXT;
		if (is_name && (text[i] == '/' || text[i] == ' '))
			return EBB_AGENT_FAULT_TEXT;
	}
	for (i = end; i < size_bytes; i++)
		if (text[i] != '\0')
			return EBB_AGENT_FAULT_RESERVED;
	return EBB_AGENT_FAULT_NONE;
}

static inline enum ebb_agent_fault ebb_agent_check_hdr(const void *packet, __u64 packet_bytes,
						       __u32 version, __u16 *type)
{
	const struct ebb_msg_hdr *hdr = (const struct ebb_msg_hdr *)packet;

	if (packet_bytes < sizeof(*hdr))
		return EBB_AGENT_FAULT_LENGTH;
	*type = ebb_get_le16(&hdr->type);
	if (ebb_agent_msg_bytes(*type) == 0 || ebb_agent_msg_version(*type) > version)
		return EBB_AGENT_FAULT_TYPE;
	if (packet_bytes != ebb_agent_msg_bytes(*type) ||
	    ebb_get_le32(&hdr->length_bytes) != packet_bytes)
		return EBB_AGENT_FAULT_LENGTH;
	if (ebb_get_le16(&hdr->reserved))
		return EBB_AGENT_FAULT_RESERVED;
	return EBB_AGENT_FAULT_NONE;
}

static inline enum ebb_agent_fault ebb_agent_check_hello(const struct ebb_msg_hello *msg)
{
	__u16 min = ebb_get_le16(&msg->version_min);
	__u16 max = ebb_get_le16(&msg->version_max);
	__u32 front = ebb_get_le32(&msg->front);

	if (min == 0 || min > max)
		return EBB_AGENT_FAULT_VALUE;
	if (front != EBB_FRONT_EBB && front != EBB_FRONT_BALLOON)
		return EBB_AGENT_FAULT_VALUE;
	return ebb_agent_check_text(msg->name, sizeof(msg->name), 1);
}

static inline enum ebb_agent_fault ebb_agent_check_sample(const struct ebb_msg_sample *msg)
{
	__u32 mode = ebb_get_le32(&msg->mode);
	__u32 stage = ebb_get_le32(&msg->stage);

	if (ebb_get_le32(&msg->reserved) || (ebb_get_le32(&msg->flags) & ~EBB_SAMPLE_F_MASK))
		return EBB_AGENT_FAULT_RESERVED;
	if (mode == EBB_MODE_KEEP || mode >= EBB_MODE_MAX || stage == 0 || stage >= EBB_STAGE_MAX)
		return EBB_AGENT_FAULT_VALUE;
	return EBB_AGENT_FAULT_NONE;
}

static inline enum ebb_agent_fault ebb_agent_check_purge_done(const struct ebb_msg_purge_done *msg)
{
	if (ebb_get_le32(&msg->reserved))
		return EBB_AGENT_FAULT_RESERVED;
	if (ebb_get_le64(&msg->id) == 0 || ebb_get_le32(&msg->status) >= EBB_PURGE_MAX)
		return EBB_AGENT_FAULT_VALUE;
	return EBB_AGENT_FAULT_NONE;
}

static inline enum ebb_agent_fault ebb_agent_check_content(const struct ebb_msg_content *msg)
{
	if (ebb_get_le32(&msg->reserved) || (ebb_get_le32(&msg->flags) & ~EBB_CONTENT_F_MASK))
		return EBB_AGENT_FAULT_RESERVED;
	return EBB_AGENT_FAULT_NONE;
}

static inline enum ebb_agent_fault
ebb_agent_check_collect_done(const struct ebb_msg_collect_done *msg)
{
	if (ebb_get_le32(&msg->reserved))
		return EBB_AGENT_FAULT_RESERVED;
	if (ebb_get_le64(&msg->id) == 0 || ebb_get_le32(&msg->status) >= EBB_COLLECT_MAX)
		return EBB_AGENT_FAULT_VALUE;
	return EBB_AGENT_FAULT_NONE;
}

static inline enum ebb_agent_fault ebb_agent_check_tables(const struct ebb_msg_tables *msg)
{
	__u32 mode = ebb_get_le32(&msg->mode);

	if (ebb_get_le32(&msg->flags) & ~EBB_TABLES_F_MASK)
		return EBB_AGENT_FAULT_RESERVED;
	if (mode == EBB_TABLES_KEEP || mode >= EBB_TABLES_MAX)
		return EBB_AGENT_FAULT_VALUE;
	return EBB_AGENT_FAULT_NONE;
}

static inline enum ebb_agent_fault ebb_agent_check_merge(const struct ebb_msg_merge *msg)
{
	if (ebb_get_le32(&msg->reserved))
		return EBB_AGENT_FAULT_RESERVED;
	return ebb_get_le32(&msg->mode) < EBB_MERGE_MAX ? EBB_AGENT_FAULT_NONE
							: EBB_AGENT_FAULT_VALUE;
}

static inline enum ebb_agent_fault
ebb_agent_check_merge_state(const struct ebb_msg_merge_state *msg)
{
	if (ebb_get_le32(&msg->flags) & ~EBB_MERGE_F_MASK)
		return EBB_AGENT_FAULT_RESERVED;
	return ebb_get_le32(&msg->mode) < EBB_MERGE_MAX ? EBB_AGENT_FAULT_NONE
							: EBB_AGENT_FAULT_VALUE;
}

/*
 * ebbd: check a packet from an executor. version: the one agreed upon; before that, 1. A
 * type of a later one is not known.
 */
static inline enum ebb_agent_fault
ebb_agent_check_from_executor(const void *packet, __u64 packet_bytes, __u32 version, __u16 *type)
{
	enum ebb_agent_fault fault = ebb_agent_check_hdr(packet, packet_bytes, version, type);
	const struct ebb_msg_release_done *done = (const struct ebb_msg_release_done *)packet;

	if (fault)
		return fault;
	switch (*type) {
	case EBB_MSG_HELLO:
		return ebb_agent_check_hello((const struct ebb_msg_hello *)packet);
	case EBB_MSG_SAMPLE:
		return ebb_agent_check_sample((const struct ebb_msg_sample *)packet);
	case EBB_MSG_RELEASE_DONE:
		if (ebb_get_le64(&done->id) == 0 || ebb_get_le32(&done->status) >= EBB_RELEASE_MAX)
			return EBB_AGENT_FAULT_VALUE;
		return EBB_AGENT_FAULT_NONE;
	case EBB_MSG_PURGE_DONE:
		return ebb_agent_check_purge_done((const struct ebb_msg_purge_done *)packet);
	case EBB_MSG_CONTENT:
		return ebb_agent_check_content((const struct ebb_msg_content *)packet);
	case EBB_MSG_COLLECT_DONE:
		return ebb_agent_check_collect_done((const struct ebb_msg_collect_done *)packet);
	case EBB_MSG_TABLES:
		return ebb_agent_check_tables((const struct ebb_msg_tables *)packet);
	case EBB_MSG_MERGE_STATE:
		return ebb_agent_check_merge_state((const struct ebb_msg_merge_state *)packet);
	}
	return EBB_AGENT_FAULT_TYPE;
}

static inline enum ebb_agent_fault
ebb_agent_check_tables_policy(const struct ebb_msg_tables_policy *msg)
{
	__u32 delay_msec = ebb_get_le32(&msg->delay_msec);

	if (ebb_get_le32(&msg->mode) >= EBB_TABLES_MAX || delay_msec < EBB_TABLES_DELAY_MIN_MSEC ||
	    delay_msec > EBB_TABLES_DELAY_MAX_MSEC || ebb_get_le64(&msg->amount_tables) == 0)
		return EBB_AGENT_FAULT_VALUE;
	return EBB_AGENT_FAULT_NONE;
}

/* Executor: check a packet from ebbd; version as above. */
static inline enum ebb_agent_fault
ebb_agent_check_from_agent(const void *packet, __u64 packet_bytes, __u32 version, __u16 *type)
{
	enum ebb_agent_fault fault = ebb_agent_check_hdr(packet, packet_bytes, version, type);
	const struct ebb_msg_purge *purge = (const struct ebb_msg_purge *)packet;
	const struct ebb_msg_welcome *welcome = (const struct ebb_msg_welcome *)packet;
	const struct ebb_msg_policy *policy = (const struct ebb_msg_policy *)packet;
	const struct ebb_msg_release *release = (const struct ebb_msg_release *)packet;
	const struct ebb_msg_refuse *refuse = (const struct ebb_msg_refuse *)packet;
	__u32 msec, stage;

	if (fault)
		return fault;
	switch (*type) {
	case EBB_MSG_WELCOME:
		msec = ebb_get_le32(&welcome->sample_interval_msec);
		if (ebb_get_le32(&welcome->version) < EBB_AGENT_VERSION_MIN ||
		    ebb_get_le32(&welcome->version) > EBB_AGENT_VERSION_MAX ||
		    msec < EBB_AGENT_SAMPLE_INTERVAL_MIN_MSEC ||
		    msec > EBB_AGENT_SAMPLE_INTERVAL_MAX_MSEC)
			return EBB_AGENT_FAULT_VALUE;
		return EBB_AGENT_FAULT_NONE;
	case EBB_MSG_POLICY:
		stage = ebb_get_le32(&policy->stage);
		if (ebb_get_le32(&policy->mode) >= EBB_MODE_MAX || stage == 0 ||
		    stage >= EBB_STAGE_MAX)
			return EBB_AGENT_FAULT_VALUE;
		return EBB_AGENT_FAULT_NONE;
	case EBB_MSG_RELEASE:
		if (ebb_get_le32(&release->reserved) ||
		    (ebb_get_le32(&release->flags) & ~(__u32)VIRTIO_EBB_RELEASE_F_ANEW))
			return EBB_AGENT_FAULT_RESERVED;
		if (ebb_get_le64(&release->id) == 0 || ebb_get_le64(&release->bytes) == 0)
			return EBB_AGENT_FAULT_VALUE;
		return EBB_AGENT_FAULT_NONE;
	case EBB_MSG_PURGE:
		if (ebb_get_le64(&purge->id) == 0 || ebb_get_le64(&purge->bytes) == 0)
			return EBB_AGENT_FAULT_VALUE;
		return EBB_AGENT_FAULT_NONE;
	case EBB_MSG_TABLES_POLICY:
		return ebb_agent_check_tables_policy((const struct ebb_msg_tables_policy *)packet);
	case EBB_MSG_COLLECT:
		if (ebb_get_le64(&((const struct ebb_msg_collect *)packet)->id) == 0)
			return EBB_AGENT_FAULT_VALUE;
		return EBB_AGENT_FAULT_NONE;
	case EBB_MSG_MERGE:
		return ebb_agent_check_merge((const struct ebb_msg_merge *)packet);
	case EBB_MSG_REFUSE:
		return ebb_agent_check_text(refuse->text, sizeof(refuse->text), 0);
	}
	return EBB_AGENT_FAULT_TYPE;
}

#endif /* EBB_AGENT_CHECK_H */
