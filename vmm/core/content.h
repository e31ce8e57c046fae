/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * content.h - memory that is marked with content (rule 3)
 */
#ifndef EBB_CONTENT_H
#define EBB_CONTENT_H

#include "notices.h"
#include "presence.h"

struct ebb_executor;

struct ebb_content {
	/* Constant. */
	struct ebb_presence presence;
	bool can_harden; /* the kernel has MADV_POPULATE_WRITE; else nothing is marked */

	/* Executor's lock. */
	uint32_t harden_depth;	/* nothing is marked while it is not 0 */
	uint64_t harden_wanted; /* passes asked for, */
	uint64_t harden_done;	/* and done */
	int harden_error;	/* of the last pass */
	bool settle_wanted;	/* the next pass settles free memory as well */
	bool reoffer;		/* something was hardened or refused: ask anew afterwards */
	struct ebb_notices notices;
	bool notices_new; /* the VMM was not told yet */

	/* Executor thread. */
	bool marked;  /* something was, at any time */
	uint32_t age; /* of what is marked now: a count that begins at 1 */
	uint64_t gpa; /* where the next pass of the scan goes on */
};

void ebb_content_init(struct ebb_content *content);
void ebb_content_deinit(struct ebb_content *content);

/* [offset, offset + bytes), in whole blocks of the region or parts of them, is marked. */
void ebb_content_marked(struct ebb_executor *executor, struct ebb_region *region,
			uint64_t offset_bytes, uint64_t bytes);

/* It holds no content any more that anybody wants: discarded or offered as free. */
void ebb_content_forget(struct ebb_region *region, uint64_t offset_bytes, uint64_t bytes);

/* End the volatility of what is marked in [offset, offset + bytes). 0 or a negative errno. */
int ebb_content_harden_range(struct ebb_executor *executor, struct ebb_region *region,
			     uint64_t offset_bytes, uint64_t bytes);

/* The next run of bits behind *end, as [*first, *end); false: there is none. */
bool ebb_content_next_run(const uint64_t *words, uint64_t *first, uint64_t *end);

/* Look for pages of a block that were marked and are gone. Returns their bytes. */
uint64_t ebb_content_look(struct ebb_executor *executor, struct ebb_region *region, uint64_t block);

/* Look at some blocks. Executor thread, no lock held. */
void ebb_content_scan(struct ebb_executor *executor);

/* Do what ebb_executor_harden() waits for. Executor thread, no lock held. */
void ebb_content_harden_if_wanted(struct ebb_executor *executor);

/* Tell the VMM of new notices. Executor thread, no lock held. */
void ebb_content_tell(struct ebb_executor *executor);

#endif /* EBB_CONTENT_H */
