/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * trace.h - a trace point for each request, verdict and command
 */
/* clang-format off */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM virtio_ebb

#if !defined(EBB_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define EBB_TRACE_H

#include <linux/tracepoint.h>

#include "virtio_ebb.h"
#include "ebb_le.h"

TRACE_EVENT(ebb_offer,
	TP_PROTO(u64 command_id, u32 ranges, u64 bytes),
	TP_ARGS(command_id, ranges, bytes),
	TP_STRUCT__entry(
		__field(u64, command_id)
		__field(u64, bytes)
		__field(u32, ranges)
	),
	TP_fast_assign(
		__entry->command_id = command_id;
		__entry->bytes = bytes;
		__entry->ranges = ranges;
	),
	TP_printk("command=%llu ranges=%u bytes=%llu",
		  __entry->command_id, __entry->ranges, __entry->bytes)
);

TRACE_EVENT(ebb_verdict,
	TP_PROTO(const struct virtio_ebb_range *range, const struct virtio_ebb_verdict *verdict),
	TP_ARGS(range, verdict),
	TP_STRUCT__entry(
		__field(u64, gpa)
		__field(u64, bytes)
		__field(u64, accepted_bytes)
		__field(u16, verdict)
		__field(u16, reason)
	),
	TP_fast_assign(
		__entry->gpa = ebb_get_le64(&range->gpa);
		__entry->bytes = ebb_get_le64(&range->bytes);
		__entry->accepted_bytes = ebb_get_le64(&verdict->bytes);
		__entry->verdict = ebb_get_le16(&verdict->verdict);
		__entry->reason = ebb_get_le16(&verdict->reason);
	),
	TP_printk("gpa=0x%llx bytes=%llu verdict=%u reason=%u accepted=%llu",
		  __entry->gpa, __entry->bytes, __entry->verdict, __entry->reason,
		  __entry->accepted_bytes)
);

TRACE_EVENT(ebb_command,
	TP_PROTO(const struct virtio_ebb_command *cmd),
	TP_ARGS(cmd),
	TP_STRUCT__entry(
		__field(u64, id)
		__field(u64, bytes)
		__field(u16, type)
		__field(u16, flags)
	),
	TP_fast_assign(
		__entry->id = ebb_get_le64(&cmd->id);
		__entry->bytes = ebb_get_le64(&cmd->bytes);
		__entry->type = ebb_get_le16(&cmd->type);
		__entry->flags = ebb_get_le16(&cmd->flags);
	),
	TP_printk("id=%llu type=%u flags=0x%x bytes=%llu",
		  __entry->id, __entry->type, __entry->flags, __entry->bytes)
);

TRACE_EVENT(ebb_done,
	TP_PROTO(u64 id, u32 status, u32 passes, u64 bytes),
	TP_ARGS(id, status, passes, bytes),
	TP_STRUCT__entry(
		__field(u64, id)
		__field(u64, bytes)
		__field(u32, status)
		__field(u32, passes)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->bytes = bytes;
		__entry->status = status;
		__entry->passes = passes;
	),
	TP_printk("id=%llu status=%u passes=%u bytes=%llu",
		  __entry->id, __entry->status, __entry->passes, __entry->bytes)
);

TRACE_EVENT(ebb_hint,
	TP_PROTO(u32 count, u64 hinted_blocks),
	TP_ARGS(count, hinted_blocks),
	TP_STRUCT__entry(
		__field(u32, count)
		__field(u64, hinted_blocks)
	),
	TP_fast_assign(
		__entry->count = count;
		__entry->hinted_blocks = hinted_blocks;
	),
	TP_printk("count=%u hinted=%llu", __entry->count, __entry->hinted_blocks)
);

#endif /* EBB_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
