// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * spans - check and sort the ranges of a batch
 *
 * Owns:    nothing; works on the caller's array.
 * Thread:  any.
 * Locks:   none.
 * Never:   allocates (qsort() of the C library may), asks whether a range is RAM.
 */
#include "spans.h"

static void sift_down(struct ebb_span *spans, uint32_t root, uint32_t nr)
{
	struct ebb_span moved = spans[root];
	uint32_t child;

	while ((child = 2 * root + 1) < nr) {
		if (child + 1 < nr && spans[child + 1].gpa > spans[child].gpa)
			child++;
		if (spans[child].gpa <= moved.gpa)
			break;
		spans[root] = spans[child];
		root = child;
	}
	spans[root] = moved;
}

/* Heapsort: in place and n log n for whatever order a guest chooses. */
static void sort(struct ebb_span *spans, uint32_t nr)
{
	uint32_t i;

	for (i = nr / 2; i-- > 0;)
		sift_down(spans, i, nr);
	for (i = nr; i-- > 1;) {
		struct ebb_span largest = spans[0];

		spans[0] = spans[i];
		spans[i] = largest;
		sift_down(spans, 0, i);
	}
}

enum virtio_ebb_fault ebb_spans_fill(struct ebb_span *spans, const struct ebb_batch *batch)
{
	bool sorted = true;
	uint32_t i;

	if (batch->nr_ranges == 0 || batch->nr_ranges > VIRTIO_EBB_MAX_RANGES_LIMIT)
		return VIRTIO_EBB_FAULT_COUNT;
	for (i = 0; i < batch->nr_ranges; i++) {
		const struct ebb_range *range = &batch->ranges[i];

		if (range->bytes == 0)
			return VIRTIO_EBB_FAULT_EMPTY;
		if ((range->gpa | range->bytes) & (VIRTIO_EBB_OFFER_ALIGN_BYTES - 1))
			return VIRTIO_EBB_FAULT_ALIGN;
		if (range->gpa + range->bytes < range->gpa)
			return VIRTIO_EBB_FAULT_WRAP;
		spans[i] = (struct ebb_span){ range->gpa, range->bytes, i };
		if (i > 0 && spans[i].gpa < spans[i - 1].gpa)
			sorted = false;
	}
	if (!sorted)
		sort(spans, batch->nr_ranges);
	for (i = 1; i < batch->nr_ranges; i++)
		if (spans[i - 1].gpa + spans[i - 1].bytes > spans[i].gpa)
			return VIRTIO_EBB_FAULT_OVERLAP;
	return VIRTIO_EBB_FAULT_NONE;
}

bool ebb_spans_overlap(const struct ebb_span *a, uint32_t nr_a, const struct ebb_span *b,
		       uint32_t nr_b)
{
	uint32_t i = 0, j = 0;

	while (i < nr_a && j < nr_b) {
		if (a[i].gpa + a[i].bytes <= b[j].gpa)
			i++;
		else if (b[j].gpa + b[j].bytes <= a[i].gpa)
			j++;
		else
			return true;
	}
	return false;
}

bool ebb_spans_touch(const struct ebb_span *spans, uint32_t nr, uint64_t gpa, uint64_t bytes)
{
	uint32_t low = 0, high = nr;

	/* the first span that ends after gpa */
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (spans[mid].gpa + spans[mid].bytes <= gpa)
			low = mid + 1;
		else
			high = mid;
	}
	return low < nr && spans[low].gpa < gpa + bytes;
}
