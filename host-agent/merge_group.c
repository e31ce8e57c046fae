// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * merge_group - who may merge now, so that only those share who may share with each other
 *
 * Owns:    nothing.
 * Thread:  any.
 * Locks:   none.
 * Never:   admits one group while another may still hold merged pages.
 */
#include "merge_group.h"

#include <string.h>

static size_t count_wanting(const struct merge_member *members, size_t nr, const char *group)
{
	size_t i, found = 0;

	for (i = 0; i < nr; i++)
		found += members[i].wants && strcmp(members[i].group, group) == 0;
	return found;
}

const char *merge_group_choose(const struct merge_member *members, size_t nr, const char *before)
{
	size_t best = before ? count_wanting(members, nr, before) : 0, i;
	const char *group = best ? before : NULL;

	for (i = 0; i < nr; i++) {
		size_t found = count_wanting(members, nr, members[i].group);

		/* Of equals the first in the alphabet, so that it does not depend on the order. */
		if (found > best || (found && found == best && group != before &&
				     strcmp(members[i].group, group) < 0)) {
			best = found;
			group = members[i].group;
		}
	}
	return group;
}

void merge_group_admit(struct merge_member *members, size_t nr, const char *group)
{
	bool others = false;
	size_t i;

	for (i = 0; i < nr; i++)
		others |= members[i].holds && (!group || strcmp(members[i].group, group) != 0);
	for (i = 0; i < nr; i++)
		members[i].may = members[i].wants && group && (members[i].told || !others) &&
				 strcmp(members[i].group, group) == 0;
}
