// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_merge_group - whose turn it is to be merged, and who waits
 *
 * Owns:    nothing.
 * Thread:  one.
 * Locks:   none.
 * Never:   reads a clock.
 */
#include "cm.h"
#include "merge_group.h"

#include <stdlib.h>
#include <string.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static void most_members_and_the_one_before(void **state)
{
	struct merge_member members[] = {
		{ .group = "b", .wants = true, .holds = false, .may = false },
		{ .group = "a", .wants = true, .holds = false, .may = false },
		{ .group = "b", .wants = true, .holds = false, .may = false },
		{ .group = "a", .wants = true, .holds = false, .may = false },
		{ .group = "c", .wants = false, .holds = false, .may = false },
		{ .group = "c", .wants = false, .holds = false, .may = false },
		{ .group = "c", .wants = false, .holds = false, .may = false },
		{ .group = "own/x", .wants = true, .holds = false, .may = false },
	};

	assert_string_equal(merge_group_choose(members, 8, NULL), "a");
	assert_string_equal(merge_group_choose(members, 8, "b"), "b");
	/* Nobody of it wants it any more. */
	assert_string_equal(merge_group_choose(members, 8, "c"), "a");
	assert_string_equal(merge_group_choose(members, 8, "gone"), "a");
	members[1].wants = false;
	assert_string_equal(merge_group_choose(members, 8, "a"), "b");
	assert_string_equal(merge_group_choose(members + 7, 1, NULL), "own/x");
	assert_null(merge_group_choose(members + 4, 3, "c"));
	assert_null(merge_group_choose(NULL, 0, "c"));
}

static void nobody_before_all_others_are_rid_of_it(void **state)
{
	struct merge_member members[] = {
		{ .group = "a", .wants = true, .holds = true, .may = true },
		{ .group = "b", .wants = true, .holds = false, .may = true },
		{ .group = "b", .wants = true, .holds = false, .may = true },
		{ .group = "b",
		  .wants = false,
		  .holds = true,
		  .may = true }, /* its own, that it is about to lose */
		{ .group = "", .wants = false, .holds = false, .may = true },
	};
	size_t i;

	merge_group_admit(members, 5, "b");
	for (i = 0; i < 5; i++)
		assert_false(members[i].may);
	/* Who was told so before somebody else came stays. */
	members[2].told = members[2].holds = true;
	merge_group_admit(members, 5, "b");
	assert_true(members[2].may);
	assert_false(members[1].may);
	members[0].holds = false;
	merge_group_admit(members, 5, "b");
	assert_false(members[0].may);
	assert_true(members[1].may && members[2].may);
	assert_false(members[3].may || members[4].may);
	merge_group_admit(members, 5, NULL);
	for (i = 0; i < 5; i++)
		assert_false(members[i].may);
}

/* At random, with guests that take their time: never two groups that hold something. */
static void never_two_groups(void **state)
{
	static const char *const names[] = { "a", "b", "own/c", "own/d" };
	struct merge_member members[8];
	const char *group = NULL;
	unsigned int step, turns = 0;
	size_t i, k;

	srandom(7);
	for (i = 0; i < 8; i++)
		members[i] = (struct merge_member){ .group = names[i % 4] };
	for (step = 0; step < 20000; step++) {
		const char *before = group;

		i = (size_t)random() % 8;
		members[i].wants = random() % 3;
		group = merge_group_choose(members, 8, group);
		turns += group && before && strcmp(group, before) != 0;
		merge_group_admit(members, 8, group);
		for (i = 0; i < 8; i++) {
			members[i].told = members[i].may;
			if (members[i].may)
				members[i].holds = true;
			else if (random() % 2)
				members[i].holds = false;
		}
		for (i = 0; i < 8; i++)
			for (k = 0; k < 8; k++)
				assert_false(members[i].holds && members[k].holds &&
					     strcmp(members[i].group, members[k].group) != 0);
	}
	assert_true(turns > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(most_members_and_the_one_before),
		cmocka_unit_test(nobody_before_all_others_are_rid_of_it),
		cmocka_unit_test(never_two_groups),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
