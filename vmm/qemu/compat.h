/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * compat.h - all that differs between versions of QEMU
 *
 * The rest of the device is written against the names in here and tests no
 * version. To be included first, in place of "qemu/osdep.h".
 */
#ifndef EBB_QEMU_COMPAT_H
#define EBB_QEMU_COMPAT_H

#include "qemu/osdep.h"

#define EBB_QEMU_VERSION (QEMU_VERSION_MAJOR * 100 + QEMU_VERSION_MINOR)

#if EBB_QEMU_VERSION < 702 || EBB_QEMU_VERSION >= 800
#error "ebb's devices are written for QEMU 7.2"
#endif

#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/madvise.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qemu/iov.h"
#include "qemu/log.h"
#include "qemu/log-for-trace.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "block/aio.h"
#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "hw/boards.h"
#include "hw/mem/memory-device.h"
#include "hw/mem/nvdimm.h"
#include "hw/mem/pc-dimm.h"
#include "hw/pci/pci.h"
#include "hw/qdev-properties.h"
#include "standard-headers/linux/virtio_ids.h"
#include "hw/virtio/virtio.h"
#include "hw/virtio/virtio-bus.h"
#include "hw/virtio/virtio-pci.h"
#include "migration/misc.h"
#include "migration/register.h"
#include "migration/vmstate.h"
#include "sysemu/hostmem.h"
#include "sysemu/runstate.h"
#include "sysemu/sysemu.h"
#include "trace/control.h"

/* What a callback of class_init gets beside the class. */
typedef void EbbClassData;

#define EBB_PROPERTIES(name) static Property name[]
#define EBB_PROPERTIES_END DEFINE_PROP_END_OF_LIST()

/* Its own header is for code that knows the target. */
bool ramblock_is_pmem(RAMBlock *rb);

/* virtio-mem as a memory device */
#define EBB_TYPE_VIRTIO_MEM_PCI "virtio-mem-pci-base"

static inline bool ebb_memory_is_locked(void)
{
    return enable_mlock;
}

/* Rule 6: what stock virtio-balloon tests, too. */
static inline bool ebb_discards_forbidden(void)
{
    return ram_block_discard_is_disabled() ||
           migration_in_incoming_postcopy() || migration_in_bg_snapshot();
}

/* A bottom half that keeps the device from entering itself. */
#define ebb_bh_new(function, qdev)                                             \
    qemu_bh_new_guarded(function, qdev, &DEVICE(qdev)->mem_reentrancy_guard)

static inline void ebb_init_trace_event(TraceEvent *event)
{
    event->vcpu_id = TRACE_VCPU_EVENT_NONE;
}

#endif
