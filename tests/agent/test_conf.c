// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_conf - ebbd.conf: what is taken, and what is said about what is not
 *
 * Owns:    a directory for each test.
 * Thread:  one.
 * Locks:   none.
 * Never:   reads the machine's own configuration.
 */
#include <errno.h>

#include "cm.h"
#include "conf.h"

static char said[4096];
static int nr_said;

static void complain(void *ctx, const char *line)
{
	assert_ptr_equal(ctx, said);
	nr_said++;
	strncat(said, line, sizeof(said) - strlen(said) - 1);
	strncat(said, "\n", sizeof(said) - strlen(said) - 1);
}

static int load(struct conf *conf, const char *dir, const char *text)
{
	said[0] = '\0';
	nr_said = 0;
	return conf_load(conf, cm_file(dir, "ebbd.conf", text), false, complain, said);
}

static void test_defaults(void **state)
{
	struct conf conf;

	assert_int_equal(load(&conf, *state, ""), 0);
	assert_string_equal(conf.socket_path, "/run/ebb/ebbd.sock");
	assert_string_equal(conf.control_path, "/run/ebb/control.sock");
	assert_int_equal(conf.socket_mode, 0666);
	assert_int_equal(conf.mode, EBB_MODE_KEEP);
	assert_true(conf.release_when_short);
	conf_deinit(&conf);
}

static void test_keys_of_ebbd(void **state)
{
	struct conf conf;

	assert_int_equal(load(&conf, *state,
			      "# a comment\n"
			      "[ebbd]\n"
			      "socket = /tmp/a b.sock\n"
			      "socket_mode = 0660\n"
			      "socket_group = root\n"
			      "control_socket=/tmp/c.sock ; a comment\n"
			      "state_file: /tmp/state\n"
			      "sample_interval_msec = 250\n"
			      "hello_timeout_msec = 100\n"
			      "release_timeout_msec = 200\n"
			      "stuck_timeout_msec = 300\n"
			      "max_connections = 7\n"
			      "max_connections_per_uid = 6\n"
			      "max_messages_per_sec = 99\n"),
			 0);
	assert_string_equal(conf.socket_path, "/tmp/a b.sock");
	assert_int_equal(conf.socket_mode, 0660);
	assert_int_equal(conf.socket_gid, 0);
	assert_string_equal(conf.control_path, "/tmp/c.sock");
	assert_string_equal(conf.state_path, "/tmp/state");
	assert_int_equal(conf.sample_interval_msec, 250);
	assert_int_equal(conf.hello_timeout_msec, 100);
	assert_int_equal(conf.release_timeout_msec, 200);
	assert_int_equal(conf.stuck_timeout_msec, 300);
	assert_int_equal(conf.max_connections, 7);
	assert_int_equal(conf.max_connections_per_uid, 6);
	assert_int_equal(conf.max_messages_per_sec, 99);
	conf_deinit(&conf);
}

static void test_keys_of_policy(void **state)
{
	char merge_group[MERGE_GROUP_BYTES];
	struct conf conf;

	assert_int_equal(load(&conf, *state,
			      "[policy]\n"
			      "mode = auto\n"
			      "weight = 50\n"
			      "merge = hinted\n"
			      "merge_group = host\n"
			      "nearing_percent = 30\n"
			      "short_percent = 15\n"
			      "hysteresis_percent = 3\n"
			      "calm_msec = 1\n"
			      "answer_msec = 2\n"
			      "settle_msec = 3\n"
			      "release = no\n"
			      "guest_floor = 64M\n"
			      "page_tables = background\n"
			      "page_tables_delay_msec = 500\n"
			      "page_tables_amount = 12\n"
			      "page_tables_least = 3\n"),
			 0);
	assert_int_equal(conf.mode, EBB_MODE_AUTO);
	assert_int_equal(conf.policy.nearing_percent, 30);
	assert_int_equal(conf.policy.short_percent, 15);
	assert_int_equal(conf.policy.hysteresis_percent, 3);
	assert_int_equal(conf.policy.calm_msec, 1);
	assert_int_equal(conf.policy.answer_msec, 2);
	assert_int_equal(conf.policy.settle_msec, 3);
	assert_false(conf.release_when_short);
	assert_int_equal(conf.policy.guest_floor_bytes, 64 << 20);
	assert_int_equal(conf.page_tables_delay_msec, 500);
	assert_int_equal(conf.page_tables_amount, 12);
	assert_int_equal(conf.page_tables_least, 3);
	assert_int_equal(conf_guest_mode(&conf, "other"), EBB_MODE_AUTO);
	assert_int_equal(conf_guest_weight(&conf, "other"), 50);
	assert_int_equal(conf_guest_merge(&conf, "other"), EBB_MERGE_HINTED);
	assert_int_equal(conf_guest_tables(&conf, "other"), EBB_TABLES_BACKGROUND);
	conf_guest_merge_group(&conf, "other", merge_group);
	assert_string_equal(merge_group, "host");
	conf_deinit(&conf);
}

static void test_keys_of_guests(void **state)
{
	char merge_group[MERGE_GROUP_BYTES];
	struct conf conf;

	assert_int_equal(load(&conf, *state,
			      "[policy]\n"
			      "mode = auto\n"
			      "weight = 50\n"
			      "merge = hinted\n"
			      "merge_group = host\n"
			      "page_tables = background\n"
			      "[guest \"web1\"]\n"
			      "mode = lazy\n"
			      "[guest \"db-2.test\"]\n"
			      "mode = off\n"
			      "weight = 200\n"
			      "page_tables = off\n"
			      "[guest \"heavy\"]\n"
			      "weight = 1000\n"
			      "merge_group = red\n"
			      "merge = off\n"
			      "[guest \"alone\"]\n"
			      "merge_group = own"),
			 0);
	assert_int_equal(conf_guest_mode(&conf, "web1"), EBB_MODE_LAZY);
	assert_int_equal(conf_guest_mode(&conf, "db-2.test"), EBB_MODE_OFF);
	assert_int_equal(conf_guest_mode(&conf, "other"), EBB_MODE_AUTO);
	assert_int_equal(conf_guest_mode(&conf, "heavy"), EBB_MODE_AUTO);
	assert_int_equal(conf_guest_tables(&conf, "heavy"), EBB_TABLES_BACKGROUND);
	assert_int_equal(conf_guest_tables(&conf, "db-2.test"), EBB_TABLES_OFF);
	assert_int_equal(conf_guest_weight(&conf, "heavy"), 1000);
	assert_int_equal(conf_guest_merge(&conf, "heavy"), EBB_MERGE_OFF);
	conf_guest_merge_group(&conf, "heavy", merge_group);
	assert_string_equal(merge_group, "red");
	conf_guest_merge_group(&conf, "other", merge_group);
	assert_string_equal(merge_group, "host");
	conf_guest_merge_group(&conf, "alone", merge_group);
	assert_string_equal(merge_group, "own/alone");
	assert_int_equal(conf_guest_merge(&conf, "web1"), EBB_MERGE_HINTED);
	assert_int_equal(conf_guest_merge(&conf, "other"), EBB_MERGE_HINTED);
	assert_int_equal(conf_guest_weight(&conf, "web1"), 50);
	assert_int_equal(conf_guest_weight(&conf, "db-2.test"), 200);
	conf_deinit(&conf);
}

/* One fault, its line, and words that help. */
static const struct {
	const char *text;
	int line;
	const char *words;
} faults[] = {
	{ "[ebbd]\nsocket = run/x\n", 2, "write an absolute path" },
	{ "[ebbd]\n\n\nsocket_mode = 999\n", 4, "write an octal mode" },
	{ "[ebbd]\nsocket_mode = 066\n", 2, "owner read and write" },
	{ "[ebbd]\nsocket_group = no-such-group-here\n", 2, "there is no such group" },
	{ "[ebbd]\nsample_interval_msec = 99\n", 2, "from 100 to 3600000" },
	{ "[ebbd]\nsample_interval_msec = 1s\n", 2, "write a whole number" },
	{ "[ebbd]\nsample_interval_msec = -200\n", 2, "write a whole number" },
	{ "[ebbd]\nsample_interval_msec =\n", 2, "write a whole number" },
	{ "[ebbd]\nmax_connections = 99999999999999999999\n", 2, "from 1 to 65536" },
	{ "[ebbd]\nsoket = /x\n", 2, "soket is not a key of [ebbd]" },
	{ "[policy]\nsocket = /x\n", 2, "socket is not a key of [policy]" },
	{ "[policy]\nmerge = some\n", 2, "write off, hinted, all or keep" },
	{ "[guest \"a\"]\nmerge = yes\n", 2, "write off, hinted, all or keep" },
	{ "[policy]\nmerge_group = own/web\n", 2, "write own, host, or a name" },
	{ "[guest \"a\"]\nmerge_group =\n", 2, "write own, host, or a name" },
	{ "[policy]\nmode = lasy\n", 2, "write lazy, eager, auto, off or keep" },
	{ "[policy]\nrelease = maybe\n", 2, "write yes or no" },
	{ "[policy]\nguest_floor = much\n", 2, "write bytes" },
	{ "[polici]\nmode = lazy\n", 2, "[polici] is no section" },
	{ "mode = lazy\n", 1, "[] is no section" },
	{ "[guest web1]\nmode = lazy\n", 2, "write [guest \"NAME\"]" },
	{ "[guest \"a/b\"]\nmode = lazy\n", 2, "printable ASCII without space and '/'" },
	{ "[guest \"\"]\nmode = lazy\n", 2, "printable ASCII" },
	{ "[guest \"web1\"]\nmodus = lazy\n", 2, "it knows mode, weight, page_tables, merge" },
	{ "[guest \"web1\"]\nweight = 0\n", 2, "from 1 to 10000" },
	{ "[guest \"web1\"]\npage_tables = yes\n", 2, "page_tables = yes: write on-demand" },
	{ "[policy]\npage_tables_delay_msec = 99\n", 2, "from 100 to" },
	{ "[policy]\npage_tables_amount = 0\n", 2, "from 1 to" },
	{ "[policy]\nweight = 10001\n", 2, "from 1 to 10000" },
	{ "[guest \"a-name-of-more-than-forty-bytes-is-too-long-for-it\"]\nmode = lazy\n", 2,
	  "at most 40 bytes" },
	{ "[policy\nmode = lazy\n", 1, "misses its ']'" },
	{ "[policy]\nmode\n", 2, "write KEY = VALUE" },
	{ "[policy]\nmode = auto\n  eager\n", 3, "begins with a space" },
};

static void test_faults(void **state)
{
	char place[64];
	struct conf conf;
	size_t i;

	for (i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		assert_int_equal(load(&conf, *state, faults[i].text), -EINVAL);
		snprintf(place, sizeof(place), "/ebbd.conf:%d: ", faults[i].line);
		if (!strstr(said, place) || !strstr(said, faults[i].words))
			fail_msg("fault %zu: expected \"%s...%s\", said: %s", i, place,
				 faults[i].words, said);
		assert_null(conf.socket_path);
	}
}

/* All faults of a file at once, each in its line. */
static void test_reads_on(void **state)
{
	struct conf conf;

	assert_int_equal(load(&conf, *state, "[ebbd]\nx = 1\ny = 2\n[policy]\nz = 3\nmode = no\n"),
			 -EINVAL);
	assert_int_equal(nr_said, 4);
	assert_non_null(strstr(said, ":2: x "));
	assert_non_null(strstr(said, ":3: y "));
	assert_non_null(strstr(said, ":5: z "));
	assert_non_null(strstr(said, ":6: mode = no"));
}

/* inih would cut a long line in two and take the second part for a line of its own. */
static void test_long_line(void **state)
{
	char text[600], *end = text;
	struct conf conf;

	end += sprintf(end, "[ebbd]\nsocket = /");
	memset(end, 'x', 400);
	strcpy(end + 400, "\nbad = 1\n");
	assert_int_equal(load(&conf, *state, text), -EINVAL);
	assert_int_equal(nr_said, 2);
	assert_non_null(strstr(said, ":2: the line is longer than"));
	assert_non_null(strstr(said, ":3: bad is not a key"));
}

static void test_together(void **state)
{
	struct conf conf;

	assert_int_equal(load(&conf, *state, "[policy]\nshort_percent = 20\n"), -EINVAL);
	assert_non_null(strstr(said, "must be below nearing_percent"));
	assert_int_equal(
		load(&conf, *state, "[policy]\nnearing_percent = 80\nhysteresis_percent = 21\n"),
		-EINVAL);
	assert_non_null(strstr(said, "no guest would ever rest again"));
	assert_int_equal(load(&conf, *state,
			      "[ebbd]\nsample_interval_msec = 100\nmax_messages_per_sec = 41\n"),
			 -EINVAL);
	assert_non_null(strstr(said, "write at least 42"));
	assert_int_equal(load(&conf, *state, "[ebbd]\ncontrol_socket = /run/ebb/ebbd.sock\n"),
			 -EINVAL);
	assert_non_null(strstr(said, "are the same path"));
}

static void test_no_file(void **state)
{
	struct conf conf;

	said[0] = '\0';
	assert_int_equal(conf_load(&conf, "/nonexistent/ebbd.conf", true, complain, said), 0);
	conf_deinit(&conf);
	assert_int_equal(conf_load(&conf, "/nonexistent/ebbd.conf", false, complain, said),
			 -EINVAL);
	assert_non_null(strstr(said, "/nonexistent/ebbd.conf: No such file"));
	/* A directory is no configuration file. */
	assert_int_equal(conf_load(&conf, "/", true, complain, said), 0);
	conf_deinit(&conf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_defaults, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_keys_of_ebbd, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_keys_of_policy, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_keys_of_guests, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_faults, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_reads_on, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_long_line, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_together, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_no_file, cm_dir, cm_dir_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
