// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * flights - batches from submit to answer
 *
 * A batch goes FREE -> QUEUED (submit) -> RUNNING -> ANSWERING -> FREE (thread). While
 * it is QUEUED or RUNNING its ranges are in flight: no other offer may overlap them.
 * It leaves that state before batch_done is called, because from there on the guest may
 * offer the same memory again, and after the last system call for it has returned
 * (rule 1). Whoever stops, resets, removes or frees waits until nothing is ANSWERING.
 *
 * Owns:    the order queue and the flights.
 * Thread:  ebb_flights_run() the executor thread; the rest any, with the lock.
 * Locks:   the executor's.
 * Never:   allocates; makes a system call with the lock held.
 */
#include <errno.h>

#include "executor.h"

void ebb_flights_cancel(struct ebb_executor *executor, uint64_t gpa, uint64_t bytes)
{
	uint32_t i;

	for (i = 0; i < EBB_MAX_FLIGHTS; i++) {
		struct ebb_flight *flight = &executor->flights[i];

		if ((flight->state == EBB_FLIGHT_QUEUED || flight->state == EBB_FLIGHT_RUNNING) &&
		    ebb_spans_touch(flight->spans, flight->nr_spans, gpa, bytes))
			flight->batch->cancelled = true;
	}
}

bool ebb_flights_busy(const struct ebb_executor *executor, uint64_t gpa, uint64_t bytes)
{
	uint32_t i;

	for (i = 0; i < EBB_MAX_FLIGHTS; i++) {
		const struct ebb_flight *flight = &executor->flights[i];

		if (flight->state != EBB_FLIGHT_FREE &&
		    ebb_spans_touch(flight->spans, flight->nr_spans, gpa, bytes))
			return true;
	}
	return false;
}

/* Lock held. */
static enum virtio_ebb_fault check_in_flight(const struct ebb_executor *executor,
					     const struct ebb_flight *flight)
{
	uint32_t i;

	for (i = 0; i < EBB_MAX_FLIGHTS; i++) {
		const struct ebb_flight *other = &executor->flights[i];

		if ((other->state == EBB_FLIGHT_QUEUED || other->state == EBB_FLIGHT_RUNNING) &&
		    ebb_spans_overlap(flight->spans, flight->nr_spans, other->spans,
				      other->nr_spans))
			return VIRTIO_EBB_FAULT_OVERLAP;
	}
	return VIRTIO_EBB_FAULT_NONE;
}

/* Lock held: -EPROTO with a fault, -EBUSY, or 0 with the flight filled. */
static int check(struct ebb_executor *executor, struct ebb_flight *flight,
		 const struct ebb_batch *batch, enum virtio_ebb_fault *fault)
{
	bool busy = false;
	uint32_t i;
	int ret;

	*fault = ebb_spans_fill(flight->spans, batch);
	if (*fault)
		return -EPROTO;
	flight->nr_spans = batch->nr_ranges;
	for (i = 0; i < flight->nr_spans; i++) {
		ret = ebb_ram_map_covers(&executor->map, flight->spans[i].gpa,
					 flight->spans[i].bytes);
		if (ret == -ENOENT) {
			*fault = VIRTIO_EBB_FAULT_NOT_RAM;
			return -EPROTO;
		}
		busy |= ret == -EBUSY;
	}
	*fault = check_in_flight(executor, flight);
	if (*fault)
		return -EPROTO;
	return busy ? -EBUSY : 0;
}

/* Lock held: a free slot, if one more may be in flight. */
static struct ebb_flight *free_flight(struct ebb_executor *executor)
{
	struct ebb_flight *found = NULL;
	uint32_t i, nr = 0;

	for (i = 0; i < EBB_MAX_FLIGHTS; i++) {
		switch (executor->flights[i].state) {
		case EBB_FLIGHT_FREE:
			found = &executor->flights[i];
			break;
		case EBB_FLIGHT_QUEUED:
		case EBB_FLIGHT_RUNNING:
			nr++;
			break;
		case EBB_FLIGHT_ANSWERING:
			break;
		}
	}
	return nr < EBB_MAX_BATCHES ? found : NULL;
}

int ebb_flights_enqueue(struct ebb_executor *executor, struct ebb_batch *batch,
			enum virtio_ebb_fault *fault)
{
	struct ebb_flight *flight = free_flight(executor);
	int ret;

	*fault = VIRTIO_EBB_FAULT_NONE;
	if (executor->pause_depth || !flight)
		return -EBUSY;
	ret = check(executor, flight, batch, fault);
	if (ret == -EPROTO) {
		executor->status.counters.violations++;
		executor->status.broken = true;
	}
	if (ret)
		return ret;
	batch->next = NULL;
	batch->cancelled = false;
	flight->batch = batch;
	flight->state = EBB_FLIGHT_QUEUED;
	if (executor->queue_tail)
		executor->queue_tail->next = batch;
	else
		executor->queue_head = batch;
	executor->queue_tail = batch;
	return 0;
}

/* Lock held. */
static struct ebb_flight *flight_of(struct ebb_executor *executor, const struct ebb_batch *batch)
{
	uint32_t i;

	for (i = 0; i < EBB_MAX_FLIGHTS; i++)
		if (executor->flights[i].state != EBB_FLIGHT_FREE &&
		    executor->flights[i].batch == batch)
			return &executor->flights[i];
	return NULL;
}

/* cancelled: it was before it began. */
static struct ebb_flight *pop(struct ebb_executor *executor, bool *cancelled)
{
	struct ebb_flight *flight = NULL;

	pthread_mutex_lock(&executor->lock);
	if (executor->queue_head) {
		flight = flight_of(executor, executor->queue_head);
		executor->queue_head = executor->queue_head->next;
		if (!executor->queue_head)
			executor->queue_tail = NULL;
		flight->state = EBB_FLIGHT_RUNNING;
		*cancelled = flight->batch->cancelled;
	}
	pthread_mutex_unlock(&executor->lock);
	return flight;
}

/* All system calls for the batch have returned: answer it. */
static void answer(struct ebb_executor *executor, struct ebb_flight *flight, bool marked)
{
	struct ebb_batch *batch = flight->batch;

	pthread_mutex_lock(&executor->lock);
	flight->state = EBB_FLIGHT_ANSWERING;
	executor->status.counters.requests++;
	executor->status.counters.ranges += batch->nr_ranges;
	if (executor->release.state == EBB_RELEASE_ACTIVE &&
	    executor->release.id == batch->command_id)
		executor->release.last_answer_nsec = ebb_now_nsec();
	pthread_mutex_unlock(&executor->lock);

	executor->ops->batch_done(executor->vmm, batch);
	/* The batch is the VMM's again; the flight still holds its regions. */
	if (marked)
		ebb_scan_first_look(executor, flight);

	pthread_mutex_lock(&executor->lock);
	flight->state = EBB_FLIGHT_FREE;
	flight->batch = NULL;
	pthread_cond_broadcast(&executor->idle);
	pthread_mutex_unlock(&executor->lock);
}

void ebb_flights_run(struct ebb_executor *executor)
{
	uint32_t i;

	for (i = 0; i < EBB_MAX_BATCHES; i++) {
		bool cancelled = false, marked = false;
		struct ebb_flight *flight = pop(executor, &cancelled);

		if (!flight)
			return;
		if (cancelled)
			ebb_memops_refuse(executor, flight->batch, VIRTIO_EBB_REASON_CANCELLED);
		else
			marked = ebb_memops_run(executor, flight);
		answer(executor, flight, marked);
	}
}
