/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * must.h - what a fuzz target asserts, whatever NDEBUG says
 */
#ifndef EBB_TEST_MUST_H
#define EBB_TEST_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define MUST(condition)                                                                           \
	do {                                                                                      \
		if (!(condition)) {                                                               \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                                  \
		}                                                                                 \
	} while (0)

#endif /* EBB_TEST_MUST_H */
