// SPDX-License-Identifier: GPL-2.0-only
/*
 * events - tell openers what was purged
 *
 * A bounded list for each opener. What lies beside an event that nobody has read yet, or comes when
 * the list is full, is merged: the range grows, the sequence moves on.
 *
 * Owns:    the openers' lists of events.
 * Thread:  any.
 * Locks:   event_lock (leaf), never held across a user copy.
 * Never:   allocates, waits for a reader.
 */
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "volatile.h"

static bool ebb_event_merge(struct ebb_event *event, u64 offset, u64 bytes, bool anyway)
{
	u64 start = min(event->offset, offset);
	u64 end = max(event->offset + event->bytes, offset + bytes);

	if (!anyway && (offset > event->offset + event->bytes || offset + bytes < event->offset))
		return false;
	event->offset = start;
	event->bytes = end - start;
	return true;
}

static void ebb_event_add(struct ebb_opener *opener, u64 offset, u64 bytes)
{
	struct ebb_event *event;

	spin_lock(&opener->event_lock);
	event = &opener->events[opener->event_count - !!opener->event_count];
	if (!opener->event_count ||
	    !ebb_event_merge(event, offset, bytes, opener->event_count == EBB_EVENTS)) {
		event = &opener->events[opener->event_count++];
		*event = (struct ebb_event){
			.object = opener->obj->id,
			.offset = offset,
			.bytes = bytes,
		};
	}
	event->sequence = ++opener->event_sequence;
	spin_unlock(&opener->event_lock);
	wake_up_interruptible_poll(&opener->event_wait, EPOLLIN | EPOLLRDNORM);
}

/* Under the object's lock. */
void ebb_events_purged(struct ebb_object *obj, pgoff_t first, pgoff_t last)
{
	struct ebb_opener *opener;

	list_for_each_entry(opener, &obj->openers, list)
		ebb_event_add(opener, (u64)first << PAGE_SHIFT,
			      (u64)(last - first + 1) << PAGE_SHIFT);
}

static bool ebb_event_take(struct ebb_opener *opener, struct ebb_event *event)
{
	bool taken = false;

	spin_lock(&opener->event_lock);
	if (opener->event_count) {
		*event = opener->events[0];
		opener->event_count--;
		memmove(opener->events, opener->events + 1,
			opener->event_count * sizeof(*opener->events));
		taken = true;
	}
	spin_unlock(&opener->event_lock);
	return taken;
}

ssize_t ebb_events_read(struct ebb_opener *opener, char __user *buffer, size_t bytes, bool nonblock)
{
	struct ebb_event event;
	size_t done = 0;
	int err;

	if (bytes < sizeof(event))
		return -EINVAL;
	while (done + sizeof(event) <= bytes) {
		if (!ebb_event_take(opener, &event)) {
			if (done)
				break;
			if (nonblock)
				return -EAGAIN;
			err = wait_event_interruptible(opener->event_wait,
						       READ_ONCE(opener->event_count));
			if (err)
				return err;
			continue;
		}
		if (copy_to_user(buffer + done, &event, sizeof(event)))
			return done ? done : -EFAULT;
		done += sizeof(event);
	}
	return done;
}

__poll_t ebb_events_poll(struct ebb_opener *opener, struct file *file, poll_table *wait)
{
	poll_wait(file, &opener->event_wait, wait);
	return READ_ONCE(opener->event_count) ? EPOLLIN | EPOLLRDNORM : 0;
}
