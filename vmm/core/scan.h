/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * scan.h - what became of marked memory
 */
#ifndef EBB_SCAN_H
#define EBB_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ebb_executor;
struct ebb_flight;
struct ebb_region;

/* Executor thread. */
struct ebb_scan {
	int pagemap_fd;
	size_t page_bytes;
	uint64_t gpa; /* where the next pass goes on */
};

void ebb_scan_init(struct ebb_scan *scan);
void ebb_scan_deinit(struct ebb_scan *scan);

/*
 * Hold the first region with blocks that reaches beyond gpa, or NULL; it stays until it is
 * let go. No lock held.
 */
struct ebb_region *ebb_scan_hold_next(struct ebb_executor *executor, uint64_t gpa);
/* The same, of private anonymous memory, also where there is no whole block. */
struct ebb_region *ebb_scan_hold_anonymous(struct ebb_executor *executor, uint64_t gpa);
void ebb_scan_let_go(struct ebb_executor *executor);
/* What look() says of up to max_blocks blocks with a flag, from *gpa on, summed up; *gpa is where
 * the next walk goes on. Ends early when a batch waits. No lock held. */
typedef uint64_t ebb_look_fn(struct ebb_executor *executor, struct ebb_region *region,
			     uint64_t block);
uint64_t ebb_scan_walk(struct ebb_executor *executor, uint64_t *gpa, uint8_t flag,
		       uint32_t max_blocks, ebb_look_fn *look);

/* Look at some marked blocks. No lock held. */
void ebb_scan_pass(struct ebb_executor *executor);

/* Count what a batch that is being answered has marked. No lock held. */
void ebb_scan_first_look(struct ebb_executor *executor, const struct ebb_flight *flight);

/* We discard [offset, offset + bytes) ourselves: count the blocks there anew. */
void ebb_scan_forget(struct ebb_region *region, uint64_t offset_bytes, uint64_t bytes);

#endif /* EBB_SCAN_H */
