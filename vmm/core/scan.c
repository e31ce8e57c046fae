// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * scan - what became of marked memory?
 *
 * Once a batch was answered, the pages of what it marked are counted; now and then some
 * blocks are counted again. Pages that were there and are neither there nor in swap now
 * were purged by the kernel. It is a lower bound: what is purged and used again between
 * two looks is not seen.
 *
 * Owns:    the residency of blocks.
 * Thread:  the executor thread, when nothing is queued.
 * Locks:   the executor's, to hold a region (executor->scanning).
 * Never:   touches guest memory; changes anything in the kernel.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "executor.h"

/* 256 blocks of 4 KiB pages take some 0.2 ms. */
#define BLOCKS_PER_PASS 256
#define MAX_PAGES	(EBB_BLOCK_BYTES / VIRTIO_EBB_OFFER_ALIGN_BYTES)
#define PAGEMAP_SWAPPED (1ull << 62)

void ebb_scan_init(struct ebb_scan *scan)
{
	*scan = (struct ebb_scan){
		.pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
		.page_bytes = (size_t)sysconf(_SC_PAGESIZE),
	};
}

void ebb_scan_deinit(struct ebb_scan *scan)
{
	if (scan->pagemap_fd >= 0)
		close(scan->pagemap_fd);
}

static uint32_t count_resident(const struct ebb_scan *scan, uintptr_t host)
{
	unsigned char present[MAX_PAGES];
	uint32_t nr = 0;
	size_t i;

	if (mincore((void *)host, EBB_BLOCK_BYTES, present) < 0)
		return EBB_RESIDENT_UNKNOWN;
	for (i = 0; i < EBB_BLOCK_BYTES / scan->page_bytes; i++)
		nr += present[i] & 1;
	return nr;
}

/* Slower than mincore(), so only where pages are missing. */
static uint32_t count_swapped(const struct ebb_scan *scan, uintptr_t host)
{
	uint64_t entries[MAX_PAGES];
	size_t nr_pages = EBB_BLOCK_BYTES / scan->page_bytes, i;
	size_t bytes = nr_pages * sizeof(entries[0]);
	uint32_t nr = 0;

	if (scan->pagemap_fd < 0 ||
	    pread(scan->pagemap_fd, entries, bytes,
		  (off_t)(host / scan->page_bytes * sizeof(entries[0]))) != (ssize_t)bytes)
		return 0;
	for (i = 0; i < nr_pages; i++)
		nr += (entries[i] & PAGEMAP_SWAPPED) != 0;
	return nr;
}

/* Returns purged bytes. */
static uint64_t look_at_block(struct ebb_executor *executor, struct ebb_region *region,
			      uint64_t block)
{
	const struct ebb_scan *scan = &executor->scan;
	uintptr_t host = region->block_host + block * EBB_BLOCK_BYTES;
	uint32_t now = count_resident(scan, host), last = region->resident[block], swapped;

	region->resident[block] = (uint16_t)now;
	if (now == EBB_RESIDENT_UNKNOWN || last == EBB_RESIDENT_UNKNOWN || now >= last)
		return 0;
	swapped = count_swapped(scan, host);
	if (now + swapped >= last)
		return 0;
	return (uint64_t)(last - now - swapped) * scan->page_bytes;
}

/* Does a batch wait? Then what can wait gives way. */
static bool is_queued(struct ebb_executor *executor)
{
	bool queued;

	pthread_mutex_lock(&executor->lock);
	queued = executor->queue_head != NULL;
	pthread_mutex_unlock(&executor->lock);
	return queued;
}

static struct ebb_region *hold_next(struct ebb_executor *executor, uint64_t gpa, bool with_blocks)
{
	struct ebb_region *found = NULL;
	uint32_t i;

	pthread_mutex_lock(&executor->lock);
	for (i = 0; i < executor->map.nr && !found; i++) {
		struct ebb_region *region = executor->map.regions[i];

		if ((with_blocks ? region->nr_blocks != 0
				 : region->desc.backing == EBB_BACKING_PRIVATE_ANON) &&
		    !region->removing && region->desc.start_gpa + region->desc.size_bytes > gpa)
			found = region;
	}
	executor->scanning = found;
	pthread_mutex_unlock(&executor->lock);
	return found;
}

struct ebb_region *ebb_scan_hold_next(struct ebb_executor *executor, uint64_t gpa)
{
	return hold_next(executor, gpa, true);
}

struct ebb_region *ebb_scan_hold_anonymous(struct ebb_executor *executor, uint64_t gpa)
{
	return hold_next(executor, gpa, false);
}

void ebb_scan_let_go(struct ebb_executor *executor)
{
	pthread_mutex_lock(&executor->lock);
	executor->scanning = NULL;
	pthread_cond_broadcast(&executor->idle);
	pthread_mutex_unlock(&executor->lock);
}

uint64_t ebb_scan_walk(struct ebb_executor *executor, uint64_t *gpa, uint8_t flag,
		       uint32_t max_blocks, ebb_look_fn *look)
{
	uint32_t left = max_blocks;
	struct ebb_region *region;
	uint64_t bytes = 0;

	while (left && !is_queued(executor) && (region = ebb_scan_hold_next(executor, *gpa))) {
		uint64_t start_gpa = region->desc.start_gpa, block = 0;
		uint64_t first_gpa = start_gpa + (region->block_host - region->host);

		if (*gpa > first_gpa)
			block = (*gpa - first_gpa + EBB_BLOCK_BYTES - 1) / EBB_BLOCK_BYTES;
		for (; block < region->nr_blocks && left; block++) {
			if (!(region->blocks[block] & flag))
				continue;
			bytes += look(executor, region, block);
			left--;
		}
		*gpa = block < region->nr_blocks ? first_gpa + block * EBB_BLOCK_BYTES
						 : start_gpa + region->desc.size_bytes;
		ebb_scan_let_go(executor);
	}
	/* Around the corner, the next pass begins anew. */
	if (left)
		*gpa = 0;
	return bytes;
}

void ebb_scan_pass(struct ebb_executor *executor)
{
	uint64_t purged_bytes = ebb_scan_walk(executor, &executor->scan.gpa, EBB_BLOCK_MARKED,
					      BLOCKS_PER_PASS, look_at_block);

	pthread_mutex_lock(&executor->lock);
	executor->status.counters.purged_seen_bytes += purged_bytes;
	pthread_mutex_unlock(&executor->lock);
}

void ebb_scan_first_look(struct ebb_executor *executor, const struct ebb_flight *flight)
{
	uint32_t i, left = BLOCKS_PER_PASS;

	for (i = 0; i < flight->nr_spans && left && !is_queued(executor); i++) {
		const struct ebb_span *span = &flight->spans[i];
		struct ebb_region *region = ebb_executor_region_at(executor, span->gpa);
		uint64_t bytes = span->bytes, block, end;

		/* A span that goes on in another region is counted up to there. */
		if (!region->nr_blocks)
			continue;
		if (bytes > region->desc.start_gpa + region->desc.size_bytes - span->gpa)
			bytes = region->desc.start_gpa + region->desc.size_bytes - span->gpa;
		ebb_region_blocks(region, region->host + (span->gpa - region->desc.start_gpa),
				  bytes, &block, &end);
		for (; block < end && left; block++) {
			if (!(region->blocks[block] & EBB_BLOCK_MARKED))
				continue;
			look_at_block(executor, region, block);
			left--;
		}
	}
}

void ebb_scan_forget(struct ebb_region *region, uint64_t offset_bytes, uint64_t bytes)
{
	uintptr_t host = (region->host + offset_bytes) & ~(EBB_BLOCK_BYTES - 1);
	uintptr_t end = region->host + offset_bytes + bytes;

	for (; host < end; host += EBB_BLOCK_BYTES) {
		uint64_t block = (host - region->block_host) / EBB_BLOCK_BYTES;

		if (host >= region->block_host && block < region->nr_blocks)
			region->resident[block] = EBB_RESIDENT_UNKNOWN;
	}
}
