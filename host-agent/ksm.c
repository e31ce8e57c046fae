// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ksm - KSM's files, ksmd's time, and who else steers it
 *
 * KSM's directory and /proc come as descriptors, so that a test can fill its own.
 *
 * Owns:    nothing.
 * Thread:  any.
 * Locks:   none of ours; a write to run waits until ksmd has done its batch of pages.
 * Never:   writes run = 2 (unmerge all), merge_across_nodes, or what is not to change.
 */
#include "ksm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proc.h"

static int read_unsigned(int dirfd, const char *name, unsigned long long *value)
{
	char text[64], *end;
	int r = proc_read_text(dirfd, name, text, sizeof(text));

	if (r < 0)
		return r;
	if (text[0] < '0' || text[0] > '9')
		return -EBADMSG;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return errno || (*end != '\n' && *end) ? -EBADMSG : 0;
}

static int write_unsigned(int dirfd, const char *name, unsigned int value)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%u\n", value);
	int fd = openat(dirfd, name, O_WRONLY | O_TRUNC | O_CLOEXEC), r = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, (size_t)length) < 0)
		r = -errno;
	close(fd);
	return r;
}

/* -ENOENT: the kernel has no KSM. */
int ksm_read_settings(int ksm_dirfd, struct ksm_settings *settings)
{
	unsigned long long run, scan, sleep, zero = 0;
	int r = read_unsigned(ksm_dirfd, "run", &run);

	if (r == 0)
		r = read_unsigned(ksm_dirfd, "pages_to_scan", &scan);
	if (r == 0)
		r = read_unsigned(ksm_dirfd, "sleep_millisecs", &sleep);
	if (r < 0)
		return r;
	*settings = (struct ksm_settings){ .run = (unsigned int)run,
					   .pages_to_scan = (unsigned int)scan,
					   .sleep_msec = (unsigned int)sleep };
	r = read_unsigned(ksm_dirfd, "use_zero_pages", &zero);
	settings->has_zero_pages = r == 0;
	settings->use_zero_pages = (unsigned int)zero;
	return r == -ENOENT ? 0 : r;
}

bool ksm_same_settings(const struct ksm_settings *a, const struct ksm_settings *b)
{
	return a->run == b->run && a->pages_to_scan == b->pages_to_scan &&
	       a->sleep_msec == b->sleep_msec && a->use_zero_pages == b->use_zero_pages;
}

/* What differs, and run last when it starts, first when it stops. */
int ksm_write_settings(int ksm_dirfd, const struct ksm_settings *before,
		       const struct ksm_settings *after)
{
	int r = 0;

	if (after->run > 1)
		return -EINVAL;
	if (after->run == 0 && before->run != 0)
		r = write_unsigned(ksm_dirfd, "run", 0);
	if (r == 0 && after->pages_to_scan != before->pages_to_scan)
		r = write_unsigned(ksm_dirfd, "pages_to_scan", after->pages_to_scan);
	if (r == 0 && after->sleep_msec != before->sleep_msec)
		r = write_unsigned(ksm_dirfd, "sleep_millisecs", after->sleep_msec);
	if (r == 0 && after->has_zero_pages && after->use_zero_pages != before->use_zero_pages)
		r = write_unsigned(ksm_dirfd, "use_zero_pages", after->use_zero_pages);
	if (r == 0 && after->run == 1 && before->run != 1)
		r = write_unsigned(ksm_dirfd, "run", 1);
	return r;
}

int ksm_read_figures(int ksm_dirfd, struct ksm_figures *figures)
{
	unsigned long long shared, sharing, scans;
	char text[64];
	int r = read_unsigned(ksm_dirfd, "pages_shared", &shared);

	if (r == 0)
		r = read_unsigned(ksm_dirfd, "pages_sharing", &sharing);
	if (r == 0)
		r = read_unsigned(ksm_dirfd, "full_scans", &scans);
	if (r < 0)
		return r;
	*figures = (struct ksm_figures){ .pages_shared = shared,
					 .pages_sharing = sharing,
					 .full_scans = scans };
	/* May be negative. */
	if (proc_read_text(ksm_dirfd, "general_profit", text, sizeof(text)) == 0) {
		figures->has_profit = true;
		figures->profit_bytes = strtoll(text, NULL, 10);
	}
	return 0;
}

/* Since Linux 6.7 the kernel can steer pages_to_scan itself. */
bool ksm_has_advisor(int ksm_dirfd)
{
	char text[128];

	return proc_read_text(ksm_dirfd, "advisor_mode", text, sizeof(text)) == 0 &&
	       !strstr(text, "[none]");
}

/* ppid, utime and stime of "PID (NAME) S PPID ...", if it is called so. */
static bool parse_stat(const char *text, const char *name, long *ppid, uint64_t *ticks)
{
	const char *open = strchr(text, '('), *close = strrchr(text, ')');
	size_t name_bytes = strlen(name);
	unsigned long long utime, stime;

	if (!open || !close || (size_t)(close - open - 1) != name_bytes ||
	    strncmp(open + 1, name, name_bytes) != 0)
		return false;
	if (sscanf(close + 1, " %*c %ld %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", ppid,
		   &utime, &stime) != 3)
		return false;
	*ticks = utime + stime;
	return true;
}

static bool read_stat(int proc_dirfd, const char *pid, const char *name, long *ppid,
		      uint64_t *ticks)
{
	char path[280], text[1024];

	snprintf(path, sizeof(path), "%s/stat", pid);
	return proc_read_text(proc_dirfd, path, text, sizeof(text)) == 0 &&
	       parse_stat(text, name, ppid, ticks);
}

#define KTHREADD_PID 2

/*
 * Whoever may run programs can give one any name: ksmd is a child of kthreadd, and a
 * ksmtuned counts that belongs to root, or to whom ebbd runs as.
 */
static bool is_genuine(int proc_dirfd, const char *pid, bool kernel, long ppid)
{
	struct stat st;

	if (kernel)
		return ppid == KTHREADD_PID;
	return fstatat(proc_dirfd, pid, &st, 0) == 0 && (st.st_uid == 0 || st.st_uid == geteuid());
}

/* 0: there is none. */
static pid_t find_process(int proc_dirfd, const char *name, bool kernel)
{
	int fd = openat(proc_dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	uint64_t ticks;
	pid_t pid = 0;
	long ppid;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return 0;
	}
	while (pid == 0 && (entry = readdir(dir)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
		    read_stat(proc_dirfd, entry->d_name, name, &ppid, &ticks) &&
		    is_genuine(proc_dirfd, entry->d_name, kernel, ppid))
			pid = (pid_t)strtol(entry->d_name, NULL, 10);
	closedir(dir);
	return pid;
}

pid_t ksm_find_ksmd(int proc_dirfd)
{
	return find_process(proc_dirfd, "ksmd", true);
}

pid_t ksm_find_ksmtuned(int proc_dirfd)
{
	return find_process(proc_dirfd, "ksmtuned", false);
}

/* -ESRCH: this is not ksmd. */
int ksm_read_cpu(int proc_dirfd, pid_t pid, uint64_t *cpu_usec)
{
	char name[16];
	uint64_t ticks;
	long ppid;

	snprintf(name, sizeof(name), "%d", (int)pid);
	if (!read_stat(proc_dirfd, name, "ksmd", &ppid, &ticks))
		return -ESRCH;
	*cpu_usec = ticks * (1000000 / (uint64_t)sysconf(_SC_CLK_TCK));
	return 0;
}

/* Replaced as a whole. It need not outlive the host, so nothing is synced. */
int ksm_save_record(const char *path, const struct ksm_record *record)
{
	const struct ksm_settings *all[] = { &record->found, &record->before, &record->after };
	char new_path[4096 + 8];
	FILE *file;
	size_t i;
	int r = 0;

	snprintf(new_path, sizeof(new_path), "%s.new", path);
	file = fopen(new_path, "we");
	if (!file)
		return -errno;
	for (i = 0; i < 3; i++)
		fprintf(file, "%u %u %u %u %d\n", all[i]->run, all[i]->pages_to_scan,
			all[i]->sleep_msec, all[i]->use_zero_pages, all[i]->has_zero_pages);
	if (ferror(file))
		r = -EIO;
	if (fclose(file) != 0 && r == 0)
		r = -errno;
	if (r == 0 && rename(new_path, path) < 0)
		r = -errno;
	if (r < 0)
		unlink(new_path);
	return r;
}

/* -ENOENT: none was left. */
int ksm_load_record(const char *path, struct ksm_record *record)
{
	struct ksm_settings *all[] = { &record->found, &record->before, &record->after };
	char text[256], *line = text;
	int r = proc_read_text(AT_FDCWD, path, text, sizeof(text)), length, zero;
	size_t i;

	for (i = 0; r == 0 && i < 3; i++, line += length) {
		if (sscanf(line, "%u %u %u %u %d\n%n", &all[i]->run, &all[i]->pages_to_scan,
			   &all[i]->sleep_msec, &all[i]->use_zero_pages, &zero, &length) != 5 ||
		    all[i]->run > 1)
			return -EBADMSG;
		all[i]->has_zero_pages = zero;
	}
	return r;
}

static bool is_ours(unsigned int now, unsigned int before, unsigned int after)
{
	return now == before || now == after;
}

/* Put back what a predecessor found. -EBUSY: somebody has changed it since. */
int ksm_recover(int ksm_dirfd, const struct ksm_record *record)
{
	const struct ksm_settings *before = &record->before, *after = &record->after;
	struct ksm_settings now;
	int r = ksm_read_settings(ksm_dirfd, &now);

	if (r < 0)
		return r;
	if (!is_ours(now.run, before->run, after->run) ||
	    !is_ours(now.pages_to_scan, before->pages_to_scan, after->pages_to_scan) ||
	    !is_ours(now.sleep_msec, before->sleep_msec, after->sleep_msec) ||
	    !is_ours(now.use_zero_pages, before->use_zero_pages, after->use_zero_pages))
		return -EBUSY;
	return ksm_write_settings(ksm_dirfd, &now, &record->found);
}
