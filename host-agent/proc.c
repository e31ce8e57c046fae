// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * proc - read what /proc says of one process, and of the host
 *
 * Each reader takes the directory that holds the file: /proc/PID, opened while the
 * process was known to be alive (so it never becomes another's), /proc for the host,
 * or a directory that a test has filled. Figures in kB become bytes.
 *
 * Owns:    nothing.
 * Thread:  any.
 * Locks:   none of ours; reading smaps_rollup takes the process's mmap_lock for
 *          reading and walks its page tables, so the caller limits how often.
 * Never:   opens a path from the root, writes anything.
 */
#include "proc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The whole file, NUL-terminated. -EFBIG: it does not fit. */
int proc_read_text(int dirfd, const char *name, char *text, size_t size_bytes)
{
	size_t used = 0;
	ssize_t n;
	int fd, r = 0;

	fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return -errno;
	for (;;) {
		n = read(fd, text + used, size_bytes - used);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			r = -errno;
		if (n <= 0)
			break;
		used += (size_t)n;
		if (used == size_bytes) {
			r = -EFBIG;
			break;
		}
	}
	close(fd);
	if (r == 0)
		text[used] = '\0';
	return r;
}

/*
 * The number after key at the start of a line: "key: 12 kB", "key 12". kB gives bytes.
 * False if there is no such line or no number in it.
 */
bool proc_field(const char *text, const char *key, uint64_t *value)
{
	size_t key_bytes = strlen(key);
	const char *line = text, *at;
	unsigned long long number;
	char *end;

	while (line && *line) {
		at = line + key_bytes;
		if (strncmp(line, key, key_bytes) == 0 && (*at == ':' || *at == ' ')) {
			at += strspn(at, ": \t");
			if (*at < '0' || *at > '9')
				return false;
			errno = 0;
			number = strtoull(at, &end, 10);
			if (errno)
				return false;
			if (strncmp(end, " kB", 3) == 0) {
				if (number > UINT64_MAX >> 10)
					return false;
				number <<= 10;
			}
			*value = number;
			return true;
		}
		line = strchr(line, '\n');
		if (line)
			line++;
	}
	return false;
}

/* -ENODATA: the file is there but empty or without Rss, as of a process that exits. */
int proc_read_rollup(int dirfd, struct proc_rollup *rollup)
{
	char text[4096];
	int r = proc_read_text(dirfd, "smaps_rollup", text, sizeof(text));

	if (r < 0)
		return r;
	*rollup = (struct proc_rollup){ 0 };
	if (!proc_field(text, "Rss", &rollup->rss_bytes) ||
	    !proc_field(text, "LazyFree", &rollup->lazyfree_bytes))
		return -ENODATA;
	proc_field(text, "AnonHugePages", &rollup->anon_huge_bytes);
	proc_field(text, "KSM", &rollup->ksm_bytes);
	return 0;
}

int proc_read_status(int dirfd, struct proc_status *status)
{
	char text[8192];
	int r = proc_read_text(dirfd, "status", text, sizeof(text));

	if (r < 0)
		return r;
	*status = (struct proc_status){ 0 };
	if (!proc_field(text, "VmRSS", &status->vm_rss_bytes) ||
	    !proc_field(text, "VmPTE", &status->vm_pte_bytes))
		return -ENODATA;
	return 0;
}

/* -ENOENT on kernels that do not tell. */
#define PROFIT_KEY    "ksm_process_profit "
#define MERGEABLE_KEY "ksm_mergeable: "

int proc_read_ksm(int dirfd, struct proc_ksm *ksm)
{
	char text[1024];
	int r = proc_read_text(dirfd, "ksm_stat", text, sizeof(text));
	const char *profit, *mergeable;

	if (r < 0)
		return r;
	*ksm = (struct proc_ksm){ 0 };
	if (!proc_field(text, "ksm_merging_pages", &ksm->merging_pages))
		return -ENODATA;
	proc_field(text, "ksm_zero_pages", &ksm->zero_pages);
	proc_field(text, "ksm_rmap_items", &ksm->rmap_items);
	mergeable = strstr(text, MERGEABLE_KEY);
	if (mergeable) {
		ksm->has_mergeable = true;
		ksm->mergeable = strncmp(mergeable + strlen(MERGEABLE_KEY), "no", 2) != 0;
	}
	profit = strstr(text, PROFIT_KEY);
	if (profit) {
		ksm->has_profit = true;
		ksm->profit_bytes = strtoll(profit + strlen(PROFIT_KEY), NULL, 10);
	}
	return 0;
}

/* MemAvailable has all of both lists in it, but for a little. */
static void read_lists(const char *text, struct proc_lists *lists)
{
	uint64_t active, inactive, cached, buffers, shmem;

	lists->cache_bytes = UINT64_MAX;
	if (!proc_field(text, "Active(file)", &active) ||
	    !proc_field(text, "Inactive(file)", &inactive) ||
	    !proc_field(text, "Cached", &cached) || !proc_field(text, "Buffers", &buffers) ||
	    !proc_field(text, "Shmem", &shmem))
		return;
	lists->listed_bytes = active + inactive;
	lists->cache_bytes = buffers + (cached > shmem ? cached - shmem : 0);
}

int proc_read_host(int dirfd, struct proc_host *host)
{
	char text[8192];
	int r = proc_read_text(dirfd, "meminfo", text, sizeof(text));

	if (r < 0)
		return r;
	*host = (struct proc_host){ 0 };
	if (!proc_field(text, "MemTotal", &host->total_bytes) ||
	    !proc_field(text, "MemAvailable", &host->available_bytes))
		return -ENODATA;
	read_lists(text, &host->lists);
	host->has_sec_page_tables = proc_field(text, "SecPageTables", &host->sec_page_table_bytes);
	return 0;
}
