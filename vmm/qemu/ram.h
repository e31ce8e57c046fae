/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ram.h - the machine's RAM as the executor sees it
 */
#ifndef EBB_QEMU_RAM_H
#define EBB_QEMU_RAM_H

#include "ebb_core.h"

typedef struct EbbRamRegion EbbRamRegion;

typedef struct EbbRam {
    MemoryListener listener;
    struct ebb_executor *executor;
    QTAILQ_HEAD(, EbbRamRegion) regions;
    uint64_t page_bytes;              /* largest that may be offered */
    void (*changed)(struct EbbRam *); /* page_bytes did; within a transaction */
} EbbRam;

/* Tells @executor all RAM that is there and, from then on, what changes. */
void ebb_ram_init(EbbRam *ram, struct ebb_executor *executor,
                  void (*changed)(EbbRam *));

/* Takes all of it back. */
/* Take QEMU's mark for KSM back from RAM and ROM where no region of ours lies.
 */
void ebb_ram_undo_merge(EbbRam *ram);
void ebb_ram_fini(EbbRam *ram);

/* For people: one line for each region, with what may be done with it. */
char *ebb_ram_describe(EbbRam *ram);

/* ebb_vmm_ops.discard: with QEMU's own helper. In the executor's thread. */
int ebb_ram_discard(void *region_opaque, uint64_t offset_bytes, uint64_t bytes);

#endif
