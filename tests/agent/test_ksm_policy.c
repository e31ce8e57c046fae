// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_ksm_policy - whether KSM runs and how fast, over tables of samples
 *
 * Owns:    nothing.
 * Thread:  one.
 * Locks:   none.
 * Never:   reads a clock: a step is ten seconds.
 */
#include "cm.h"
#include "ksm_policy.h"

#define MIB	   (1ull << 20)
#define STEP_USEC  10000000ull
#define PERCENT	   (STEP_USEC / 100)
#define NOBODY	   KSM_WHY_NOBODY
#define MERGING	   KSM_WHY_MERGING
#define NO_GAIN	   KSM_WHY_NO_GAIN
#define CPU_CEIL   KSM_WHY_CPU_CEILING
#define PAGES_CEIL KSM_WHY_PAGES_CEILING

static const struct ksm_conf conf = { .steer = true, .cpu_percent = 20, .max_pages = 80000 };

struct step {
	unsigned int mergeable_mib;
	unsigned int cpu_percent; /* in this step */
	int gained_pages;	  /* in this step */
	unsigned int full_scans;  /* in this step */
	enum ksm_why why;	  /* expected, and the speed if it runs */
	unsigned int pages_to_scan;
};

static struct ksm_plan run(const struct step *steps, size_t nr, bool has_profit)
{
	struct ksm_sample sample = { .cpu_usec = 77, .full_scans = 5, .has_profit = has_profit };
	struct ksm_plan plan = { 0 };
	size_t i;

	for (i = 0; i < nr; i++) {
		sample.mergeable_bytes = steps[i].mergeable_mib * MIB;
		sample.cpu_usec += steps[i].cpu_percent * PERCENT;
		sample.full_scans += steps[i].full_scans;
		/* With a profit that alone counts: sharing stands still. */
		if (has_profit)
			sample.profit_bytes += steps[i].gained_pages * 4096ll;
		else
			sample.pages_sharing += (uint64_t)(int64_t)steps[i].gained_pages;
		plan = ksm_policy_step(&conf, &plan, &sample, 1000 + (i + 1) * STEP_USEC);
		if (plan.why != steps[i].why ||
		    (ksm_plan_runs(&plan) && plan.pages_to_scan != steps[i].pages_to_scan))
			fail_msg("step %zu: why %u, %u pages; expected %u, %u", i, plan.why,
				 plan.pages_to_scan, steps[i].why, steps[i].pages_to_scan);
	}
	return plan;
}

#define RUN(...)                                                     \
	do {                                                         \
		static const struct step steps[] = { __VA_ARGS__ };  \
		run(steps, sizeof(steps) / sizeof(steps[0]), false); \
		run(steps, sizeof(steps) / sizeof(steps[0]), true);  \
	} while (0)

static void test_nobody(void **state)
{
	RUN({ 0, 0, 0, 0, NOBODY, 0 }, { 0, 90, 9000, 9, NOBODY, 0 });
	/* The last one goes: it stops at once, and begins as new. */
	RUN({ 64, 0, 0, 0, MERGING, 500 }, { 64, 5, 5000, 0, MERGING, 1000 },
	    { 0, 5, 5000, 0, NOBODY, 0 }, { 64, 0, 0, 0, MERGING, 500 });
}

/* Gain cannot show before two scans are over: until then up to half of the ceiling. */
static void test_hope(void **state)
{
	RUN({ 64, 0, 0, 0, MERGING, 500 }, { 64, 5, 0, 0, MERGING, 1000 },
	    { 64, 10, 0, 1, MERGING, 2000 }, { 64, 11, 0, 0, MERGING, 2000 },
	    { 64, 20, 0, 0, MERGING, 2000 }, { 64, 11, 0, 1, MERGING, 1000 });
}

static void test_gain(void **state)
{
	/* 5 % of 10 s are 500 ms: from 500 pages on it pays. */
	RUN({ 64, 0, 0, 0, MERGING, 500 }, { 64, 5, 0, 2, MERGING, 250 },
	    { 64, 5, 499, 0, MERGING, 250 }, { 64, 5, 500, 0, MERGING, 500 },
	    { 64, 5, 500, 9, MERGING, 1000 }, { 64, 5, 500, 0, MERGING, 2000 },
	    { 64, 5, 500, 0, MERGING, 4000 }, { 64, 5, 500, 0, MERGING, 5000 },
	    { 64, 5, 500, 0, MERGING, 5000 });
	/* What is lost again is no gain. */
	RUN({ 64, 0, 0, 0, MERGING, 500 }, { 64, 5, 9000, 2, MERGING, 1000 },
	    { 64, 5, -9000, 2, MERGING, 500 });
}

/* Slower only after two scans without gain; each gain starts the count anew. */
static void test_hysteresis(void **state)
{
	RUN({ 64, 0, 0, 0, MERGING, 500 }, { 64, 11, 9000, 2, MERGING, 500 },
	    { 64, 11, 0, 1, MERGING, 500 }, { 64, 11, 0, 0, MERGING, 500 },
	    { 64, 11, 9000, 0, MERGING, 500 }, { 64, 11, 0, 1, MERGING, 500 },
	    { 64, 11, 0, 1, MERGING, 250 }, { 64, 11, 0, 1, MERGING, 250 },
	    { 64, 11, 0, 1, MERGING, 125 });
}

#define TO_REST                                                               \
	{ 64, 0, 0, 0, MERGING, 500 }, { 64, 5, 0, 2, MERGING, 250 },         \
		{ 64, 5, 0, 2, MERGING, 125 }, { 64, 5, 0, 2, MERGING, 100 }, \
	{                                                                     \
		64, 5, 0, 2, NO_GAIN, 0                                       \
	}

static void test_rest(void **state)
{
	/* An eighth more is not enough; more is, and is begun as new. */
	RUN(TO_REST, { 72, 0, 0, 0, NO_GAIN, 0 }, { 73, 0, 0, 0, MERGING, 500 });
	/* Of what is left, too. */
	RUN(TO_REST, { 32, 0, 0, 0, NO_GAIN, 0 }, { 36, 0, 0, 0, NO_GAIN, 0 },
	    { 37, 0, 0, 0, MERGING, 500 });
}

/* After a long rest one try at the lowest speed, without hope in advance. */
static void test_rest_ends(void **state)
{
	static const struct step steps[] = { TO_REST };
	struct ksm_plan plan = run(steps, sizeof(steps) / sizeof(steps[0]), false);
	struct ksm_sample sample = plan.seen;
	uint64_t end_usec = plan.seen_usec + KSM_REST_USEC;

	plan = ksm_policy_step(&conf, &plan, &sample, end_usec - 1);
	assert_int_equal(plan.why, NO_GAIN);
	plan = ksm_policy_step(&conf, &plan, &sample, end_usec);
	assert_int_equal(plan.why, MERGING);
	assert_int_equal(plan.pages_to_scan, KSM_SCAN_MIN_PAGES);
	plan = ksm_policy_step(&conf, &plan, &sample, end_usec + STEP_USEC);
	assert_int_equal(plan.pages_to_scan, KSM_SCAN_MIN_PAGES);
	sample.full_scans += 2;
	plan = ksm_policy_step(&conf, &plan, &sample, end_usec + 2 * STEP_USEC);
	assert_int_equal(plan.why, NO_GAIN);
}

/* Above it ksmd stops, whatever it gains, so long that the mean is below; then at half. */
static void test_cpu_ceiling(void **state)
{
	RUN({ 64, 0, 0, 0, MERGING, 500 }, { 64, 20, 40000, 0, MERGING, 500 },
	    { 64, 21, 20000, 0, CPU_CEIL, 0 }, { 64, 0, 0, 0, CPU_CEIL, 0 },
	    { 64, 0, 0, 0, MERGING, 250 }, { 64, 80, 0, 0, CPU_CEIL, 0 },
	    { 64, 0, 0, 0, CPU_CEIL, 0 }, { 64, 0, 0, 0, CPU_CEIL, 0 },
	    { 64, 0, 0, 0, CPU_CEIL, 0 }, { 64, 0, 0, 0, MERGING, 125 },
	    /* At the lowest speed as well. */
	    { 64, 40, 0, 0, CPU_CEIL, 0 }, { 64, 0, 0, 0, CPU_CEIL, 0 },
	    { 64, 0, 0, 0, MERGING, 100 }, { 64, 21, 0, 0, CPU_CEIL, 0 },
	    { 64, 0, 0, 0, CPU_CEIL, 0 }, { 64, 0, 0, 0, MERGING, 100 });
}

static void test_pages_ceiling(void **state)
{
	struct ksm_sample sample = { .mergeable_bytes = 64 * MIB };
	static const struct {
		uint64_t pages_sharing;
		enum ksm_why why;
	} steps[] = { { 0, MERGING },	     { 79999, MERGING },    { 80000, PAGES_CEIL },
		      { 79999, PAGES_CEIL }, { 70001, PAGES_CEIL }, { 70000, MERGING },
		      { 79999, MERGING },    { 90000, PAGES_CEIL } };
	struct ksm_conf no_ceiling = conf;
	struct ksm_plan plan = { 0 };
	size_t i;

	for (i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		sample.pages_sharing = steps[i].pages_sharing;
		plan = ksm_policy_step(&conf, &plan, &sample, (i + 1) * STEP_USEC);
		assert_int_equal(plan.why, steps[i].why);
	}
	no_ceiling.max_pages = 0;
	plan = ksm_policy_step(&no_ceiling, &plan, &sample, 100 * STEP_USEC);
	assert_int_equal(plan.why, MERGING);
}

/* ksmd has worked before we looked, or was found late: no share of that is known. */
static void test_first_sample(void **state)
{
	struct ksm_sample sample = { .cpu_usec = 1ull << 50, .mergeable_bytes = MIB };
	struct ksm_plan plan = { 0 };

	plan = ksm_policy_step(&conf, &plan, &sample, STEP_USEC);
	assert_int_equal(plan.cpu_percent, 0);
	plan.seen_usec = 0;
	sample.cpu_usec <<= 1;
	plan = ksm_policy_step(&conf, &plan, &sample, 2 * STEP_USEC);
	assert_int_equal(plan.cpu_percent, 0);
	assert_int_equal(plan.why, MERGING);
	sample.cpu_usec += 1;
	plan = ksm_policy_step(&conf, &plan, &sample, 3 * STEP_USEC);
	assert_int_equal(plan.cpu_percent, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nobody),	     cmocka_unit_test(test_hope),
		cmocka_unit_test(test_gain),	     cmocka_unit_test(test_hysteresis),
		cmocka_unit_test(test_rest),	     cmocka_unit_test(test_rest_ends),
		cmocka_unit_test(test_cpu_ceiling),  cmocka_unit_test(test_pages_ceiling),
		cmocka_unit_test(test_first_sample),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
