// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ksm_policy - whether KSM runs and how fast
 *
 * Faster while it pays and ksmd stays below its ceiling, slower when two full scans in a
 * row bring too little for what they cost, stopped when the slowest brings too little.
 * A stopped KSM keeps what is merged.
 *
 * Owns:    nothing.
 * Thread:  any.
 * Locks:   none.
 * Never:   reads a clock or a file; wants anything unmerged (run = 2).
 */
#include "ksm_policy.h"

#define KSM_PAGE_BYTES 4096

static unsigned int clamp_scan(uint64_t pages)
{
	if (pages < KSM_SCAN_MIN_PAGES)
		return KSM_SCAN_MIN_PAGES;
	return pages > KSM_SCAN_MAX_PAGES ? KSM_SCAN_MAX_PAGES : (unsigned int)pages;
}

static int64_t gained_pages(const struct ksm_sample *before, const struct ksm_sample *now)
{
	if (before->has_profit && now->has_profit)
		return (now->profit_bytes - before->profit_bytes) / KSM_PAGE_BYTES;
	return (int64_t)(now->pages_sharing - before->pages_sharing);
}

static uint64_t cpu_usec_since(const struct ksm_plan *plan, const struct ksm_sample *sample)
{
	return sample->cpu_usec > plan->seen.cpu_usec ? sample->cpu_usec - plan->seen.cpu_usec : 0;
}

static bool pays(const struct ksm_plan *plan, const struct ksm_sample *sample)
{
	int64_t pages = gained_pages(&plan->seen, sample);

	return plan->seen_usec && pages > 0 &&
	       (uint64_t)pages * 1000 >= cpu_usec_since(plan, sample) * KSM_WORTH_PAGES_PER_MSEC;
}

static void begin(struct ksm_plan *next, const struct ksm_sample *sample, unsigned int pages,
		  bool hopeful)
{
	next->why = KSM_WHY_MERGING;
	next->pages_to_scan = clamp_scan(pages);
	next->hopeful = hopeful;
	next->judged_full_scans = sample->full_scans;
}

/* It has run for an interval: how was that? */
static void judge(const struct ksm_conf *conf, struct ksm_plan *next, const struct ksm_plan *plan,
		  const struct ksm_sample *sample, uint64_t now_usec)
{
	bool judged = sample->full_scans - plan->judged_full_scans >= KSM_JUDGE_SCANS;
	bool pay = pays(plan, sample);

	if (next->cpu_percent > conf->cpu_percent) {
		/* So long that ksmd is below the ceiling in the mean. */
		next->why = KSM_WHY_CPU_CEILING;
		next->pages_to_scan = clamp_scan(plan->pages_to_scan / 2);
		next->wake_usec = now_usec + (now_usec - plan->seen_usec) * next->cpu_percent /
						     conf->cpu_percent;
		return;
	}
	if (pay || (plan->hopeful && !judged)) {
		/* ksmd's time goes with the pages: not over the ceiling knowingly. */
		if (next->cpu_percent * 2 <= conf->cpu_percent)
			next->pages_to_scan = clamp_scan(plan->pages_to_scan * 2ull);
		if (pay)
			next->judged_full_scans = sample->full_scans;
		return;
	}
	if (!judged)
		return;
	next->hopeful = false;
	next->judged_full_scans = sample->full_scans;
	if (plan->pages_to_scan <= KSM_SCAN_MIN_PAGES) {
		next->why = KSM_WHY_NO_GAIN;
		next->rested_bytes = sample->mergeable_bytes;
		next->wake_usec = now_usec + KSM_REST_USEC;
	}
	next->pages_to_scan = clamp_scan(plan->pages_to_scan / 2);
}

/* It does not run: is there a reason to? */
static void consider(const struct ksm_conf *conf, struct ksm_plan *next,
		     const struct ksm_plan *plan, const struct ksm_sample *sample,
		     uint64_t now_usec)
{
	switch (plan->why) {
	case KSM_WHY_NOBODY:
		begin(next, sample, KSM_SCAN_START_PAGES, true);
		return;
	case KSM_WHY_NO_GAIN:
		if (sample->mergeable_bytes < next->rested_bytes)
			next->rested_bytes = sample->mergeable_bytes;
		if (sample->mergeable_bytes > plan->rested_bytes + plan->rested_bytes / 8)
			begin(next, sample, KSM_SCAN_START_PAGES, true);
		else if (now_usec >= plan->wake_usec)
			begin(next, sample, KSM_SCAN_MIN_PAGES, false);
		return;
	case KSM_WHY_CPU_CEILING:
		if (now_usec >= plan->wake_usec)
			next->why = KSM_WHY_MERGING;
		return;
	case KSM_WHY_PAGES_CEILING:
		/* Up again only well below it. */
		if (!conf->max_pages || sample->pages_sharing <= conf->max_pages / 8ull * 7)
			begin(next, sample, KSM_SCAN_MIN_PAGES, false);
		return;
	case KSM_WHY_MERGING:
	case KSM_WHY_MAX:
		return;
	}
}

struct ksm_plan ksm_policy_step(const struct ksm_conf *conf, const struct ksm_plan *plan,
				const struct ksm_sample *sample, uint64_t now_usec)
{
	struct ksm_plan next = *plan;
	uint64_t elapsed_usec = now_usec - plan->seen_usec;

	next.seen = *sample;
	next.seen_usec = now_usec;
	next.cpu_percent = 0;
	if (plan->seen_usec && elapsed_usec)
		next.cpu_percent =
			(unsigned int)((cpu_usec_since(plan, sample) * 100 + elapsed_usec - 1) /
				       elapsed_usec);
	if (sample->mergeable_bytes == 0)
		next.why = KSM_WHY_NOBODY;
	else if (conf->max_pages && sample->pages_sharing >= conf->max_pages)
		next.why = KSM_WHY_PAGES_CEILING;
	else if (ksm_plan_runs(plan))
		judge(conf, &next, plan, sample, now_usec);
	else
		consider(conf, &next, plan, sample, now_usec);
	return next;
}
