// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_policy - stages over time, and who is asked for how much
 *
 * Owns:    nothing.
 * Thread:  one.
 * Locks:   none.
 * Never:   reads a clock: time is what the tables say.
 */
#include "cm.h"
#include "policy.h"

#define MIB	(1ull << 20)
#define SEC	1000000ull
#define PLENTY	EBB_STAGE_PLENTY
#define NEARING EBB_STAGE_NEARING
#define SHORT	EBB_STAGE_SHORT

static const struct policy_conf conf = {
	.nearing_percent = 20,
	.short_percent = 10,
	.hysteresis_percent = 5,
	.calm_msec = 5000,
	.answer_msec = 3000,
	.settle_msec = 2000,
	.guest_floor_bytes = 32 * MIB,
};

struct step {
	unsigned int at_sec;
	unsigned int available_percent; /* of 1000 MiB */
	uint32_t stage;			/* expected */
};

static void run(const struct step *steps, size_t nr)
{
	struct policy_gauge gauge = { 0 };
	struct policy_level level = { .total_bytes = 1000 * MIB };
	size_t i;

	for (i = 0; i < nr; i++) {
		level.available_bytes = steps[i].available_percent * 10 * MIB;
		gauge = policy_stage(&conf, &gauge, &level, SEC * (1000 + steps[i].at_sec));
		if (gauge.stage != steps[i].stage)
			fail_msg("step %zu (%u s, %u %%): stage %u, expected %u", i,
				 steps[i].at_sec, steps[i].available_percent, gauge.stage,
				 steps[i].stage);
	}
}

#define RUN(...)                                                    \
	do {                                                        \
		static const struct step steps[] = { __VA_ARGS__ }; \
		run(steps, sizeof(steps) / sizeof(steps[0]));       \
	} while (0)

static void test_first_sample(void **state)
{
	RUN({ 0, 50, PLENTY });
	RUN({ 0, 20, PLENTY });
	RUN({ 0, 19, NEARING });
	RUN({ 0, 10, NEARING });
	RUN({ 0, 9, SHORT });
	RUN({ 0, 0, SHORT });
}

/* Worse goes at once, also over two stages. */
static void test_worse_at_once(void **state)
{
	RUN({ 0, 50, PLENTY }, { 100, 19, NEARING }, { 200, 9, SHORT });
	RUN({ 0, 50, PLENTY }, { 100, 5, SHORT });
}

/* Between the mark and the mark plus hysteresis the stage stays, for ever. */
static void test_hysteresis_holds(void **state)
{
	RUN({ 0, 19, NEARING }, { 100, 22, NEARING }, { 200, 24, NEARING }, { 300, 24, NEARING });
	RUN({ 0, 9, SHORT }, { 100, 12, SHORT }, { 200, 14, SHORT }, { 300, 14, SHORT });
}

/* Above it, only after calm_msec. */
static void test_better_after_calm(void **state)
{
	RUN({ 0, 19, NEARING }, { 100, 26, NEARING }, { 104, 26, NEARING }, { 105, 26, PLENTY });
	RUN({ 0, 9, SHORT }, { 100, 16, SHORT }, { 104, 16, SHORT }, { 105, 16, NEARING });
	RUN({ 0, 9, SHORT }, { 100, 60, SHORT }, { 104, 60, SHORT }, { 105, 60, PLENTY });
}

/* A relapse starts the calm anew. */
static void test_calm_is_without_break(void **state)
{
	RUN({ 0, 19, NEARING }, { 100, 26, NEARING }, { 103, 24, NEARING }, { 106, 26, NEARING },
	    { 110, 26, NEARING }, { 111, 26, PLENTY });
	RUN({ 0, 19, NEARING }, { 100, 26, NEARING }, { 103, 18, NEARING }, { 106, 26, NEARING },
	    { 110, 26, NEARING }, { 111, 26, PLENTY });
}

/* From SHORT it may only be NEARING that is reached. */
static void test_one_step_down(void **state)
{
	RUN({ 0, 9, SHORT }, { 100, 22, SHORT }, { 105, 22, NEARING }, { 200, 22, NEARING },
	    { 300, 22, NEARING }, { 400, 30, NEARING }, { 405, 30, PLENTY });
}

/* 40 to 35 in a second: 20 in three more. 33: under the mark before guests answer. */
static void test_fall_is_foreseen(void **state)
{
	RUN({ 0, 40, PLENTY }, { 1, 35, PLENTY });
	RUN({ 0, 40, PLENTY }, { 1, 34, NEARING });
	/* The same fall over ten seconds is slow enough. */
	RUN({ 0, 40, PLENTY }, { 10, 34, PLENTY });
	/* A fall to nothing is foreseen as nothing, not less. */
	RUN({ 0, 90, PLENTY }, { 1, 50, NEARING });
}

/* However fast it falls, SHORT is what is, not what may come. */
static void test_fall_is_never_short(void **state)
{
	RUN({ 0, 90, PLENTY }, { 1, 11, NEARING });
}

/* When the fall ends, the way back is as from any NEARING. */
static void test_fall_ends(void **state)
{
	RUN({ 0, 40, PLENTY }, { 1, 30, NEARING }, { 2, 30, NEARING }, { 6, 30, NEARING },
	    { 7, 30, PLENTY });
}

/* Two samples at one moment, or a clock that stands, divide by nothing. */
static void test_no_time_passed(void **state)
{
	RUN({ 5, 40, PLENTY }, { 5, 30, PLENTY }, { 5, 19, NEARING });
}

/* Totals near the top of the number range neither wrap nor divide by zero. */
static void test_extremes(void **state)
{
	struct policy_level level = { .total_bytes = UINT64_MAX, .available_bytes = UINT64_MAX };
	struct policy_gauge gauge = { 0 };

	gauge = policy_stage(&conf, &gauge, &level, 1);
	assert_int_equal(gauge.stage, PLENTY);
	level.available_bytes = 0;
	gauge = policy_stage(&conf, &gauge, &level, UINT64_MAX);
	assert_int_equal(gauge.stage, SHORT);
	level.total_bytes = 1;
	gauge = policy_stage(&conf, &gauge, &level, UINT64_MAX);
	assert_int_equal(gauge.stage, SHORT);
}

static void test_deficit(void **state)
{
	struct policy_gauge gauge = { .stage = SHORT };
	struct policy_level level = { .total_bytes = 1000 * MIB, .available_bytes = 90 * MIB };

	/* Up to where SHORT is left: 15 %. */
	assert_in_range(policy_deficit(&conf, &gauge, &level, SEC), 59 * MIB, 60 * MIB);
	level.available_bytes = 151 * MIB;
	assert_int_equal(policy_deficit(&conf, &gauge, &level, SEC), 0);
	level.available_bytes = 0;
	gauge.stage = NEARING;
	assert_int_equal(policy_deficit(&conf, &gauge, &level, SEC), 0);
}

/* After a release nobody is asked until figures are fresh. */
static void test_settle(void **state)
{
	struct policy_gauge gauge = { .stage = SHORT };
	struct policy_level level = { .total_bytes = 1000 * MIB, .available_bytes = 0 };

	gauge = policy_released(&conf, &gauge, 10 * SEC);
	assert_int_equal(gauge.stage, SHORT);
	assert_int_equal(policy_deficit(&conf, &gauge, &level, 10 * SEC), 0);
	assert_int_equal(policy_deficit(&conf, &gauge, &level, 12 * SEC - 1), 0);
	assert_true(policy_deficit(&conf, &gauge, &level, 12 * SEC) > 0);
	/* A stage that is computed meanwhile does not forget it. */
	gauge = policy_stage(&conf, &gauge, &level, 11 * SEC);
	assert_int_equal(policy_deficit(&conf, &gauge, &level, 11 * SEC), 0);
}

static struct policy_guest guest(uint64_t total_mib, uint64_t free_mib, uint64_t resident_mib)
{
	return (struct policy_guest){ .askable = true,
				      .total_bytes = total_mib * MIB,
				      .free_bytes = free_mib * MIB,
				      .resident_bytes = resident_mib * MIB };
}

/* Most first, and no more than what is missing. */
static void test_release_from_the_richest(void **state)
{
	struct policy_guest guests[] = { guest(1000, 200, 1000), guest(1000, 700, 1000),
					 guest(1000, 400, 1000) };

	assert_int_equal(policy_release(&conf, 100 * MIB, guests, 3), 1);
	assert_int_equal(guests[0].want_bytes, 0);
	assert_int_equal(guests[1].want_bytes, 100 * MIB);
	assert_int_equal(guests[2].want_bytes, 0);

	/* 668 from the richest, the rest from the next. */
	assert_int_equal(policy_release(&conf, 700 * MIB, guests, 3), 2);
	assert_int_equal(guests[0].want_bytes, 0);
	assert_int_equal(guests[1].want_bytes, 668 * MIB);
	assert_int_equal(guests[2].want_bytes, 32 * MIB);

	/* More than all have: each gives what it can. */
	assert_int_equal(policy_release(&conf, 100000 * MIB, guests, 3), 3);
	assert_int_equal(guests[0].want_bytes, 168 * MIB);
	assert_int_equal(guests[1].want_bytes, 668 * MIB);
	assert_int_equal(guests[2].want_bytes, 368 * MIB);
}

/* Free memory that is not resident was given already; the floor is left to the guest. */
static void test_release_only_what_is_there(void **state)
{
	struct policy_guest guests[] = { guest(1000, 800, 200), guest(1000, 800, 250),
					 guest(1000, 30, 1000) };

	assert_int_equal(policy_release(&conf, 1000 * MIB, guests, 3), 1);
	assert_int_equal(guests[0].want_bytes, 0);
	assert_int_equal(guests[1].want_bytes, 50 * MIB);
	assert_int_equal(guests[2].want_bytes, 0);
}

/* What the VMM itself has is resident too: a release that brings nothing shows how much that is. */
static void test_release_not_what_is_kept(void **state)
{
	struct policy_guest guests[] = { guest(1000, 800, 260) };

	assert_int_equal(policy_excess_bytes(&guests[0]), 60 * MIB);
	/* All of it went, or a good part; a quarter and less of what was discarded. */
	assert_int_equal(policy_kept_bytes(60 * MIB, 0, 60 * MIB), 0);
	assert_int_equal(policy_kept_bytes(60 * MIB, 40 * MIB, 60 * MIB), 0);
	assert_int_equal(policy_kept_bytes(60 * MIB, 50 * MIB, 60 * MIB), 50 * MIB);
	assert_int_equal(policy_kept_bytes(60 * MIB, 70 * MIB, 60 * MIB), 70 * MIB);
	/* The guest had nothing more. */
	assert_int_equal(policy_kept_bytes(60 * MIB, 60 * MIB, 0), 60 * MIB);

	guests[0].kept_bytes = 50 * MIB;
	assert_int_equal(policy_release(&conf, 1000 * MIB, guests, 1), 1);
	assert_int_equal(guests[0].want_bytes, 10 * MIB);
	guests[0].kept_bytes = 70 * MIB;
	assert_int_equal(policy_release(&conf, 1000 * MIB, guests, 1), 0);
}

/* Guests lie, or cannot be asked. */
static void test_release_asks_only_who_can(void **state)
{
	struct policy_guest guests[] = { guest(1000, 700, 1000), guest(100, 5000, 1000) };

	guests[0].askable = false;
	assert_int_equal(policy_release(&conf, 100 * MIB, guests, 2), 0);
	assert_int_equal(guests[0].want_bytes, 0);
	assert_int_equal(guests[1].want_bytes, 0);
	assert_int_equal(policy_release(&conf, 100 * MIB, guests, 0), 0);

	guests[0].askable = true;
	assert_int_equal(policy_release(&conf, 0, guests, 2), 0);

	guests[1] = guest(0, 0, 0);
	guests[1].free_bytes = guests[1].total_bytes = guests[1].resident_bytes = UINT64_MAX;
	assert_int_equal(policy_release(&conf, UINT64_MAX, guests, 2), 2);
	assert_true(guests[1].want_bytes < UINT64_MAX);
}

static struct policy_guest content(uint64_t volatile_mib, uint64_t unused_sec, unsigned int weight)
{
	return (struct policy_guest){ .purgeable = true,
				      .volatile_bytes = volatile_mib * MIB,
				      .unused_usec = unused_sec * SEC,
				      .weight = weight };
}

/* What free memory does not cover comes from volatile content, of each as much as it has. */
static void purges_cover_the_rest(void **state)
{
	struct policy_guest guests[4] = { content(10, 0, 100), content(20, 0, 100),
					  content(1000, 0, 100), content(60, 0, 100) };

	guests[0].want_bytes = 30 * MIB;
	guests[2].purgeable = false;
	assert_int_equal(policy_purge(30 * MIB, guests, 4), 0);
	assert_int_equal(policy_purge(70 * MIB, guests, 4), 2);
	assert_int_equal(guests[0].purge_bytes, 0);
	assert_int_equal(guests[1].purge_bytes, 10 * MIB);
	assert_int_equal(guests[2].purge_bytes, 0);
	assert_int_equal(guests[3].purge_bytes, 30 * MIB);
	/* More than there is: each gives all, and nobody more. */
	assert_int_equal(policy_purge(1000 * MIB, guests, 4), 2);
	assert_int_equal(guests[1].purge_bytes, 20 * MIB);
	assert_int_equal(guests[3].purge_bytes, 60 * MIB);
	assert_int_equal(policy_purge(UINT64_MAX, guests, 4), 2);
	assert_int_equal(guests[3].purge_bytes, 60 * MIB);
	assert_int_equal(policy_purge(0, guests, 4), 0);
	assert_int_equal(policy_purge(MIB, guests, 0), 0);
}

/* Twice the weight, half the loss. */
static void purges_go_by_weight(void **state)
{
	struct policy_guest guests[2] = { content(100, 0, 100), content(100, 0, 300) };

	assert_int_equal(policy_purge(80 * MIB, guests, 2), 2);
	assert_in_range(guests[0].purge_bytes, 59 * MIB, 60 * MIB);
	assert_in_range(guests[1].purge_bytes, 19 * MIB, 20 * MIB);
	/* The light one has no more: the heavy one gives the rest, and not more than that. */
	assert_int_equal(policy_purge(150 * MIB, guests, 2), 2);
	assert_int_equal(guests[0].purge_bytes, 100 * MIB);
	assert_int_equal(guests[1].purge_bytes, 50 * MIB);
	guests[0].weight = POLICY_WEIGHT_MIN;
	guests[1].weight = POLICY_WEIGHT_MAX;
	assert_int_equal(policy_purge(50 * MIB, guests, 2), 2);
	assert_in_range(guests[0].purge_bytes, 49 * MIB, 50 * MIB);
	assert_int_equal(guests[1].purge_bytes, 2 * MIB); /* the least that is purged */
}

/* What nobody has used for long goes before what is in use, over an hour all is one. */
static void purges_go_by_age(void **state)
{
	struct policy_guest guests[3] = { content(100, 0, 100), content(100, 9, 100),
					  content(4, 0, 100) };

	assert_int_equal(policy_purge(55 * MIB, guests, 2), 2);
	assert_in_range(guests[0].purge_bytes, 4 * MIB, 5 * MIB);
	assert_in_range(guests[1].purge_bytes, 49 * MIB, 50 * MIB);
	guests[0].unused_usec = 3600 * SEC;
	guests[1].unused_usec = UINT64_MAX;
	assert_int_equal(policy_purge(50 * MIB, guests, 2), 2);
	assert_int_equal(guests[0].purge_bytes, guests[1].purge_bytes);
	assert_in_range(guests[0].purge_bytes, 24 * MIB, 25 * MIB);
	/* Age and weight against each other: ten times as old, ten times as heavy. */
	guests[0].unused_usec = 0;
	guests[1].unused_usec = 9 * SEC;
	guests[1].weight = 1000;
	assert_int_equal(policy_purge(50 * MIB, guests, 2), 2);
	assert_int_equal(guests[0].purge_bytes, guests[1].purge_bytes);
}

/* Of what is listed only file cache and what is lazily freed is available. */
static void level_of_lists(void **state)
{
	struct policy_level level;

	level = policy_level(1000, 800, 700, 200, 300);
	assert_int_equal(level.total_bytes, 1000);
	assert_int_equal(level.available_bytes, 600);
	assert_int_equal(level.marked_bytes, 300);
	/* All is marked; more is marked than is listed, for figures come one after another. */
	level = policy_level(1000, 800, 700, 200, 500);
	assert_int_equal(level.available_bytes, 800);
	level = policy_level(1000, 800, 700, 200, UINT64_MAX);
	assert_int_equal(level.available_bytes, 800);
	assert_int_equal(level.marked_bytes, 500);
	/* Nothing but file cache, also where nobody tells how much that is. */
	level = policy_level(1000, 800, 700, 700, 300);
	assert_int_equal(level.available_bytes, 800);
	assert_int_equal(level.marked_bytes, 0);
	level = policy_level(1000, 800, 700, UINT64_MAX, 300);
	assert_int_equal(level.available_bytes, 800);
	/* Figures that do not fit together. */
	level = policy_level(1000, 100, 700, 0, 0);
	assert_int_equal(level.available_bytes, 0);
}

/* What is available by marks keeps a domain from being short, and does not make it rest. */
static void marks_are_no_plenty(void **state)
{
	struct policy_level level = policy_level(1000 * MIB, 900 * MIB, 750 * MIB, 0, 750 * MIB);
	struct policy_gauge gauge = { 0 };
	unsigned int sec;

	for (sec = 1; sec < 20; sec++) {
		gauge = policy_stage(&conf, &gauge, &level, sec * SEC);
		assert_int_equal(gauge.stage, NEARING);
	}
	/* They go: a fall of what was never counted is none to be foreseen. */
	level.marked_bytes = level.available_bytes = 150 * MIB;
	gauge = policy_stage(&conf, &gauge, &level, sec * SEC);
	assert_int_equal(gauge.stage, NEARING);
	level.marked_bytes = level.available_bytes = 90 * MIB;
	gauge = policy_stage(&conf, &gauge, &level, ++sec * SEC);
	assert_int_equal(gauge.stage, SHORT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_sample),
		cmocka_unit_test(test_worse_at_once),
		cmocka_unit_test(test_hysteresis_holds),
		cmocka_unit_test(test_better_after_calm),
		cmocka_unit_test(test_calm_is_without_break),
		cmocka_unit_test(test_one_step_down),
		cmocka_unit_test(test_fall_is_foreseen),
		cmocka_unit_test(test_fall_is_never_short),
		cmocka_unit_test(test_fall_ends),
		cmocka_unit_test(test_no_time_passed),
		cmocka_unit_test(test_extremes),
		cmocka_unit_test(test_deficit),
		cmocka_unit_test(test_settle),
		cmocka_unit_test(test_release_from_the_richest),
		cmocka_unit_test(test_release_only_what_is_there),
		cmocka_unit_test(test_release_not_what_is_kept),
		cmocka_unit_test(test_release_asks_only_who_can),
		cmocka_unit_test(purges_cover_the_rest),
		cmocka_unit_test(purges_go_by_weight),
		cmocka_unit_test(purges_go_by_age),
		cmocka_unit_test(level_of_lists),
		cmocka_unit_test(marks_are_no_plenty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
