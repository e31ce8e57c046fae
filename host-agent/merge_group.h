/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * merge_group.h - who may merge now, so that only those share who may share with each other
 *
 * KSM has one tree for the host: whatever is mergeable at the same time may be merged. So at
 * most one group is mergeable at a time, and another only after all of that one has been
 * taken back. Pure as policy.h is.
 */
#ifndef EBB_MERGE_GROUP_H
#define EBB_MERGE_GROUP_H

#include <stdbool.h>
#include <stddef.h>

/* "own", with a guest's name behind it: no group that a configuration can name. */
#define MERGE_GROUP_OWN	  "own"
#define MERGE_GROUP_BYTES 128

struct merge_member {
	const char *group;
	bool wants; /* to be merged, by hint or as a whole, by ebbd's word */
	bool told;  /* it was told to, and not yet otherwise */
	bool holds; /* it was told to, or is not known to be rid of all it had */
	bool may;   /* out: it may be told so */
};

/*
 * The group whose turn it is: the one with the most members that want it; the one before
 * stays where it has as many. NULL: nobody wants it.
 */
const char *merge_group_choose(const struct merge_member *members, size_t nr, const char *before);

/*
 * Who may be mergeable: the members of the group, once nobody else holds anything. Who was told so
 * stays: one that comes, and has not said yet what it holds, puts nobody off.
 */
void merge_group_admit(struct merge_member *members, size_t nr, const char *group);

#endif /* EBB_MERGE_GROUP_H */
