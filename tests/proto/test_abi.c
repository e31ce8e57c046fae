/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test_abi - sizes and offsets of both wires, in C and in C++
 *
 * Compiled with -Wpadded -Werror as well: no compiler may put padding between fields.
 * A failure here is a change of the wire: that takes a feature bit or a version.
 */
#include <stddef.h>

#include "agent.h"
#include "virtio_ebb.h"
/* What is not on the wire may be padded. */
#pragma GCC diagnostic ignored "-Wpadded"
#include "agent_check.h"
#include "ebb_le.h"
#include "virtio_ebb_check.h"

#ifdef __cplusplus
#define CHECK(condition) static_assert(condition, #condition)
#else
#define CHECK(condition) _Static_assert(condition, #condition)
#endif

#define SIZE(type, bytes)	   CHECK(sizeof(struct type) == (bytes))
#define FIELD(type, field, offset) CHECK(offsetof(struct type, field) == (offset))

CHECK(VIRTIO_ID_EBB > 0 && VIRTIO_ID_EBB < 64);

SIZE(virtio_ebb_config, 32);
FIELD(virtio_ebb_config, page_bytes, 0);
FIELD(virtio_ebb_config, block_bytes, 4);
FIELD(virtio_ebb_config, max_ranges, 8);
FIELD(virtio_ebb_config, reporting, 12);
FIELD(virtio_ebb_config, reoffer_generation, 16);
FIELD(virtio_ebb_config, hinting, 20);
FIELD(virtio_ebb_config, hint_generation, 24);
FIELD(virtio_ebb_config, reserved, 28);

SIZE(virtio_ebb_req_hdr, 16);
FIELD(virtio_ebb_req_hdr, type, 0);
FIELD(virtio_ebb_req_hdr, reserved0, 2);
FIELD(virtio_ebb_req_hdr, count, 4);
FIELD(virtio_ebb_req_hdr, command_id, 8);

SIZE(virtio_ebb_range, 16);
FIELD(virtio_ebb_range, gpa, 0);
FIELD(virtio_ebb_range, bytes, 8);

SIZE(virtio_ebb_hint, 24);
FIELD(virtio_ebb_hint, gpa, 0);
FIELD(virtio_ebb_hint, bytes, 8);
FIELD(virtio_ebb_hint, flags, 16);
FIELD(virtio_ebb_hint, reserved, 20);

SIZE(virtio_ebb_resp_hdr, 8);
FIELD(virtio_ebb_resp_hdr, status, 0);
FIELD(virtio_ebb_resp_hdr, count, 4);

SIZE(virtio_ebb_verdict, 16);
FIELD(virtio_ebb_verdict, verdict, 0);
FIELD(virtio_ebb_verdict, reason, 2);
FIELD(virtio_ebb_verdict, reserved, 4);
FIELD(virtio_ebb_verdict, bytes, 8);

SIZE(virtio_ebb_command, 32);
FIELD(virtio_ebb_command, id, 0);
FIELD(virtio_ebb_command, type, 8);
FIELD(virtio_ebb_command, flags, 10);
FIELD(virtio_ebb_command, count, 12);
FIELD(virtio_ebb_command, bytes, 16);
FIELD(virtio_ebb_command, gpa, 24);

SIZE(virtio_ebb_collect, 1024);
FIELD(virtio_ebb_collect, command, 0);
FIELD(virtio_ebb_collect, ranges, 32);

SIZE(virtio_ebb_done, 16);
FIELD(virtio_ebb_done, status, 0);
FIELD(virtio_ebb_done, passes, 4);
FIELD(virtio_ebb_done, bytes, 8);

SIZE(virtio_ebb_stat, 16);
FIELD(virtio_ebb_stat, tag, 0);
FIELD(virtio_ebb_stat, reserved, 2);
FIELD(virtio_ebb_stat, value, 8);

SIZE(ebb_msg_hdr, 8);
FIELD(ebb_msg_hdr, type, 0);
FIELD(ebb_msg_hdr, reserved, 2);
FIELD(ebb_msg_hdr, length_bytes, 4);

SIZE(ebb_msg_hello, 80);
FIELD(ebb_msg_hello, version_min, 8);
FIELD(ebb_msg_hello, version_max, 10);
FIELD(ebb_msg_hello, front, 12);
FIELD(ebb_msg_hello, name, 16);

SIZE(ebb_msg_welcome, 16);
FIELD(ebb_msg_welcome, version, 8);
FIELD(ebb_msg_welcome, sample_interval_msec, 12);

SIZE(ebb_msg_policy, 16);
FIELD(ebb_msg_policy, mode, 8);
FIELD(ebb_msg_policy, stage, 12);

SIZE(ebb_msg_release, 32);
FIELD(ebb_msg_release, id, 8);
FIELD(ebb_msg_release, bytes, 16);
FIELD(ebb_msg_release, flags, 24);
FIELD(ebb_msg_release, reserved, 28);

SIZE(ebb_msg_release_done, 48);
FIELD(ebb_msg_release_done, id, 8);
FIELD(ebb_msg_release_done, offered_bytes, 16);
FIELD(ebb_msg_release_done, discarded_bytes, 24);
FIELD(ebb_msg_release_done, usec, 32);
FIELD(ebb_msg_release_done, status, 40);
FIELD(ebb_msg_release_done, passes, 44);

SIZE(ebb_msg_sample, 240);
FIELD(ebb_msg_sample, flags, 8);
FIELD(ebb_msg_sample, mode, 12);
FIELD(ebb_msg_sample, stage, 16);
FIELD(ebb_msg_sample, reserved, 20);
FIELD(ebb_msg_sample, ram_bytes, 24);
FIELD(ebb_msg_sample, refused_ram_bytes, 32);
FIELD(ebb_msg_sample, requests, 40);
FIELD(ebb_msg_sample, ranges, 48);
FIELD(ebb_msg_sample, violations, 56);
FIELD(ebb_msg_sample, marked_bytes, 64);
FIELD(ebb_msg_sample, discarded_bytes, 72);
FIELD(ebb_msg_sample, purged_seen_bytes, 80);
FIELD(ebb_msg_sample, released_bytes, 88);
FIELD(ebb_msg_sample, not_marked_bytes, 96);
FIELD(ebb_msg_sample, guest, 168);

SIZE(ebb_msg_refuse, 136);
FIELD(ebb_msg_refuse, text, 8);

SIZE(ebb_msg_purge, 24);
FIELD(ebb_msg_purge, id, 8);
FIELD(ebb_msg_purge, bytes, 16);

SIZE(ebb_msg_purge_done, 40);
FIELD(ebb_msg_purge_done, id, 8);
FIELD(ebb_msg_purge_done, purged_bytes, 16);
FIELD(ebb_msg_purge_done, usec, 24);
FIELD(ebb_msg_purge_done, status, 32);
FIELD(ebb_msg_purge_done, reserved, 36);

SIZE(ebb_msg_content, 72);
FIELD(ebb_msg_content, flags, 8);
FIELD(ebb_msg_content, reserved, 12);
FIELD(ebb_msg_content, block_bytes, 16);
FIELD(ebb_msg_content, marked_bytes, 24);
FIELD(ebb_msg_content, purged_bytes, 32);
FIELD(ebb_msg_content, notices, 40);
FIELD(ebb_msg_content, guest_volatile_bytes, 48);
FIELD(ebb_msg_content, guest_taken_whole_pages, 56);
FIELD(ebb_msg_content, guest_taken_purged_pages, 64);

SIZE(ebb_msg_merge, 16);
FIELD(ebb_msg_merge, mode, 8);
FIELD(ebb_msg_merge, reserved, 12);

SIZE(ebb_msg_merge_state, 112);
FIELD(ebb_msg_merge_state, flags, 8);
FIELD(ebb_msg_merge_state, mode, 12);
FIELD(ebb_msg_merge_state, hinted_bytes, 16);
FIELD(ebb_msg_merge_state, marked_bytes, 24);
FIELD(ebb_msg_merge_state, areas, 32);
FIELD(ebb_msg_merge_state, marks, 40);
FIELD(ebb_msg_merge_state, unmarks, 48);
FIELD(ebb_msg_merge_state, failures, 56);
FIELD(ebb_msg_merge_state, usec, 64);
FIELD(ebb_msg_merge_state, longest_usec, 72);
FIELD(ebb_msg_merge_state, guest_hinted_bytes, 80);
FIELD(ebb_msg_merge_state, guest_cache_bytes, 88);
FIELD(ebb_msg_merge_state, guest_passes, 96);
FIELD(ebb_msg_merge_state, guest_usec, 104);

CHECK(sizeof(struct ebb_msg_sample) <= EBB_AGENT_MAX_BYTES);

int main(void)
{
	return 0;
}
