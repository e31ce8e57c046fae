// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_agent_check - each fault of the agent protocol
 *
 * Every message is made well-formed first and then spoilt in one way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "agent_check.h"

static union {
	struct ebb_msg_hdr hdr;
	struct ebb_msg_hello hello;
	struct ebb_msg_welcome welcome;
	struct ebb_msg_policy policy;
	struct ebb_msg_release release;
	struct ebb_msg_release_done done;
	struct ebb_msg_sample sample;
	struct ebb_msg_refuse refuse;
	struct ebb_msg_purge purge;
	struct ebb_msg_purge_done purge_done;
	struct ebb_msg_content content;
	struct ebb_msg_collect collect;
	struct ebb_msg_collect_done collect_done;
	struct ebb_msg_tables tables;
	struct ebb_msg_tables_policy tables_policy;
	struct ebb_msg_merge merge;
	struct ebb_msg_merge_state merge_state;
	uint8_t bytes[EBB_AGENT_MAX_BYTES];
} msg;

static const uint16_t types[] = {
	EBB_MSG_HELLO,	      EBB_MSG_WELCOME,	     EBB_MSG_SAMPLE,  EBB_MSG_POLICY,
	EBB_MSG_RELEASE,      EBB_MSG_RELEASE_DONE,  EBB_MSG_REFUSE,  EBB_MSG_PURGE_DONE,
	EBB_MSG_PURGE,	      EBB_MSG_CONTENT,	     EBB_MSG_COLLECT, EBB_MSG_TABLES,
	EBB_MSG_COLLECT_DONE, EBB_MSG_TABLES_POLICY, EBB_MSG_MERGE,   EBB_MSG_MERGE_STATE,
};
#define LATEST	 3
#define NR_TYPES (sizeof(types) / sizeof(types[0]))

static void make(uint16_t type)
{
	memset(&msg, 0, sizeof(msg));
	ebb_put_le16(&msg.hdr.type, type);
	ebb_put_le32(&msg.hdr.length_bytes, ebb_agent_msg_bytes(type));
	switch (type) {
	case EBB_MSG_HELLO:
		ebb_put_le16(&msg.hello.version_min, 1);
		ebb_put_le16(&msg.hello.version_max, 2);
		ebb_put_le32(&msg.hello.front, EBB_FRONT_BALLOON);
		strcpy(msg.hello.name, "vm-1");
		break;
	case EBB_MSG_WELCOME:
		ebb_put_le32(&msg.welcome.version, 1);
		ebb_put_le32(&msg.welcome.sample_interval_msec, 1000);
		break;
	case EBB_MSG_SAMPLE:
		ebb_put_le32(&msg.sample.mode, EBB_MODE_AUTO);
		ebb_put_le32(&msg.sample.stage, EBB_STAGE_SHORT);
		break;
	case EBB_MSG_POLICY:
		ebb_put_le32(&msg.policy.stage, EBB_STAGE_PLENTY);
		break;
	case EBB_MSG_RELEASE:
		ebb_put_le64(&msg.release.id, 1);
		ebb_put_le64(&msg.release.bytes, 1);
		break;
	case EBB_MSG_RELEASE_DONE:
		ebb_put_le64(&msg.done.id, 1);
		break;
	case EBB_MSG_REFUSE:
		strcpy(msg.refuse.text, "no / room");
		break;
	case EBB_MSG_PURGE:
		ebb_put_le64(&msg.purge.id, 1);
		ebb_put_le64(&msg.purge.bytes, 1);
		break;
	case EBB_MSG_PURGE_DONE:
		ebb_put_le64(&msg.purge_done.id, 1);
		break;
	case EBB_MSG_CONTENT:
		ebb_put_le32(&msg.content.flags, EBB_CONTENT_F_MASK);
		break;
	case EBB_MSG_TABLES_POLICY:
		ebb_put_le32(&msg.tables_policy.delay_msec, EBB_TABLES_DELAY_MIN_MSEC);
		ebb_put_le64(&msg.tables_policy.amount_tables, 1);
		break;
	case EBB_MSG_COLLECT:
		ebb_put_le64(&msg.collect.id, 1);
		break;
	case EBB_MSG_COLLECT_DONE:
		ebb_put_le64(&msg.collect_done.id, 1);
		ebb_put_le32(&msg.collect_done.status, EBB_COLLECT_HOST_SHORT);
		break;
	case EBB_MSG_TABLES:
		ebb_put_le32(&msg.tables.flags, EBB_TABLES_F_MASK);
		ebb_put_le32(&msg.tables.mode, EBB_TABLES_BACKGROUND);
		break;
	case EBB_MSG_MERGE:
		ebb_put_le32(&msg.merge.mode, EBB_MERGE_ALL);
		break;
	case EBB_MSG_MERGE_STATE:
		ebb_put_le32(&msg.merge_state.flags, EBB_MERGE_F_MASK);
		ebb_put_le32(&msg.merge_state.mode, EBB_MERGE_HINTED);
		break;
	}
}

static enum ebb_agent_fault check(uint64_t bytes)
{
	uint16_t type = ebb_get_le16(&msg.hdr.type), got = 0;

	/* Odd types go to ebbd, even ones to the executor. */
	if (type % 2)
		return ebb_agent_check_from_executor(&msg, bytes, LATEST, &got);
	return ebb_agent_check_from_agent(&msg, bytes, LATEST, &got);
}

static enum ebb_agent_fault check_whole(void)
{
	return check(ebb_agent_msg_bytes(ebb_get_le16(&msg.hdr.type)));
}

static void the_head(void **state)
{
	unsigned int i;
	uint16_t got;

	for (i = 0; i < NR_TYPES; i++) {
		uint32_t bytes = ebb_agent_msg_bytes(types[i]);

		make(types[i]);
		assert_int_equal(check(bytes), EBB_AGENT_FAULT_NONE);
		assert_int_equal(check(bytes - 1), EBB_AGENT_FAULT_LENGTH);
		assert_int_equal(check(bytes + 1), EBB_AGENT_FAULT_LENGTH);
		assert_int_equal(check(7), EBB_AGENT_FAULT_LENGTH);
		assert_int_equal(check(0), EBB_AGENT_FAULT_LENGTH);
		/* the wrong direction */
		if (types[i] % 2)
			assert_int_equal(ebb_agent_check_from_agent(&msg, bytes, LATEST, &got),
					 EBB_AGENT_FAULT_TYPE);
		else
			assert_int_equal(ebb_agent_check_from_executor(&msg, bytes, LATEST, &got),
					 EBB_AGENT_FAULT_TYPE);
		ebb_put_le16(&msg.hdr.reserved, 1);
		assert_int_equal(check(bytes), EBB_AGENT_FAULT_RESERVED);
		make(types[i]);
		ebb_put_le32(&msg.hdr.length_bytes, bytes + 8);
		assert_int_equal(check(bytes), EBB_AGENT_FAULT_LENGTH);
		assert_int_equal(check(bytes + 8), EBB_AGENT_FAULT_LENGTH);
	}
	make(EBB_MSG_POLICY);
	ebb_put_le16(&msg.hdr.type, 7);
	assert_int_equal(check(16), EBB_AGENT_FAULT_TYPE);
	ebb_put_le16(&msg.hdr.type, 0);
	assert_int_equal(check(16), EBB_AGENT_FAULT_TYPE);
}

#define SPOILT(type, change, fault)                     \
	do {                                            \
		make(type);                             \
		change;                                 \
		assert_int_equal(check_whole(), fault); \
	} while (0)

static void values(void **state)
{
	SPOILT(EBB_MSG_HELLO, ebb_put_le16(&msg.hello.version_min, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_HELLO, ebb_put_le16(&msg.hello.version_min, 3), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_HELLO, ebb_put_le32(&msg.hello.front, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_HELLO, ebb_put_le32(&msg.hello.front, 3), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_WELCOME, ebb_put_le32(&msg.welcome.version, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_WELCOME, ebb_put_le32(&msg.welcome.version, EBB_AGENT_VERSION_MAX + 1),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_WELCOME, ebb_put_le32(&msg.welcome.sample_interval_msec, 99),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_WELCOME, ebb_put_le32(&msg.welcome.sample_interval_msec, 3600001),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_POLICY, ebb_put_le32(&msg.policy.mode, EBB_MODE_MAX), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_POLICY, ebb_put_le32(&msg.policy.stage, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_POLICY, ebb_put_le32(&msg.policy.stage, EBB_STAGE_MAX),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_RELEASE, ebb_put_le64(&msg.release.id, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_RELEASE, ebb_put_le64(&msg.release.bytes, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_RELEASE, ebb_put_le32(&msg.release.flags, 2), EBB_AGENT_FAULT_RESERVED);
	SPOILT(EBB_MSG_RELEASE, ebb_put_le32(&msg.release.reserved, 1), EBB_AGENT_FAULT_RESERVED);
	SPOILT(EBB_MSG_RELEASE, ebb_put_le32(&msg.release.flags, VIRTIO_EBB_RELEASE_F_ANEW),
	       EBB_AGENT_FAULT_NONE);
	SPOILT(EBB_MSG_RELEASE_DONE, ebb_put_le64(&msg.done.id, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_RELEASE_DONE, ebb_put_le32(&msg.done.status, EBB_RELEASE_MAX),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_SAMPLE, ebb_put_le32(&msg.sample.mode, EBB_MODE_KEEP),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_SAMPLE, ebb_put_le32(&msg.sample.mode, EBB_MODE_MAX), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_SAMPLE, ebb_put_le32(&msg.sample.stage, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_SAMPLE, ebb_put_le32(&msg.sample.stage, EBB_STAGE_MAX),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_SAMPLE, ebb_put_le32(&msg.sample.flags, 0x20), EBB_AGENT_FAULT_RESERVED);
	SPOILT(EBB_MSG_SAMPLE, ebb_put_le32(&msg.sample.reserved, 1), EBB_AGENT_FAULT_RESERVED);
	SPOILT(EBB_MSG_PURGE, ebb_put_le64(&msg.purge.id, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_PURGE, ebb_put_le64(&msg.purge.bytes, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_PURGE_DONE, ebb_put_le64(&msg.purge_done.id, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_PURGE_DONE, ebb_put_le32(&msg.purge_done.status, EBB_PURGE_MAX),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_PURGE_DONE, ebb_put_le32(&msg.purge_done.reserved, 1),
	       EBB_AGENT_FAULT_RESERVED);
	SPOILT(EBB_MSG_CONTENT, ebb_put_le32(&msg.content.flags, 4), EBB_AGENT_FAULT_RESERVED);
	SPOILT(EBB_MSG_CONTENT, ebb_put_le32(&msg.content.reserved, 1), EBB_AGENT_FAULT_RESERVED);
	SPOILT(EBB_MSG_MERGE, ebb_put_le32(&msg.merge.mode, EBB_MERGE_MAX), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_MERGE, ebb_put_le32(&msg.merge.mode, EBB_MERGE_KEEP), EBB_AGENT_FAULT_NONE);
	SPOILT(EBB_MSG_MERGE, ebb_put_le32(&msg.merge.reserved, 1), EBB_AGENT_FAULT_RESERVED);
	SPOILT(EBB_MSG_MERGE_STATE, ebb_put_le32(&msg.merge_state.flags, EBB_MERGE_F_MASK + 1),
	       EBB_AGENT_FAULT_RESERVED);
	SPOILT(EBB_MSG_MERGE_STATE, ebb_put_le32(&msg.merge_state.mode, EBB_MERGE_MAX),
	       EBB_AGENT_FAULT_VALUE);
}

static void collections(void **state)
{
	SPOILT(EBB_MSG_COLLECT, ebb_put_le64(&msg.collect.id, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_COLLECT_DONE, ebb_put_le64(&msg.collect_done.id, 0), EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_COLLECT_DONE, ebb_put_le32(&msg.collect_done.status, EBB_COLLECT_MAX),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_COLLECT_DONE, ebb_put_le32(&msg.collect_done.reserved, 1),
	       EBB_AGENT_FAULT_RESERVED);
	SPOILT(EBB_MSG_TABLES, ebb_put_le32(&msg.tables.flags, EBB_TABLES_F_MASK + 1),
	       EBB_AGENT_FAULT_RESERVED);
	SPOILT(EBB_MSG_TABLES, ebb_put_le32(&msg.tables.mode, EBB_TABLES_KEEP),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_TABLES, ebb_put_le32(&msg.tables.mode, EBB_TABLES_MAX),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_TABLES_POLICY, ebb_put_le32(&msg.tables_policy.mode, EBB_TABLES_MAX),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_TABLES_POLICY, ebb_put_le32(&msg.tables_policy.delay_msec, 99),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_TABLES_POLICY,
	       ebb_put_le32(&msg.tables_policy.delay_msec, EBB_TABLES_DELAY_MAX_MSEC + 1),
	       EBB_AGENT_FAULT_VALUE);
	SPOILT(EBB_MSG_TABLES_POLICY, ebb_put_le64(&msg.tables_policy.amount_tables, 0),
	       EBB_AGENT_FAULT_VALUE);
}

/* A peer of an earlier version is sent nothing of a later one, and may send nothing of it. */
static void versions(void **state)
{
	unsigned int i, version;
	uint16_t got;

	for (i = 0; i < NR_TYPES * LATEST; i++) {
		uint16_t type = types[i / LATEST];
		uint32_t bytes = ebb_agent_msg_bytes(type);
		enum ebb_agent_fault fault;

		version = 1 + i % LATEST;
		make(type);
		fault = type % 2 ? ebb_agent_check_from_executor(&msg, bytes, version, &got)
				 : ebb_agent_check_from_agent(&msg, bytes, version, &got);
		assert_int_equal(fault, ebb_agent_msg_version(type) > version
						? EBB_AGENT_FAULT_TYPE
						: EBB_AGENT_FAULT_NONE);
	}
	assert_int_equal(ebb_agent_msg_version(EBB_MSG_CONTENT), 2);
	assert_int_equal(ebb_agent_msg_version(EBB_MSG_COLLECT), 3);
	assert_int_equal(ebb_agent_msg_version(EBB_MSG_MERGE), 3);
	assert_int_equal(ebb_agent_msg_version(EBB_MSG_MERGE_STATE), 3);
}

static void texts(void **state)
{
	SPOILT(EBB_MSG_HELLO, msg.hello.name[0] = '\0', EBB_AGENT_FAULT_TEXT);
	SPOILT(EBB_MSG_HELLO, memset(msg.hello.name, 'x', 64), EBB_AGENT_FAULT_TEXT);
	SPOILT(EBB_MSG_HELLO, memset(msg.hello.name, 'x', 63), EBB_AGENT_FAULT_NONE);
	SPOILT(EBB_MSG_HELLO, msg.hello.name[1] = '/', EBB_AGENT_FAULT_TEXT);
	SPOILT(EBB_MSG_HELLO, msg.hello.name[1] = ' ', EBB_AGENT_FAULT_TEXT);
	SPOILT(EBB_MSG_HELLO, msg.hello.name[1] = '\n', EBB_AGENT_FAULT_TEXT);
	SPOILT(EBB_MSG_HELLO, msg.hello.name[1] = '\x7f', EBB_AGENT_FAULT_TEXT);
	SPOILT(EBB_MSG_HELLO, msg.hello.name[1] = (char)0xc3, EBB_AGENT_FAULT_TEXT);
	SPOILT(EBB_MSG_HELLO, msg.hello.name[63] = 'x', EBB_AGENT_FAULT_RESERVED);
	SPOILT(EBB_MSG_REFUSE, msg.refuse.text[0] = '\x1b', EBB_AGENT_FAULT_TEXT);
	SPOILT(EBB_MSG_REFUSE, memset(msg.refuse.text, 'x', 128), EBB_AGENT_FAULT_TEXT);
}

static void every_fault_has_words(void **state)
{
	int fault;

	for (fault = 0; fault <= EBB_AGENT_FAULT_TEXT; fault++)
		assert_string_not_equal(ebb_agent_fault_text((enum ebb_agent_fault)fault),
					"unknown fault");
	assert_string_equal(ebb_agent_fault_text((enum ebb_agent_fault)fault), "unknown fault");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_head),    cmocka_unit_test(values),
		cmocka_unit_test(collections), cmocka_unit_test(versions),
		cmocka_unit_test(texts),       cmocka_unit_test(every_fault_has_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
