// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_ram_map - regions, holes, neighbours and blocks, by hand and against a naive model
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ram_map.h"

#define PAGE 4096ull
#define MIB  (1ull << 20)

static int add(struct ebb_ram_map *map, uint64_t start_gpa, uint64_t size_bytes, uintptr_t host)
{
	struct ebb_region_desc desc = {
		.start_gpa = start_gpa,
		.size_bytes = size_bytes,
		.host = (void *)host,
		.page_bytes = PAGE,
		.backing = EBB_BACKING_PRIVATE_ANON,
	};
	struct ebb_region *region, **spare;
	uint32_t capacity;
	int ret = ebb_region_new(&region, &desc);

	if (ret)
		return ret;
	spare = ebb_ram_map_grow(map, &capacity);
	ret = ebb_ram_map_insert(map, region, &spare, capacity);
	free(spare);
	if (ret)
		ebb_region_free(region);
	return ret;
}

static void take(struct ebb_ram_map *map, uint64_t gpa)
{
	struct ebb_region *region = ebb_ram_map_find(map, gpa);

	ebb_ram_map_take_out(map, region);
	ebb_region_free(region);
}

static void holes_and_neighbours(void **state)
{
	struct ebb_ram_map map = { 0 };

	assert_null(ebb_ram_map_find(&map, 0));
	assert_int_equal(ebb_ram_map_covers(&map, 0, PAGE), -ENOENT);
	assert_int_equal(add(&map, 4 * MIB, 4 * MIB, 64 * MIB), 0);
	assert_int_equal(add(&map, 0, 2 * MIB, 32 * MIB), 0);
	assert_int_equal(add(&map, 8 * MIB, 2 * MIB, 16 * MIB), 0);

	assert_int_equal(ebb_ram_map_covers(&map, 0, 2 * MIB), 0);
	assert_int_equal(ebb_ram_map_covers(&map, 0, 2 * MIB + PAGE), -ENOENT);
	assert_int_equal(ebb_ram_map_covers(&map, 2 * MIB - PAGE, 2 * MIB + 2 * PAGE), -ENOENT);
	assert_int_equal(ebb_ram_map_covers(&map, 4 * MIB - PAGE, 2 * PAGE), -ENOENT);
	assert_int_equal(ebb_ram_map_covers(&map, 4 * MIB, 6 * MIB), 0);
	assert_int_equal(ebb_ram_map_covers(&map, 8 * MIB - PAGE, 2 * PAGE), 0);
	assert_int_equal(ebb_ram_map_covers(&map, 10 * MIB - PAGE, 2 * PAGE), -ENOENT);
	assert_int_equal(ebb_ram_map_covers(&map, UINT64_MAX - PAGE, PAGE), -ENOENT);
	assert_null(ebb_ram_map_find(&map, 2 * MIB));
	assert_int_equal(ebb_ram_map_find(&map, 4 * MIB)->desc.start_gpa, 4 * MIB);
	assert_int_equal(ebb_ram_map_find(&map, 8 * MIB - 1)->desc.start_gpa, 4 * MIB);
	assert_int_equal(ebb_ram_map_find(&map, 8 * MIB)->desc.start_gpa, 8 * MIB);

	ebb_ram_map_find(&map, 8 * MIB)->removing = true;
	assert_int_equal(ebb_ram_map_covers(&map, 4 * MIB, 6 * MIB), -EBUSY);
	assert_int_equal(ebb_ram_map_covers(&map, 4 * MIB, 4 * MIB), 0);
	ebb_ram_map_deinit(&map);
}

static void overlaps_are_refused(void **state)
{
	struct ebb_ram_map map = { 0 };

	assert_int_equal(add(&map, 4 * MIB, 4 * MIB, 64 * MIB), 0);
	assert_int_equal(add(&map, 4 * MIB, 4 * MIB, 64 * MIB), -EEXIST);
	assert_int_equal(add(&map, 0, 4 * MIB + PAGE, 64 * MIB), -EEXIST);
	assert_int_equal(add(&map, 8 * MIB - PAGE, PAGE, 64 * MIB), -EEXIST);
	assert_int_equal(add(&map, 0, 64 * MIB, 64 * MIB), -EEXIST);
	assert_int_equal(add(&map, 5 * MIB, MIB, 64 * MIB), -EEXIST);
	assert_int_equal(add(&map, 8 * MIB, MIB, 64 * MIB), 0);
	assert_int_equal(map.nr, 2);
	ebb_ram_map_deinit(&map);
}

static void bad_regions_are_refused(void **state)
{
	const struct ebb_region_desc good = {
		.start_gpa = MIB,
		.size_bytes = MIB,
		.host = (void *)(uintptr_t)MIB,
		.page_bytes = PAGE,
		.backing = EBB_BACKING_PRIVATE_ANON,
	};
	struct ebb_region_desc desc;
	struct ebb_region *region;

	assert_int_equal(ebb_region_new(&region, &good), 0);
	ebb_region_free(region);
#define REFUSED(change)                                                    \
	do {                                                               \
		desc = good;                                               \
		change;                                                    \
		assert_int_equal(ebb_region_new(&region, &desc), -EINVAL); \
	} while (0)
	REFUSED(desc.size_bytes = 0);
	REFUSED(desc.size_bytes = MIB + 1);
	REFUSED(desc.start_gpa = 512);
	REFUSED(desc.start_gpa = UINT64_MAX - MIB + 1 + PAGE);
	REFUSED(desc.host = NULL);
	REFUSED(desc.host = (void *)(uintptr_t)(MIB + 512));
	REFUSED(desc.page_bytes = 0);
	REFUSED(desc.page_bytes = 2048);
	REFUSED(desc.page_bytes = 3 * PAGE);
	REFUSED(desc.backing = EBB_BACKING_REFUSED); /* without saying why */
#undef REFUSED
	desc = (struct ebb_region_desc){ .size_bytes = MIB,
					 .backing = EBB_BACKING_REFUSED,
					 .why = "test" };
	assert_int_equal(ebb_region_new(&region, &desc), 0);
	assert_int_equal(region->nr_blocks, 0);
	ebb_region_free(region);
}

/* Blocks are counted from the host's address and lie wholly inside the region. */
static void blocks_lie_inside(void **state)
{
	struct ebb_region_desc desc = {
		.size_bytes = 8 * MIB,
		.host = (void *)(uintptr_t)(64 * MIB + 3 * PAGE),
		.page_bytes = PAGE,
		.backing = EBB_BACKING_PRIVATE_ANON,
	};
	struct ebb_region *region;
	uint64_t first, end;

	assert_int_equal(ebb_region_new(&region, &desc), 0);
	assert_int_equal(region->nr_blocks, 3);
	assert_int_equal(region->block_host, 66 * MIB);
	ebb_region_blocks(region, region->host, 8 * MIB, &first, &end);
	assert_int_equal(first, 0);
	assert_int_equal(end, 3);
	ebb_region_blocks(region, 66 * MIB + PAGE, 4 * MIB - PAGE, &first, &end);
	assert_int_equal(first, 1);
	assert_int_equal(end, 2);
	ebb_region_blocks(region, 66 * MIB, 2 * MIB - PAGE, &first, &end);
	assert_int_equal(first, end);
	ebb_region_blocks(region, 66 * MIB + PAGE, 2 * MIB, &first, &end);
	assert_int_equal(first, end);
	ebb_region_free(region);

	/* Too small for a block, wherever it lies. */
	desc.size_bytes = 2 * MIB;
	assert_int_equal(ebb_region_new(&region, &desc), 0);
	assert_int_equal(region->nr_blocks, 0);
	ebb_region_free(region);
}

/* Rule 11: block states die with the region; a new one may hold KSM pages. */
static void a_new_region_may_hold_ksm_pages(void **state)
{
	struct ebb_ram_map map = { 0 };
	struct ebb_region *region;
	uint64_t i;

	assert_int_equal(add(&map, 0, 8 * MIB, 64 * MIB), 0);
	region = ebb_ram_map_find(&map, 0);
	assert_true(region->look_pending && region->mergeable);
	assert_int_equal(region->nr_ksm_blocks, 4);
	ebb_region_set_ksm(region, false);
	region->mergeable = false;
	memset(region->blocks, EBB_BLOCK_MARKED, 4);
	take(&map, 0);

	assert_int_equal(add(&map, 0, 8 * MIB, 64 * MIB), 0);
	region = ebb_ram_map_find(&map, 0);
	assert_true(region->look_pending && region->mergeable);
	for (i = 0; i < 4; i++)
		assert_int_equal(region->blocks[i], EBB_BLOCK_KSM);
	ebb_ram_map_deinit(&map);
}

#define MODEL_PAGES 512u

/* Which region each page belongs to: its number, or 0. */
static uint32_t model[MODEL_PAGES];

static uint32_t pick(uint64_t *random, uint32_t limit)
{
	*random = *random * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*random >> 33) % limit;
}

static bool model_covers(uint32_t page, uint32_t nr)
{
	uint32_t i;

	for (i = page; i < page + nr; i++)
		if (i >= MODEL_PAGES || !model[i])
			return false;
	return true;
}

static bool model_overlaps(uint32_t page, uint32_t nr)
{
	uint32_t i;

	for (i = page; i < page + nr; i++)
		if (model[i])
			return true;
	return false;
}

static void model_step(struct ebb_ram_map *map, uint64_t *random, uint32_t number)
{
	uint32_t page = pick(random, MODEL_PAGES), nr = 1 + pick(random, 40), i;
	struct ebb_region *region = ebb_ram_map_find(map, page * PAGE);

	assert_int_equal(region != NULL, model[page] != 0);
	if (region && pick(random, 2)) {
		uint32_t first = (uint32_t)(region->desc.start_gpa / PAGE), owner = model[page];

		for (i = 0; i < region->desc.size_bytes / PAGE; i++) {
			assert_int_equal(model[first + i], owner);
			model[first + i] = 0;
		}
		take(map, page * PAGE);
		return;
	}
	if (page + nr > MODEL_PAGES)
		nr = MODEL_PAGES - page;
	assert_int_equal(add(map, page * PAGE, nr * PAGE, 64 * MIB + page * PAGE),
			 model_overlaps(page, nr) ? -EEXIST : 0);
	if (!model_overlaps(page, nr))
		for (i = page; i < page + nr; i++)
			model[i] = number;
}

static void like_the_model(void **state)
{
	struct ebb_ram_map map = { 0 };
	uint64_t random = 20;
	uint32_t step, i;

	for (step = 1; step <= 20000; step++) {
		uint32_t page = pick(&random, MODEL_PAGES), nr = 1 + pick(&random, 60);

		model_step(&map, &random, step);
		assert_int_equal(ebb_ram_map_covers(&map, page * PAGE, nr * PAGE),
				 model_covers(page, nr) ? 0 : -ENOENT);
		for (i = 1; i < map.nr; i++)
			assert_true(map.regions[i - 1]->desc.start_gpa +
					    map.regions[i - 1]->desc.size_bytes <=
				    map.regions[i]->desc.start_gpa);
	}
	ebb_ram_map_deinit(&map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holes_and_neighbours),
		cmocka_unit_test(overlaps_are_refused),
		cmocka_unit_test(bad_regions_are_refused),
		cmocka_unit_test(blocks_lie_inside),
		cmocka_unit_test(a_new_region_may_hold_ksm_pages),
		cmocka_unit_test(like_the_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
