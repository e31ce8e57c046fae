/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fronts.h - the two devices as objects, which their PCI proxies contain
 */
#ifndef EBB_QEMU_FRONTS_H
#define EBB_QEMU_FRONTS_H

#include "device.h"
#include "virtio_ebb.h"

#define TYPE_EBB_BALLOON "virtio-ebb-balloon-device"
#define TYPE_VIRTIO_EBB "virtio-ebb-device"

#define EBB_BALLOON_QUEUES 4

typedef struct EbbBalloon {
    EbbDevice parent_obj;

    VirtQueue *inflate_vq;
    VirtQueue *deflate_vq;
    VirtQueue *stats_vq;
    VirtQueue *report_vq;
    VirtQueueElement *stats_elem; /* pushing it asks for new ones */
    QEMUTimer *stats_timer;
    int64_t stats_interval_sec;
    uint32_t actual_pages;
    uint32_t poison_value;
} EbbBalloon;

OBJECT_DECLARE_SIMPLE_TYPE(EbbBalloon, EBB_BALLOON)

typedef struct VirtioEbb {
    EbbDevice parent_obj;

    VirtQueue *report_vq;
    VirtQueue *command_vq;
    struct virtio_ebb_command release; /* type 0: none waits */
    struct virtio_ebb_command stats;
    struct virtio_ebb_command notice;
    struct virtio_ebb_collect collect;
    uint64_t stats_asked;
} VirtioEbb;

OBJECT_DECLARE_SIMPLE_TYPE(VirtioEbb, VIRTIO_EBB)

void ebb_balloon_register(void);
void virtio_ebb_register(void);
void ebb_pci_register(void);

#endif
