/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * notices.h - what the guest has yet to be told of its losses
 */
#ifndef EBB_NOTICES_H
#define EBB_NOTICES_H

#include <stdbool.h>
#include <stdint.h>

#define EBB_MAX_NOTICES 128

/*
 * Ranges in order of address, none touching another. When there is no room, the two that
 * are nearest to each other become one: a notice says where to look, not what is lost.
 */
struct ebb_notices {
	uint32_t nr;
	struct {
		uint64_t gpa;
		uint64_t end_gpa;
	} ranges[EBB_MAX_NOTICES];
};

void ebb_notices_add(struct ebb_notices *notices, uint64_t gpa, uint64_t bytes);

/* Take the first: false if there is none. */
bool ebb_notices_take(struct ebb_notices *notices, uint64_t *gpa, uint64_t *bytes);

#endif /* EBB_NOTICES_H */
