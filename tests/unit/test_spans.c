// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_spans - checking and sorting a batch, by hand and against a naive model
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "spans.h"

#define PAGE 4096ull

static struct ebb_span spans[VIRTIO_EBB_MAX_RANGES_LIMIT];
static struct ebb_range ranges[VIRTIO_EBB_MAX_RANGES_LIMIT + 1];

static enum virtio_ebb_fault fill(uint32_t nr)
{
	struct ebb_batch batch = { .nr_ranges = nr, .ranges = ranges };

	return ebb_spans_fill(spans, &batch);
}

static enum virtio_ebb_fault fill_one(uint64_t gpa, uint64_t bytes)
{
	ranges[0] = (struct ebb_range){ .gpa = gpa, .bytes = bytes };
	return fill(1);
}

static void each_range_is_checked(void **state)
{
	assert_int_equal(fill(0), VIRTIO_EBB_FAULT_COUNT);
	assert_int_equal(fill(VIRTIO_EBB_MAX_RANGES_LIMIT + 1), VIRTIO_EBB_FAULT_COUNT);
	assert_int_equal(fill_one(0, 0), VIRTIO_EBB_FAULT_EMPTY);
	assert_int_equal(fill_one(1, PAGE), VIRTIO_EBB_FAULT_ALIGN);
	assert_int_equal(fill_one(0, PAGE - 1), VIRTIO_EBB_FAULT_ALIGN);
	assert_int_equal(fill_one(UINT64_MAX - PAGE + 1, PAGE), VIRTIO_EBB_FAULT_WRAP);
	assert_int_equal(fill_one(UINT64_MAX - PAGE + 1, 2 * PAGE), VIRTIO_EBB_FAULT_WRAP);
	assert_int_equal(fill_one(PAGE, UINT64_MAX - PAGE + 1), VIRTIO_EBB_FAULT_WRAP);
	assert_int_equal(fill_one(0, PAGE), VIRTIO_EBB_FAULT_NONE);
}

static void overlaps_in_a_batch(void **state)
{
	ranges[0] = (struct ebb_range){ .gpa = 4 * PAGE, .bytes = 2 * PAGE };
	ranges[1] = (struct ebb_range){ .gpa = 2 * PAGE, .bytes = 2 * PAGE };
	assert_int_equal(fill(2), VIRTIO_EBB_FAULT_NONE);
	assert_int_equal(spans[0].range, 1);
	assert_int_equal(spans[1].range, 0);
	ranges[1].bytes = 3 * PAGE;
	assert_int_equal(fill(2), VIRTIO_EBB_FAULT_OVERLAP);
	ranges[1] = ranges[0];
	assert_int_equal(fill(2), VIRTIO_EBB_FAULT_OVERLAP);
	/* a short one inside a long one that does not come right before it */
	ranges[0] = (struct ebb_range){ .gpa = 0, .bytes = 10 * PAGE };
	ranges[1] = (struct ebb_range){ .gpa = 12 * PAGE, .bytes = PAGE };
	ranges[2] = (struct ebb_range){ .gpa = 9 * PAGE, .bytes = PAGE };
	assert_int_equal(fill(3), VIRTIO_EBB_FAULT_OVERLAP);
}

#define MODEL_PAGES 256u

static uint32_t pick(uint64_t *random, uint32_t limit)
{
	*random = *random * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*random >> 33) % limit;
}

/* Random ranges; used[] gets the pages. Returns whether some overlap. */
static bool draw(uint64_t *random, uint32_t nr, uint8_t *used)
{
	bool overlap = false;
	uint32_t i, page;

	memset(used, 0, MODEL_PAGES);
	for (i = 0; i < nr; i++) {
		uint32_t first = pick(random, MODEL_PAGES - 8), bytes = 1 + pick(random, 3);

		ranges[i] = (struct ebb_range){ .gpa = first * PAGE, .bytes = bytes * PAGE };
		for (page = first; page < first + bytes; page++) {
			overlap |= used[page];
			used[page] = 1;
		}
	}
	return overlap;
}

static void like_the_model(void **state)
{
	static struct ebb_span before[VIRTIO_EBB_MAX_RANGES_LIMIT];
	uint8_t used[MODEL_PAGES], used_before[MODEL_PAGES] = { 0 };
	uint32_t nr_before = 0, step, i, page;
	uint64_t random = 3;

	for (step = 0; step < 20000; step++) {
		uint32_t nr = 1 + pick(&random, 24);
		bool overlap = draw(&random, nr, used), overlap_before = false;

		assert_int_equal(fill(nr),
				 overlap ? VIRTIO_EBB_FAULT_OVERLAP : VIRTIO_EBB_FAULT_NONE);
		if (overlap)
			continue;
		for (i = 0; i < nr; i++) {
			assert_int_equal(spans[i].gpa, ranges[spans[i].range].gpa);
			assert_int_equal(spans[i].bytes, ranges[spans[i].range].bytes);
			assert_true(i == 0 || spans[i - 1].gpa < spans[i].gpa);
		}
		for (page = 0; page < MODEL_PAGES; page++) {
			overlap_before |= used[page] && used_before[page];
			assert_int_equal(ebb_spans_touch(spans, nr, page * PAGE, PAGE), used[page]);
		}
		assert_int_equal(ebb_spans_overlap(spans, nr, before, nr_before), overlap_before);
		assert_int_equal(ebb_spans_overlap(before, nr_before, spans, nr), overlap_before);
		memcpy(before, spans, sizeof(before));
		memcpy(used_before, used, sizeof(used));
		nr_before = nr;
	}
}

/* The largest batch in orders that a guest may choose to hurt. */
static void large_batches(void **state)
{
	const uint32_t nr = VIRTIO_EBB_MAX_RANGES_LIMIT;
	uint32_t i;

	for (i = 0; i < nr; i++)
		ranges[i] = (struct ebb_range){ .gpa = (nr - i) * PAGE, .bytes = PAGE };
	assert_int_equal(fill(nr), VIRTIO_EBB_FAULT_NONE);
	for (i = 0; i < nr; i++)
		assert_int_equal(spans[i].range, nr - 1 - i);
	for (i = 0; i < nr; i++)
		ranges[i].gpa = ((uint64_t)i * 389 % nr) * PAGE;
	assert_int_equal(fill(nr), VIRTIO_EBB_FAULT_NONE);
	for (i = 0; i < nr; i++)
		assert_int_equal(spans[i].gpa, i * PAGE);
	assert_true(ebb_spans_touch(spans, nr, 0, UINT64_MAX));
	assert_false(ebb_spans_touch(spans, nr, nr * PAGE, PAGE));
	assert_false(ebb_spans_touch(spans, 0, 0, UINT64_MAX));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_range_is_checked),
		cmocka_unit_test(overlaps_in_a_batch),
		cmocka_unit_test(like_the_model),
		cmocka_unit_test(large_batches),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
