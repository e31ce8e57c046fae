/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ksm_host.h - a directory with ksm/, proc/ and run/, as the kernel would show a host with KSM */
#ifndef EBB_TEST_KSM_HOST_H
#define EBB_TEST_KSM_HOST_H

#include "cm.h"

/* stat's fields from the state to what is before utime. */
#define KERNEL	"S 2 0 0 0 -1 2129984 0 0 0 0"
#define ROOT_SH "S 1 9 9 0 -1 4194304 0 0 0 0"

static inline void put_number(const char *dir, const char *name, unsigned int value)
{
	char text[32], path[64];

	snprintf(text, sizeof(text), "%u\n", value);
	snprintf(path, sizeof(path), "ksm/%s", name);
	cm_file(dir, path, text);
}

static inline void put_process(const char *dir, unsigned int pid, const char *name,
			       const char *middle, unsigned int ticks)
{
	char text[256], path[64];

	snprintf(path, sizeof(path), "proc/%u/stat", pid);
	snprintf(text, sizeof(text), "%u (%s) %s %u 1 0 0 20 0 1 0 9\n", pid, name, middle, ticks);
	cm_file(dir, path, text);
}

static inline void put_ksm(const char *dir, unsigned int run, unsigned int pages_to_scan)
{
	put_number(dir, "run", run);
	put_number(dir, "pages_to_scan", pages_to_scan);
}

static inline void put_host(const char *dir)
{
	put_ksm(dir, 0, 123);
	put_number(dir, "sleep_millisecs", 200);
	put_number(dir, "use_zero_pages", 0);
	put_number(dir, "merge_across_nodes", 1);
	put_number(dir, "pages_shared", 3);
	put_number(dir, "pages_sharing", 4);
	put_number(dir, "full_scans", 5);
	cm_file(dir, "ksm/general_profit", "-4096\n");
	cm_file(dir, "ksm/advisor_mode", "[none] scan-time\n");
	/* A user's program of that name is not ksmd. */
	put_process(dir, 7, "ksmd", ROOT_SH, 999);
	put_process(dir, 37, "ksmd", KERNEL, 200);
	put_process(dir, 38, "ksmd2 (ksmd)", KERNEL, 999);
	cm_file(dir, "run/x", "");
}

static inline unsigned int number(const char *dir, const char *name)
{
	char path[300], text[32] = "";
	FILE *file;

	snprintf(path, sizeof(path), "%s/ksm/%s", dir, name);
	file = fopen(path, "r");
	assert_non_null(file);
	assert_non_null(fgets(text, sizeof(text), file));
	fclose(file);
	return (unsigned int)strtoul(text, NULL, 10);
}

#define assert_ksm(dir, run, scan)                                    \
	do {                                                          \
		assert_int_equal(number(dir, "run"), run);            \
		assert_int_equal(number(dir, "pages_to_scan"), scan); \
	} while (0)

#endif /* EBB_TEST_KSM_HOST_H */
