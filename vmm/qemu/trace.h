/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * trace.h - trace events of ebb's devices
 *
 * A group of events of our own, which QEMU's -trace and QMP know like any
 * other: -trace 'virtio_ebb_*' They are written to QEMU's log, the backend of
 * Debian's QEMU.
 */
#ifndef EBB_QEMU_TRACE_H
#define EBB_QEMU_TRACE_H

enum ebb_trace_event {
    EBB_TRACE_REGION,    /* a region of RAM came or went, or is refused */
    EBB_TRACE_REQUEST,   /* a request was taken from a queue */
    EBB_TRACE_VERDICT,   /* what became of one range */
    EBB_TRACE_ANSWER,    /* a request was answered */
    EBB_TRACE_VIOLATION, /* a request against the specification */
    EBB_TRACE_COMMAND,   /* a command was sent to the guest */
    EBB_TRACE_CONFIG,    /* the configuration space changed */
    EBB_TRACE_HARDEN,    /* content was hardened before a copy */
    EBB_TRACE_DRAIN,     /* all that was in flight has been waited for */
    EBB_TRACE_MAX
};

void ebb_trace_register(void);
bool ebb_trace_enabled(enum ebb_trace_event event);
void G_GNUC_PRINTF(2, 3)
    ebb_trace_log(enum ebb_trace_event event, const char *fmt, ...);

/* The arguments are evaluated only if the event is on. */
#define ebb_trace(event, ...)                                                  \
    do {                                                                       \
        if (ebb_trace_enabled(event)) {                                        \
            ebb_trace_log(event, __VA_ARGS__);                                 \
        }                                                                      \
    } while (0)

#endif
