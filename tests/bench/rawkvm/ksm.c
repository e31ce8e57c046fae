// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ksm - the kernel's merging of identical pages: settings and progress
 *
 * Owns:    the settings of /sys/kernel/mm/ksm between ksm_run() and ksm_restore().
 * Thread:  one.
 * Locks:   none.
 * Never:   breaks up what others have merged.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ksm.h"

#define RUN_PATH "/sys/kernel/mm/ksm/run"

struct setting {
	const char *path;
	const char *value;
	char before[32];
	ssize_t before_bytes; /* 0: not ours to put back */
};

/* In this order; put back in this order too. */
static struct setting settings[] = {
	{ .path = "/sys/kernel/mm/ksm/pages_to_scan", .value = "20000" },
	{ .path = "/sys/kernel/mm/ksm/sleep_millisecs", .value = "1" },
	{ .path = RUN_PATH, .value = "1" },
};

#define NR_SETTINGS (sizeof(settings) / sizeof(settings[0]))

static pid_t owner;

/* A number from a file; 0 if there is none. */
static uint64_t read_number(int fd)
{
	char text[64] = "";

	if (fd < 0 || pread(fd, text, sizeof(text) - 1, 0) < 0)
		return 0;
	return strtoull(text, NULL, 10);
}

/* As it is called by signals: async-signal-safe. */
void ksm_restore(void)
{
	size_t i;
	int fd;

	for (i = 0; i < NR_SETTINGS && owner == getpid(); i++) {
		fd = open(settings[i].path, O_WRONLY | O_CLOEXEC);
		if (settings[i].before_bytes > 0 && fd >= 0 &&
		    write(fd, settings[i].before, (size_t)settings[i].before_bytes) > 0)
			settings[i].before_bytes = 0;
		if (fd >= 0)
			close(fd);
	}
}

static void on_signal(int number)
{
	ksm_restore();
	_exit(128 + number);
}

int ksm_run(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	uint64_t running;
	size_t i;
	int fd, ret = 0;

	fd = open(RUN_PATH, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	running = read_number(fd);
	close(fd);
	if (running)
		return -EBUSY;
	if (!owner)
		atexit(ksm_restore);
	owner = getpid();
	for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], on_signal);
	for (i = 0; i < NR_SETTINGS && !ret; i++) {
		fd = open(settings[i].path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		settings[i].before_bytes = read(fd, settings[i].before, sizeof(settings[i].before));
		if (pwrite(fd, settings[i].value, strlen(settings[i].value), 0) < 0)
			ret = -errno;
		close(fd);
	}
	return ret;
}

uint64_t ksm_merged_pages(void)
{
	int fd = open("/proc/self/ksm_merging_pages", O_RDONLY | O_CLOEXEC);
	uint64_t nr = read_number(fd);

	if (fd >= 0)
		close(fd);
	return nr;
}

int ksm_open_ksmd(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	char path[64], name[32];
	int fd, found = -1;
	ssize_t bytes;

	while (proc && found < 0 && (entry = readdir(proc))) {
		if (strspn(entry->d_name, "0123456789") != strlen(entry->d_name))
			continue;
		snprintf(path, sizeof(path), "/proc/%.20s/comm", entry->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		bytes = read(fd, name, sizeof(name));
		close(fd);
		if (bytes != 5 || memcmp(name, "ksmd\n", 5))
			continue;
		snprintf(path, sizeof(path), "/proc/%.20s/schedstat", entry->d_name);
		found = open(path, O_RDONLY | O_CLOEXEC);
	}
	if (proc)
		closedir(proc);
	return found;
}

/* The first number of schedstat. */
uint64_t ksm_ksmd_nsec(int fd)
{
	return read_number(fd);
}
