// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ram_map - where the guest's RAM is, and what was done to each block of it
 *
 * Owns:    the regions and their block states.
 * Thread:  the caller's; the executor's lock protects the map.
 * Locks:   none of its own.
 * Never:   touches guest memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ram_map.h"

#define PAGE_MIN_BYTES VIRTIO_EBB_OFFER_ALIGN_BYTES

static bool is_power_of_two(uint64_t value)
{
	return value && !(value & (value - 1));
}

static bool desc_is_valid(const struct ebb_region_desc *desc)
{
	if (desc->size_bytes == 0 || desc->skipped >= EBB_SKIPPED_MAX ||
	    ((desc->start_gpa | desc->size_bytes) & (PAGE_MIN_BYTES - 1)) ||
	    desc->start_gpa + desc->size_bytes < desc->start_gpa)
		return false;
	switch (desc->backing) {
	case EBB_BACKING_REFUSED:
		return desc->why != NULL;
	case EBB_BACKING_PRIVATE_ANON:
	case EBB_BACKING_HELPER:
		return is_power_of_two(desc->page_bytes) && desc->page_bytes >= PAGE_MIN_BYTES &&
		       desc->host && ((uintptr_t)desc->host & (PAGE_MIN_BYTES - 1)) == 0 &&
		       (uintptr_t)desc->host + desc->size_bytes > (uintptr_t)desc->host;
	}
	return false;
}

int ebb_region_new(struct ebb_region **ret, const struct ebb_region_desc *desc)
{
	struct ebb_region *region;
	uintptr_t end;

	if (!desc_is_valid(desc))
		return -EINVAL;
	region = calloc(1, sizeof(*region));
	if (!region)
		return -ENOMEM;
	region->desc = *desc;
	region->host = (uintptr_t)desc->host;
	if (desc->backing == EBB_BACKING_PRIVATE_ANON) {
		region->block_host = (region->host + EBB_BLOCK_BYTES - 1) & ~(EBB_BLOCK_BYTES - 1);
		end = (region->host + desc->size_bytes) & ~(EBB_BLOCK_BYTES - 1);
		if (end > region->block_host)
			region->nr_blocks = (end - region->block_host) / EBB_BLOCK_BYTES;
		region->blocks = calloc(region->nr_blocks + 1, sizeof(*region->blocks));
		region->resident = calloc(region->nr_blocks + 1, sizeof(*region->resident));
		region->content =
			calloc(region->nr_blocks + 1, EBB_BLOCK_WORDS * sizeof(*region->content));
		region->content_age = calloc(region->nr_blocks + 1, sizeof(*region->content_age));
		region->content_tries =
			calloc(region->nr_blocks + 1, sizeof(*region->content_tries));
		region->hints = calloc(region->nr_blocks + 1, sizeof(*region->hints));
		region->unplugged = calloc(region->nr_blocks + 1, sizeof(*region->unplugged));
		if (!region->blocks || !region->hints || !region->unplugged || !region->resident ||
		    !region->content || !region->content_age || !region->content_tries) {
			ebb_region_free(region);
			return -ENOMEM;
		}
		/* What was at this address before is not known (rule 11). */
		region->look_pending = true;
		region->mergeable = true;
		ebb_region_set_ksm(region, true);
	}
	*ret = region;
	return 0;
}

void ebb_region_free(struct ebb_region *region)
{
	if (!region)
		return;
	free(region->blocks);
	free(region->hints);
	free(region->unplugged);
	free(region->resident);
	free(region->content);
	free(region->content_age);
	free(region->content_tries);
	free(region);
}

void ebb_region_blocks(const struct ebb_region *region, uintptr_t host, uint64_t bytes,
		       uint64_t *first, uint64_t *end)
{
	uintptr_t low = (host + EBB_BLOCK_BYTES - 1) & ~(EBB_BLOCK_BYTES - 1);
	uintptr_t high = (host + bytes) & ~(EBB_BLOCK_BYTES - 1);

	*first = *end = 0;
	if (high <= low)
		return;
	*first = (low - region->block_host) / EBB_BLOCK_BYTES;
	*end = (high - region->block_host) / EBB_BLOCK_BYTES;
}

void ebb_region_set_ksm(struct ebb_region *region, bool ksm)
{
	uint64_t i;

	for (i = 0; i < region->nr_blocks; i++) {
		if (ksm)
			region->blocks[i] |= EBB_BLOCK_KSM;
		else
			region->blocks[i] &= (uint8_t)~EBB_BLOCK_KSM;
	}
	region->nr_ksm_blocks = ksm ? region->nr_blocks : 0;
}

void ebb_ram_map_deinit(struct ebb_ram_map *map)
{
	uint32_t i;

	for (i = 0; i < map->nr; i++)
		ebb_region_free(map->regions[i]);
	free(map->regions);
	*map = (struct ebb_ram_map){ 0 };
}

/* Index of the first region that ends after gpa. */
static uint32_t first_after(const struct ebb_ram_map *map, uint64_t gpa)
{
	uint32_t low = 0, high = map->nr;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		const struct ebb_region_desc *desc = &map->regions[mid]->desc;

		if (desc->start_gpa + desc->size_bytes <= gpa)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

struct ebb_region **ebb_ram_map_grow(const struct ebb_ram_map *map, uint32_t *ret_capacity)
{
	*ret_capacity = 0;
	if (map->nr < map->capacity)
		return NULL;
	*ret_capacity = map->capacity ? 2 * map->capacity : 16;
	return calloc(*ret_capacity, sizeof(*map->regions));
}

int ebb_ram_map_insert(struct ebb_ram_map *map, struct ebb_region *region,
		       struct ebb_region ***spare, uint32_t spare_capacity)
{
	uint64_t start = region->desc.start_gpa;
	uint32_t at = first_after(map, start);

	if (at < map->nr && map->regions[at]->desc.start_gpa < start + region->desc.size_bytes)
		return -EEXIST;
	if (*spare) {
		struct ebb_region **old = map->regions;

		if (map->nr)
			memcpy(*spare, old, map->nr * sizeof(*old));
		map->regions = *spare;
		map->capacity = spare_capacity;
		*spare = old;
	}
	if (map->nr == map->capacity)
		return -ENOMEM;
	memmove(&map->regions[at + 1], &map->regions[at], (map->nr - at) * sizeof(*map->regions));
	map->regions[at] = region;
	map->nr++;
	return 0;
}

void ebb_ram_map_take_out(struct ebb_ram_map *map, const struct ebb_region *region)
{
	uint32_t at = first_after(map, region->desc.start_gpa);

	map->nr--;
	memmove(&map->regions[at], &map->regions[at + 1], (map->nr - at) * sizeof(*map->regions));
}

struct ebb_region *ebb_ram_map_find(const struct ebb_ram_map *map, uint64_t gpa)
{
	uint32_t at = first_after(map, gpa);

	if (at < map->nr && ebb_region_contains(map->regions[at], gpa))
		return map->regions[at];
	return NULL;
}

int ebb_ram_map_covers(const struct ebb_ram_map *map, uint64_t gpa, uint64_t bytes)
{
	uint32_t at = first_after(map, gpa);
	bool removing = false;
	uint64_t left_bytes = bytes;

	for (; at < map->nr; at++) {
		const struct ebb_region *region = map->regions[at];
		uint64_t room_bytes;

		if (!ebb_region_contains(region, gpa))
			return -ENOENT;
		removing |= region->removing;
		room_bytes = region->desc.size_bytes - (gpa - region->desc.start_gpa);
		if (room_bytes >= left_bytes)
			return removing ? -EBUSY : 0;
		left_bytes -= room_bytes;
		gpa += room_bytes;
	}
	return -ENOENT;
}
