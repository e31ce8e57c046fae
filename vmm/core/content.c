// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * content - memory that is marked with content: which it is, what of it went, hardening
 *
 * For each page there is one bit: it was marked with content, and since then it was not
 * found gone, offered as free, discarded or hardened. That is more than is volatile: what
 * the guest has taken back keeps its bit, since nobody tells the host. So hardening covers
 * all that may be volatile, and a purge at worst swaps out what is in use.
 *
 * Owns:    the bits and the age of each block, the notices.
 * Thread:  the executor thread; the notices and harden_* under the lock by any.
 * Locks:   the executor's, never across a system call.
 * Never:   discards anything; populates what is not there.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <syslog.h>
#include <unistd.h>

#include "executor.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* 1024 dense blocks of 4 KiB pages take some 6 ms with PAGEMAP_SCAN, 15 without. */
#define BLOCKS_PER_PASS 1024

static bool kernel_can_harden(void)
{
	size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
	void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool can;

	/* The bits are of pages of this size. */
	if (page == MAP_FAILED || bytes != EBB_PAGE_BYTES)
		return false;
	can = madvise(page, bytes, MADV_POPULATE_WRITE) == 0;
	munmap(page, bytes);
	return can;
}

void ebb_content_init(struct ebb_content *content)
{
	*content = (struct ebb_content){ .can_harden = kernel_can_harden(), .age = 1 };
	ebb_presence_init(&content->presence);
}

void ebb_content_deinit(struct ebb_content *content)
{
	ebb_presence_deinit(&content->presence);
}

static uint64_t *words_of(const struct ebb_region *region, uint64_t block)
{
	return &region->content[block * EBB_BLOCK_WORDS];
}

static bool is_empty(const uint64_t *words)
{
	uint64_t any = 0;
	int i;

	for (i = 0; i < EBB_BLOCK_WORDS; i++)
		any |= words[i];
	return any == 0;
}

/* The pages of block that lie in [host, end), as [*first, *last). */
static void pages_in(const struct ebb_region *region, uint64_t block, uintptr_t host, uintptr_t end,
		     uint64_t *first, uint64_t *last)
{
	uintptr_t low = region->block_host + block * EBB_BLOCK_BYTES;
	uintptr_t high = low + EBB_BLOCK_BYTES;

	*first = host > low ? (host - low) / EBB_PAGE_BYTES : 0;
	*last = (end < high ? end - low : EBB_BLOCK_BYTES) / EBB_PAGE_BYTES;
}

/* Blocks that [host, end) reaches into, as [*first, *last). */
static void blocks_touched(const struct ebb_region *region, uintptr_t host, uintptr_t end,
			   uint64_t *first, uint64_t *last)
{
	uintptr_t limit = region->block_host + region->nr_blocks * EBB_BLOCK_BYTES;

	if (host < region->block_host)
		host = region->block_host;
	if (end > limit)
		end = limit;
	*first = *last = 0;
	if (end <= host)
		return;
	*first = (host - region->block_host) / EBB_BLOCK_BYTES;
	*last = (end - region->block_host + EBB_BLOCK_BYTES - 1) / EBB_BLOCK_BYTES;
}

static void set_flag(struct ebb_region *region, uint64_t block, bool content)
{
	uint8_t *state = &region->blocks[block];

	if (content == ((*state & EBB_BLOCK_CONTENT) != 0))
		return;
	*state ^= EBB_BLOCK_CONTENT;
	/* Read by whoever asks for the status. */
	__atomic_fetch_add(&region->nr_content_blocks, content ? 1 : UINT64_MAX, __ATOMIC_RELAXED);
	if (!content)
		region->content_age[block] = 0;
}

void ebb_content_marked(struct ebb_executor *executor, struct ebb_region *region,
			uint64_t offset_bytes, uint64_t bytes)
{
	uintptr_t host = region->host + offset_bytes;
	uint64_t block, end, page, last;

	executor->content.marked = true;
	blocks_touched(region, host, host + bytes, &block, &end);
	for (; block < end; block++) {
		pages_in(region, block, host, host + bytes, &page, &last);
		for (; page < last; page++)
			words_of(region, block)[page / 64] |= 1ull << (page % 64);
		region->blocks[block] &= (uint8_t) ~(EBB_BLOCK_MARKED | EBB_BLOCK_DISCARDED);
		set_flag(region, block, true);
		region->content_age[block] = executor->content.age;
		region->content_tries[block] = 0;
	}
}

void ebb_content_forget(struct ebb_region *region, uint64_t offset_bytes, uint64_t bytes)
{
	uintptr_t host = region->host + offset_bytes;
	uint64_t block, end, page, last;

	blocks_touched(region, host, host + bytes, &block, &end);
	for (; block < end; block++) {
		if (!(region->blocks[block] & EBB_BLOCK_CONTENT))
			continue;
		pages_in(region, block, host, host + bytes, &page, &last);
		for (; page < last; page++)
			words_of(region, block)[page / 64] &= ~(1ull << (page % 64));
		if (is_empty(words_of(region, block)))
			set_flag(region, block, false);
	}
}

bool ebb_content_next_run(const uint64_t *words, uint64_t *first, uint64_t *end)
{
	uint64_t page = *end;

	while (page < EBB_BLOCK_PAGES && !(words[page / 64] >> (page % 64) & 1))
		page++;
	*first = page;
	while (page < EBB_BLOCK_PAGES && (words[page / 64] >> (page % 64) & 1))
		page++;
	*end = page;
	return *end > *first;
}

/* Tell the guest of lost pages; returns their bytes. */
static uint64_t book_losses(struct ebb_executor *executor, const struct ebb_region *region,
			    uint64_t block, const uint64_t *lost)
{
	uint64_t gpa = region->desc.start_gpa + (region->block_host - region->host) +
		       block * EBB_BLOCK_BYTES;
	uint64_t first = 0, end = 0, bytes = 0;

	pthread_mutex_lock(&executor->lock);
	while (ebb_content_next_run(lost, &first, &end)) {
		ebb_notices_add(&executor->content.notices, gpa + first * EBB_PAGE_BYTES,
				(end - first) * EBB_PAGE_BYTES);
		bytes += (end - first) * EBB_PAGE_BYTES;
	}
	executor->content.notices_new = true;
	executor->status.counters.content_purged_bytes += bytes;
	pthread_mutex_unlock(&executor->lock);
	return bytes;
}

/* Clear the bits of what is gone; pages is what is there. */
static uint64_t find_losses(struct ebb_executor *executor, struct ebb_region *region,
			    uint64_t block, const struct ebb_block_pages *pages)
{
	uint64_t *words = words_of(region, block), lost[EBB_BLOCK_WORDS];
	uint64_t bytes;
	int i;

	if (!ebb_presence_knows_swap(&executor->content.presence))
		return 0;
	for (i = 0; i < EBB_BLOCK_WORDS; i++)
		lost[i] = words[i] & ~pages->present[i] & ~pages->swapped[i];
	if (is_empty(lost))
		return 0;
	for (i = 0; i < EBB_BLOCK_WORDS; i++)
		words[i] &= ~lost[i];
	bytes = book_losses(executor, region, block, lost);
	if (is_empty(words))
		set_flag(region, block, false);
	return bytes;
}

uint64_t ebb_content_look(struct ebb_executor *executor, struct ebb_region *region, uint64_t block)
{
	struct ebb_block_pages pages;

	if (!(region->blocks[block] & EBB_BLOCK_CONTENT) ||
	    ebb_presence_read(&executor->content.presence,
			      region->block_host + block * EBB_BLOCK_BYTES, &pages))
		return 0;
	return find_losses(executor, region, block, &pages);
}

void ebb_content_scan(struct ebb_executor *executor)
{
	ebb_scan_walk(executor, &executor->content.gpa, EBB_BLOCK_CONTENT, BLOCKS_PER_PASS,
		      ebb_content_look);
}

/* A write fault on every page makes it dirty, and with that the kernel's to keep. */
static int populate(uintptr_t host, uint64_t bytes, int advice)
{
	int ret;

	do {
		ret = madvise((void *)host, bytes, advice);
	} while (ret < 0 && (errno == EINTR || errno == EAGAIN));
	return ret < 0 ? -errno : 0;
}

/* Pages [first, end) of a block. What cannot be hardened keeps its bit. */
static int harden_run(struct ebb_region *region, uint64_t block, uint64_t first, uint64_t end)
{
	uintptr_t host = region->block_host + block * EBB_BLOCK_BYTES;
	uint64_t offset_bytes = host - region->host, page;
	int error, ret = 0;

	error = populate(host + first * EBB_PAGE_BYTES, (end - first) * EBB_PAGE_BYTES,
			 MADV_POPULATE_WRITE);
	if (!error) {
		ebb_content_forget(region, offset_bytes + first * EBB_PAGE_BYTES,
				   (end - first) * EBB_PAGE_BYTES);
		return 0;
	}
	for (page = first; page < end; page++) {
		error = populate(host + page * EBB_PAGE_BYTES, EBB_PAGE_BYTES, MADV_POPULATE_WRITE);
		if (!error)
			ebb_content_forget(region, offset_bytes + page * EBB_PAGE_BYTES,
					   EBB_PAGE_BYTES);
		else
			ret = error;
	}
	return ret;
}

static int harden_block(struct ebb_executor *executor, struct ebb_region *region, uint64_t block,
			uint64_t first_page, uint64_t last_page)
{
	uintptr_t host = region->block_host + block * EBB_BLOCK_BYTES;
	uint64_t wanted[EBB_BLOCK_WORDS], first = 0, end = 0;
	struct ebb_block_pages pages;
	int error, ret, i;

	ret = ebb_presence_read(&executor->content.presence, host, &pages);
	if (ret)
		return ret;
	find_losses(executor, region, block, &pages);
	/* A page that the kernel moves just now looks as if it were in swap. */
	for (i = 0; i < EBB_BLOCK_WORDS; i++)
		wanted[i] = words_of(region, block)[i] & (pages.present[i] | pages.swapped[i]);
	while (ebb_content_next_run(wanted, &first, &end)) {
		uint64_t low = first > first_page ? first : first_page;
		uint64_t high = end < last_page ? end : last_page;

		error = low < high ? harden_run(region, block, low, high) : 0;
		if (error)
			ret = error;
	}
	/* The rest is not there. */
	if (!ret)
		ebb_content_forget(region, host + first_page * EBB_PAGE_BYTES - region->host,
				   (last_page - first_page) * EBB_PAGE_BYTES);
	return ret;
}

int ebb_content_harden_range(struct ebb_executor *executor, struct ebb_region *region,
			     uint64_t offset_bytes, uint64_t bytes)
{
	uintptr_t host = region->host + offset_bytes;
	uint64_t block, end, page, last;
	int error, ret = 0;

	blocks_touched(region, host, host + bytes, &block, &end);
	for (; block < end; block++) {
		if (!(region->blocks[block] & EBB_BLOCK_CONTENT))
			continue;
		pages_in(region, block, host, host + bytes, &page, &last);
		error = harden_block(executor, region, block, page, last);
		if (error)
			ret = error;
	}
	return ret;
}

/*
 * What is there of free memory stays, and what is gone gets the kernel's page of zeros: only
 * pages can be write-protected. Its content does not matter, but it must not change unseen.
 */
static int settle_block(struct ebb_executor *executor, struct ebb_region *region, uint64_t block)
{
	uintptr_t host = region->block_host + block * EBB_BLOCK_BYTES;
	uint64_t there[EBB_BLOCK_WORDS], first = 0, end = 0;
	struct ebb_block_pages pages;
	int error, ret, i;

	ret = ebb_presence_read(&executor->content.presence, host, &pages);
	if (ret)
		return ret;
	for (i = 0; i < EBB_BLOCK_WORDS; i++)
		there[i] = pages.present[i] | pages.swapped[i];
	while (ebb_content_next_run(there, &first, &end)) {
		error = harden_run(region, block, first, end);
		if (error)
			ret = error;
	}
	error = populate(host, EBB_BLOCK_BYTES, MADV_POPULATE_READ);
	if (error)
		ret = error;
	if (!ret)
		region->blocks[block] &= (uint8_t) ~(EBB_BLOCK_MARKED | EBB_BLOCK_LAZY);
	return ret;
}

static int settle_region(struct ebb_executor *executor, struct ebb_region *region, bool *had_free)
{
	uint64_t block;
	int error, ret = 0;

	for (block = 0; block < region->nr_blocks; block++) {
		if (!(region->blocks[block] & (EBB_BLOCK_LAZY | EBB_BLOCK_DISCARDED)))
			continue;
		*had_free |= (region->blocks[block] & EBB_BLOCK_LAZY) != 0;
		error = settle_block(executor, region, block);
		if (error)
			ret = error;
	}
	return ret;
}

/* Every region; one that comes meanwhile has nothing that is marked. */
static int harden_all(struct ebb_executor *executor, bool settle, bool *had_marks)
{
	struct ebb_region *region;
	uint64_t gpa = 0;
	int error, ret = 0;

	*had_marks = false;
	while ((region = ebb_scan_hold_next(executor, gpa))) {
		gpa = region->desc.start_gpa + region->desc.size_bytes;
		*had_marks |= region->nr_content_blocks != 0;
		error = ebb_content_harden_range(executor, region, 0, region->desc.size_bytes);
		if (!error && settle)
			error = settle_region(executor, region, had_marks);
		if (error)
			ret = error;
		ebb_scan_let_go(executor);
	}
	return ret;
}

void ebb_content_harden_if_wanted(struct ebb_executor *executor)
{
	struct ebb_content *content = &executor->content;
	bool settle, had_marks = false;
	uint64_t wanted;
	int ret = 0;

	pthread_mutex_lock(&executor->lock);
	wanted = content->harden_wanted;
	if (wanted == content->harden_done) {
		pthread_mutex_unlock(&executor->lock);
		return;
	}
	settle = content->settle_wanted;
	content->settle_wanted = false;
	pthread_mutex_unlock(&executor->lock);

	if (content->marked || settle)
		ret = harden_all(executor, settle, &had_marks);
	if (ret)
		ebb_log(executor, LOG_ERR,
			"cannot end the volatility of guest memory: %s: what is copied of it now "
			"may be torn",
			strerror(-ret));

	pthread_mutex_lock(&executor->lock);
	content->harden_done = wanted;
	content->harden_error = ret;
	content->reoffer |= had_marks;
	pthread_cond_broadcast(&executor->idle);
	pthread_mutex_unlock(&executor->lock);
}

void ebb_content_tell(struct ebb_executor *executor)
{
	bool tell;

	pthread_mutex_lock(&executor->lock);
	tell = executor->content.notices_new;
	executor->content.notices_new = false;
	pthread_mutex_unlock(&executor->lock);
	if (tell && executor->ops->purged)
		executor->ops->purged(executor->vmm);
}
