// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * notices - what the guest has yet to be told of its losses, in bounded room
 *
 * Owns:    nothing; works on the caller's set.
 * Thread:  any; whoever has the executor's lock.
 * Locks:   none.
 * Never:   allocates, drops a range.
 */
#include <string.h>

#include "notices.h"

static void remove_at(struct ebb_notices *notices, uint32_t at)
{
	notices->nr--;
	memmove(&notices->ranges[at], &notices->ranges[at + 1],
		(notices->nr - at) * sizeof(notices->ranges[0]));
}

/* Join the two neighbours with the smallest gap. */
static void make_room(struct ebb_notices *notices)
{
	uint64_t gap, smallest = UINT64_MAX;
	uint32_t i, at = 0;

	for (i = 0; i + 1 < notices->nr; i++) {
		gap = notices->ranges[i + 1].gpa - notices->ranges[i].end_gpa;
		if (gap < smallest) {
			smallest = gap;
			at = i;
		}
	}
	notices->ranges[at].end_gpa = notices->ranges[at + 1].end_gpa;
	remove_at(notices, at + 1);
}

void ebb_notices_add(struct ebb_notices *notices, uint64_t gpa, uint64_t bytes)
{
	uint64_t end_gpa = gpa + bytes;
	uint32_t at;

	if (notices->nr == EBB_MAX_NOTICES)
		make_room(notices);
	for (at = 0; at < notices->nr && notices->ranges[at].end_gpa < gpa; at++)
		;
	/* From here on ranges end behind gpa: those that begin before end_gpa are joined. */
	while (at < notices->nr && notices->ranges[at].gpa <= end_gpa) {
		if (notices->ranges[at].gpa < gpa)
			gpa = notices->ranges[at].gpa;
		if (notices->ranges[at].end_gpa > end_gpa)
			end_gpa = notices->ranges[at].end_gpa;
		remove_at(notices, at);
	}
	memmove(&notices->ranges[at + 1], &notices->ranges[at],
		(notices->nr - at) * sizeof(notices->ranges[0]));
	notices->ranges[at].gpa = gpa;
	notices->ranges[at].end_gpa = end_gpa;
	notices->nr++;
}

bool ebb_notices_take(struct ebb_notices *notices, uint64_t *gpa, uint64_t *bytes)
{
	if (!notices->nr)
		return false;
	*gpa = notices->ranges[0].gpa;
	*bytes = notices->ranges[0].end_gpa - *gpa;
	remove_at(notices, 0);
	return true;
}
