/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check.h - what must hold; what does not ends the program
 */
#ifndef EBB_TEST_CHECK_H
#define EBB_TEST_CHECK_H

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CHECK(what)                                                                             \
	do {                                                                                    \
		if (!(what)) {                                                                  \
			printf("FAILED %s line %d: %s (errno %s)\n", __FILE__, __LINE__, #what, \
			       strerror(errno));                                                \
			fflush(stdout);                                                         \
			_exit(1);                                                               \
		}                                                                               \
	} while (0)

#define CHECK_ERRNO(what, number)                         \
	do {                                              \
		errno = 0;                                \
		CHECK((what) == -1 && errno == (number)); \
	} while (0)

#endif /* EBB_TEST_CHECK_H */
