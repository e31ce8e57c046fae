// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_proc - what is read from /proc, fed from files
 *
 * Owns:    a directory for each test.
 * Thread:  one.
 * Locks:   none.
 * Never:   depends on what the machine's own /proc says, but that it can be read.
 */
#include <errno.h>

#include "cm.h"
#include "proc.h"

static void test_rollup(void **state)
{
	struct proc_rollup rollup;
	int dirfd = cm_open_dir(*state);

	cm_file(*state, "smaps_rollup",
		"55f9f3617000-7ffe6866d000 ---p 00000000 00:00 0                          "
		"[rollup]\n"
		"Rss:             2097152 kB\n"
		"Pss:              385 kB\n"
		"Pss_Dirty:            112 kB\n"
		"KSM:                  8 kB\n"
		"LazyFree:          524288 kB\n"
		"AnonHugePages:   1048576 kB\n"
		"Locked:                0 kB\n");
	assert_int_equal(proc_read_rollup(dirfd, &rollup), 0);
	assert_int_equal(rollup.rss_bytes, 2ull << 30);
	assert_int_equal(rollup.lazyfree_bytes, 512ull << 20);
	assert_int_equal(rollup.anon_huge_bytes, 1ull << 30);
	assert_int_equal(rollup.ksm_bytes, 8192);

	/* A process that exits has an empty file; that is no reading of zero. */
	cm_file(*state, "smaps_rollup", "");
	assert_int_equal(proc_read_rollup(dirfd, &rollup), -ENODATA);
	cm_file(*state, "smaps_rollup", "Rss:  1 kB\n");
	assert_int_equal(proc_read_rollup(dirfd, &rollup), -ENODATA);
	cm_file(*state, "smaps_rollup", "Rss:  many kB\nLazyFree: 0 kB\n");
	assert_int_equal(proc_read_rollup(dirfd, &rollup), -ENODATA);
	close(dirfd);
}

static void test_status(void **state)
{
	struct proc_status status;
	int dirfd = cm_open_dir(*state);

	cm_file(*state, "status",
		"Name:\tqemu VmRSS: 99\n"
		"VmPeak:\t 5000 kB\n"
		"VmRSS:\t    4096 kB\n"
		"VmPTE:\t     100 kB\n"
		"VmSwap:\t       0 kB\n");
	assert_int_equal(proc_read_status(dirfd, &status), 0);
	assert_int_equal(status.vm_rss_bytes, 4 << 20);
	assert_int_equal(status.vm_pte_bytes, 100 << 10);

	/* A kernel thread or a zombie has no memory. */
	cm_file(*state, "status", "Name:\tkswapd0\nState:\tS (sleeping)\n");
	assert_int_equal(proc_read_status(dirfd, &status), -ENODATA);
	close(dirfd);
}

static void test_ksm(void **state)
{
	struct proc_ksm ksm;
	int dirfd = cm_open_dir(*state);

	assert_int_equal(proc_read_ksm(dirfd, &ksm), -ENOENT);
	cm_file(*state, "ksm_stat",
		"ksm_rmap_items 131072\nksm_zero_pages 7\nksm_merging_pages 16384\n"
		"ksm_process_profit -4096\nksm_merge_any: no\nksm_mergeable: yes\n");
	assert_int_equal(proc_read_ksm(dirfd, &ksm), 0);
	assert_int_equal(ksm.merging_pages, 16384);
	assert_int_equal(ksm.zero_pages, 7);
	/* Linux 6.1 knows fewer lines. */
	cm_file(*state, "ksm_stat", "ksm_rmap_items 3\nksm_merging_pages 2\n");
	assert_int_equal(proc_read_ksm(dirfd, &ksm), 0);
	assert_int_equal(ksm.merging_pages, 2);
	assert_int_equal(ksm.zero_pages, 0);
	close(dirfd);
}

static void test_host(void **state)
{
	struct proc_host host;
	int dirfd = cm_open_dir(*state);

	cm_file(*state, "meminfo",
		"MemTotal:       24684096 kB\nMemFree:        23912624 kB\nMemAvailable:   1024 "
		"kB\n");
	assert_int_equal(proc_read_host(dirfd, &host), 0);
	assert_int_equal(host.total_bytes, 24684096ull << 10);
	assert_int_equal(host.available_bytes, 1 << 20);
	assert_false(host.has_sec_page_tables);
	cm_file(*state, "meminfo",
		"MemTotal: 24684096 kB\nMemAvailable: 1024 kB\nSecPageTables: 12 kB\n");
	assert_int_equal(proc_read_host(dirfd, &host), 0);
	assert_true(host.has_sec_page_tables);
	assert_int_equal(host.sec_page_table_bytes, 12 << 10);
	assert_int_equal(host.lists.listed_bytes, 0);
	assert_int_equal(host.lists.cache_bytes, UINT64_MAX);
	cm_file(*state, "meminfo",
		"MemTotal: 24684096 kB\nMemAvailable: 1024 kB\nBuffers: 1 kB\nCached: 20 kB\n"
		"SwapCached: 400 kB\nActive: 300 kB\nActive(file): 30 kB\n"
		"Inactive(file): 5 kB\nShmem: 8 kB\n");
	assert_int_equal(proc_read_host(dirfd, &host), 0);
	assert_int_equal(host.lists.listed_bytes, 35 << 10);
	assert_int_equal(host.lists.cache_bytes, 13 << 10);
	cm_file(*state, "meminfo", "MemTotal:       24684096 kB\n");
	assert_int_equal(proc_read_host(dirfd, &host), -ENODATA);
	close(dirfd);
}

static void test_field(void **state)
{
	uint64_t value = 42;

	assert_true(proc_field("a 1\nab 2\nb 3\n", "ab", &value));
	assert_int_equal(value, 2);
	assert_true(proc_field("b 18446744073709551615", "b", &value));
	assert_int_equal(value, UINT64_MAX);
	value = 42;
	assert_false(proc_field("xa 1\n", "a", &value));
	assert_false(proc_field("", "a", &value));
	assert_false(proc_field("a\n", "a", &value));
	assert_false(proc_field("a -1\n", "a", &value));
	assert_false(proc_field("a 18446744073709551616\n", "a", &value));
	assert_false(proc_field("a 18446744073709551615 kB\n", "a", &value));
	assert_int_equal(value, 42);
}

static void test_text_is_bounded(void **state)
{
	char text[8];
	int dirfd = cm_open_dir(*state);

	cm_file(*state, "f", "1234567");
	assert_int_equal(proc_read_text(dirfd, "f", text, sizeof(text)), 0);
	assert_string_equal(text, "1234567");
	cm_file(*state, "f", "12345678");
	assert_int_equal(proc_read_text(dirfd, "f", text, sizeof(text)), -EFBIG);
	assert_int_equal(proc_read_text(dirfd, "none", text, sizeof(text)), -ENOENT);
	close(dirfd);
}

/* The real files of this process. */
static void test_real(void **state)
{
	int self = cm_open_dir("/proc/self"), proc = cm_open_dir("/proc");
	struct proc_rollup rollup;
	struct proc_status status;
	struct proc_host host;

	assert_int_equal(proc_read_rollup(self, &rollup), 0);
	assert_true(rollup.rss_bytes >= 4096);
	assert_int_equal(proc_read_status(self, &status), 0);
	assert_true(status.vm_rss_bytes >= 4096 && status.vm_pte_bytes >= 4096);
	assert_int_equal(proc_read_host(proc, &host), 0);
	assert_true(host.total_bytes >= host.available_bytes && host.available_bytes > 0);
	close(self);
	close(proc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_rollup, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_status, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_ksm, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_host, cm_dir, cm_dir_gone),
		cmocka_unit_test(test_field),
		cmocka_unit_test_setup_teardown(test_text_is_bounded, cm_dir, cm_dir_gone),
		cmocka_unit_test(test_real),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
