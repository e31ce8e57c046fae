// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * volmodel - what /dev/ebb has to answer, page by page
 *
 * Owns:    nothing.
 * Thread:  any.
 * Locks:   none.
 * Never:   looks at the driver.
 */
#include <string.h>

#include "ebb.h"
#include "volmodel.h"

static size_t marks_of(const struct model *m, size_t opener)
{
	return m->global ? 0 : opener;
}

enum answer model_volatile(const struct model *m, size_t page)
{
	enum answer least = YES;
	bool anybody = false;

	for (size_t i = 0; i < MODEL_OPENERS; i++) {
		if (!m->has_say[i])
			continue;
		anybody = true;
		if (m->marked[marks_of(m, i)][page] < least)
			least = m->marked[marks_of(m, i)][page];
	}
	return anybody ? least : NO;
}

/* What is volatile now may be purged by somebody else from now on. */
static void age(struct model *m)
{
	for (size_t page = 0; m->host && page < m->pages; page++)
		if (m->purged[page] == NO && model_volatile(m, page) != NO)
			m->purged[page] = MAYBE;
}

void model_init(struct model *m, uint32_t kind, bool global, bool host, size_t pages)
{
	memset(m, 0, sizeof(*m));
	memset(m->present, MAYBE, sizeof(m->present));
	m->kind = kind;
	m->global = global;
	m->host = host;
	m->pages = pages;
	m->has_say[0] = true;
}

void model_join(struct model *m, size_t opener)
{
	m->has_say[opener] = true;
	memset(m->lost[opener], NO, m->pages);
	if (!m->global)
		memset(m->marked[opener], NO, m->pages);
}

void model_leave(struct model *m, size_t opener)
{
	m->has_say[opener] = false;
	age(m);
}

void model_mark(struct model *m, size_t opener, size_t first, size_t count)
{
	memset(m->marked[marks_of(m, opener)] + first, YES, count);
	age(m);
}

void model_purge(struct model *m, size_t first, size_t count)
{
	for (size_t page = first; page < first + count; page++) {
		enum answer is = model_volatile(m, page);

		if (m->present[page] < is)
			is = m->present[page];
		/* A page that somebody is at work on is passed over. */
		if (m->host && is == YES)
			is = MAYBE;
		if (is > m->purged[page])
			m->purged[page] = is;
	}
}

/* A page that was only read is clean: the kernel may drop it, and it reads zeros again. */
static void is_zero_now(struct model *m, size_t page)
{
	m->purged[page] = NO;
	m->stamp[page] = 0;
	m->may_be_zero[page] = false;
	m->present[page] = MAYBE;
}

/* The other openers who have marked it will be told themselves. */
static void lost_to_others(struct model *m, size_t opener, size_t page, enum answer purged)
{
	if (m->global || m->kind == EBB_KIND_CONTENT_FREE)
		return;
	for (size_t i = 0; i < MODEL_OPENERS; i++) {
		enum answer is = m->marked[i][page] < purged ? m->marked[i][page] : purged;

		if (i != opener && m->has_say[i] && is > m->lost[i][page])
			m->lost[i][page] = is;
	}
}

bool model_unmark(struct model *m, size_t opener, size_t page, bool purged)
{
	enum answer lost = m->lost[opener][page], gone = m->purged[page];

	if (purged ? lost == NO && gone == NO : lost == YES || gone == YES)
		return false;
	if (!purged)
		gone = NO;
	else if (lost == NO)
		gone = YES;
	lost_to_others(m, opener, page, gone);
	m->marked[marks_of(m, opener)][page] = NO;
	m->lost[opener][page] = NO;
	m->purged[page] = NO;
	if (gone == YES)
		is_zero_now(m, page);
	if (gone == MAYBE) {
		m->may_be_zero[page] = true;
		m->present[page] = MAYBE;
	}
	return true;
}

bool model_touch(struct model *m, size_t opener, size_t page, bool bus, uint64_t seen)
{
	uint8_t *mark = &m->marked[marks_of(m, opener)][page];
	enum answer purged = m->purged[page], lost = m->lost[opener][page];

	if (m->kind == EBB_KIND_CONTENT_FREE) {
		*mark = NO;
		m->purged[page] = NO;
		if (bus || (purged == YES && seen) || (purged == NO && seen != m->stamp[page]))
			return false;
		if (!seen)
			is_zero_now(m, page);
		return seen == m->stamp[page];
	}
	if (bus) {
		if (lost == NO)
			m->purged[page] = YES;
		else if (purged == NO)
			m->lost[opener][page] = YES;
		return purged != NO || lost != NO;
	}
	/* If it was armed it is non-volatile from now on. */
	if (m->host && *mark == YES)
		*mark = MAYBE;
	m->lost[opener][page] = NO;
	m->purged[page] = NO;
	if (m->may_be_zero[page] && !seen)
		is_zero_now(m, page);
	m->may_be_zero[page] = false;
	age(m);
	return purged != YES && lost != YES && seen == m->stamp[page];
}

void model_wrote(struct model *m, size_t page, uint64_t stamp)
{
	m->stamp[page] = stamp;
	m->may_be_zero[page] = false;
	m->present[page] = YES;
}

bool model_query(const struct model *m, size_t opener, size_t first, size_t count,
		 uint64_t volatile_pages, uint64_t purged_pages)
{
	size_t least[2] = {}, most[2] = {};

	for (size_t page = first; page < first + count; page++) {
		least[0] += model_volatile(m, page) == YES;
		most[0] += model_volatile(m, page) != NO;
		least[1] += m->purged[page] == YES || m->lost[opener][page] == YES;
		most[1] += m->purged[page] != NO || m->lost[opener][page] != NO;
	}
	return volatile_pages >= least[0] && volatile_pages <= most[0] &&
	       purged_pages >= least[1] && purged_pages <= most[1];
}
