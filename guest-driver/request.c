// SPDX-License-Identifier: GPL-2.0-only
/*
 * request - send a request on the report queue and wait for its answer
 *
 * Owns:    the requests' buffers and the report queue.
 * Thread:  the sender waits; the virtqueue's callback and a reset end its waiting.
 * Locks:   vq_lock (leaf), never held while waiting. The queue is kicked under it, so that
 *          no kick comes after a reset.
 * Never:   gives up waiting on a time-out: what a request offers stays isolated until
 *          the device has answered or its reset has completed (rules 1 and 4). Time only
 *          makes it look whether the device is still well.
 */
#include <linux/slab.h>

#include "ebb.h"

/* A broken device is not always announced: while an answer is awaited its status is looked at. */
#define LOOK_INTERVAL HZ

int ebb_request_init(struct ebb_request *rq, size_t out_bytes, size_t in_bytes)
{
	init_completion(&rq->answered);
	rq->out = kzalloc(out_bytes, GFP_KERNEL);
	rq->in = kzalloc(in_bytes, GFP_KERNEL);
	return rq->out && rq->in ? 0 : -ENOMEM;
}

void ebb_request_destroy(struct ebb_request *rq)
{
	kfree(rq->out);
	kfree(rq->in);
}

/* Hand the request to the device; on an error it has not got it. */
static int ebb_request_submit(struct ebb_device *ebb, struct ebb_request *rq, size_t out_bytes,
			      size_t in_bytes)
{
	struct scatterlist out_sg, in_sg, *sgs[] = { &out_sg, &in_sg };
	bool kicked = true;
	unsigned long flags;
	int err = -ENODEV;

	sg_init_one(&out_sg, rq->out, out_bytes);
	sg_init_one(&in_sg, rq->in, in_bytes);
	reinit_completion(&rq->answered);

	spin_lock_irqsave(&ebb->vq_lock, flags);
	if (ebb->accepting) {
		/* There is room: see EBB_REPORT_ENTRIES. Nothing is allocated. */
		err = virtqueue_add_sgs(ebb->report_vq, sgs, 1, 1, rq, GFP_NOWAIT);
		if (!err) {
			rq->in_flight = true;
			kicked = virtqueue_kick(ebb->report_vq);
		}
	}
	spin_unlock_irqrestore(&ebb->vq_lock, flags);

	/* A device that cannot be kicked may have seen the request: only a reset takes it back. */
	if (!kicked)
		ebb_fail(ebb, "the report queue cannot be kicked");
	return err;
}

/*
 * An answer against the specification: the device is not to be trusted with its word that
 * it is done with the buffers, so wait until its reset has completed.
 */
int ebb_bad_answer(struct ebb_device *ebb, enum virtio_ebb_fault fault)
{
	ebb_fail(ebb, virtio_ebb_fault_text(fault));
	wait_for_completion(&ebb->reset_done);
	return -EPROTO;
}

/*
 * The entries are in rq->out already. Returns when the device has answered (0; for
 * an offer the verdicts are still to be checked) or holds nothing of the request (-errno).
 */
int ebb_request_send(struct ebb_device *ebb, struct ebb_request *rq, u16 type, u32 count,
		     u64 command_id)
{
	struct virtio_ebb_req req = { .type = type, .count = count, .command_id = command_id };
	size_t out_bytes = sizeof(*rq->out) + (size_t)count * virtio_ebb_entry_bytes(type);
	size_t in_bytes = virtio_ebb_resp_bytes(&req);
	enum virtio_ebb_fault fault;
	int err;

	memset(rq->out, 0, sizeof(*rq->out));
	ebb_put_le16(&rq->out->type, type);
	ebb_put_le32(&rq->out->count, count);
	ebb_put_le64(&rq->out->command_id, command_id);
	memset(rq->in, 0, in_bytes);

	err = ebb_request_submit(ebb, rq, out_bytes, in_bytes);
	if (err)
		return err;
	while (!wait_for_completion_timeout(&rq->answered, LOOK_INTERVAL))
		ebb_look_for_trouble(ebb);
	if (rq->err)
		return rq->err;

	if (rq->used_bytes > in_bytes)
		fault = VIRTIO_EBB_FAULT_LENGTH;
	else
		fault = virtio_ebb_check_resp(rq->in, rq->used_bytes,
					      virtio_ebb_offers(type) ? count : 0);
	return fault ? ebb_bad_answer(ebb, fault) : 0;
}

/* After a reset of the device: nothing is in its hands any more. */
void ebb_request_abort(struct ebb_device *ebb, struct ebb_request *rq)
{
	unsigned long flags;

	spin_lock_irqsave(&ebb->vq_lock, flags);
	if (rq->in_flight) {
		rq->in_flight = false;
		rq->err = -ENODEV;
		complete(&rq->answered);
	}
	spin_unlock_irqrestore(&ebb->vq_lock, flags);
}

/*
 * Interrupt context. Once nothing is sent any more, answers are not believed either: the
 * reset that follows ends what is in flight.
 */
void ebb_report_vq_callback(struct virtqueue *vq)
{
	struct ebb_device *ebb = vq->vdev->priv;
	struct ebb_request *rq;
	unsigned int used_bytes;
	unsigned long flags;
	bool is_broken = false;

	spin_lock_irqsave(&ebb->vq_lock, flags);
	while (ebb->accepting && !is_broken) {
		rq = virtqueue_get_buf(vq, &used_bytes);
		if (!rq) {
			is_broken = virtqueue_is_broken(vq);
			break;
		}
		rq->in_flight = false;
		rq->used_bytes = used_bytes;
		rq->err = 0;
		complete(&rq->answered);
	}
	spin_unlock_irqrestore(&ebb->vq_lock, flags);
	if (is_broken)
		ebb_fail(ebb, "the device used a buffer that it was not given");
}
