// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * fuzz_agent_check - what passes the checks of the agent protocol is what it promises
 *
 * The first byte may put a proper head before the rest, or else hardly any input would
 * get beyond the head's check.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent_check.h"
#include "must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must_be_text(const char *text, size_t bytes)
{
	size_t length = strnlen(text, bytes), i;

	MUST(length > 0 && length < bytes);
	for (i = 0; i < length; i++)
		MUST(text[i] >= 0x20 && text[i] < 0x7f);
}

static void from_executor(const uint8_t *packet, size_t size, uint32_t version)
{
	const struct ebb_msg_hello *hello = (const void *)packet;
	const struct ebb_msg_sample *sample = (const void *)packet;
	uint16_t type = 0;

	if (ebb_agent_check_from_executor(packet, size, version, &type))
		return;
	MUST(size == ebb_agent_msg_bytes(type) && size <= EBB_AGENT_MAX_BYTES);
	MUST(type % 2 == 1 && ebb_agent_msg_version(type) <= version);
	if (type == EBB_MSG_HELLO) {
		must_be_text(hello->name, sizeof(hello->name));
		MUST(!strchr(hello->name, '/'));
	}
	if (type == EBB_MSG_SAMPLE)
		MUST(ebb_get_le32(&sample->mode) < EBB_MODE_MAX &&
		     ebb_get_le32(&sample->stage) < EBB_STAGE_MAX);
	if (type == EBB_MSG_MERGE_STATE)
		MUST(ebb_get_le32(
			     &((const struct ebb_msg_merge_state *)(const void *)packet)->mode) <
		     EBB_MERGE_MAX);
}

static void from_agent(const uint8_t *packet, size_t size, uint32_t version)
{
	const struct ebb_msg_welcome *welcome = (const void *)packet;
	const struct ebb_msg_policy *policy = (const void *)packet;
	const struct ebb_msg_refuse *refuse = (const void *)packet;
	uint16_t type = 0;

	if (ebb_agent_check_from_agent(packet, size, version, &type))
		return;
	MUST(size == ebb_agent_msg_bytes(type) && size <= EBB_AGENT_MAX_BYTES);
	MUST(type % 2 == 0 && ebb_agent_msg_version(type) <= version);
	if (type == EBB_MSG_WELCOME)
		MUST(ebb_get_le32(&welcome->sample_interval_msec) >=
		     EBB_AGENT_SAMPLE_INTERVAL_MIN_MSEC);
	if (type == EBB_MSG_POLICY)
		MUST(ebb_get_le32(&policy->stage) && ebb_get_le32(&policy->mode) < EBB_MODE_MAX);
	if (type == EBB_MSG_MERGE)
		MUST(ebb_get_le32(&((const struct ebb_msg_merge *)(const void *)packet)->mode) <
		     EBB_MERGE_MAX);
	if (type == EBB_MSG_REFUSE)
		must_be_text(refuse->text, sizeof(refuse->text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ebb_msg_hdr hdr = { 0 };
	uint8_t *packet;

	if (size < 1)
		return 0;
	data++;
	size--;
	/* The exact size, so that a sanitizer sees what is read beyond it. */
	packet = malloc(size + sizeof(hdr));
	MUST(packet);
	if (data[-1] < 200) {
		uint32_t bytes = ebb_agent_msg_bytes((uint16_t)(data[-1] % 16));

		ebb_put_le16(&hdr.type, (uint16_t)(data[-1] % 16));
		if (bytes && size + sizeof(hdr) > bytes)
			size = bytes - sizeof(hdr);
		ebb_put_le32(&hdr.length_bytes, (uint32_t)(size + sizeof(hdr)));
		memcpy(packet, &hdr, sizeof(hdr));
		memcpy(packet + sizeof(hdr), data, size);
		size += sizeof(hdr);
	} else {
		memcpy(packet, data, size);
	}
	packet = realloc(packet, size ? size : 1);
	MUST(packet);
	from_executor(packet, size, 1);
	from_executor(packet, size, 2);
	from_agent(packet, size, 1);
	from_agent(packet, size, 2);
	free(packet);
	return 0;
}
