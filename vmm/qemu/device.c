// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * device - the base of both devices: an executor, and its answers' way back
 *
 * A request keeps its queue element from the moment it is taken until it is
 * answered; meanwhile the guest keeps the memory isolated (rule 1). The
 * executor says when it is done by a callback in its own thread, which only
 * puts the slot into the mailbox and schedules a bottom half. Whoever must know
 * that nothing is in flight (stop, reset, unrealize) waits for the executor and
 * then empties the mailbox itself, so a bottom half that comes later finds
 * nothing of the past.
 *
 * Owns:    the executor, the slots, the mailbox.
 * Thread:  the main thread or a vCPU's with the big lock; struct ebb_vmm_ops in
 *          the executor's thread without it.
 * Locks:   mailbox_lock (leaf), never held across a call out of here.
 * Never:   decides policy, or waits for the big lock in the executor's thread.
 */
#include "compat.h"
#include <syslog.h>
#include "trace.h"
#include "device.h"

#define DEFAULT_AGENT_PATH "/run/ebb/ebbd.sock"

/* Of the migration stream: what hardens, and holds nothing. */
#define HARDEN_SECTION "virtio-ebb-harden"

/* Of breaks of one device so many are told on stderr; all are counted. */
#define BREAKS_TOLD_MAX 10

/* RAM has one owner of marks: two executors would not know of each other. */
static EbbDevice *only_device;

/* ---- struct ebb_vmm_ops: in the executor's thread ---- */

static int vmm_discard_begin(void *vmm)
{
    int ret = ram_block_discard_require(true);

    if (ret < 0) {
        return ret;
    }
    /* From here on nobody can forbid discards; what came before is seen. */
    if (ebb_discards_forbidden()) {
        ram_block_discard_require(false);
        return -EBUSY;
    }
    return 0;
}

static void vmm_discard_end(void *vmm)
{
    ram_block_discard_require(false);
}

static int vmm_discard(void *vmm, void *region_opaque, uint64_t offset_bytes,
                       uint64_t bytes)
{
    return ebb_ram_discard(region_opaque, offset_bytes, bytes);
}

static void vmm_batch_done(void *vmm, struct ebb_batch *batch)
{
    EbbDevice *dev = vmm;
    EbbSlot *slot = batch->opaque;

    qemu_mutex_lock(&dev->mailbox_lock);
    QSIMPLEQ_INSERT_TAIL(&dev->mailbox.done, slot, next);
    qemu_mutex_unlock(&dev->mailbox_lock);
    qemu_bh_schedule(dev->bh);
}

static void vmm_guide(void *vmm, struct ebb_guidance guidance)
{
    EbbDevice *dev = vmm;

    qemu_mutex_lock(&dev->mailbox_lock);
    dev->mailbox.guided = true;
    dev->mailbox.guidance = guidance;
    qemu_mutex_unlock(&dev->mailbox_lock);
    qemu_bh_schedule(dev->bh);
}

static int vmm_release(void *vmm, uint64_t id, uint64_t bytes, uint32_t flags)
{
    EbbDevice *dev = vmm;

    if (!qatomic_read(&dev->may_release)) {
        return -ENODEV;
    }
    qemu_mutex_lock(&dev->mailbox_lock);
    dev->mailbox.want_release = true;
    dev->mailbox.release_id = id;
    dev->mailbox.release_bytes = bytes;
    dev->mailbox.release_flags = flags;
    qemu_mutex_unlock(&dev->mailbox_lock);
    qemu_bh_schedule(dev->bh);
    return 0;
}

static int vmm_collect(void *vmm, uint64_t id,
                       const struct ebb_candidate *ranges, uint32_t nr_ranges)
{
    EbbDevice *dev = vmm;

    if (!qatomic_read(&dev->may_collect)) {
        return -ENODEV;
    }
    qemu_mutex_lock(&dev->mailbox_lock);
    dev->mailbox.want_collect = true;
    dev->mailbox.collect_id = id;
    dev->mailbox.nr_candidates = nr_ranges;
    memcpy(dev->mailbox.candidates, ranges, nr_ranges * sizeof(*ranges));
    qemu_mutex_unlock(&dev->mailbox_lock);
    qemu_bh_schedule(dev->bh);
    return 0;
}

static void vmm_want_stats(void *vmm)
{
    EbbDevice *dev = vmm;

    qemu_mutex_lock(&dev->mailbox_lock);
    dev->mailbox.want_stats = true;
    qemu_mutex_unlock(&dev->mailbox_lock);
    qemu_bh_schedule(dev->bh);
}

static void vmm_purged(void *vmm)
{
    EbbDevice *dev = vmm;

    qemu_mutex_lock(&dev->mailbox_lock);
    dev->mailbox.purged = true;
    qemu_mutex_unlock(&dev->mailbox_lock);
    qemu_bh_schedule(dev->bh);
}

static void vmm_merge_undone(void *vmm)
{
    EbbDevice *dev = vmm;

    qemu_mutex_lock(&dev->mailbox_lock);
    dev->mailbox.merge_undone = true;
    qemu_mutex_unlock(&dev->mailbox_lock);
    qemu_bh_schedule(dev->bh);
}

/* Firmware moves RAM about: what is found again of it is no news. */
static void vmm_log(void *vmm, int level, const char *line)
{
    EbbDevice *dev = vmm;

    if (strncmp(dev->last_line, line, sizeof(dev->last_line) - 1) == 0) {
        return;
    }
    pstrcpy(dev->last_line, sizeof(dev->last_line), line);
    if (level <= LOG_ERR) {
        error_report("ebb: %s", line);
    } else if (level == LOG_WARNING) {
        warn_report("ebb: %s", line);
    } else {
        info_report("ebb: %s", line);
    }
}

static const struct ebb_vmm_ops vmm_ops = {
    .discard_begin = vmm_discard_begin,
    .discard_end = vmm_discard_end,
    .discard = vmm_discard,
    .batch_done = vmm_batch_done,
    .guide = vmm_guide,
    .release = vmm_release,
    .collect = vmm_collect,
    .want_stats = vmm_want_stats,
    .purged = vmm_purged,
    .merge_undone = vmm_merge_undone,
    .log = vmm_log,
};

/* ---- requests ---- */

static void free_slot(EbbSlot *slot)
{
    g_free(slot->elem);
    slot->elem = NULL;
    slot->busy = false;
}

static EbbSlot *find_slot(EbbDevice *dev)
{
    for (int i = 0; i < EBB_MAX_BATCHES; i++) {
        if (!dev->slots[i].busy) {
            return &dev->slots[i];
        }
    }
    return NULL;
}

EbbSlot *ebb_device_pop(EbbDevice *dev, VirtQueue *vq)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    EbbSlot *slot;

    if (!vdev->vm_running || dev->paused || vdev->broken) {
        return NULL; /* set_status() takes it up again, or a reset drops it */
    }
    slot = find_slot(dev);
    if (!slot) {
        dev->starved = true;
        return NULL;
    }
    slot->elem = virtqueue_pop(vq, sizeof(VirtQueueElement));
    if (!slot->elem) {
        if (vdev->broken) {
            ebb_executor_violation(dev->executor); /* a ring without sense */
        }
        return NULL;
    }
    slot->busy = true;
    slot->vq = vq;
    slot->batch = (struct ebb_batch){
        .ranges = slot->ranges,
        .opaque = slot,
    };
    return slot;
}

VirtQueueElement *ebb_device_keep(EbbSlot *slot)
{
    VirtQueueElement *elem = slot->elem;

    slot->elem = NULL;
    slot->busy = false;
    return elem;
}

void ebb_device_push(EbbDevice *dev, EbbSlot *slot, uint32_t bytes)
{
    VirtQueue *vq = slot->vq;

    virtqueue_push(vq, slot->elem, bytes);
    free_slot(slot);
    virtio_notify(VIRTIO_DEVICE(dev), vq);
}

static void drop_slot(EbbSlot *slot)
{
    virtqueue_detach_element(slot->vq, slot->elem, 0);
    free_slot(slot);
}

void ebb_device_break(EbbDevice *dev, EbbSlot *slot, const char *why)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);

    ebb_trace(EBB_TRACE_VIOLATION, "%s: %s", vdev->name, why);
    if (dev->breaks_told++ < BREAKS_TOLD_MAX) {
        warn_report("%s: the guest broke the specification: %s; the device "
                    "stands still until the guest resets it%s",
                    vdev->name, why,
                    dev->breaks_told == BREAKS_TOLD_MAX
                        ? " (not told again, see its ebb-stats)"
                        : "");
    }
    if (slot) {
        drop_slot(slot);
    }
    vdev->broken = true;
    if (virtio_vdev_has_feature(vdev, VIRTIO_F_VERSION_1)) {
        vdev->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
        virtio_notify_config(vdev);
    }
}

void ebb_device_violation(EbbDevice *dev, EbbSlot *slot, const char *why)
{
    ebb_executor_violation(dev->executor);
    ebb_device_break(dev, slot, why);
}

bool ebb_device_submit(EbbDevice *dev, EbbSlot *slot)
{
    enum virtio_ebb_fault fault = VIRTIO_EBB_FAULT_NONE;
    int ret = ebb_executor_submit(dev->executor, &slot->batch, &fault);

    if (ret == 0) {
        return true;
    }
    if (ret == -EPROTO) {
        /* The executor has counted it. */
        ebb_device_break(dev, slot, virtio_ebb_fault_text(fault));
        return false;
    }
    /* Too early: what was in flight is done, but not yet forgotten. */
    virtqueue_unpop(slot->vq, slot->elem, 0);
    free_slot(slot);
    dev->starved = true;
    qemu_bh_schedule(dev->bh);
    return false;
}

static void trace_verdicts(const EbbSlot *slot)
{
    for (uint32_t i = 0; i < slot->batch.nr_ranges; i++) {
        const struct ebb_range *range = &slot->ranges[i];

        ebb_trace(EBB_TRACE_VERDICT,
                  "gpa 0x%" PRIx64 " bytes 0x%" PRIx64 " done 0x%" PRIx64
                  " verdict %u reason %u",
                  range->gpa, range->bytes, range->done_bytes, range->verdict,
                  range->reason);
    }
}

/* Answer all that is done; after a reset there is nobody to answer. */
static void empty_mailbox(EbbDevice *dev, bool drop)
{
    EbbDeviceClass *class = EBB_DEVICE_GET_CLASS(dev);
    EbbSlot *slot;

    for (;;) {
        qemu_mutex_lock(&dev->mailbox_lock);
        slot = QSIMPLEQ_FIRST(&dev->mailbox.done);
        if (slot) {
            QSIMPLEQ_REMOVE_HEAD(&dev->mailbox.done, next);
        }
        qemu_mutex_unlock(&dev->mailbox_lock);
        if (!slot) {
            return;
        }
        trace_verdicts(slot);
        ebb_trace(EBB_TRACE_ANSWER, "ranges %u command %" PRIu64 "%s",
                  slot->batch.nr_ranges, slot->batch.command_id,
                  drop ? " dropped" : "");
        if (drop) {
            drop_slot(slot);
        } else {
            class->answer(dev, slot);
        }
    }
}

static void take_orders(EbbDevice *dev)
{
    EbbDeviceClass *class = EBB_DEVICE_GET_CLASS(dev);
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    EbbMailbox orders;

    if (!vdev->vm_running) {
        return; /* set_status() schedules us again */
    }
    qemu_mutex_lock(&dev->mailbox_lock);
    orders = dev->mailbox;
    dev->mailbox.guided = false;
    dev->mailbox.want_release = false;
    dev->mailbox.want_collect = false;
    dev->mailbox.want_stats = false;
    dev->mailbox.purged = false;
    dev->mailbox.merge_undone = false;
    qemu_mutex_unlock(&dev->mailbox_lock);

    if (orders.guided) {
        dev->guidance = orders.guidance;
        dev->announce = true;
    }
    if (dev->announce && class->front == EBB_FRONT_EBB) {
        dev->announce = false;
        ebb_trace(EBB_TRACE_CONFIG,
                  "reporting %u reoffer_generation %u "
                  "page_bytes %" PRIu64,
                  dev->guidance.reporting, ebb_device_generation(dev),
                  dev->ram.page_bytes);
        virtio_notify_config(vdev);
    }
    if (orders.merge_undone) {
        ebb_ram_undo_merge(&dev->ram);
    }
    if (orders.want_release) {
        class->release(dev, orders.release_id, orders.release_bytes,
                       orders.release_flags);
    }
    if (orders.want_collect) {
        class->collect(dev, orders.collect_id, orders.candidates,
                       orders.nr_candidates);
    }
    if (orders.want_stats) {
        class->want_stats(dev);
    }
    if (orders.purged && class->purged) {
        class->purged(dev);
    }
}

static void bottom_half(void *opaque)
{
    EbbDevice *dev = opaque;

    empty_mailbox(dev, false);
    take_orders(dev);
    if (dev->starved) {
        dev->starved = false;
        EBB_DEVICE_GET_CLASS(dev)->take(dev);
    }
}

/* ---- life of the device ---- */

static void ram_changed(EbbRam *ram)
{
    EbbDevice *dev = container_of(ram, EbbDevice, ram);

    dev->announce = true;
    qemu_bh_schedule(dev->bh);
}

/*
 * Rule 3: what is copied of volatile memory may be torn. Whoever reads the RAM
 * of a stopped machine (savevm, dump) finds it hardened.
 */
static int harden(EbbDevice *dev, const char *why)
{
    int ret = ebb_executor_harden(dev->executor);

    ebb_trace(EBB_TRACE_HARDEN, "%s: %s", why, ret < 0 ? strerror(-ret) : "ok");
    return ret;
}

/*
 * Before the first page of RAM is written to a migration, a snapshot or a
 * background snapshot, in whose thread this runs. The section that QEMU writes
 * for it is empty.
 */
static int save_setup(QEMUFile *f, void *opaque)
{
    EbbDevice *dev = opaque;
    int ret;

    if (dev->saving) {
        return 0;
    }
    dev->saving = true;
    ret = harden(dev, "to be saved");
    if (ret == 0 && migration_in_bg_snapshot()) {
        ret = ebb_executor_settle(dev->executor);
    }
    if (ret < 0) {
        error_report("ebb: guest memory is volatile and cannot be made "
                     "permanent for a copy: %s",
                     strerror(-ret));
    }
    return ret;
}

static void save_cleanup(void *opaque)
{
    EbbDevice *dev = opaque;

    if (dev->saving) {
        dev->saving = false;
        ebb_executor_unharden(dev->executor);
    }
}

static int load_state(QEMUFile *f, void *opaque, int version_id)
{
    return 0;
}

static const SaveVMHandlers harden_handlers = {
    .save_setup = save_setup,
    .save_cleanup = save_cleanup,
    .load_state = load_state,
};

static void set_status(VirtIODevice *vdev, uint8_t status)
{
    EbbDevice *dev = EBB_DEVICE(vdev);
    EbbDeviceClass *class = EBB_DEVICE_GET_CLASS(dev);
    bool driver = status & VIRTIO_CONFIG_S_DRIVER_OK;
    bool release = driver && class->obeys_release && class->obeys_release(dev);
    bool collect = driver && class->obeys_collect && class->obeys_collect(dev);

    qatomic_set(&dev->may_release, release && !vdev->broken);
    qatomic_set(&dev->may_collect, collect && !vdev->broken);
    ebb_executor_set_driver(dev->executor, driver);
    if (!vdev->vm_running && !dev->paused) {
        ebb_executor_pause(dev->executor);
        harden(dev, "stopped");
        empty_mailbox(dev, false);
        class->put_back(dev);
        dev->paused = true;
        ebb_trace(EBB_TRACE_DRAIN, "stopped");
    } else if (vdev->vm_running && dev->paused) {
        ebb_executor_unharden(dev->executor);
        ebb_executor_resume(dev->executor);
        dev->paused = false;
        /* Kicks that came meanwhile have been ignored. */
        dev->starved = true;
        qemu_bh_schedule(dev->bh);
    }
}

static void drain_dropping(EbbDevice *dev)
{
    ebb_executor_quiesce(dev->executor, true);
    empty_mailbox(dev, true);
}

static void device_reset(VirtIODevice *vdev)
{
    EbbDevice *dev = EBB_DEVICE(vdev);
    EbbDeviceClass *class = EBB_DEVICE_GET_CLASS(dev);

    qatomic_set(&dev->may_release, false);
    qatomic_set(&dev->may_collect, false);
    drain_dropping(dev);
    ebb_executor_reset(dev->executor);
    qemu_mutex_lock(&dev->mailbox_lock);
    dev->mailbox.want_release = false;
    dev->mailbox.want_collect = false;
    dev->mailbox.want_stats = false;
    qemu_mutex_unlock(&dev->mailbox_lock);
    class->put_back(dev);
    class->forget(dev);
    dev->starved = false;
    ebb_trace(EBB_TRACE_DRAIN, "reset");
}

static void queue_reset(VirtIODevice *vdev, uint32_t index)
{
    EbbDevice *dev = EBB_DEVICE(vdev);

    /* The queue is still there: all that was taken of any is answered. */
    ebb_executor_quiesce(dev->executor, true);
    empty_mailbox(dev, false);
    EBB_DEVICE_GET_CLASS(dev)->put_back(dev);
    dev->starved = true;
    qemu_bh_schedule(dev->bh);
    ebb_trace(EBB_TRACE_DRAIN, "queue %u reset", index);
}

/* Of the machine's name, what the agent's protocol takes as a label. */
static char *default_label(void)
{
    const char *name = qemu_get_vm_name();
    char *label;

    if (!name || !*name) {
        return g_strdup_printf("qemu-%d", (int)getpid());
    }
    label = g_strndup(name, EBB_AGENT_NAME_BYTES - 1);
    for (char *c = label; *c; c++) {
        if (*c <= ' ' || *c > '~' || *c == '/') {
            *c = '_';
        }
    }
    return label;
}

/* What frees page tables, where a test says it. */
static bool find_tables_way(EbbDevice *dev, uint32_t *way, Error **errp)
{
    static const char *const words[] = { "auto", "nothing", "dontneed",
                                         "move" };
    const char *word = dev->tables_way ?: words[0];

    for (*way = 0; *way < ARRAY_SIZE(words); (*way)++) {
        if (strcmp(word, words[*way]) == 0) {
            return true;
        }
    }
    error_setg(errp,
               "ebb: x-page-tables-way is auto, nothing, dontneed or move");
    return false;
}

static bool make_executor(EbbDevice *dev, Error **errp)
{
    EbbDeviceClass *class = EBB_DEVICE_GET_CLASS(dev);
    const char *agent = dev->agent_path ?: DEFAULT_AGENT_PATH;
    struct ebb_executor_config config;
    int ret;

    if (!dev->label) {
        dev->label = default_label();
    }
    config = (struct ebb_executor_config){
        .name = dev->label,
        .agent_path = *agent ? agent : NULL,
        .front = class->front,
        .mode = ebb_device_core_mode(dev),
        .tables_mode = ebb_device_core_tables_mode(dev),
        .tables_no_scan = dev->tables_no_scan,
        .merge = dev->merge,
    };
    if (!find_tables_way(dev, &config.tables_way, errp)) {
        return false;
    }
    ret = ebb_executor_new(&dev->executor, &config, &vmm_ops, dev);
    if (ret == -EINVAL) {
        error_setg(errp,
                   "ebb: label '%s' or agent '%s' is not usable: a label "
                   "is 1 to %d printable ASCII characters without space "
                   "and '/', an agent's path at most 107 bytes",
                   dev->label, agent, EBB_AGENT_NAME_BYTES - 1);
    } else if (ret < 0) {
        error_setg_errno(errp, -ret, "ebb: could not start the executor");
    }
    return ret == 0;
}

static void device_realize(DeviceState *qdev, Error **errp)
{
    EbbDevice *dev = EBB_DEVICE(qdev);
    struct ebb_status status;

    if (only_device) {
        error_setg(errp, "only one ebb device is supported in a machine");
        return;
    }
    qemu_mutex_init(&dev->mailbox_lock);
    QSIMPLEQ_INIT(&dev->mailbox.done);
    dev->slots = g_new0(EbbSlot, EBB_MAX_BATCHES);
    EBB_DEVICE_GET_CLASS(dev)->add_queues(dev);
    dev->bh = ebb_bh_new(bottom_half, qdev);
    if (!make_executor(dev, errp)) {
        goto fail;
    }
    ebb_executor_status(dev->executor, &status);
    dev->guidance = status.guidance;
    ebb_ram_init(&dev->ram, dev->executor, ram_changed);
    register_savevm_live(HARDEN_SECTION, 0, 1, &harden_handlers, dev);
    only_device = dev;
    return;

fail:
    qemu_bh_delete(dev->bh);
    EBB_DEVICE_GET_CLASS(dev)->delete_queues(dev);
    virtio_cleanup(VIRTIO_DEVICE(dev));
    g_free(dev->slots);
    qemu_mutex_destroy(&dev->mailbox_lock);
}

static void device_unrealize(DeviceState *qdev)
{
    EbbDevice *dev = EBB_DEVICE(qdev);

    qatomic_set(&dev->may_release, false);
    qatomic_set(&dev->may_collect, false);
    unregister_savevm(NULL, HARDEN_SECTION, dev);
    drain_dropping(dev);
    ebb_ram_fini(&dev->ram);
    ebb_executor_free(dev->executor);
    dev->executor = NULL;
    empty_mailbox(dev, true);
    EBB_DEVICE_GET_CLASS(dev)->put_back(dev);
    qemu_bh_delete(dev->bh);
    EBB_DEVICE_GET_CLASS(dev)->delete_queues(dev);
    virtio_cleanup(VIRTIO_DEVICE(dev));
    g_free(dev->slots);
    qemu_mutex_destroy(&dev->mailbox_lock);
    only_device = NULL;
}

/* ---- state ---- */

uint32_t ebb_device_generation(EbbDevice *dev)
{
    return dev->generation_base + dev->guidance.reoffer_generation;
}

static int pre_save(void *opaque)
{
    EbbDevice *dev = opaque;

    dev->loaded_generation = ebb_device_generation(dev);
    return 0;
}

/*
 * The marks on the guest's memory were left behind, so it offers all anew. What
 * it sees differs from what it saw, whatever this executor has counted so far.
 */
static int post_load(void *opaque, int version_id)
{
    EbbDevice *dev = opaque;

    dev->generation_base =
        dev->loaded_generation + 1 - dev->guidance.reoffer_generation;
    /* Above all that was seen before: fewer changes than this come between. */
    dev->hint_base = (dev->loaded_generation + 1) << 12;
    ebb_executor_reoffer(dev->executor);
    dev->announce = true;
    qemu_bh_schedule(dev->bh);
    return 0;
}

const VMStateDescription ebb_vmstate_device = {
    .name = "virtio-ebb-base",
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = pre_save,
    .post_load = post_load,
    .fields = (VMStateField[]){ VMSTATE_UINT32(loaded_generation, EbbDevice),
                                VMSTATE_END_OF_LIST() },
};

/* ---- type ---- */

EBB_PROPERTIES(device_properties) = {
    DEFINE_PROP_STRING("agent", EbbDevice, agent_path),
    DEFINE_PROP_STRING("label", EbbDevice, label),
    /* For tests: as if the host's kernel were another one. */
    DEFINE_PROP_STRING("x-page-tables-way", EbbDevice, tables_way),
    DEFINE_PROP_BOOL("x-no-pagemap-scan", EbbDevice, tables_no_scan, false),
    EBB_PROPERTIES_END
};

static void device_class_init(ObjectClass *class, EbbClassData *data)
{
    DeviceClass *dc = DEVICE_CLASS(class);
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_CLASS(class);

    device_class_set_props(dc, device_properties);
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    vdc->realize = device_realize;
    vdc->unrealize = device_unrealize;
    vdc->reset = device_reset;
    vdc->queue_reset = queue_reset;
    vdc->set_status = set_status;
    ebb_device_add_class_properties(class);
}

static const TypeInfo device_info = {
    .name = TYPE_EBB_DEVICE,
    .parent = TYPE_VIRTIO_DEVICE,
    .instance_size = sizeof(EbbDevice),
    .class_size = sizeof(EbbDeviceClass),
    .class_init = device_class_init,
    .abstract = true,
};

void ebb_device_register(void)
{
    type_register_static(&device_info);
}
