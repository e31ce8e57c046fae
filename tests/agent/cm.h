/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* cm.h - cmocka with the headers that it needs first, and files to feed to parsers */
#ifndef EBB_TEST_CM_H
#define EBB_TEST_CM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A directory that goes with its test; its path is in *state. */
static inline int cm_dir(void **state)
{
	char path[] = "/tmp/ebb-test-XXXXXX";

	if (!mkdtemp(path))
		return -1;
	*state = strdup(path);
	return *state ? 0 : -1;
}

static inline int cm_remove(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	return remove(path);
}

static inline int cm_dir_gone(void **state)
{
	int r = nftw(*state, cm_remove, 8, FTW_DEPTH | FTW_PHYS);

	free(*state);
	return r;
}

/* Write dir/name; directories on the way are made. Returns its path, which stays until the next. */
static inline const char *cm_file(const char *dir, const char *name, const char *text)
{
	static char path[512];
	char *slash;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	for (slash = path + strlen(dir) + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = '\0';
		mkdir(path, 0700);
		*slash = '/';
	}
	file = fopen(path, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
	return path;
}

static inline int cm_open_dir(const char *path)
{
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

#endif /* EBB_TEST_CM_H */
