// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * cgroup - the memory limit above a process, and the name that libvirt gave it
 *
 * Knows both versions: the mount points come from mountinfo, the process's cgroup from
 * /proc/PID/cgroup. Of all limits on the way to the root the one with the least left
 * of it counts. Lazily freed memory stands on the kernel's list of inactive file
 * pages, so "available" includes it, as MemAvailable of the host does, and, as that does,
 * what was used again since: see policy_level().
 *
 * Owns:    the descriptors of the mount points.
 * Thread:  any.
 * Locks:   none.
 * Never:   writes to a cgroup.
 */
#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent_check.h"
#include "proc.h"

#define CGROUP_TEXT_BYTES (16 * 1024)

/* mountinfo writes space, tab, newline and backslash as three octal digits. */
static void unescape_octal(char *text)
{
	char *to = text;

	for (; *text; text++, to++) {
		if (text[0] == '\\' && strspn(text + 1, "01234567") >= 3) {
			*to = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
			text += 3;
		} else {
			*to = *text;
		}
	}
	*to = '\0';
}

static bool list_has(const char *list, const char *word)
{
	size_t word_bytes = strlen(word);

	for (;;) {
		if (strncmp(list, word, word_bytes) == 0 &&
		    (list[word_bytes] == ',' || list[word_bytes] == '\0'))
			return true;
		list = strchr(list, ',');
		if (!list)
			return false;
		list++;
	}
}

static int mount_open(struct cgroup_mount *mount, char *root, char *point)
{
	unescape_octal(root);
	unescape_octal(point);
	mount->dirfd = open(point, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (mount->dirfd < 0)
		return -errno;
	snprintf(mount->root, sizeof(mount->root), "%s", strcmp(root, "/") == 0 ? "" : root);
	return 0;
}

/*
 * One line: ID PARENT DEV ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE SUPEROPTIONS.
 * The first mount of each kind counts.
 */
static int mountinfo_line(char *line, struct cgroup_mounts *mounts)
{
	char *field[5], *type, *super, *rest = line, *dash;
	int i;

	dash = strstr(line, " - ");
	if (!dash)
		return 0;
	*dash = '\0';
	type = strtok_r(dash + 3, " ", &rest);
	if (!type || !strtok_r(NULL, " ", &rest))
		return 0;
	super = strtok_r(NULL, " \n", &rest);
	field[0] = strtok_r(line, " ", &rest);
	for (i = 1; i < 5; i++)
		field[i] = field[i - 1] ? strtok_r(NULL, " ", &rest) : NULL;
	if (!super || !field[4])
		return 0;
	if (strcmp(type, "cgroup2") == 0 && mounts->v2.dirfd < 0)
		return mount_open(&mounts->v2, field[3], field[4]);
	if (strcmp(type, "cgroup") == 0 && list_has(super, "memory") && mounts->v1.dirfd < 0)
		return mount_open(&mounts->v1, field[3], field[4]);
	return 0;
}

/* A host without cgroups is no error: nothing limits anybody there. */
int cgroup_mounts_open(int proc_dirfd, const char *mountinfo, struct cgroup_mounts *mounts)
{
	char *line = NULL;
	size_t line_bytes = 0;
	int fd, r = 0;
	FILE *file;

	mounts->v1.dirfd = mounts->v2.dirfd = -1;
	fd = openat(proc_dirfd, mountinfo, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	file = fdopen(fd, "re");
	if (!file) {
		close(fd);
		return -ENOMEM;
	}
	while (r == 0 && getline(&line, &line_bytes, file) > 0)
		r = mountinfo_line(line, mounts);
	free(line);
	fclose(file);
	if (r < 0)
		cgroup_mounts_close(mounts);
	return r;
}

void cgroup_mounts_close(struct cgroup_mounts *mounts)
{
	if (mounts->v1.dirfd >= 0)
		close(mounts->v1.dirfd);
	if (mounts->v2.dirfd >= 0)
		close(mounts->v2.dirfd);
	mounts->v1.dirfd = mounts->v2.dirfd = -1;
}

/* The path in /proc/PID/cgroup's line of this controller (NULL: version 2). */
static bool cgroup_path(const char *text, const char *controller, char *path, size_t size_bytes)
{
	char controllers[256];
	const char *line = text, *colon, *at;
	size_t n;

	for (; *line; line = *at ? at + 1 : at) {
		at = strchrnul(line, '\n');
		colon = strchr(line, ':');
		if (!colon || colon > at)
			continue;
		line = colon + 1;
		colon = strchr(line, ':');
		n = (size_t)(colon - line);
		if (!colon || colon > at || n >= sizeof(controllers))
			continue;
		memcpy(controllers, line, n);
		controllers[n] = '\0';
		if (controller ? !list_has(controllers, controller) : n != 0)
			continue;
		n = (size_t)(at - colon - 1);
		if (n == 0 || n >= size_bytes)
			return false;
		memcpy(path, colon + 1, n);
		path[n] = '\0';
		return path[0] == '/';
	}
	return false;
}

/* A file that holds one number. "max" and whatever is no number give false. */
static bool read_number(int dirfd, const char *name, uint64_t *value)
{
	char text[64], *end;

	if (proc_read_text(dirfd, name, text, sizeof(text)) < 0 || text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return errno == 0 && (*end == '\n' || *end == '\0');
}

static void read_lists(const char *text, bool v2, uint64_t usage_bytes, struct proc_lists *lists)
{
	uint64_t file, shmem;

	proc_field(text, v2 ? "inactive_file" : "total_inactive_file", &lists->listed_bytes);
	if (lists->listed_bytes > usage_bytes)
		lists->listed_bytes = usage_bytes;
	if (proc_field(text, v2 ? "file" : "total_cache", &file) &&
	    proc_field(text, v2 ? "shmem" : "total_shmem", &shmem))
		lists->cache_bytes = file > shmem ? file - shmem : 0;
}

/* False: this cgroup limits nothing. */
static bool read_limit(int dirfd, bool v2, uint64_t host_total_bytes, struct cgroup_level *level)
{
	char text[CGROUP_TEXT_BYTES];
	uint64_t high, usage, limit = UINT64_MAX;

	if (v2) {
		if (!read_number(dirfd, "memory.max", &limit))
			limit = UINT64_MAX;
		if (read_number(dirfd, "memory.high", &high) && high < limit)
			limit = high;
	} else if (!read_number(dirfd, "memory.limit_in_bytes", &limit)) {
		return false;
	}
	if (limit == 0 || limit >= host_total_bytes)
		return false;
	if (!read_number(dirfd, v2 ? "memory.current" : "memory.usage_in_bytes", &usage))
		return false;
	level->lists = (struct proc_lists){ .cache_bytes = UINT64_MAX };
	if (proc_read_text(dirfd, "memory.stat", text, sizeof(text)) == 0)
		read_lists(text, v2, usage, &level->lists);
	level->limit_bytes = limit;
	level->available_bytes = limit > usage ? limit - usage : 0;
	level->available_bytes += level->lists.listed_bytes;
	if (level->available_bytes > limit)
		level->available_bytes = limit;
	return true;
}

/* Less of its limit left than of the other's. */
static bool tighter(const struct cgroup_level *a, const struct cgroup_level *b)
{
	return (double)a->available_bytes / (double)a->limit_bytes <
	       (double)b->available_bytes / (double)b->limit_bytes;
}

/* What of path is below what the mount point shows; NULL: it cannot be seen from here. */
static char *below_root(const struct cgroup_mount *mount, char *path)
{
	size_t root_bytes = strlen(mount->root);
	char *below = path + root_bytes;

	if (strncmp(path, mount->root, root_bytes) != 0 || strstr(path, "/.."))
		return NULL;
	return *below == '/' || *below == '\0' ? below : NULL;
}

static void walk_up(const struct cgroup_mount *mount, bool v2, char *path,
		    uint64_t host_total_bytes, struct cgroup_level *level)
{
	struct cgroup_level here;
	char *below = below_root(mount, path), *slash;
	int dirfd;

	if (!below)
		return;
	for (;;) {
		dirfd = openat(mount->dirfd, *below && below[1] ? below + 1 : ".",
			       O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dirfd >= 0) {
			if (read_limit(dirfd, v2, host_total_bytes, &here) &&
			    (level->path[0] == '\0' || tighter(&here, level))) {
				level->limit_bytes = here.limit_bytes;
				level->available_bytes = here.available_bytes;
				level->lists = here.lists;
				snprintf(level->path, sizeof(level->path), "%s:%.4000s",
					 v2 ? "v2" : "v1", path);
			}
			close(dirfd);
		}
		slash = strrchr(below, '/');
		if (!slash || below[1] == '\0')
			return;
		*(slash == path ? slash + 1 : slash) = '\0';
	}
}

int cgroup_read_level(const struct cgroup_mounts *mounts, int pid_dirfd, uint64_t host_total_bytes,
		      struct cgroup_level *level)
{
	char text[CGROUP_TEXT_BYTES], path[PATH_MAX];
	int r = proc_read_text(pid_dirfd, "cgroup", text, sizeof(text));

	if (r < 0)
		return r;
	level->path[0] = '\0';
	level->limit_bytes = level->available_bytes = 0;
	if (mounts->v1.dirfd >= 0 && cgroup_path(text, "memory", path, sizeof(path)))
		walk_up(&mounts->v1, false, path, host_total_bytes, level);
	else if (mounts->v2.dirfd >= 0 && cgroup_path(text, NULL, path, sizeof(path)))
		walk_up(&mounts->v2, true, path, host_total_bytes, level);
	return 0;
}

/* The cgroup itself, or the next one above it that has an account: threads' cgroups have none. */
int cgroup_read_kvm_tables(const struct cgroup_mounts *mounts, int pid_dirfd, uint64_t *bytes)
{
	char text[CGROUP_TEXT_BYTES], path[PATH_MAX], name[PATH_MAX + 16];
	char *below;
	int r;

	if (mounts->v2.dirfd < 0)
		return -ENODATA;
	r = proc_read_text(pid_dirfd, "cgroup", text, sizeof(text));
	if (r < 0)
		return r;
	if (!cgroup_path(text, NULL, path, sizeof(path)))
		return -ENODATA;
	below = below_root(&mounts->v2, path);
	/* At the top it would be the whole host's. */
	while (below && *below && below[1]) {
		snprintf(name, sizeof(name), "%s/memory.stat", below + 1);
		if (proc_read_text(mounts->v2.dirfd, name, text, sizeof(text)) == 0)
			return proc_field(text, "sec_pagetables", bytes) ? 0 : -ENODATA;
		*strrchr(below, '/') = '\0';
	}
	return -ENODATA;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* systemd writes '-' and other characters of a unit's name as \xNN. */
static void unescape_unit(char *text)
{
	char *to = text;

	for (; *text; text++, to++) {
		if (text[0] == '\\' && text[1] == 'x' && hex_digit(text[2]) >= 0 &&
		    hex_digit(text[3]) >= 0) {
			*to = (char)(hex_digit(text[2]) << 4 | hex_digit(text[3]));
			text += 3;
		} else {
			*to = *text;
		}
	}
	*to = '\0';
}

/* "qemu-N-NAME" gives NAME. */
static bool machine_of(const char *text, char name[CGROUP_NAME_BYTES])
{
	size_t digits;

	if (strncmp(text, "qemu-", 5) != 0)
		return false;
	text += 5;
	digits = strspn(text, "0123456789");
	if (digits == 0 || text[digits] != '-')
		return false;
	text += digits + 1;
	if (strlen(text) >= CGROUP_NAME_BYTES)
		return false;
	memset(name, 0, CGROUP_NAME_BYTES);
	memcpy(name, text, strlen(text));
	return ebb_agent_check_text(name, CGROUP_NAME_BYTES, 1) == EBB_AGENT_FAULT_NONE;
}

static bool ends_with(char *text, const char *suffix)
{
	size_t text_bytes = strlen(text), suffix_bytes = strlen(suffix);

	if (text_bytes < suffix_bytes || strcmp(text + text_bytes - suffix_bytes, suffix) != 0)
		return false;
	text[text_bytes - suffix_bytes] = '\0';
	return true;
}

/* One path; only root can make cgroups below the root's "machine" and "machine.slice". */
static bool machine_path(char *path, char name[CGROUP_NAME_BYTES])
{
	char *part, *rest = path;

	part = strtok_r(path, "/", &rest);
	if (!part || (strcmp(part, "machine") != 0 && strcmp(part, "machine.slice") != 0))
		return false;
	while ((part = strtok_r(NULL, "/", &rest))) {
		if (ends_with(part, ".libvirt-qemu")) {
			if (machine_of(part, name))
				return true;
		} else if (strncmp(part, "machine-", 8) == 0 && ends_with(part, ".scope")) {
			unescape_unit(part);
			if (machine_of(part + 8, name))
				return true;
		}
	}
	return false;
}

/* Is this the text of /proc/PID/cgroup of one of libvirt's QEMU machines? */
bool cgroup_machine_name(const char *cgroup_text, char name[CGROUP_NAME_BYTES])
{
	char line[PATH_MAX];
	const char *end, *colon;
	char *path;
	size_t n;

	for (; *cgroup_text; cgroup_text = *end ? end + 1 : end) {
		end = strchrnul(cgroup_text, '\n');
		n = (size_t)(end - cgroup_text);
		if (n >= sizeof(line))
			continue;
		memcpy(line, cgroup_text, n);
		line[n] = '\0';
		colon = strchr(line, ':');
		path = colon ? strchr(colon + 1, ':') : NULL;
		if (path && path[1] == '/' && machine_path(path + 1, name))
			return true;
	}
	return false;
}

int cgroup_read_machine_name(int pid_dirfd, char name[CGROUP_NAME_BYTES])
{
	char text[CGROUP_TEXT_BYTES];
	int r = proc_read_text(pid_dirfd, "cgroup", text, sizeof(text));

	if (r < 0)
		return r;
	return cgroup_machine_name(text, name) ? 0 : -ENOENT;
}
