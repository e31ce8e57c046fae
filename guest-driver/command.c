// SPDX-License-Identifier: GPL-2.0-only
/*
 * command - obey what the device asks on the command queue
 *
 * Owns:    the command queue's buffers and the request buffer for replies.
 * Thread:  the worker (an ordered workqueue), one command at a time.
 * Locks:   vq_lock (leaf) to take a command out and to give its buffer back.
 * Never:   allocates; believes a command that virtio_ebb_check_command() refuses. The
 *          workqueue has no WQ_MEM_RECLAIM: it flushes work on system_wq, which has none
 *          either, and no reclaim ever waits for it.
 */
#include "ebb.h"
#include "trace.h"
#include "volatile.h"

static int ebb_command_post(struct ebb_device *ebb, struct virtio_ebb_collect *cmd)
{
	struct scatterlist sg;

	sg_init_one(&sg, cmd, sizeof(*cmd));
	return virtqueue_add_inbuf(ebb->command_vq, &sg, 1, cmd, GFP_NOWAIT);
}

/* Give the device all buffers; as many as a small queue takes will do. Under vq_lock. */
void ebb_command_post_all(struct ebb_device *ebb)
{
	unsigned int i;

	for (i = 0; i < EBB_COMMAND_BUFFERS; i++)
		if (ebb_command_post(ebb, &ebb->commands[i]))
			break;
	virtqueue_kick(ebb->command_vq);
}

/* Interrupt context. */
void ebb_command_vq_callback(struct virtqueue *vq)
{
	struct ebb_device *ebb = vq->vdev->priv;

	queue_work(ebb->wq, &ebb->command_work);
}

/* Copy the next command out and give its buffer back; false: there is none. */
static bool ebb_command_get(struct ebb_device *ebb, struct virtio_ebb_collect *cmd)
{
	enum virtio_ebb_fault fault = VIRTIO_EBB_FAULT_NONE;
	struct virtio_ebb_collect *buffer = NULL;
	const char *trouble = NULL;
	unsigned int used_bytes;
	bool kicked = true;

	spin_lock_irq(&ebb->vq_lock);
	if (ebb->accepting) {
		buffer = virtqueue_get_buf(ebb->command_vq, &used_bytes);
		if (buffer) {
			*cmd = *buffer;
			if (!ebb_command_post(ebb, buffer))
				kicked = virtqueue_kick(ebb->command_vq);
		} else if (virtqueue_is_broken(ebb->command_vq)) {
			trouble = "the device used a command buffer that it was not given";
		}
	}
	spin_unlock_irq(&ebb->vq_lock);

	if (!kicked)
		trouble = "the command queue cannot be kicked";
	if (buffer)
		fault = virtio_ebb_check_command(&cmd->command, used_bytes);
	if (buffer && !fault && ebb_get_le16(&cmd->command.type) == VIRTIO_EBB_CMD_COLLECT)
		fault = virtio_ebb_check_collect(cmd, used_bytes);
	if (fault)
		trouble = virtio_ebb_fault_text(fault);
	if (trouble)
		ebb_fail(ebb, trouble);
	return buffer && !trouble;
}

static void ebb_command_done(struct ebb_device *ebb, u64 id, u32 status,
			     const struct ebb_need *outcome)
{
	struct virtio_ebb_done *done = (void *)(ebb->reply.out + 1);

	*done = (struct virtio_ebb_done){};
	ebb_put_le32(&done->status, status);
	ebb_put_le32(&done->passes, outcome->passes);
	ebb_put_le64(&done->bytes, outcome->offered_bytes);
	trace_ebb_done(id, status, outcome->passes, outcome->offered_bytes);
	ebb_request_send(ebb, &ebb->reply, VIRTIO_EBB_REQ_DONE, 1, id);
}

static void ebb_command_obey(struct ebb_device *ebb, const struct virtio_ebb_collect *collect)
{
	const struct virtio_ebb_command *cmd = &collect->command;
	struct virtio_ebb_stat *stats = (void *)(ebb->reply.out + 1);
	u64 id = ebb_get_le64(&cmd->id);
	struct ebb_need outcome = {};
	u32 status = VIRTIO_EBB_DONE_UNSUPPORTED;

	switch (ebb_get_le16(&cmd->type)) {
	case VIRTIO_EBB_CMD_STATS:
		ebb_request_send(ebb, &ebb->reply, VIRTIO_EBB_REQ_STATS, ebb_stats_fill(ebb, stats),
				 id);
		return;
	case VIRTIO_EBB_CMD_PURGED:
		ebb_purge_notice(ebb_get_le64(&cmd->gpa), ebb_get_le64(&cmd->bytes),
				 ebb_get_le16(&cmd->flags) & VIRTIO_EBB_PURGED_F_COMPLETE);
		return;
	case VIRTIO_EBB_CMD_RELEASE:
		status = ebb_release(ebb, cmd, &outcome);
		break;
	case VIRTIO_EBB_CMD_COLLECT:
		status = ebb_collect(ebb, collect, &outcome);
		break;
	}
	ebb_command_done(ebb, id, status, &outcome);
}

void ebb_command_work(struct work_struct *work)
{
	struct ebb_device *ebb = container_of(work, struct ebb_device, command_work);
	struct virtio_ebb_collect *cmd = &ebb->command;

	while (ebb_command_get(ebb, cmd)) {
		trace_ebb_command(&cmd->command);
		ebb_command_obey(ebb, cmd);
	}
}
