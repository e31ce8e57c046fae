// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_ksm - what KSM's files and ksmd's stat say, and what is written
 *
 * Owns:    a directory for each test: ksm/ and proc/ as the kernel would show them, run/.
 * Thread:  one.
 * Locks:   none.
 * Never:   looks at the machine's own KSM or processes.
 */
#include <errno.h>

#include "ksm.h"
#include "ksm_host.h"

#define SEC 1000000ull

static void test_files(void **state)
{
	struct ksm_settings settings, other;
	struct ksm_figures figures;
	char path[300];
	uint64_t usec;
	int ksm, proc;

	put_host(*state);
	snprintf(path, sizeof(path), "%s/ksm", (char *)*state);
	ksm = cm_open_dir(path);
	snprintf(path, sizeof(path), "%s/proc", (char *)*state);
	proc = cm_open_dir(path);
	assert_int_equal(ksm_read_settings(ksm, &settings), 0);
	assert_int_equal(settings.pages_to_scan, 123);
	assert_true(settings.has_zero_pages);
	assert_int_equal(ksm_read_figures(ksm, &figures), 0);
	assert_int_equal(figures.pages_sharing, 4);
	assert_true(figures.has_profit && figures.profit_bytes == -4096);
	assert_int_equal(ksm_find_ksmd(proc), 37);
	assert_int_equal(ksm_read_cpu(proc, 37, &usec), 0);
	assert_int_equal(usec, 201 * (SEC / (uint64_t)sysconf(_SC_CLK_TCK)));
	assert_int_equal(ksm_read_cpu(proc, 38, &usec), -ESRCH);
	assert_int_equal(ksm_find_ksmtuned(proc), 0);

	/* Never run = 2; only what differs is written. */
	other = settings;
	other.run = 2;
	assert_int_equal(ksm_write_settings(ksm, &settings, &other), -EINVAL);
	assert_ksm(*state, 0, 123);
	other.run = 1;
	put_number(*state, "pages_to_scan", 55);
	assert_int_equal(ksm_write_settings(ksm, &settings, &other), 0);
	assert_ksm(*state, 1, 55);

	cm_file(*state, "ksm/run", "x\n");
	assert_int_equal(ksm_read_settings(ksm, &settings), -EBADMSG);
	close(ksm);
	close(proc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_files, cm_dir, cm_dir_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
