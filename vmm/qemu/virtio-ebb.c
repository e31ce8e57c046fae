// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio-ebb - the device for guests with a driver of ours
 *
 * The specification is docs/device.md, the wire proto/virtio_ebb.h. Requests
 * are copied out of guest memory once, checked by the functions of proto/, and
 * handed to the executor; answers are written when it is done. Commands to the
 * guest wait until the driver has left a buffer for them.
 *
 * Owns:    the two queues; at most one command of each type that waits. More
 *          notices of losses wait in the executor.
 * Thread:  the main thread or a vCPU's, with the big lock.
 * Locks:   none.
 * Never:   reads a field of a request twice, decides policy.
 */
#include "compat.h"
#include "trace.h"
#include "fronts.h"
#include "virtio_ebb_check.h"

#define REPORT_QUEUE_ENTRIES 64
#define COMMAND_QUEUE_ENTRIES 16

/*
 * virtio_init() takes only IDs of its own table. This is one of those that no
 * device of QEMU has; the guest sees VIRTIO_ID_EBB by the PCI proxy.
 */
#define TABLED_ID VIRTIO_ID_PARAM_SERV

/* Of our own choice; those of releases are the executor's, and small. */
#define STATS_ID_BASE (1ull << 63)

/* ---- requests ---- */

static void push_response(EbbDevice *dev, EbbSlot *slot, uint32_t status)
{
    struct virtio_ebb_resp_hdr resp = {};

    ebb_put_le32(&resp.status, status);
    iov_from_buf(slot->elem->in_sg, slot->elem->in_num, 0, &resp, sizeof(resp));
    ebb_device_push(dev, slot, sizeof(resp));
}

static enum virtio_ebb_fault read_ranges(EbbSlot *slot, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct ebb_range *range = &slot->ranges[i];
        struct virtio_ebb_range wire;
        enum virtio_ebb_fault fault;
        __u64 gpa, bytes;

        iov_to_buf(slot->elem->out_sg, slot->elem->out_num,
                   sizeof(struct virtio_ebb_req_hdr) + i * sizeof(wire), &wire,
                   sizeof(wire));
        fault = virtio_ebb_check_range(&wire, &gpa, &bytes);
        if (fault != VIRTIO_EBB_FAULT_NONE) {
            return fault;
        }
        *range = (struct ebb_range){ .gpa = gpa, .bytes = bytes };
    }
    return VIRTIO_EBB_FAULT_NONE;
}

static bool take_offer(EbbDevice *dev, EbbSlot *slot,
                       const struct virtio_ebb_req *req)
{
    enum virtio_ebb_fault fault = read_ranges(slot, req->count);

    if (fault != VIRTIO_EBB_FAULT_NONE) {
        ebb_device_violation(dev, slot, virtio_ebb_fault_text(fault));
        return false;
    }
    slot->batch.offer = req->type == VIRTIO_EBB_REQ_VOLATILE ? EBB_OFFER_CONTENT
                                                             : EBB_OFFER_FREE;
    slot->batch.command_id = req->command_id;
    slot->batch.nr_ranges = req->count;
    return ebb_device_submit(dev, slot);
}

/* Nobody waits for anything that comes of it. */
static bool take_hints(EbbDevice *dev, EbbSlot *slot,
                       const struct virtio_ebb_req *req)
{
    g_autofree struct ebb_hint *hints = g_new(struct ebb_hint, req->count);
    enum virtio_ebb_fault fault = VIRTIO_EBB_FAULT_NONE;
    uint64_t after = 0;
    int ret;

    for (uint32_t i = 0; i < req->count; i++) {
        struct virtio_ebb_hint wire;
        __u64 gpa, bytes;
        __u32 flags;

        iov_to_buf(slot->elem->out_sg, slot->elem->out_num,
                   sizeof(struct virtio_ebb_req_hdr) + i * sizeof(wire), &wire,
                   sizeof(wire));
        fault = virtio_ebb_check_hint(&wire, after, &gpa, &bytes, &flags);
        if (fault != VIRTIO_EBB_FAULT_NONE) {
            ebb_device_violation(dev, slot, virtio_ebb_fault_text(fault));
            return false;
        }
        hints[i] = (struct ebb_hint){
            .gpa = gpa,
            .bytes = bytes,
            .merge = flags & VIRTIO_EBB_HINT_F_MERGE,
        };
        after = gpa + bytes;
    }
    ret = ebb_executor_hint(dev->executor, hints, req->count, &fault);
    if (ret < 0) {
        /* The executor has counted it. */
        ebb_device_break(dev, slot, virtio_ebb_fault_text(fault));
        return false;
    }
    push_response(dev, slot, VIRTIO_EBB_RESP_OK);
    return true;
}

static bool take_done(EbbDevice *dev, EbbSlot *slot,
                      const struct virtio_ebb_req *req)
{
    struct virtio_ebb_done done;
    enum virtio_ebb_fault fault;

    iov_to_buf(slot->elem->out_sg, slot->elem->out_num,
               sizeof(struct virtio_ebb_req_hdr), &done, sizeof(done));
    fault = virtio_ebb_check_done(&done);
    if (fault != VIRTIO_EBB_FAULT_NONE) {
        ebb_device_violation(dev, slot, virtio_ebb_fault_text(fault));
        return false;
    }
    ebb_executor_release_done(
        dev->executor, req->command_id, ebb_get_le32(&done.status),
        ebb_get_le32(&done.passes), ebb_get_le64(&done.bytes));
    push_response(dev, slot, VIRTIO_EBB_RESP_OK);
    return true;
}

static bool take_stats(EbbDevice *dev, EbbSlot *slot,
                       const struct virtio_ebb_req *req)
{
    struct ebb_guest_stats stats = {};

    for (uint32_t i = 0; i < req->count; i++) {
        struct virtio_ebb_stat stat;
        uint16_t tag;

        iov_to_buf(slot->elem->out_sg, slot->elem->out_num,
                   sizeof(struct virtio_ebb_req_hdr) + i * sizeof(stat), &stat,
                   sizeof(stat));
        tag = ebb_get_le16(&stat.tag);
        if (tag < VIRTIO_EBB_S_MAX) {
            stats.value[tag] = ebb_get_le64(&stat.value);
        }
    }
    ebb_executor_guest_stats(dev->executor, &stats);
    push_response(dev, slot, VIRTIO_EBB_RESP_OK);
    return true;
}

static bool take_request(EbbDevice *dev, EbbSlot *slot)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VirtQueueElement *elem = slot->elem;
    struct virtio_ebb_req req = {};
    struct virtio_ebb_req_hdr hdr;
    enum virtio_ebb_fault fault;
    size_t hdr_bytes;

    hdr_bytes = iov_to_buf(elem->out_sg, elem->out_num, 0, &hdr, sizeof(hdr));
    fault = virtio_ebb_check_req(
        &hdr, hdr_bytes, iov_size(elem->out_sg, elem->out_num),
        iov_size(elem->in_sg, elem->in_num), VIRTIO_EBB_MAX_RANGES_LIMIT, &req);
    if (fault != VIRTIO_EBB_FAULT_NONE) {
        ebb_device_violation(dev, slot, virtio_ebb_fault_text(fault));
        return false;
    }
    ebb_trace(EBB_TRACE_REQUEST, "type %u count %u command %" PRIu64, req.type,
              req.count, (uint64_t)req.command_id);
    if (req.type == VIRTIO_EBB_REQ_FREE &&
        virtio_vdev_has_feature(vdev, VIRTIO_EBB_F_REPORT)) {
        return take_offer(dev, slot, &req);
    }
    if (req.type == VIRTIO_EBB_REQ_VOLATILE &&
        virtio_vdev_has_feature(vdev, VIRTIO_EBB_F_VOLATILE)) {
        return take_offer(dev, slot, &req);
    }
    if (req.type == VIRTIO_EBB_REQ_HINT &&
        virtio_vdev_has_feature(vdev, VIRTIO_EBB_F_HINT)) {
        return take_hints(dev, slot, &req);
    }
    if (req.type == VIRTIO_EBB_REQ_DONE &&
        (virtio_vdev_has_feature(vdev, VIRTIO_EBB_F_RELEASE) ||
         virtio_vdev_has_feature(vdev, VIRTIO_EBB_F_COLLECT))) {
        return take_done(dev, slot, &req);
    }
    if (req.type == VIRTIO_EBB_REQ_STATS &&
        virtio_vdev_has_feature(vdev, VIRTIO_EBB_F_STATS)) {
        return take_stats(dev, slot, &req);
    }
    push_response(dev, slot, VIRTIO_EBB_RESP_UNSUPPORTED);
    return true;
}

static void take_requests(EbbDevice *dev)
{
    EbbSlot *slot;

    while ((slot = ebb_device_pop(dev, VIRTIO_EBB(dev)->report_vq))) {
        if (!take_request(dev, slot)) {
            return;
        }
    }
}

static void handle_report(VirtIODevice *vdev, VirtQueue *vq)
{
    take_requests(EBB_DEVICE(vdev));
}

/* The executor is done with an offer. */
static void answer(EbbDevice *dev, EbbSlot *slot)
{
    struct virtio_ebb_resp_hdr resp = {};
    size_t offset = sizeof(resp);

    ebb_put_le32(&resp.status, VIRTIO_EBB_RESP_OK);
    ebb_put_le32(&resp.count, slot->batch.nr_ranges);
    iov_from_buf(slot->elem->in_sg, slot->elem->in_num, 0, &resp, sizeof(resp));
    for (uint32_t i = 0; i < slot->batch.nr_ranges; i++) {
        const struct ebb_range *range = &slot->ranges[i];
        struct virtio_ebb_verdict verdict = {};

        ebb_put_le16(&verdict.verdict, range->verdict);
        ebb_put_le16(&verdict.reason, range->reason);
        ebb_put_le64(&verdict.bytes, range->done_bytes);
        iov_from_buf(slot->elem->in_sg, slot->elem->in_num, offset, &verdict,
                     sizeof(verdict));
        offset += sizeof(verdict);
    }
    ebb_device_push(dev, slot, offset);
}

/* ---- commands ---- */

/* Send @command of @bytes if it waits and the driver has left a buffer. */
static bool send_long_command(EbbDevice *dev,
                              struct virtio_ebb_command *command, size_t bytes)
{
    EbbSlot *slot;

    if (ebb_get_le16(&command->type) == 0) {
        return true;
    }
    slot = ebb_device_pop(dev, VIRTIO_EBB(dev)->command_vq);
    if (!slot) {
        return false; /* the driver's next buffer brings us here again */
    }
    if (iov_size(slot->elem->in_sg, slot->elem->in_num) < bytes) {
        ebb_device_violation(dev, slot, "a buffer too small for a command");
        return false;
    }
    ebb_trace(
        EBB_TRACE_COMMAND, "id %" PRIu64 " type %u flags %u bytes %" PRIu64,
        (uint64_t)ebb_get_le64(&command->id), ebb_get_le16(&command->type),
        ebb_get_le16(&command->flags), (uint64_t)ebb_get_le64(&command->bytes));
    iov_from_buf(slot->elem->in_sg, slot->elem->in_num, 0, command, bytes);
    ebb_device_push(dev, slot, bytes);
    *command = (struct virtio_ebb_command){};
    return true;
}

static bool send_command(EbbDevice *dev, struct virtio_ebb_command *command)
{
    return send_long_command(dev, command, sizeof(*command));
}

static bool send_collect(EbbDevice *dev)
{
    struct virtio_ebb_collect *collect = &VIRTIO_EBB(dev)->collect;

    return send_long_command(dev, &collect->command,
                             offsetof(struct virtio_ebb_collect, ranges) +
                                 ebb_get_le32(&collect->command.count) *
                                     sizeof(collect->ranges[0]));
}

/* As many notices as the driver has left buffers for; the executor keeps the
 * rest. */
static void send_notices(EbbDevice *dev)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VirtioEbb *ebb = VIRTIO_EBB(dev);
    struct ebb_notice notice;

    if (!(vdev->status & VIRTIO_CONFIG_S_DRIVER_OK) ||
        !virtio_vdev_has_feature(vdev, VIRTIO_EBB_F_VOLATILE)) {
        return;
    }
    while (send_command(dev, &ebb->notice) &&
           ebb_executor_take_notice(dev->executor, &notice)) {
        ebb_put_le16(&ebb->notice.type, VIRTIO_EBB_CMD_PURGED);
        ebb_put_le16(&ebb->notice.flags,
                     notice.complete ? VIRTIO_EBB_PURGED_F_COMPLETE : 0);
        ebb_put_le64(&ebb->notice.gpa, notice.gpa);
        ebb_put_le64(&ebb->notice.bytes, notice.bytes);
    }
}

static void send_commands(EbbDevice *dev)
{
    VirtioEbb *ebb = VIRTIO_EBB(dev);

    if (send_command(dev, &ebb->release) && send_command(dev, &ebb->stats) &&
        send_collect(dev)) {
        send_notices(dev);
    }
}

static void handle_command(VirtIODevice *vdev, VirtQueue *vq)
{
    send_commands(EBB_DEVICE(vdev));
}

static void purged(EbbDevice *dev)
{
    send_commands(dev);
}

static void release(EbbDevice *dev, uint64_t id, uint64_t bytes, uint32_t flags)
{
    struct virtio_ebb_command *command = &VIRTIO_EBB(dev)->release;

    ebb_put_le64(&command->id, id);
    ebb_put_le16(&command->type, VIRTIO_EBB_CMD_RELEASE);
    ebb_put_le16(&command->flags, flags);
    ebb_put_le64(&command->bytes, bytes);
    send_commands(dev);
}

static void collect(EbbDevice *dev, uint64_t id,
                    const struct ebb_candidate *candidates, uint32_t nr)
{
    struct virtio_ebb_collect *collect = &VIRTIO_EBB(dev)->collect;
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < nr; i++) {
        ebb_put_le64(&collect->ranges[i].gpa, candidates[i].gpa);
        ebb_put_le64(&collect->ranges[i].bytes, candidates[i].bytes);
        bytes += candidates[i].bytes;
    }
    ebb_put_le64(&collect->command.id, id);
    ebb_put_le16(&collect->command.type, VIRTIO_EBB_CMD_COLLECT);
    ebb_put_le32(&collect->command.count, nr);
    ebb_put_le64(&collect->command.bytes, bytes);
    send_commands(dev);
}

static void want_stats(EbbDevice *dev)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VirtioEbb *ebb = VIRTIO_EBB(dev);

    if (!(vdev->status & VIRTIO_CONFIG_S_DRIVER_OK) ||
        !virtio_vdev_has_feature(vdev, VIRTIO_EBB_F_STATS) ||
        ebb_get_le16(&ebb->stats.type) != 0) {
        return;
    }
    ebb_put_le64(&ebb->stats.id, STATS_ID_BASE + ebb->stats_asked++);
    ebb_put_le16(&ebb->stats.type, VIRTIO_EBB_CMD_STATS);
    send_commands(dev);
}

/* ---- configuration space ---- */

static void get_config(VirtIODevice *vdev, uint8_t *data)
{
    EbbDevice *dev = EBB_DEVICE(vdev);
    struct virtio_ebb_config config = {};

    ebb_put_le32(&config.page_bytes, dev->ram.page_bytes);
    ebb_put_le32(&config.block_bytes,
                 MAX(EBB_BLOCK_BYTES, dev->ram.page_bytes));
    ebb_put_le32(&config.max_ranges, VIRTIO_EBB_MAX_RANGES_LIMIT);
    ebb_put_le32(&config.reporting, dev->guidance.reporting);
    ebb_put_le32(&config.reoffer_generation, ebb_device_generation(dev));
    if (virtio_vdev_has_feature(vdev, VIRTIO_EBB_F_HINT)) {
        ebb_put_le32(&config.hinting, dev->guidance.hinting);
        ebb_put_le32(&config.hint_generation,
                     dev->hint_base + dev->guidance.hint_generation);
    }
    memcpy(data, &config, sizeof(config));
}

static uint64_t get_features(VirtIODevice *vdev, uint64_t features,
                             Error **errp)
{
    virtio_add_feature(&features, VIRTIO_EBB_F_REPORT);
    virtio_add_feature(&features, VIRTIO_EBB_F_RELEASE);
    virtio_add_feature(&features, VIRTIO_EBB_F_STATS);
    virtio_add_feature(&features, VIRTIO_EBB_F_VOLATILE);
    virtio_add_feature(&features, VIRTIO_EBB_F_COLLECT);
    virtio_add_feature(&features, VIRTIO_EBB_F_HINT);
    return features;
}

static bool obeys_release(EbbDevice *dev)
{
    return virtio_vdev_has_feature(VIRTIO_DEVICE(dev), VIRTIO_EBB_F_RELEASE);
}

static bool obeys_collect(EbbDevice *dev)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);

    return virtio_vdev_has_feature(vdev, VIRTIO_EBB_F_REPORT) &&
           virtio_vdev_has_feature(vdev, VIRTIO_EBB_F_COLLECT);
}

/* ---- life ---- */

static void add_queues(EbbDevice *dev)
{
    VirtioEbb *ebb = VIRTIO_EBB(dev);
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);

    virtio_init(vdev, TABLED_ID, sizeof(struct virtio_ebb_config));
    vdev->name = "virtio-ebb";
    ebb->report_vq =
        virtio_add_queue(vdev, REPORT_QUEUE_ENTRIES, handle_report);
    ebb->command_vq =
        virtio_add_queue(vdev, COMMAND_QUEUE_ENTRIES, handle_command);
}

static void delete_queues(EbbDevice *dev)
{
    virtio_delete_queue(VIRTIO_EBB(dev)->report_vq);
    virtio_delete_queue(VIRTIO_EBB(dev)->command_vq);
}

static void take(EbbDevice *dev)
{
    send_commands(dev);
    take_requests(dev);
}

static void put_back(EbbDevice *dev)
{
    /* No buffer of the command queue is ever held. */
}

static void forget(EbbDevice *dev)
{
    VirtioEbb *ebb = VIRTIO_EBB(dev);

    ebb->release = (struct virtio_ebb_command){};
    ebb->stats = (struct virtio_ebb_command){};
    ebb->notice = (struct virtio_ebb_command){};
    ebb->collect = (struct virtio_ebb_collect){};
}

static const VMStateDescription vmstate_ebb_device = {
    .name = "virtio-ebb-device",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (VMStateField[]){ VMSTATE_STRUCT(parent_obj, VirtioEbb, 1,
                                               ebb_vmstate_device, EbbDevice),
                                VMSTATE_END_OF_LIST() },
};

static const VMStateDescription vmstate_ebb = {
    .name = "virtio-ebb",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (VMStateField[]){ VMSTATE_VIRTIO_DEVICE, VMSTATE_END_OF_LIST() },
};

static void ebb_class_init(ObjectClass *class, EbbClassData *data)
{
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_CLASS(class);
    EbbDeviceClass *edc = EBB_DEVICE_CLASS(class);

    DEVICE_CLASS(class)->vmsd = &vmstate_ebb;
    /* Other transports would show the guest TABLED_ID. */
    DEVICE_CLASS(class)->user_creatable = false;
    vdc->vmsd = &vmstate_ebb_device;
    vdc->get_config = get_config;
    vdc->get_features = get_features;
    edc->front = EBB_FRONT_EBB;
    edc->add_queues = add_queues;
    edc->delete_queues = delete_queues;
    edc->answer = answer;
    edc->take = take;
    edc->want_stats = want_stats;
    edc->release = release;
    edc->collect = collect;
    edc->purged = purged;
    edc->put_back = put_back;
    edc->forget = forget;
    edc->obeys_release = obeys_release;
    edc->obeys_collect = obeys_collect;
}

static const TypeInfo ebb_info = {
    .name = TYPE_VIRTIO_EBB,
    .parent = TYPE_EBB_DEVICE,
    .instance_size = sizeof(VirtioEbb),
    .class_init = ebb_class_init,
};

void virtio_ebb_register(void)
{
    type_register_static(&ebb_info);
}
