/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * volmodel.h - what /dev/ebb has to answer, page by page
 *
 * Where the background or a host may have done something meanwhile the model says MAYBE, and what
 * is seen settles it.
 */
#ifndef EBB_TEST_VOLMODEL_H
#define EBB_TEST_VOLMODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODEL_PAGES   1100
#define MODEL_OPENERS 3

enum answer { NO, MAYBE, YES };

struct model {
	uint32_t kind;
	bool global; /* the marks are those of opener 0, whoever makes them */
	bool host;   /* somebody may purge at any time what is volatile */
	size_t pages;
	uint64_t stamp[MODEL_PAGES];   /* what each word of the page is; 0: zeros */
	bool may_be_zero[MODEL_PAGES]; /* it is that or the stamp */
	uint8_t purged[MODEL_PAGES];
	uint8_t present[MODEL_PAGES]; /* is there a page at all that could be purged? */
	bool has_say[MODEL_OPENERS];
	uint8_t marked[MODEL_OPENERS][MODEL_PAGES];
	/* Purged, told to another opener, and not yet to this one. */
	uint8_t lost[MODEL_OPENERS][MODEL_PAGES];
};

void model_init(struct model *m, uint32_t kind, bool global, bool host, size_t pages);
void model_join(struct model *m, size_t opener);
void model_leave(struct model *m, size_t opener);
enum answer model_volatile(const struct model *m, size_t page);

void model_mark(struct model *m, size_t opener, size_t first, size_t count);
void model_purge(struct model *m, size_t first, size_t count);
/* May NONVOLATILE say this of the page? Then it is so. */
bool model_unmark(struct model *m, size_t opener, size_t page, bool purged);
/* The same of a touch: SIGBUS, or so many of the page's words as one. */
bool model_touch(struct model *m, size_t opener, size_t page, bool bus, uint64_t seen);
void model_wrote(struct model *m, size_t page, uint64_t stamp);
/* Do the counts of QUERY fit? */
bool model_query(const struct model *m, size_t opener, size_t first, size_t count,
		 uint64_t volatile_pages, uint64_t purged_pages);

#endif /* EBB_TEST_VOLMODEL_H */
