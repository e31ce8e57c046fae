// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_state - what ebbctl has set, over a restart
 *
 * Owns:    a directory for each test.
 * Thread:  one.
 * Locks:   none.
 * Never:   looks at the machine's own state.
 */
#include <errno.h>

#include "cm.h"
#include "policy.h"
#include "state.h"

static char path[300];

static int setup(void **state)
{
	int r = cm_dir(state);

	snprintf(path, sizeof(path), "%s/state", (char *)*state);
	return r;
}

static void test_survives(void **state)
{
	struct state one = { 0 }, two;
	uint32_t mode;
	struct stat st;

	assert_int_equal(state_set(&one, "web1", EBB_MODE_LAZY), 0);
	assert_int_equal(state_set(&one, "we\"ird\\", EBB_MODE_OFF), 0);
	assert_int_equal(state_set(&one, "gone", EBB_MODE_AUTO), 0);
	assert_int_equal(state_set(&one, "web1", EBB_MODE_EAGER), 0);
	state_unset(&one, "gone");
	state_unset(&one, "never-there");
	state_unset_merge(&one, "never-there");
	assert_int_equal(state_set_merge(&one, "web1", EBB_MERGE_HINTED), 0);
	assert_int_equal(state_set_merge(&one, "merged", EBB_MERGE_ALL), 0);
	assert_int_equal(state_set_merge(&one, "gone", EBB_MERGE_ALL), 0);
	state_unset_merge(&one, "gone");
	assert_int_equal(state_set_weight(&one, "web1", 200), 0);
	assert_int_equal(state_set_weight(&one, "heavy", POLICY_WEIGHT_MAX), 0);
	assert_int_equal(state_set_tables(&one, "web1", EBB_TABLES_OFF), 0);
	assert_int_equal(state_set_tables(&one, "tabled", EBB_TABLES_BACKGROUND), 0);
	assert_int_equal(state_set_tables(&one, "none", EBB_TABLES_KEEP), 0);
	state_unset_tables(&one, "none");
	state_unset_tables(&one, "never-there");
	assert_int_equal(state_set_weight(&one, "light", 1), 0);
	assert_int_equal(state_set_weight(&one, "light", 0), 0);
	assert_int_equal(state_set_weight(&one, "never-there", 0), 0);
	assert_int_equal(state_save(&one, path), 0);

	assert_int_equal(state_load(&two, path), 0);
	assert_int_equal(two.nr_entries, 5);
	assert_int_equal(state_get_weight(&two, "web1"), 200);
	assert_int_equal(state_get_weight(&two, "heavy"), POLICY_WEIGHT_MAX);
	assert_int_equal(state_get_weight(&two, "we\"ird\\"), 0);
	assert_int_equal(state_get_weight(&two, "light"), 0);
	assert_false(state_get(&two, "heavy", &mode));
	assert_false(state_get_tables(&two, "heavy", &mode));
	assert_false(state_get_tables(&two, "none", &mode));
	assert_true(state_get_tables(&two, "web1", &mode));
	assert_int_equal(mode, EBB_TABLES_OFF);
	assert_true(state_get_tables(&two, "tabled", &mode));
	assert_int_equal(mode, EBB_TABLES_BACKGROUND);
	assert_true(state_get(&two, "web1", &mode));
	assert_int_equal(mode, EBB_MODE_EAGER);
	assert_true(state_get_merge(&two, "web1", &mode));
	assert_int_equal(mode, EBB_MERGE_HINTED);
	assert_true(state_get_merge(&two, "merged", &mode));
	assert_int_equal(mode, EBB_MERGE_ALL);
	assert_false(state_get(&two, "merged", &mode));
	assert_false(state_get_merge(&two, "we\"ird\\", &mode));
	assert_true(state_get(&two, "we\"ird\\", &mode));
	assert_int_equal(mode, EBB_MODE_OFF);
	assert_false(state_get(&two, "gone", &mode));
	/* Each key goes by itself, the entry with the last. */
	state_unset(&two, "web1");
	assert_false(state_get(&two, "web1", &mode));
	assert_int_equal(state_get_weight(&two, "web1"), 200);
	assert_int_equal(state_set_weight(&two, "web1", 0), 0);
	assert_int_equal(two.nr_entries, 5);
	state_unset_tables(&two, "web1");
	state_unset_merge(&two, "web1");
	state_unset_merge(&two, "merged");
	assert_int_equal(two.nr_entries, 3);

	/* For its owner only, and nothing is left beside it. */
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	strcat(path, ".new");
	assert_int_equal(stat(path, &st), -1);
	state_deinit(&one);
	state_deinit(&two);
}

static void test_no_file(void **state)
{
	struct state loaded;

	assert_int_equal(state_load(&loaded, path), 0);
	assert_int_equal(loaded.nr_entries, 0);
}

static void test_bad_files(void **state)
{
	static const char *const texts[] = {
		"",
		"nonsense",
		"[]",
		"{}",
		"{\"version\":2,\"guests\":{}}",
		"{\"version\":1,\"guests\":[]}",
		"{\"version\":1,\"guests\":{\"a\":{}}}",
		"{\"version\":1,\"guests\":{\"a\":{\"merge\":1}}}",
		"{\"version\":1,\"guests\":{\"a\":{\"merge\":\"lazy\"}}}",
		"{\"version\":1,\"guests\":{\"a\":\"lazy\"}}",
		"{\"version\":1,\"guests\":{\"a\":{\"mode\":3}}}",
		"{\"version\":1,\"guests\":{\"a\":{\"weight\":0}}}",
		"{\"version\":1,\"guests\":{\"a\":{\"weight\":10001}}}",
		"{\"version\":1,\"guests\":{\"a\":{\"weight\":\"9\"}}}",
		"{\"version\":1,\"guests\":{\"a\":{\"mode\":\"lazy\",\"weight\":-1}}}",
		"{\"version\":1,\"guests\":{\"b\":{\"mode\":\"lazy\"},\"a\":{\"mode\":\"lasy\"}}}",
	};
	struct state loaded;
	size_t i;

	for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		cm_file(*state, "state", texts[i]);
		assert_int_equal(state_load(&loaded, path), -EBADMSG);
		assert_int_equal(loaded.nr_entries, 0);
		assert_null(loaded.entries);
	}
}

/* A failure to write leaves the old file whole. */
static void test_cannot_write(void **state)
{
	struct state one = { 0 }, two;
	char deeper[320];

	assert_int_equal(state_set(&one, "web1", EBB_MODE_LAZY), 0);
	snprintf(deeper, sizeof(deeper), "%s/not/there", (char *)*state);
	assert_int_equal(state_save(&one, deeper), -ENOENT);
	assert_int_equal(state_save(&one, path), 0);
	snprintf(deeper, sizeof(deeper), "%s.new", path);
	assert_int_equal(mkdir(deeper, 0700), 0);
	assert_int_equal(state_set(&one, "web2", EBB_MODE_LAZY), 0);
	assert_int_equal(state_save(&one, path), -EISDIR);
	assert_int_equal(state_load(&two, path), 0);
	assert_int_equal(two.nr_entries, 1);
	state_deinit(&one);
	state_deinit(&two);
}

static void test_bounded(void **state)
{
	struct state one = { 0 };
	char name[200];
	int i;

	for (i = 0; i < STATE_MAX_GUESTS; i++) {
		snprintf(name, sizeof(name), "guest%d", i);
		assert_int_equal(state_set(&one, name, EBB_MODE_LAZY), 0);
	}
	assert_int_equal(state_set(&one, "one-more", EBB_MODE_LAZY), -ENOSPC);
	assert_int_equal(state_set(&one, "guest7", EBB_MODE_OFF), 0);
	state_unset(&one, "guest7");
	memset(name, 'x', 150);
	name[150] = '\0';
	assert_int_equal(state_set(&one, name, EBB_MODE_LAZY), -ENAMETOOLONG);
	state_deinit(&one);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_survives, setup, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_no_file, setup, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_bad_files, setup, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_cannot_write, setup, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_bounded, setup, cm_dir_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
