/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ksm_policy.h - whether KSM runs and how fast, from what it gains and what ksmd uses
 *
 * Pure as policy.h is: time is an argument.
 */
#ifndef EBB_KSM_POLICY_H
#define EBB_KSM_POLICY_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Pages for each wake of ksmd. 100 is the kernel's own default; 5000 bound the time that a
 * write to run waits for ksmd, which holds a mutex for a whole batch. A choice, not measured.
 */
#define KSM_SCAN_MIN_PAGES   100
#define KSM_SCAN_START_PAGES 500
#define KSM_SCAN_MAX_PAGES   5000
/* Between two wakes: the kernel's own default, for which the rates above are meant. */
#define KSM_SLEEP_MSEC 20
/* KSM merges a page when it meets it for the second time unchanged. */
#define KSM_JUDGE_SCANS 2
/* Gain in pages for each ms of ksmd that is worth more of it: 4 MiB a second. A choice as well. */
#define KSM_WORTH_PAGES_PER_MSEC 1
/* After so long without a try, one more at the lowest rate. */
#define KSM_REST_USEC 600000000ull

struct ksm_conf {
	bool steer;
	unsigned int cpu_percent;   /* of one processor; above it ksmd is stopped */
	unsigned int max_pages;	    /* pages_sharing at which merging stops; 0: no ceiling */
	unsigned int interval_msec; /* between two steps */
	bool zero_pages;	    /* set use_zero_pages */
};

/* What is known at a moment. Counters as the kernel has them. */
struct ksm_sample {
	uint64_t cpu_usec; /* ksmd's, since it was made */
	uint64_t full_scans;
	uint64_t pages_sharing;
	bool has_profit;
	int64_t profit_bytes;
	uint64_t mergeable_bytes; /* of all guests that are connected */
};

enum ksm_why {
	KSM_WHY_NOBODY,	 /* no guest has anything mergeable */
	KSM_WHY_MERGING, /* run = 1; all others are run = 0 */
	KSM_WHY_NO_GAIN,
	KSM_WHY_CPU_CEILING,
	KSM_WHY_PAGES_CEILING,
	KSM_WHY_MAX,
};

/* What is wanted, and what policy remembers. All zeros: nothing yet. */
struct ksm_plan {
	enum ksm_why why;
	unsigned int pages_to_scan; /* 0: as it was found */
	bool hopeful;		    /* the first scans: gain cannot show yet */
	uint64_t judged_full_scans; /* full_scans when it was last judged, or found to gain */
	uint64_t wake_usec;	    /* NO_GAIN, CPU_CEILING: until then */
	uint64_t rested_bytes;	    /* NO_GAIN: mergeable_bytes that gave no more */
	unsigned int cpu_percent;   /* of the last interval, rounded up */
	struct ksm_sample seen;
	uint64_t seen_usec; /* 0: nothing seen */
};

struct ksm_plan ksm_policy_step(const struct ksm_conf *conf, const struct ksm_plan *plan,
				const struct ksm_sample *sample, uint64_t now_usec);

static inline bool ksm_plan_runs(const struct ksm_plan *plan)
{
	return plan->why == KSM_WHY_MERGING;
}

#endif /* EBB_KSM_POLICY_H */
