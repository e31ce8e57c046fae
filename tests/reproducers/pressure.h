/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory control group of one's own, to have the kernel reclaim what processes in it hold. */
#ifndef PRESSURE_H
#define PRESSURE_H

struct pressure {
	char path[512];
	int version; /* of the control group hierarchy: 1 or 2 */
};

/* Make a group. Returns 0, or a negative errno and a reason in words. */
int pressure_init(struct pressure *p, const char **why);

/* The calling process enters the group. */
int pressure_enter(const struct pressure *p);

/* Have the kernel reclaim all that it can from the group. */
int pressure_apply(const struct pressure *p);

/* Everybody must have left. */
void pressure_deinit(struct pressure *p);

#endif
