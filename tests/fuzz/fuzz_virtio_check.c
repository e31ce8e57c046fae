// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * fuzz_virtio_check - what passes the checks of the virtio wire is what it promises
 *
 * The input is a request's bytes; the first ones say how much of it there is. Memory is
 * allocated to the exact size, so that a sanitizer sees what is read beyond it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio_ebb_check.h"
#include "must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_entries(const struct virtio_ebb_req *req, const uint8_t *entries)
{
	uint32_t i, entry_bytes = virtio_ebb_entry_bytes(req->type);
	uint64_t after = 0;

	for (i = 0; entry_bytes && i < req->count; i++) {
		const void *entry = entries + (size_t)i * entry_bytes;
		__u64 gpa, bytes;
		__u32 flags;

		if (req->type == VIRTIO_EBB_REQ_HINT &&
		    !virtio_ebb_check_hint(entry, after, &gpa, &bytes, &flags)) {
			MUST(bytes && gpa % 4096 == 0 && bytes % 4096 == 0);
			MUST(gpa + bytes > gpa && gpa >= after);
			MUST((flags & ~1u) == 0);
			after = gpa + bytes;
		}
		if (virtio_ebb_offers(req->type) && !virtio_ebb_check_range(entry, &gpa, &bytes)) {
			MUST(bytes && gpa % 4096 == 0 && bytes % 4096 == 0);
			MUST(gpa + bytes > gpa);
		}
		if (req->type == VIRTIO_EBB_REQ_DONE && !virtio_ebb_check_done(entry))
			MUST(ebb_get_le32(&((const struct virtio_ebb_done *)entry)->status) <
			     VIRTIO_EBB_DONE_MAX);
	}
}

static void check_request(const uint8_t *bytes, size_t size, uint32_t writable_bytes,
			  uint32_t max_ranges)
{
	struct virtio_ebb_req req;

	if (virtio_ebb_check_req((const void *)bytes, size, size, writable_bytes, max_ranges, &req))
		return;
	MUST(size >= sizeof(struct virtio_ebb_req_hdr));
	MUST(virtio_ebb_resp_bytes(&req) <= writable_bytes);
	if (virtio_ebb_offers(req.type) || req.type == VIRTIO_EBB_REQ_HINT)
		MUST(req.count && req.count <= max_ranges);
	/* Reads exactly what the check has said is there. */
	check_entries(&req, bytes + sizeof(struct virtio_ebb_req_hdr));
}

static void check_answer(const uint8_t *bytes, size_t size, uint32_t count)
{
	const struct virtio_ebb_resp_hdr *resp = (const void *)bytes;
	const struct virtio_ebb_verdict *verdicts = (const void *)(resp + 1);
	uint32_t i;

	if (virtio_ebb_check_resp(resp, size, count) ||
	    ebb_get_le32(&resp->status) != VIRTIO_EBB_RESP_OK)
		return;
	for (i = 0; i < count; i++)
		if (!virtio_ebb_check_verdict(&verdicts[i], 1 << 21))
			MUST(ebb_get_le64(&verdicts[i].bytes) <= 1 << 21);
}

/* What is read of the ranges lies within what was written. */
static void check_collect(const uint8_t *bytes, size_t size)
{
	const struct virtio_ebb_collect *collect = (const void *)bytes;
	uint32_t count = ebb_get_le32(&collect->command.count), i;
	__u64 gpa, range_bytes;

	if (virtio_ebb_check_collect(collect, size))
		return;
	MUST(count && count <= VIRTIO_EBB_MAX_COLLECT);
	MUST(size >= sizeof(collect->command) + count * sizeof(collect->ranges[0]));
	for (i = 0; i < count; i++)
		MUST(!virtio_ebb_check_range(&collect->ranges[i], &gpa, &range_bytes));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t writable_bytes, max_ranges, count;
	uint8_t *bytes;

	if (size < 4)
		return 0;
	writable_bytes = data[0] * 64u + data[1];
	max_ranges = 1 + (data[2] * 4u) % VIRTIO_EBB_MAX_RANGES_LIMIT;
	count = data[3];
	size -= 4;
	bytes = malloc(size ? size : 1);
	MUST(bytes);
	memcpy(bytes, data + 4, size);
	check_request(bytes, size, writable_bytes, max_ranges);
	check_answer(bytes, size, count);
	if (!virtio_ebb_check_command((const void *)bytes, size))
		MUST(size >= sizeof(struct virtio_ebb_command));
	if (size >= sizeof(struct virtio_ebb_command))
		check_collect(bytes, size);
	if (size >= 12 && !virtio_ebb_check_config(ebb_get_le32((const void *)bytes),
						   ebb_get_le32((const void *)(bytes + 4)),
						   ebb_get_le32((const void *)(bytes + 8)))) {
		uint32_t page_bytes = ebb_get_le32((const void *)bytes);

		MUST(page_bytes >= 4096 && (page_bytes & (page_bytes - 1)) == 0);
	}
	free(bytes);
	return 0;
}
