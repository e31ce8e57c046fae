// SPDX-License-Identifier: GPL-2.0-only
/*
 * report - offer what page reporting isolates, and run page reporting at once
 *
 * The kernel's reporting work takes free blocks off the free lists, calls report() and
 * puts them back when it returns; that is the isolation of rule 1. A release or an offer
 * of everything anew runs the same work at once and again until the need is met.
 *
 * Owns:    prdev, the request buffer for offers, need, isolated_bytes.
 * Thread:  report() runs in the reporting work (system_wq), one at a time; ebb_report_await() in
 *          whoever is about to wake the OOM killer; everything else is the worker's.
 * Locks:   need_lock (leaf), never held while waiting.
 * Never:   allocates; touches what it offers; returns from report() while the device may
 *          still act on a range.
 */
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/scatterlist.h>

#include "compat.h"
#include "ebb.h"
#include "trace.h"

/* After a release that got enough, the rest is reported at page reporting's own pace. */
#define RESUME_DELAY (2 * HZ)

static unsigned int oom_wait_msec = 10000;
module_param(oom_wait_msec, uint, 0644);
MODULE_PARM_DESC(
	oom_wait_msec,
	"how long the OOM killer waits for free memory that the host has in its hands, ms");

/* What one batch came to. */
struct ebb_tally {
	u64 offered_bytes;
	u64 accepted_bytes;
	bool refused_in_general; /* for a reason that would meet any other range, too */
	bool refused_at_rest;	 /* because the host has plenty */
};

bool ebb_reason_is_general(u16 reason)
{
	switch (reason) {
	case VIRTIO_EBB_REASON_OFF:
	case VIRTIO_EBB_REASON_REST:
	case VIRTIO_EBB_REASON_INHIBITED:
	case VIRTIO_EBB_REASON_POISON:
	case VIRTIO_EBB_REASON_CANCELLED:
		return true;
	}
	return false;
}

static int ebb_take_verdicts(struct ebb_device *ebb, u32 count, struct ebb_tally *tally)
{
	const struct virtio_ebb_range *ranges = (const void *)(ebb->offer.out + 1);
	const struct virtio_ebb_verdict *verdicts = (const void *)(ebb->offer.in + 1);
	struct virtio_ebb_verdict verdict;
	enum virtio_ebb_fault fault;
	u16 reason;
	u32 i;

	if (ebb_get_le32(&ebb->offer.in->status) != VIRTIO_EBB_RESP_OK)
		return -EOPNOTSUPP;
	for (i = 0; i < count; i++) {
		verdict = verdicts[i];
		fault = virtio_ebb_check_verdict(&verdict, ebb_get_le64(&ranges[i].bytes));
		if (fault)
			return ebb_bad_answer(ebb, fault);
		trace_ebb_verdict(&ranges[i], &verdict);
		reason = ebb_get_le16(&verdict.reason);
		if (reason == VIRTIO_EBB_REASON_REST)
			tally->refused_at_rest = true;
		if (ebb_get_le16(&verdict.verdict) != VIRTIO_EBB_NOT_MARKED)
			tally->accepted_bytes += ebb_get_le64(&verdict.bytes);
		else if (ebb_reason_is_general(reason))
			tally->refused_in_general = true;
	}
	return 0;
}

/* Offer up to max_ranges of what *sg begins; *sg moves on. */
static int ebb_offer(struct ebb_device *ebb, struct scatterlist **sg, u32 count, u64 command_id,
		     struct ebb_tally *tally)
{
	struct virtio_ebb_range *ranges = (void *)(ebb->offer.out + 1);
	u64 bytes = 0;
	u32 i;
	int err;

	for (i = 0; i < count; i++, *sg = sg_next(*sg)) {
		ebb_put_le64(&ranges[i].gpa, page_to_phys(sg_page(*sg)));
		ebb_put_le64(&ranges[i].bytes, (*sg)->length);
		bytes += (*sg)->length;
	}
	trace_ebb_offer(command_id, count, bytes);
	err = ebb_request_send(ebb, &ebb->offer, VIRTIO_EBB_REQ_FREE, count, command_id);
	if (err)
		return err;
	tally->offered_bytes += bytes;
	return ebb_take_verdicts(ebb, count, tally);
}

/*
 * Should a batch be offered now, and for which command? A guest that is short of memory is
 * left alone (rule 9).
 */
static bool ebb_may_offer(struct ebb_device *ebb, u64 *command_id, bool *collect)
{
	bool is_short = ebb_guest_is_short();
	bool may;

	spin_lock(&ebb->need_lock);
	*command_id = ebb->need.command_id;
	*collect = ebb->need.collect;
	if (ebb->need.oom_events != atomic_long_read(&ebb->oom_events))
		is_short = is_short || *command_id;
	if (is_short)
		ebb->need.guest_is_short = true;
	if (*command_id)
		may = ebb->need.accepted_bytes < ebb->need.wanted_bytes;
	else
		may = READ_ONCE(ebb->run);
	spin_unlock(&ebb->need_lock);
	return may && !is_short;
}

static void ebb_count(struct ebb_device *ebb, const struct ebb_tally *tally, u64 command_id,
		      bool is_flagged)
{
	spin_lock(&ebb->need_lock);
	if (is_flagged)
		ebb->flagged_total_bytes += tally->offered_bytes;
	if (is_flagged && tally->refused_at_rest)
		ebb->hollow_marks = true;
	if (ebb->need.command_id == command_id) {
		ebb->need.offered_bytes += tally->offered_bytes;
		ebb->need.accepted_bytes += tally->accepted_bytes;
		if (is_flagged)
			ebb->need.flagged_bytes += tally->offered_bytes;
	}
	spin_unlock(&ebb->need_lock);
}

static u64 ebb_sum_bytes(struct scatterlist *sgl, unsigned int nents)
{
	struct scatterlist *sg;
	unsigned int i;
	u64 bytes = 0;

	for_each_sg(sgl, sg, nents, i) bytes += sg->length;
	return bytes;
}

/*
 * Page reporting's callback: the blocks in sgl are isolated until it returns. 0 flags them
 * as reported, so that they are not offered again while they stay free. An error ends the
 * pass and flags none.
 *
 * A batch of which nothing was accepted because of what these ranges are (a fragment, a
 * backing that allows nothing) counts as reported nevertheless: without a flag each pass
 * would begin with them again and never get past them. So it is with what a host at rest
 * leaves of an answer to a collection, for what it asked for may come behind it; such marks
 * are remembered as hollow, and cleared before anything else is asked for.
 */
static int ebb_report(struct page_reporting_dev_info *prdev, struct scatterlist *sgl,
		      unsigned int nents)
{
	struct ebb_device *ebb = container_of(prdev, struct ebb_device, prdev);
	struct ebb_tally tally = {};
	struct scatterlist *sg = sgl;
	u64 command_id;
	bool collect;
	int err = 0;
	u32 count;

	if (!ebb_may_offer(ebb, &command_id, &collect))
		return -EAGAIN;
	WRITE_ONCE(ebb->isolated_bytes, ebb_sum_bytes(sgl, nents));
	while (nents && !err) {
		count = min(nents, ebb->max_ranges);
		err = ebb_offer(ebb, &sg, count, command_id, &tally);
		nents -= count;
	}
	WRITE_ONCE(ebb->isolated_bytes, 0);
	if (!err && !tally.accepted_bytes && tally.refused_in_general &&
	    !(collect && tally.refused_at_rest))
		err = -EAGAIN;
	ebb_count(ebb, &tally, command_id, !err);
	return err;
}

/*
 * The guest is out of memory, but for the batch that the host has in its hands: the kernel takes
 * one only where its low watermark stays, and a guest can use that up before a slow host answers.
 * Wait until the batch is back on the free lists, since it comes back without any memory for it.
 * Returns how much that was; 0: nothing was away, or it did not come.
 */
u64 ebb_report_await(struct ebb_device *ebb)
{
	unsigned long deadline = jiffies + msecs_to_jiffies(READ_ONCE(oom_wait_msec));
	u64 bytes = READ_ONCE(ebb->isolated_bytes);

	if (!bytes)
		return 0;
	dev_warn_ratelimited(
		&ebb->vdev->dev,
		"no memory left: waiting for %llu KiB that the host has in its hands\n",
		bytes >> 10);
	/* The blocks are back when the work is over, a little after report(). */
	while (work_busy(&ebb->prdev.work.work) & WORK_BUSY_RUNNING) {
		if (time_after_eq(jiffies, deadline))
			return 0;
		schedule_timeout_uninterruptible(1);
	}
	return bytes;
}

void ebb_report_register(struct ebb_device *ebb)
{
	struct device *dev = &ebb->vdev->dev;
	int err;

	if (ebb->registered || ebb->poisoned || !virtio_has_feature(ebb->vdev, VIRTIO_EBB_F_REPORT))
		return;
	ebb->prdev.report = ebb_report;
	ebb->prdev.order = pageblock_order;
	err = page_reporting_register(&ebb->prdev);
	if (!err) {
		ebb->registered = true;
		if (ebb->told_busy)
			dev_info(dev, "page reporting is ours now: free memory is offered\n");
		ebb->told_busy = false;
	} else if (!ebb->told_busy) {
		ebb->told_busy = true;
		dev_notice(dev, "free memory is not offered: %s has page reporting (%d)\n",
			   "another driver (virtio_balloon with free-page-reporting?)", err);
	}
}

/* Nobody may run prdev's work after this. */
void ebb_report_unregister(struct ebb_device *ebb)
{
	if (!ebb->registered)
		return;
	page_reporting_unregister(&ebb->prdev);
	ebb->registered = false;
}

/* Start to count anew, for command_id or (0) for what is offered of our own accord. */
static void ebb_need_begin(struct ebb_device *ebb, u64 command_id, u64 wanted_bytes, bool collect)
{
	spin_lock(&ebb->need_lock);
	ebb->need = (struct ebb_need){
		.command_id = command_id,
		.collect = collect,
		.wanted_bytes = wanted_bytes,
		.oom_events = atomic_long_read(&ebb->oom_events),
	};
	spin_unlock(&ebb->need_lock);
}

static struct ebb_need ebb_need_look(struct ebb_device *ebb)
{
	struct ebb_need need;

	spin_lock(&ebb->need_lock);
	need = ebb->need;
	spin_unlock(&ebb->need_lock);
	return need;
}

static bool ebb_need_goes_on(struct ebb_device *ebb, const struct ebb_need *need)
{
	if (need->accepted_bytes >= need->wanted_bytes || need->guest_is_short)
		return false;
	/* A guest that frees as fast as we offer: as much as there is has been offered once. */
	if (need->offered_bytes >= (u64)totalram_pages() << PAGE_SHIFT)
		return false;
	if (!need->command_id && !READ_ONCE(ebb->run))
		return false;
	return ebb_is_accepting(ebb);
}

/* Run the reporting work now, and again until the need is met or a pass finds nothing. */
static struct ebb_need ebb_run_passes(struct ebb_device *ebb)
{
	struct ebb_need need = ebb_need_look(ebb);
	u64 flagged_before;
	u32 passes = 0;

	do {
		flagged_before = need.flagged_bytes;
		mod_delayed_work(system_wq, &ebb->prdev.work, 0);
		/*
		 * Not flush_delayed_work(): it would hurry a run that the kernel has
		 * scheduled meanwhile onto its freezable workqueue, and wait for the thaw.
		 */
		flush_work(&ebb->prdev.work.work);
		passes++;
		need = ebb_need_look(ebb);
	} while (need.flagged_bytes != flagged_before && ebb_need_goes_on(ebb, &need));
	need.passes = passes;
	return need;
}

static void ebb_count_cleared(struct ebb_device *ebb, u64 bytes)
{
	ebb->cleared_total_bytes += bytes;
	/* What an earlier registrant had reported was not counted by us. */
	spin_lock(&ebb->need_lock);
	ebb->cleared_total_bytes = min(ebb->cleared_total_bytes, ebb->flagged_total_bytes);
	spin_unlock(&ebb->need_lock);
}

static void ebb_clear_marks(struct ebb_device *ebb, u64 limit_bytes)
{
	if (limit_bytes == U64_MAX) {
		spin_lock(&ebb->need_lock);
		ebb->hollow_marks = false;
		spin_unlock(&ebb->need_lock);
	}
	ebb_count_cleared(ebb, ebb_marks_clear(limit_bytes));
}

/* Nobody can tell a hollow mark from another: all of them go. */
static void ebb_clear_hollow_marks(struct ebb_device *ebb)
{
	bool hollow;

	spin_lock(&ebb->need_lock);
	hollow = ebb->hollow_marks;
	spin_unlock(&ebb->need_lock);
	if (hollow)
		ebb_clear_marks(ebb, U64_MAX);
}

/* RELEASE: returns VIRTIO_EBB_DONE_*. */
u32 ebb_release(struct ebb_device *ebb, const struct virtio_ebb_command *cmd,
		struct ebb_need *outcome)
{
	u64 wanted_bytes = ebb_get_le64(&cmd->bytes);

	*outcome = (struct ebb_need){};
	if (!ebb->registered)
		return VIRTIO_EBB_DONE_UNSUPPORTED;
	ebb_clear_hollow_marks(ebb);
	if (ebb_get_le16(&cmd->flags) & VIRTIO_EBB_RELEASE_F_ANEW)
		ebb_clear_marks(ebb, wanted_bytes);

	ebb_need_begin(ebb, ebb_get_le64(&cmd->id), wanted_bytes, false);
	*outcome = ebb_run_passes(ebb);
	ebb_need_begin(ebb, 0, U64_MAX, false);

	/* The last batch ended its pass early. */
	if (READ_ONCE(ebb->run))
		mod_delayed_work(system_wq, &ebb->prdev.work, RESUME_DELAY);

	if (outcome->accepted_bytes >= wanted_bytes)
		return VIRTIO_EBB_DONE_OK;
	if (outcome->guest_is_short)
		return VIRTIO_EBB_DONE_SHORT;
	return ebb_is_accepting(ebb) ? VIRTIO_EBB_DONE_PARTIAL : VIRTIO_EBB_DONE_CANCELLED;
}

/*
 * COLLECT: offer those blocks of the ranges that are free. Returns VIRTIO_EBB_DONE_*. What was
 * never reported is offered as well, for the reporting work takes what it finds.
 */
u32 ebb_collect(struct ebb_device *ebb, const struct virtio_ebb_collect *cmd,
		struct ebb_need *outcome)
{
	u32 count = ebb_get_le32(&cmd->command.count), i;
	u64 cleared_bytes = 0;

	*outcome = (struct ebb_need){};
	if (!ebb->registered)
		return VIRTIO_EBB_DONE_UNSUPPORTED;
	if (ebb_guest_is_short())
		return VIRTIO_EBB_DONE_SHORT;
	for (i = 0; i < count; i++)
		cleared_bytes += ebb_marks_clear_range(ebb_get_le64(&cmd->ranges[i].gpa),
						       ebb_get_le64(&cmd->ranges[i].bytes));
	ebb_count_cleared(ebb, cleared_bytes);

	ebb_need_begin(ebb, ebb_get_le64(&cmd->command.id), U64_MAX, true);
	*outcome = ebb_run_passes(ebb);
	ebb_need_begin(ebb, 0, U64_MAX, false);

	if (outcome->guest_is_short)
		return VIRTIO_EBB_DONE_SHORT;
	return ebb_is_accepting(ebb) ? VIRTIO_EBB_DONE_PARTIAL : VIRTIO_EBB_DONE_CANCELLED;
}

/* The worker: the configuration has changed, or the device has (again) been started. */
void ebb_pass_work(struct work_struct *work)
{
	struct ebb_device *ebb = container_of(work, struct ebb_device, pass_work);

	if (READ_ONCE(ebb->run))
		ebb_report_register(ebb);
	if (!ebb->registered || !ebb_is_accepting(ebb))
		return;
	if (xchg(&ebb->offer_anew, false))
		ebb_clear_marks(ebb, U64_MAX);
	if (!READ_ONCE(ebb->run))
		return;
	ebb_clear_hollow_marks(ebb);
	ebb_need_begin(ebb, 0, U64_MAX, false);
	ebb_run_passes(ebb);
}
