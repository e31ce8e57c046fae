/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * device.h - what both devices share: one executor and its way into QEMU
 *
 * A front (virtio-ebb or virtio-ebb-balloon) takes requests from its queues,
 * gets a slot for each, and submits it. The executor works in a thread of its
 * own; answers come back to the main loop by a bottom half, and to those that
 * wait for a drain. All functions here are called with the big lock held.
 */
#ifndef EBB_QEMU_DEVICE_H
#define EBB_QEMU_DEVICE_H

#include "ebb_core.h"
#include "ram.h"

#define TYPE_EBB_DEVICE "virtio-ebb-base-device" /* abstract */

/* A request on its way through the executor. */
typedef struct EbbSlot {
    struct ebb_batch batch;
    struct ebb_range ranges[VIRTIO_EBB_MAX_RANGES_LIMIT];
    VirtQueue *vq;
    VirtQueueElement *elem;
    bool busy;
    QSIMPLEQ_ENTRY(EbbSlot) next;
} EbbSlot;

/* What the executor's thread leaves for the main loop. */
typedef struct EbbMailbox {
    QSIMPLEQ_HEAD(, EbbSlot) done;
    bool guided;
    struct ebb_guidance guidance;
    bool want_stats;
    bool purged;
    bool merge_undone;
    bool want_release;
    uint64_t release_id;
    uint64_t release_bytes;
    uint32_t release_flags;
    bool want_collect;
    uint64_t collect_id;
    uint32_t nr_candidates;
    struct ebb_candidate candidates[VIRTIO_EBB_MAX_COLLECT];
} EbbMailbox;

typedef struct EbbDevice {
    VirtIODevice parent_obj;

    struct ebb_executor *executor;
    EbbRam ram;
    QEMUBH *bh;

    /* properties */
    char *agent_path;
    char *label;
    int mode;         /* EbbMode */
    int tables_mode;  /* EbbTablesMode */
    uint32_t merge;   /* EBB_MERGE_* */
    char *tables_way; /* x-page-tables-way, for tests */
    bool tables_no_scan;

    QemuMutex mailbox_lock; /* leaf */
    EbbMailbox mailbox;
    bool may_release; /* a driver that obeys runs; read in any thread */
    bool may_collect; /* the same */

    EbbSlot *slots; /* EBB_MAX_BATCHES */
    bool paused;
    bool saving;   /* hardened from save_setup to save_cleanup */
    bool starved;  /* a queue was left alone for want of a slot */
    bool announce; /* the configuration space changed */
    struct ebb_guidance guidance; /* the executor's last word */
    uint32_t generation_base;     /* what the guest sees is this much more */
    uint32_t loaded_generation;   /* in vmstate: what the guest sees */
    uint32_t hint_base;           /* of the hints' generation that it sees */
    unsigned int breaks_told;
    char last_line[160]; /* of the log; the executor's thread alone */
} EbbDevice;

typedef struct EbbDeviceClass {
    VirtioDeviceClass parent_class;

    uint32_t front; /* EBB_FRONT_* */
    /* Make the queues; called by the base's realize. */
    void (*add_queues)(EbbDevice *dev);
    void (*delete_queues)(EbbDevice *dev);
    /* Write the answer of a done request and push its element. */
    void (*answer)(EbbDevice *dev, EbbSlot *slot);
    /* Take what waits in the queues: there is room again. */
    void (*take)(EbbDevice *dev);
    /* The executor wants statistics of the guest. */
    void (*want_stats)(EbbDevice *dev);
    /* The executor wants free memory; NULL: this guest cannot be asked. */
    void (*release)(EbbDevice *dev, uint64_t id, uint64_t bytes,
                    uint32_t flags);
    /* The executor wants free blocks for their page tables' sake; NULL: this
     * guest cannot be asked. */
    void (*collect)(EbbDevice *dev, uint64_t id,
                    const struct ebb_candidate *candidates, uint32_t nr);
    /* There are notices for the guest; NULL: it knows none. */
    void (*purged)(EbbDevice *dev);
    /* Put back what the front itself holds of the queues. */
    void (*put_back)(EbbDevice *dev);
    /* The device is reset: forget what the guest said. */
    void (*forget)(EbbDevice *dev);
    /* Does a driver that obeys release run? NULL: never. */
    bool (*obeys_release)(EbbDevice *dev);
    /* Does a driver that obeys collect run? NULL: never. */
    bool (*obeys_collect)(EbbDevice *dev);
} EbbDeviceClass;

DECLARE_OBJ_CHECKERS(EbbDevice, EbbDeviceClass, EBB_DEVICE, TYPE_EBB_DEVICE)

/*
 * Take one element of @vq into a slot. NULL: none is there, or it must wait;
 * then take() will be called.
 */
EbbSlot *ebb_device_pop(EbbDevice *dev, VirtQueue *vq);

/*
 * Hand a filled slot on. False: take no more. After a violation the device is
 * broken; when the executor is busy, the element goes back until there is room.
 */
bool ebb_device_submit(EbbDevice *dev, EbbSlot *slot);

/* Keep the element, free the slot. */
VirtQueueElement *ebb_device_keep(EbbSlot *slot);

/* Push a slot's element with @bytes written, tell the guest, free the slot. */
void ebb_device_push(EbbDevice *dev, EbbSlot *slot, uint32_t bytes);

/* The guest broke the specification: its device stops until it is reset. */
void ebb_device_violation(EbbDevice *dev, EbbSlot *slot, const char *why);

/* The same, where it is counted already. */
void ebb_device_break(EbbDevice *dev, EbbSlot *slot, const char *why);

/* What the guest sees of the executor's guidance. */
uint32_t ebb_device_generation(EbbDevice *dev);

/* Of vmstate: the generation that the guest sees, and that all was loaded. */
extern const VMStateDescription ebb_vmstate_device;

/* QOM properties: mode, statistics, release by hand. */
void ebb_device_add_class_properties(ObjectClass *class);
void ebb_device_alias_property(Object *proxy, Object *device, const char *name);
void ebb_device_alias_properties(Object *proxy, Object *device);
uint32_t ebb_device_core_mode(EbbDevice *dev);
uint32_t ebb_device_core_tables_mode(EbbDevice *dev);

void ebb_device_register(void);

#endif
