// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * pressure - a memory control group, version 1 or 2, and its reclaim
 *
 * Owns:    one directory below the control group that it found.
 * Thread:  any one at a time.
 * Locks:   none.
 * Never:   touches a group that it has not made, but to switch on version 2's memory controller.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pressure.h"

static int write_file(const char *folder, const char *name, const char *text)
{
	char path[640];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = write(fd, text, strlen(text));
	n = n < 0 ? -errno : 0;
	close(fd);
	return (int)n;
}

static int read_file(const char *folder, const char *name, char *text, size_t bytes)
{
	char path[640];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, text, bytes - 1);
	close(fd);
	if (n < 0)
		return -EIO;
	text[n] = '\0';
	return 0;
}

/* The group of this process in version 1's memory hierarchy, without the leading '/'. */
static void own_v1_group(char *group, size_t bytes)
{
	char line[512], path[256];
	FILE *f = fopen("/proc/self/cgroup", "re");

	group[0] = '\0';
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*d:memory:/%255s", path) == 1)
			snprintf(group, bytes, "%s", path);
	if (f)
		fclose(f);
}

static int make_group(struct pressure *p, int version, const char *parent)
{
	p->version = version;
	snprintf(p->path, sizeof(p->path), "%s/ebb-reproducer-%d", parent, (int)getpid());
	return mkdir(p->path, 0755) ? -errno : 0;
}

static int init_v1(struct pressure *p, const char *where)
{
	char parent[400], group[256];

	own_v1_group(group, sizeof(group));
	snprintf(parent, sizeof(parent), "%.120s/%s", where, group);
	/* In a container the path may be that of another name space. */
	return make_group(p, 1, access(parent, W_OK) ? where : parent);
}

static int init_v2(struct pressure *p, const char *where)
{
	char controllers[512];

	if (read_file(where, "cgroup.controllers", controllers, sizeof(controllers)) ||
	    !strstr(controllers, "memory"))
		return -ENODEV;
	write_file(where, "cgroup.subtree_control", "+memory");
	return make_group(p, 2, where);
}

int pressure_init(struct pressure *p, const char **why)
{
	char line[1024], where[256], type[64], options[512];
	int err = -ENODEV;
	FILE *f = fopen("/proc/mounts", "re");

	*why = "no memory control group is mounted";
	while (f && err && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %255s %63s %511s", where, type, options) != 3)
			continue;
		if (!strcmp(type, "cgroup") && strstr(options, "memory"))
			err = init_v1(p, where);
		else if (!strcmp(type, "cgroup2"))
			err = init_v2(p, where);
		if (err && err != -ENODEV)
			*why = "no memory control group can be made: run as root";
	}
	if (f)
		fclose(f);
	return err;
}

int pressure_enter(const struct pressure *p)
{
	return write_file(p->path, "cgroup.procs", "0");
}

int pressure_apply(const struct pressure *p)
{
	char usage[64];
	int err;

	if (p->version == 1) {
		err = write_file(p->path, "memory.force_empty", "0");
	} else {
		err = read_file(p->path, "memory.current", usage, sizeof(usage));
		if (!err)
			err = write_file(p->path, "memory.reclaim", usage);
	}
	/* Not all could be reclaimed: expected, since the processes use some of it. */
	return err == -EBUSY || err == -EAGAIN ? 0 : err;
}

void pressure_deinit(struct pressure *p)
{
	/* A process that has just ended may still be leaving. */
	for (int i = 0; rmdir(p->path) && errno == EBUSY && i < 1000; i++)
		usleep(10000);
}
