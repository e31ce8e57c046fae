// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_virtio_check - each fault of the virtio wire, by raw bytes
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "virtio_ebb_check.h"

#define HDR    sizeof(struct virtio_ebb_req_hdr)
#define RESP   sizeof(struct virtio_ebb_resp_hdr)
#define RANGE  sizeof(struct virtio_ebb_range)
#define PLENTY 65536u

static struct virtio_ebb_req req;

static enum virtio_ebb_fault check_req(uint16_t type, uint32_t count, uint64_t id,
				       uint64_t readable_bytes, uint64_t writable_bytes)
{
	struct virtio_ebb_req_hdr hdr;

	memset(&hdr, 0xff, sizeof(hdr)); /* reserved is ignored */
	ebb_put_le16(&hdr.type, type);
	ebb_put_le32(&hdr.count, count);
	ebb_put_le64(&hdr.command_id, id);
	return virtio_ebb_check_req(&hdr, sizeof(hdr), readable_bytes, writable_bytes, 32, &req);
}

static void bytes_on_the_wire(void **state)
{
	/* REQ_FREE, reserved, count 2, command 0x1122334455667788 */
	const uint8_t raw[16] = { 1,	0,    0,    0,	  2,	0,    0,    0,
				  0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11 };
	const uint8_t raw_range[16] = { 0, 0x10, 0, 0, 1, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0 };
	struct virtio_ebb_req_hdr hdr;
	struct virtio_ebb_range range;
	__u64 gpa, bytes;

	memcpy(&hdr, raw, sizeof(hdr));
	assert_int_equal(virtio_ebb_check_req(&hdr, HDR, HDR + 2 * RANGE, PLENTY, 32, &req), 0);
	assert_int_equal(req.type, VIRTIO_EBB_REQ_FREE);
	assert_int_equal(req.count, 2);
	assert_int_equal(req.command_id, 0x1122334455667788);
	assert_int_equal(virtio_ebb_resp_bytes(&req), 8 + 2 * 16);
	memcpy(&range, raw_range, sizeof(range));
	assert_int_equal(virtio_ebb_check_range(&range, &gpa, &bytes), 0);
	assert_int_equal(gpa, 0x100001000);
	assert_int_equal(bytes, 2 << 20);
}

static void requests(void **state)
{
	struct virtio_ebb_req_hdr hdr = { 0 };

	assert_int_equal(virtio_ebb_check_req(&hdr, HDR - 1, PLENTY, PLENTY, 32, &req),
			 VIRTIO_EBB_FAULT_SHORT);
	assert_int_equal(virtio_ebb_check_req(&hdr, HDR, HDR - 1, PLENTY, 32, &req),
			 VIRTIO_EBB_FAULT_SHORT);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_FREE, 32, 0, HDR + 32 * RANGE, PLENTY), 0);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_FREE, 33, 0, HDR + 33 * RANGE, PLENTY),
			 VIRTIO_EBB_FAULT_COUNT);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_FREE, 0, 0, HDR, PLENTY), VIRTIO_EBB_FAULT_COUNT);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_FREE, UINT32_MAX, 0, HDR, PLENTY),
			 VIRTIO_EBB_FAULT_COUNT);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_FREE, 2, 0, HDR + 2 * RANGE - 1, PLENTY),
			 VIRTIO_EBB_FAULT_LENGTH);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_FREE, 2, 0, HDR + 2 * RANGE + 1, PLENTY),
			 VIRTIO_EBB_FAULT_LENGTH);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_FREE, 2, 0, HDR + 2 * RANGE, 8 + 2 * 16), 0);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_FREE, 2, 0, HDR + 2 * RANGE, 8 + 2 * 16 - 1),
			 VIRTIO_EBB_FAULT_ROOM);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_VOLATILE, 33, 0, HDR + 33 * RANGE, PLENTY),
			 VIRTIO_EBB_FAULT_COUNT);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_VOLATILE, 2, 0, HDR + 2 * RANGE, 8 + 2 * 16), 0);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_VOLATILE, 2, 0, HDR + 2 * RANGE, 8 + 2 * 16 - 1),
			 VIRTIO_EBB_FAULT_ROOM);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_DONE, 1, 7, HDR + 16, RESP), 0);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_DONE, 1, 0, HDR + 16, RESP),
			 VIRTIO_EBB_FAULT_VALUE);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_DONE, 2, 7, HDR + 32, RESP),
			 VIRTIO_EBB_FAULT_COUNT);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_STATS, VIRTIO_EBB_MAX_STATS, 0,
				   HDR + 16 * VIRTIO_EBB_MAX_STATS, RESP),
			 0);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_STATS, VIRTIO_EBB_MAX_STATS + 1, 0,
				   HDR + 16 * (VIRTIO_EBB_MAX_STATS + 1), RESP),
			 VIRTIO_EBB_FAULT_COUNT);
	/* not known: passes whatever its entries, if there is room to say so */
	assert_int_equal(check_req(77, UINT32_MAX, 0, HDR, RESP), 0);
	assert_int_equal(check_req(77, 0, 0, HDR + 5, RESP), 0);
	assert_int_equal(check_req(77, 0, 0, HDR, RESP - 1), VIRTIO_EBB_FAULT_ROOM);
}

static enum virtio_ebb_fault check_range(uint64_t gpa, uint64_t bytes)
{
	struct virtio_ebb_range range;
	__u64 gpa_out, bytes_out;

	ebb_put_le64(&range.gpa, gpa);
	ebb_put_le64(&range.bytes, bytes);
	return virtio_ebb_check_range(&range, &gpa_out, &bytes_out);
}

static void ranges(void **state)
{
	assert_int_equal(check_range(0, 4096), 0);
	assert_int_equal(check_range(0, 0), VIRTIO_EBB_FAULT_EMPTY);
	assert_int_equal(check_range(4095, 4096), VIRTIO_EBB_FAULT_ALIGN);
	assert_int_equal(check_range(4096, 4097), VIRTIO_EBB_FAULT_ALIGN);
	assert_int_equal(check_range(UINT64_MAX - 4095, 4096), VIRTIO_EBB_FAULT_WRAP);
	assert_int_equal(check_range(UINT64_MAX - 8191, 4096), 0);
	assert_int_equal(check_range(4096, UINT64_MAX - 4095), VIRTIO_EBB_FAULT_WRAP);
}

static enum virtio_ebb_fault check_hint(uint64_t after, uint64_t gpa, uint64_t bytes,
					uint32_t flags)
{
	struct virtio_ebb_hint hint = { 0 };
	__u64 gpa_out, bytes_out;
	__u32 flags_out;

	ebb_put_le64(&hint.gpa, gpa);
	ebb_put_le64(&hint.bytes, bytes);
	ebb_put_le32(&hint.flags, flags);
	ebb_put_le32(&hint.reserved, 7); /* is ignored */
	return virtio_ebb_check_hint(&hint, after, &gpa_out, &bytes_out, &flags_out);
}

static void hints(void **state)
{
	const uint32_t merge = VIRTIO_EBB_HINT_F_MERGE;

	assert_int_equal(check_hint(0, 0, 2 << 20, merge), 0);
	assert_int_equal(check_hint(0, 0, 2 << 20, 0), 0);
	assert_int_equal(check_hint(0, 0, 2 << 20, 2), VIRTIO_EBB_FAULT_VALUE);
	assert_int_equal(check_hint(0, 0, 2 << 20, 0x80000001), VIRTIO_EBB_FAULT_VALUE);
	assert_int_equal(check_hint(0, 4096, 0, merge), VIRTIO_EBB_FAULT_EMPTY);
	assert_int_equal(check_hint(0, 2048, 4096, merge), VIRTIO_EBB_FAULT_ALIGN);
	assert_int_equal(check_hint(0, 4096, 4097, merge), VIRTIO_EBB_FAULT_ALIGN);
	assert_int_equal(check_hint(0, -4096ull, 8192, merge), VIRTIO_EBB_FAULT_WRAP);
	assert_int_equal(check_hint(8192, 8192, 4096, merge), 0);
	assert_int_equal(check_hint(8192, 4096, 4096, 0), VIRTIO_EBB_FAULT_OVERLAP);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_HINT, 32, 0, HDR + 32 * 24, RESP), 0);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_HINT, 33, 0, HDR + 33 * 24, RESP),
			 VIRTIO_EBB_FAULT_COUNT);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_HINT, 2, 0, HDR + 2 * RANGE, RESP),
			 VIRTIO_EBB_FAULT_LENGTH);
	assert_int_equal(check_req(VIRTIO_EBB_REQ_HINT, 1, 0, HDR + 24, RESP - 1),
			 VIRTIO_EBB_FAULT_ROOM);
	assert_false(virtio_ebb_offers(VIRTIO_EBB_REQ_HINT));
}

static void configurations(void **state)
{
	assert_int_equal(virtio_ebb_check_config(4096, 2 << 20, 32), 0);
	assert_int_equal(virtio_ebb_check_config(2 << 20, 2 << 20, 1024), 0);
	assert_int_equal(virtio_ebb_check_config(0, 2 << 20, 32), VIRTIO_EBB_FAULT_VALUE);
	assert_int_equal(virtio_ebb_check_config(2048, 2 << 20, 32), VIRTIO_EBB_FAULT_VALUE);
	assert_int_equal(virtio_ebb_check_config(12288, 2 << 20, 32), VIRTIO_EBB_FAULT_VALUE);
	assert_int_equal(virtio_ebb_check_config(2 << 20, 4096, 32), VIRTIO_EBB_FAULT_VALUE);
	assert_int_equal(virtio_ebb_check_config(4096, 12288, 32), VIRTIO_EBB_FAULT_VALUE);
	assert_int_equal(virtio_ebb_check_config(4096, 2 << 20, 0), VIRTIO_EBB_FAULT_COUNT);
	assert_int_equal(virtio_ebb_check_config(4096, 2 << 20, 1025), VIRTIO_EBB_FAULT_COUNT);
}

static void answers(void **state)
{
	struct virtio_ebb_resp_hdr resp = { 0 };
	struct virtio_ebb_verdict verdict = { 0 };

	ebb_put_le32(&resp.count, 3);
	assert_int_equal(virtio_ebb_check_resp(&resp, RESP + 48, 3), 0);
	assert_int_equal(virtio_ebb_check_resp(&resp, RESP - 1, 3), VIRTIO_EBB_FAULT_SHORT);
	assert_int_equal(virtio_ebb_check_resp(&resp, RESP + 47, 3), VIRTIO_EBB_FAULT_LENGTH);
	assert_int_equal(virtio_ebb_check_resp(&resp, RESP + 48, 2), VIRTIO_EBB_FAULT_COUNT);
	ebb_put_le32(&resp.status, VIRTIO_EBB_RESP_UNSUPPORTED);
	assert_int_equal(virtio_ebb_check_resp(&resp, RESP, 2), 0);

	assert_int_equal(virtio_ebb_check_verdict(&verdict, 4096), VIRTIO_EBB_FAULT_VALUE);
	ebb_put_le16(&verdict.verdict, VIRTIO_EBB_NOT_MARKED + 1);
	assert_int_equal(virtio_ebb_check_verdict(&verdict, 4096), VIRTIO_EBB_FAULT_VALUE);
	ebb_put_le16(&verdict.verdict, VIRTIO_EBB_MARKED);
	ebb_put_le64(&verdict.bytes, 4096);
	assert_int_equal(virtio_ebb_check_verdict(&verdict, 4096), 0);
	ebb_put_le64(&verdict.bytes, 4097);
	assert_int_equal(virtio_ebb_check_verdict(&verdict, 4096), VIRTIO_EBB_FAULT_LENGTH);
	ebb_put_le64(&verdict.bytes, 0);
	ebb_put_le16(&verdict.reason, VIRTIO_EBB_REASON_MAX);
	assert_int_equal(virtio_ebb_check_verdict(&verdict, 4096), VIRTIO_EBB_FAULT_VALUE);
}

static void commands(void **state)
{
	struct virtio_ebb_command command = { 0 };
	struct virtio_ebb_done done = { 0 };

	ebb_put_le16(&command.type, VIRTIO_EBB_CMD_RELEASE);
	assert_int_equal(virtio_ebb_check_command(&command, 31), VIRTIO_EBB_FAULT_SHORT);
	assert_int_equal(virtio_ebb_check_command(&command, 32), VIRTIO_EBB_FAULT_VALUE);
	ebb_put_le64(&command.id, 1);
	assert_int_equal(virtio_ebb_check_command(&command, 32), VIRTIO_EBB_FAULT_EMPTY);
	ebb_put_le64(&command.bytes, 1);
	assert_int_equal(virtio_ebb_check_command(&command, 32), 0);
	ebb_put_le32(&done.status, VIRTIO_EBB_DONE_MAX - 1);
	assert_int_equal(virtio_ebb_check_done(&done), 0);
	ebb_put_le32(&done.status, VIRTIO_EBB_DONE_MAX);
	assert_int_equal(virtio_ebb_check_done(&done), VIRTIO_EBB_FAULT_VALUE);
}

static enum virtio_ebb_fault check_purged(uint64_t id, uint64_t gpa, uint64_t bytes)
{
	struct virtio_ebb_command command = { 0 };

	ebb_put_le16(&command.type, VIRTIO_EBB_CMD_PURGED);
	ebb_put_le64(&command.id, id);
	ebb_put_le64(&command.gpa, gpa);
	ebb_put_le64(&command.bytes, bytes);
	return virtio_ebb_check_command(&command, sizeof(command));
}

static void purge_notices(void **state)
{
	assert_int_equal(check_purged(0, 8192, 4096), 0);
	assert_int_equal(check_purged(1, 8192, 4096), VIRTIO_EBB_FAULT_VALUE);
	assert_int_equal(check_purged(0, 8192, 0), VIRTIO_EBB_FAULT_EMPTY);
	assert_int_equal(check_purged(0, 8193, 4096), VIRTIO_EBB_FAULT_ALIGN);
	assert_int_equal(check_purged(0, 8192, 4095), VIRTIO_EBB_FAULT_ALIGN);
	assert_int_equal(check_purged(0, -4096ull, 8192), VIRTIO_EBB_FAULT_WRAP);
}

static void collections(void **state)
{
	struct virtio_ebb_collect collect = { 0 };
	struct virtio_ebb_range *last = &collect.ranges[VIRTIO_EBB_MAX_COLLECT - 1];
	uint32_t i;

	assert_int_equal(virtio_ebb_check_collect(&collect, sizeof(collect)),
			 VIRTIO_EBB_FAULT_COUNT);
	for (i = 0; i < VIRTIO_EBB_MAX_COLLECT; i++) {
		ebb_put_le64(&collect.ranges[i].gpa, i * 4096ull);
		ebb_put_le64(&collect.ranges[i].bytes, 4096);
	}
	ebb_put_le32(&collect.command.count, 1);
	assert_int_equal(virtio_ebb_check_collect(&collect, 48), 0);
	assert_int_equal(virtio_ebb_check_collect(&collect, 47), VIRTIO_EBB_FAULT_LENGTH);
	ebb_put_le32(&collect.command.count, VIRTIO_EBB_MAX_COLLECT);
	assert_int_equal(virtio_ebb_check_collect(&collect, sizeof(collect)), 0);
	assert_int_equal(virtio_ebb_check_collect(&collect, sizeof(collect) - 1),
			 VIRTIO_EBB_FAULT_LENGTH);
	ebb_put_le64(&last->bytes, 4095);
	assert_int_equal(virtio_ebb_check_collect(&collect, sizeof(collect)),
			 VIRTIO_EBB_FAULT_ALIGN);
	ebb_put_le64(&last->bytes, 0);
	assert_int_equal(virtio_ebb_check_collect(&collect, sizeof(collect)),
			 VIRTIO_EBB_FAULT_EMPTY);
	ebb_put_le64(&last->bytes, 8192);
	ebb_put_le64(&last->gpa, -4096ull);
	assert_int_equal(virtio_ebb_check_collect(&collect, sizeof(collect)),
			 VIRTIO_EBB_FAULT_WRAP);
	ebb_put_le32(&collect.command.count, VIRTIO_EBB_MAX_COLLECT + 1);
	assert_int_equal(virtio_ebb_check_collect(&collect, 4096), VIRTIO_EBB_FAULT_COUNT);
}

static void every_fault_has_words(void **state)
{
	int fault;

	for (fault = 0; fault <= VIRTIO_EBB_FAULT_VALUE; fault++)
		assert_string_not_equal(virtio_ebb_fault_text((enum virtio_ebb_fault)fault),
					"unknown fault");
	assert_string_equal(virtio_ebb_fault_text((enum virtio_ebb_fault)fault), "unknown fault");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_on_the_wire),
		cmocka_unit_test(requests),
		cmocka_unit_test(ranges),
		cmocka_unit_test(hints),
		cmocka_unit_test(configurations),
		cmocka_unit_test(answers),
		cmocka_unit_test(commands),
		cmocka_unit_test(purge_notices),
		cmocka_unit_test(collections),
		cmocka_unit_test(every_fault_has_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
