// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_ksm_steer - who owns KSM's settings, and what is put back
 *
 * Owns:    a directory for each test: ksm/ and proc/ as the kernel would show them, run/.
 * Thread:  one.
 * Locks:   none.
 * Never:   looks at the machine's own KSM or processes.
 */
#include "ksm_host.h"
#include "ksm_steer.h"

#define MIB    (1ull << 20)
#define SEC    1000000ull
#define RECORD "run/state.ksm"

static const struct ksm_conf conf = { .steer = true, .cpu_percent = 20, .interval_msec = 1000 };
static struct ksm_steer steer;

static int host(void **state)
{
	if (cm_dir(state))
		return -1;
	put_host(*state);
	return 0;
}

static bool has_record(const char *dir)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/" RECORD, dir);
	return access(path, F_OK) == 0;
}

static void start(const char *dir, bool dry_run)
{
	char ksm[300], proc[300], state[300];

	snprintf(ksm, sizeof(ksm), "%s/ksm", dir);
	snprintf(proc, sizeof(proc), "%s/proc", dir);
	snprintf(state, sizeof(state), "%s/run/state", dir);
	ksm_steer_init(&steer, ksm, proc, state, dry_run);
}

static void step(uint64_t mergeable_mib, uint64_t at_sec)
{
	ksm_steer_step(&steer, &conf, mergeable_mib * MIB, (100 + at_sec) * SEC);
}

/* And it finds 64 MiB that are mergeable. */
static void start_merging(const char *dir)
{
	start(dir, false);
	step(64, 1);
}

static void test_steer_and_put_back(void **state)
{
	start(*state, false);
	step(0, 0);
	assert_ksm(*state, 0, 123);
	assert_false(has_record(*state));
	step(64, 1);
	assert_int_equal(steer.owner, KSM_OWNER_EBBD);
	assert_ksm(*state, 1, 500);
	assert_true(has_record(*state));
	/* Before the interval is over nothing is done. */
	ksm_steer_step(&steer, &conf, 0, 101 * SEC + SEC / 2);
	assert_ksm(*state, 1, 500);
	/* What pages_to_scan means depends on it. */
	assert_int_equal(number(*state, "sleep_millisecs"), 20);
	put_process(*state, 37, "ksmd", KERNEL, 210);
	step(64, 2);
	assert_ksm(*state, 1, 1000);
	assert_int_equal(steer.plan.cpu_percent, 10);
	put_process(*state, 37, "ksmd", KERNEL, 240);
	step(64, 3);
	assert_ksm(*state, 0, 123);
	assert_int_equal(steer.plan.why, KSM_WHY_CPU_CEILING);
	step(64, 9);
	assert_ksm(*state, 1, 500);
	ksm_steer_deinit(&steer);
	assert_ksm(*state, 0, 123);
	assert_int_equal(number(*state, "merge_across_nodes"), 1);
	assert_int_equal(number(*state, "sleep_millisecs"), 200);
	assert_int_equal(number(*state, "use_zero_pages"), 0);
	assert_false(has_record(*state));
}

/* What ran is stopped while nobody is mergeable, and runs again at the end. */
static void test_put_back_running(void **state)
{
	struct ksm_conf zero = conf;

	put_ksm(*state, 1, 100);
	start(*state, false);
	zero.zero_pages = true;
	ksm_steer_step(&steer, &zero, 0, SEC);
	assert_ksm(*state, 0, 100);
	assert_int_equal(number(*state, "use_zero_pages"), 1);
	/* The operator switches it off. */
	zero.steer = false;
	ksm_steer_reload(&steer, &zero);
	assert_ksm(*state, 1, 100);
	assert_int_equal(number(*state, "use_zero_pages"), 0);
	ksm_steer_step(&steer, &zero, 64 * MIB, 9 * SEC);
	assert_ksm(*state, 1, 100);
	assert_int_equal(steer.owner, KSM_OWNER_NONE);
	ksm_steer_deinit(&steer);
	assert_ksm(*state, 1, 100);
}

static void test_off_writes_nothing(void **state)
{
	struct ksm_conf off = conf;

	off.steer = false;
	put_ksm(*state, 1, 123);
	start(*state, false);
	ksm_steer_step(&steer, &off, 64 * MIB, SEC);
	ksm_steer_step(&steer, &off, 0, 2 * SEC);
	assert_true(steer.has_now && steer.has_cpu);
	ksm_steer_deinit(&steer);
	assert_ksm(*state, 1, 123);
	assert_false(has_record(*state));
}

static void test_dry_run(void **state)
{
	start(*state, true);
	step(64, 1);
	assert_int_equal(steer.written.run, 1);
	step(64, 2);
	assert_int_equal(steer.owner, KSM_OWNER_EBBD);
	assert_int_equal(steer.written.pages_to_scan, 1000);
	ksm_steer_deinit(&steer);
	assert_ksm(*state, 0, 123);
	assert_false(has_record(*state));
}

/* Somebody writes while we steer: nothing is written any more, not at the end either. */
static void test_changed_by_other(void **state)
{
	start_merging(*state);
	put_number(*state, "pages_to_scan", 777);
	step(64, 2);
	assert_int_equal(steer.owner, KSM_OWNER_OTHER);
	step(0, 3);
	assert_ksm(*state, 1, 777);
	assert_false(has_record(*state));
	ksm_steer_deinit(&steer);
	assert_ksm(*state, 1, 777);

	/* Between the last step and the end. */
	put_ksm(*state, 0, 123);
	start_merging(*state);
	put_number(*state, "run", 0);
	ksm_steer_deinit(&steer);
	assert_ksm(*state, 0, 500);
}

static void expect_kept_off(const char *dir, enum ksm_owner owner)
{
	start_merging(dir);
	step(64, 2);
	assert_int_equal(steer.owner, owner);
	assert_int_equal(number(dir, "pages_to_scan"), 123);
}

static void test_owned_at_start(void **state)
{
	char path[300];

	put_process(*state, 99, "ksmtuned", ROOT_SH, 1);
	expect_kept_off(*state, KSM_OWNER_KSMTUNED);
	/* It has ended: a reload looks again. */
	put_process(*state, 99, "bash", ROOT_SH, 1);
	step(64, 3);
	assert_int_equal(steer.owner, KSM_OWNER_KSMTUNED);
	ksm_steer_reload(&steer, &conf);
	step(64, 4);
	assert_int_equal(steer.owner, KSM_OWNER_EBBD);
	ksm_steer_deinit(&steer);

	cm_file(*state, "ksm/advisor_mode", "none [scan-time]\n");
	expect_kept_off(*state, KSM_OWNER_KERNEL);
	ksm_steer_deinit(&steer);
	cm_file(*state, "ksm/advisor_mode", "[none] scan-time\n");

	put_number(*state, "run", 2);
	expect_kept_off(*state, KSM_OWNER_OTHER);
	ksm_steer_deinit(&steer);
	assert_int_equal(number(*state, "run"), 2);
	put_number(*state, "run", 0);

	/* A ksmtuned of another user is nobody's owner. */
	if (geteuid() == 0) {
		put_process(*state, 99, "ksmtuned", ROOT_SH, 1);
		snprintf(path, sizeof(path), "%s/proc/99", (char *)*state);
		assert_int_equal(chown(path, 65534, 65534), 0);
		start_merging(*state);
		assert_int_equal(steer.owner, KSM_OWNER_EBBD);
		ksm_steer_deinit(&steer);
	}
}

/* ksmtuned comes while we steer. */
static void test_ksmtuned_comes(void **state)
{
	start_merging(*state);
	put_process(*state, 99, "ksmtuned", ROOT_SH, 1);
	step(64, 2);
	assert_int_equal(steer.owner, KSM_OWNER_KSMTUNED);
	ksm_steer_deinit(&steer);
	assert_ksm(*state, 1, 500);
}

static void no_ksm(const char *dir, const char *missing)
{
	char path[300];

	put_host(dir);
	snprintf(path, sizeof(path), "%s/%s", dir, missing);
	assert_int_equal(unlink(path), 0);
	expect_kept_off(dir, KSM_OWNER_FAILED);
	ksm_steer_deinit(&steer);
}

static void test_no_ksm(void **state)
{
	no_ksm(*state, "ksm/run");
	no_ksm(*state, "ksm/full_scans");
	no_ksm(*state, "proc/37/stat");
}

/* Without a place for the record nothing is written: a kill could not be made good. */
static void test_no_record_no_write(void **state)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/run/state.ksm.new", (char *)*state);
	assert_int_equal(mkdir(path, 0700), 0);
	start_merging(*state);
	assert_int_equal(steer.owner, KSM_OWNER_FAILED);
	ksm_steer_deinit(&steer);
	assert_ksm(*state, 0, 123);
}

/* As SIGKILL leaves it: descriptors closed, nothing else done. */
static void die(void)
{
	close(steer.ksm_dirfd);
	close(steer.proc_dirfd);
	free(steer.record_path);
}

static void test_after_kill(void **state)
{
	start_merging(*state);
	step(64, 2);
	die();
	assert_ksm(*state, 1, 1000);
	start(*state, false);
	assert_ksm(*state, 0, 123);
	assert_false(has_record(*state));
	ksm_steer_deinit(&steer);

	/* In the middle of a write: what is there is of before and after. */
	start_merging(*state);
	step(64, 2);
	die();
	put_number(*state, "pages_to_scan", 500);
	start(*state, false);
	assert_ksm(*state, 0, 123);
	ksm_steer_deinit(&steer);

	/* Somebody else came in between. */
	start_merging(*state);
	die();
	put_number(*state, "pages_to_scan", 888);
	start(*state, false);
	assert_ksm(*state, 1, 888);
	assert_false(has_record(*state));
	ksm_steer_deinit(&steer);

	cm_file(*state, RECORD, "2 100 20 0 1\n1 1 20 1 1\n1 1 20 1 1\n");
	start(*state, false);
	assert_ksm(*state, 1, 888);
	assert_false(has_record(*state));
	ksm_steer_deinit(&steer);
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, host, cm_dir_gone)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_DIR(test_steer_and_put_back), IN_DIR(test_put_back_running),
		IN_DIR(test_off_writes_nothing), IN_DIR(test_dry_run),
		IN_DIR(test_changed_by_other),	 IN_DIR(test_owned_at_start),
		IN_DIR(test_ksmtuned_comes),	 IN_DIR(test_no_ksm),
		IN_DIR(test_no_record_no_write), IN_DIR(test_after_kill),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
