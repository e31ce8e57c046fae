// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * trace - trace events of ebb's devices, in QEMU's own table of events
 *
 * Owns:    the group of events and their states.
 * Thread:  any that may write QEMU's log: the big lock is not needed.
 * Locks:   none.
 * Never:   decides anything.
 */
#include "compat.h"
#include "trace.h"

static uint16_t states[EBB_TRACE_MAX];

#define EVENT(event, event_name)                                               \
    [event] = { .name = event_name, .sstate = true, .dstate = &states[event] }

static TraceEvent events[EBB_TRACE_MAX] = {
    EVENT(EBB_TRACE_REGION, "virtio_ebb_region"),
    EVENT(EBB_TRACE_REQUEST, "virtio_ebb_request"),
    EVENT(EBB_TRACE_VERDICT, "virtio_ebb_verdict"),
    EVENT(EBB_TRACE_ANSWER, "virtio_ebb_answer"),
    EVENT(EBB_TRACE_VIOLATION, "virtio_ebb_violation"),
    EVENT(EBB_TRACE_COMMAND, "virtio_ebb_command"),
    EVENT(EBB_TRACE_CONFIG, "virtio_ebb_config"),
    EVENT(EBB_TRACE_HARDEN, "virtio_ebb_harden"),
    EVENT(EBB_TRACE_DRAIN, "virtio_ebb_drain"),
};

void ebb_trace_register(void)
{
    static TraceEvent *group[EBB_TRACE_MAX + 1];

    for (int i = 0; i < EBB_TRACE_MAX; i++) {
        ebb_init_trace_event(&events[i]);
        group[i] = &events[i];
    }
    trace_event_register_group(group);
}

bool ebb_trace_enabled(enum ebb_trace_event event)
{
    return trace_event_get_state_dynamic(&events[event]) &&
           qemu_loglevel_mask(LOG_TRACE);
}

void ebb_trace_log(enum ebb_trace_event event, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    qemu_log("%s %s\n", events[event].name, text);
}
