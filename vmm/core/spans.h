/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * spans.h - the ranges of one batch in order of address
 */
#ifndef EBB_SPANS_H
#define EBB_SPANS_H

#include "ebb_core.h"

struct ebb_span {
	uint64_t gpa;
	uint64_t bytes;
	uint32_t range; /* index into the batch's ranges */
};

/*
 * Fill spans, which has room for VIRTIO_EBB_MAX_RANGES_LIMIT, from a batch: each range
 * checked, in order of gpa, none overlapping another.
 */
enum virtio_ebb_fault ebb_spans_fill(struct ebb_span *spans, const struct ebb_batch *batch);

/* Does a span of one sorted list overlap one of another? */
bool ebb_spans_overlap(const struct ebb_span *a, uint32_t nr_a, const struct ebb_span *b,
		       uint32_t nr_b);

/* Does a span of a sorted list overlap [gpa, gpa + bytes)? */
bool ebb_spans_touch(const struct ebb_span *spans, uint32_t nr, uint64_t gpa, uint64_t bytes);

#endif /* EBB_SPANS_H */
