// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * balloon - virtio-ebb-balloon: to the guest a standard virtio-balloon
 *
 * For guests without a driver of ours. An unmodified kernel reports its free
 * pages, and what stock QEMU would discard is given to the executor. The guest
 * can be asked for nothing but statistics. The balloon itself stays empty:
 * num_pages is 0, and what is inflated or deflated nevertheless is answered
 * without effect.
 *
 * Owns:    the queues; the one statistics buffer that the guest leaves with us.
 * Thread:  the main thread or a vCPU's, with the big lock.
 * Locks:   none.
 * Never:   touches guest memory beyond a request's own buffers.
 */
#include "compat.h"
#include "standard-headers/linux/virtio_balloon.h"
#include "trace.h"
#include "fronts.h"

#define QUEUE_ENTRIES 128

/* The poll that is on from the start; a guest's numbers age as fast. */
#define STATS_INTERVAL_SEC 5

/* ---- free page reporting ---- */

/* A report is a chain of buffers in free memory; these are the ranges. */
static void fill_batch(EbbSlot *slot)
{
    VirtQueueElement *elem = slot->elem;
    uint32_t nr = 0;

    for (unsigned int i = 0; i < elem->in_num; i++) {
        struct ebb_range range = {
            .gpa = elem->in_addr[i],
            .bytes = elem->in_sg[i].iov_len,
        };

        /* As stock QEMU does, leave alone what is not whole pages. */
        if (nr < ARRAY_SIZE(slot->ranges) &&
            QEMU_IS_ALIGNED(range.gpa | range.bytes,
                            VIRTIO_EBB_OFFER_ALIGN_BYTES)) {
            slot->ranges[nr++] = range;
        }
    }
    slot->batch.nr_ranges = nr;
}

static void take_reports(EbbDevice *dev)
{
    EbbBalloon *balloon = EBB_BALLOON(dev);
    EbbSlot *slot;

    while ((slot = ebb_device_pop(dev, balloon->report_vq))) {
        fill_batch(slot);
        ebb_trace(EBB_TRACE_REQUEST, "report ranges %u of %u buffers",
                  slot->batch.nr_ranges, slot->elem->in_num);
        if (slot->batch.nr_ranges == 0) {
            ebb_device_push(dev, slot, 0);
        } else if (!ebb_device_submit(dev, slot)) {
            return;
        }
    }
}

static void handle_report(VirtIODevice *vdev, VirtQueue *vq)
{
    take_reports(EBB_DEVICE(vdev));
}

/* Nothing is written: the pages themselves are the buffers. */
static void answer(EbbDevice *dev, EbbSlot *slot)
{
    ebb_device_push(dev, slot, 0);
}

/* ---- inflate and deflate ---- */

static void take_balloon(EbbDevice *dev, VirtQueue *vq)
{
    EbbSlot *slot;

    while ((slot = ebb_device_pop(dev, vq))) {
        ebb_trace(EBB_TRACE_REQUEST, "balloon queue %u, without effect",
                  virtio_get_queue_index(vq));
        ebb_device_push(dev, slot, 0);
    }
}

static void handle_balloon(VirtIODevice *vdev, VirtQueue *vq)
{
    take_balloon(EBB_DEVICE(vdev), vq);
}

/* ---- statistics ---- */

/* Words of virtio-balloon in ours. Memory is in bytes in both. */
static void read_stats(EbbBalloon *balloon, VirtQueueElement *elem)
{
    struct ebb_guest_stats stats = {};
    struct virtio_balloon_stat stat;
    size_t offset = 0;

    while (offset / sizeof(stat) < VIRTIO_EBB_MAX_STATS &&
           iov_to_buf(elem->out_sg, elem->out_num, offset, &stat,
                      sizeof(stat)) == sizeof(stat)) {
        uint64_t value = ldq_le_p(&stat.val);

        offset += sizeof(stat);
        switch (lduw_le_p(&stat.tag)) {
        case VIRTIO_BALLOON_S_MEMTOT:
            stats.value[VIRTIO_EBB_S_TOTAL] = value;
            break;
        case VIRTIO_BALLOON_S_MEMFREE:
            stats.value[VIRTIO_EBB_S_FREE] = value;
            break;
        case VIRTIO_BALLOON_S_AVAIL:
            stats.value[VIRTIO_EBB_S_AVAILABLE] = value;
            break;
        case VIRTIO_BALLOON_S_CACHES:
            stats.value[VIRTIO_EBB_S_CACHED] = value;
            break;
        default: /* the guest's to add to */
            break;
        }
    }
    if (balloon->poison_value) {
        stats.value[VIRTIO_EBB_S_FLAGS] |= VIRTIO_EBB_S_FLAG_POISON;
    }
    ebb_trace(EBB_TRACE_REQUEST, "stats bytes %zu", offset);
    ebb_executor_guest_stats(EBB_DEVICE(balloon)->executor, &stats);
}

static void ask_stats(EbbBalloon *balloon)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(balloon);

    if (!balloon->stats_elem) {
        return; /* asked before, or no driver */
    }
    virtqueue_push(balloon->stats_vq, balloon->stats_elem, 0);
    g_free(balloon->stats_elem);
    balloon->stats_elem = NULL;
    virtio_notify(vdev, balloon->stats_vq);
}

/* The first buffer says that the driver is there; its numbers count too. */
static void take_stats(EbbDevice *dev)
{
    EbbBalloon *balloon = EBB_BALLOON(dev);
    EbbSlot *slot;

    while ((slot = ebb_device_pop(dev, balloon->stats_vq))) {
        ask_stats(balloon); /* one is enough: an older one goes back */
        read_stats(balloon, slot->elem);
        balloon->stats_elem = ebb_device_keep(slot);
    }
}

static void handle_stats(VirtIODevice *vdev, VirtQueue *vq)
{
    take_stats(EBB_DEVICE(vdev));
}

static void want_stats(EbbDevice *dev)
{
    ask_stats(EBB_BALLOON(dev));
}

static void arm_stats_timer(EbbBalloon *balloon)
{
    if (balloon->stats_interval_sec > 0) {
        timer_mod(balloon->stats_timer, qemu_clock_get_ms(QEMU_CLOCK_VIRTUAL) +
                                            balloon->stats_interval_sec * 1000);
    } else {
        timer_del(balloon->stats_timer);
    }
}

static void stats_timer(void *opaque)
{
    EbbBalloon *balloon = opaque;

    ask_stats(balloon);
    arm_stats_timer(balloon);
}

static void get_stats_interval(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    visit_type_int(v, name, &EBB_BALLOON(obj)->stats_interval_sec, errp);
}

static void set_stats_interval(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    EbbBalloon *balloon = EBB_BALLOON(obj);
    int64_t value;

    if (!visit_type_int(v, name, &value, errp)) {
        return;
    }
    if (value < 0 || value > 24 * 3600) {
        error_setg(errp, "%s is 0 (off) to 86400 seconds", name);
        return;
    }
    balloon->stats_interval_sec = value;
    if (balloon->stats_timer) {
        arm_stats_timer(balloon);
    }
}

/* ---- configuration space ---- */

static void get_config(VirtIODevice *vdev, uint8_t *data)
{
    EbbBalloon *balloon = EBB_BALLOON(vdev);
    struct virtio_balloon_config config = {
        .num_pages = 0,
        .actual = cpu_to_le32(balloon->actual_pages),
        .poison_val = cpu_to_le32(balloon->poison_value),
    };

    memcpy(data, &config, sizeof(config));
}

static void set_poison(EbbBalloon *balloon, uint32_t value)
{
    balloon->poison_value = value;
    ebb_executor_set_poison(EBB_DEVICE(balloon)->executor, value != 0);
}

static void set_config(VirtIODevice *vdev, const uint8_t *data)
{
    EbbBalloon *balloon = EBB_BALLOON(vdev);
    struct virtio_balloon_config config;

    memcpy(&config, data, sizeof(config));
    balloon->actual_pages = le32_to_cpu(config.actual);
    if (virtio_vdev_has_feature(vdev, VIRTIO_BALLOON_F_PAGE_POISON)) {
        set_poison(balloon, le32_to_cpu(config.poison_val));
    }
}

static uint64_t get_features(VirtIODevice *vdev, uint64_t features,
                             Error **errp)
{
    virtio_add_feature(&features, VIRTIO_BALLOON_F_STATS_VQ);
    virtio_add_feature(&features, VIRTIO_BALLOON_F_PAGE_POISON);
    virtio_add_feature(&features, VIRTIO_BALLOON_F_REPORTING);
    /* Reported are buffers: behind an IOMMU these were no guest addresses. */
    virtio_clear_feature(&features, VIRTIO_F_IOMMU_PLATFORM);
    return features;
}

/* ---- life ---- */

static void add_queues(EbbDevice *dev)
{
    EbbBalloon *balloon = EBB_BALLOON(dev);
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);

    virtio_init(vdev, VIRTIO_ID_BALLOON, sizeof(struct virtio_balloon_config));
    balloon->inflate_vq = virtio_add_queue(vdev, QUEUE_ENTRIES, handle_balloon);
    balloon->deflate_vq = virtio_add_queue(vdev, QUEUE_ENTRIES, handle_balloon);
    balloon->stats_vq = virtio_add_queue(vdev, QUEUE_ENTRIES, handle_stats);
    balloon->report_vq = virtio_add_queue(vdev, QUEUE_ENTRIES, handle_report);
    balloon->stats_timer =
        timer_new_ms(QEMU_CLOCK_VIRTUAL, stats_timer, balloon);
    arm_stats_timer(balloon);
}

static void delete_queues(EbbDevice *dev)
{
    EbbBalloon *balloon = EBB_BALLOON(dev);

    timer_free(balloon->stats_timer);
    balloon->stats_timer = NULL;
    virtio_delete_queue(balloon->inflate_vq);
    virtio_delete_queue(balloon->deflate_vq);
    virtio_delete_queue(balloon->stats_vq);
    virtio_delete_queue(balloon->report_vq);
}

static void take(EbbDevice *dev)
{
    EbbBalloon *balloon = EBB_BALLOON(dev);

    take_balloon(dev, balloon->inflate_vq);
    take_balloon(dev, balloon->deflate_vq);
    take_stats(dev);
    take_reports(dev);
}

static void put_back(EbbDevice *dev)
{
    EbbBalloon *balloon = EBB_BALLOON(dev);

    if (balloon->stats_elem) {
        virtqueue_unpop(balloon->stats_vq, balloon->stats_elem, 0);
        g_free(balloon->stats_elem);
        balloon->stats_elem = NULL;
    }
}

static void forget(EbbDevice *dev)
{
    EbbBalloon *balloon = EBB_BALLOON(dev);

    balloon->actual_pages = 0;
    set_poison(balloon, 0);
}

static int post_load(void *opaque, int version_id)
{
    EbbBalloon *balloon = opaque;

    set_poison(balloon, balloon->poison_value);
    return 0;
}

static const VMStateDescription vmstate_balloon_device = {
    .name = "virtio-ebb-balloon-device",
    .version_id = 1,
    .minimum_version_id = 1,
    .post_load = post_load,
    .fields = (VMStateField[]){ VMSTATE_STRUCT(parent_obj, EbbBalloon, 1,
                                               ebb_vmstate_device, EbbDevice),
                                VMSTATE_UINT32(actual_pages, EbbBalloon),
                                VMSTATE_UINT32(poison_value, EbbBalloon),
                                VMSTATE_END_OF_LIST() },
};

static const VMStateDescription vmstate_balloon = {
    .name = "virtio-ebb-balloon",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (VMStateField[]){ VMSTATE_VIRTIO_DEVICE, VMSTATE_END_OF_LIST() },
};

static void balloon_instance_init(Object *obj)
{
    EBB_BALLOON(obj)->stats_interval_sec = STATS_INTERVAL_SEC;
}

static void balloon_class_init(ObjectClass *class, EbbClassData *data)
{
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_CLASS(class);
    EbbDeviceClass *edc = EBB_DEVICE_CLASS(class);

    DEVICE_CLASS(class)->vmsd = &vmstate_balloon;
    vdc->vmsd = &vmstate_balloon_device;
    vdc->get_config = get_config;
    vdc->set_config = set_config;
    vdc->get_features = get_features;
    edc->front = EBB_FRONT_BALLOON;
    edc->add_queues = add_queues;
    edc->delete_queues = delete_queues;
    edc->answer = answer;
    edc->take = take;
    edc->want_stats = want_stats;
    edc->put_back = put_back;
    edc->forget = forget;
    object_class_property_add(class, "guest-stats-polling-interval", "int",
                              get_stats_interval, set_stats_interval, NULL,
                              NULL);
    object_class_property_set_description(class, "guest-stats-polling-interval",
                                          "seconds; 0: never (default 5)");
}

static const TypeInfo balloon_info = {
    .name = TYPE_EBB_BALLOON,
    .parent = TYPE_EBB_DEVICE,
    .instance_size = sizeof(EbbBalloon),
    .instance_init = balloon_instance_init,
    .class_init = balloon_class_init,
};

void ebb_balloon_register(void)
{
    type_register_static(&balloon_info);
}
