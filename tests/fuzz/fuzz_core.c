// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * fuzz_core - the executor as a state machine, against a naive model
 *
 * The input is a program: regions come and go, batches are offered, the device is reset,
 * modes change. A model of one byte a page says what each submit must answer. The memory
 * is real: what was not offered never changes, what was not marked neither, each page of
 * an offer is as it was or zero (with content never zero but by the kernel's doing), what is
 * hardened stays, and the witness of madvise() sees no call outside of
 * what is isolated. What is offered while the thread is held stays in flight, so that
 * the model knows it.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ebb_core.h"
#include "guest_ram.h"
#include "must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SEED	   11
#define NR_PAGES   6144u  /* of guest-physical addresses: 24 MiB */
#define NR_SEEN	   16384u /* as far as an offer can reach */
#define MAX_RANGES 12u
#define NR_OFFERS  (EBB_MAX_BATCHES + 2)

/* Two neighbours, a hole, a helper's region on larger pages, a refused one. */
static const struct slot {
	uint32_t first_page;
	uint32_t nr_pages;
	uint64_t host_offset;
	uint64_t page_bytes;
	enum ebb_backing backing;
} slots[] = {
	{ 0, 1024, 4 * MIB + 64 * KIB, PAGE, EBB_BACKING_PRIVATE_ANON },
	{ 1024, 1000, 0, PAGE, EBB_BACKING_PRIVATE_ANON },
	{ 2048, 512, 8 * MIB + 64 * KIB, 64 * KIB, EBB_BACKING_HELPER },
	{ 4096, 512, 0, PAGE, EBB_BACKING_REFUSED },
	{ 4608, 700, 11 * MIB, PAGE, EBB_BACKING_PRIVATE_ANON },
};
#define NR_SLOTS (sizeof(slots) / sizeof(slots[0]))

struct offer {
	struct ebb_batch batch;
	struct ebb_range ranges[MAX_RANGES];
	bool flying;
	unsigned int done;
};

static struct fuzz {
	struct ebb_executor *executor;
	struct guest_ram ram;
	bool ram_ready;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool hold; /* the thread waits in batch_done */
	bool held;
	int begin_ret;
	uint64_t release_id;
	uint64_t collect_id;
	/* the model */
	bool present[NR_SLOTS];
	bool in_flight[NR_PAGES];
	unsigned int nr_flying;
	unsigned int paused;
	unsigned int hardened;
	struct offer offers[NR_OFFERS];
	/* the input */
	const uint8_t *data;
	size_t size;
} fuzz = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static uint8_t next(void)
{
	if (!fuzz.size)
		return 0;
	fuzz.size--;
	return *fuzz.data++;
}

static const struct slot *slot_of(uint32_t page)
{
	uint32_t i;

	for (i = 0; i < NR_SLOTS; i++)
		if (fuzz.present[i] && page >= slots[i].first_page &&
		    page < slots[i].first_page + slots[i].nr_pages)
			return &slots[i];
	return NULL;
}

/* Page of the host's memory, or UINT64_MAX where there is none. */
static uint64_t host_page(const struct slot *slot, uint32_t page)
{
	if (slot->backing == EBB_BACKING_REFUSED)
		return UINT64_MAX;
	return slot->host_offset / PAGE + (page - slot->first_page);
}

static void set_isolated(const struct ebb_range *range, bool isolated)
{
	uint32_t page;

	for (page = (uint32_t)(range->gpa / PAGE); page < (range->gpa + range->bytes) / PAGE;
	     page++) {
		const struct slot *slot = slot_of(page);
		uint64_t host = slot ? host_page(slot, page) : UINT64_MAX;

		if (host == UINT64_MAX)
			continue;
		if (isolated)
			guest_ram_isolate(&fuzz.ram, host * PAGE, PAGE);
		else
			guest_ram_use(&fuzz.ram, host * PAGE, PAGE);
	}
}

static int on_begin(void *vmm)
{
	int ret;

	pthread_mutex_lock(&fuzz.lock);
	ret = fuzz.begin_ret;
	pthread_mutex_unlock(&fuzz.lock);
	return ret;
}

static void on_nothing(void *vmm)
{
}

static int on_discard(void *vmm, void *region, uint64_t offset_bytes, uint64_t bytes)
{
	const struct slot *slot = region;

	MUST(bytes % slot->page_bytes == 0);
	MUST(((uintptr_t)fuzz.ram.host + slot->host_offset + offset_bytes) % slot->page_bytes == 0);
	return madvise(fuzz.ram.host + slot->host_offset + offset_bytes, bytes, MADV_DONTNEED)
		       ? -errno
		       : 0;
}

static void on_done(void *vmm, struct ebb_batch *batch)
{
	struct offer *offer = batch->opaque;
	uint32_t i;

	pthread_mutex_lock(&fuzz.lock);
	for (i = 0; i < batch->nr_ranges; i++)
		set_isolated(&batch->ranges[i], false);
	offer->done++;
	while (fuzz.hold) {
		fuzz.held = true;
		pthread_cond_broadcast(&fuzz.changed);
		pthread_cond_wait(&fuzz.changed, &fuzz.lock);
	}
	fuzz.held = false;
	pthread_mutex_unlock(&fuzz.lock);
}

static void on_guide(void *vmm, struct ebb_guidance guidance)
{
}

static int on_release(void *vmm, uint64_t id, uint64_t bytes, uint32_t flags)
{
	pthread_mutex_lock(&fuzz.lock);
	fuzz.release_id = id;
	pthread_mutex_unlock(&fuzz.lock);
	return id % 5 == 0 ? -ENODEV : 0;
}

/* What is asked for is in RAM that is there. */
static int on_collect(void *vmm, uint64_t id, const struct ebb_candidate *ranges,
		      uint32_t nr_ranges)
{
	uint32_t i;

	MUST(nr_ranges && nr_ranges <= VIRTIO_EBB_MAX_COLLECT);
	for (i = 0; i < nr_ranges; i++) {
		MUST(ranges[i].bytes && (ranges[i].gpa | ranges[i].bytes) % PAGE == 0);
		MUST(ranges[i].gpa + ranges[i].bytes <= NR_PAGES * PAGE);
		MUST(ranges[i].bytes % EBB_BLOCK_BYTES == 0);
	}
	pthread_mutex_lock(&fuzz.lock);
	fuzz.collect_id = id;
	pthread_mutex_unlock(&fuzz.lock);
	return id % 5 == 0 ? -ENODEV : 0;
}

static const struct ebb_vmm_ops ops = {
	.discard_begin = on_begin,
	.discard_end = on_nothing,
	.discard = on_discard,
	.batch_done = on_done,
	.guide = on_guide,
	.release = on_release,
	.collect = on_collect,
	.want_stats = on_nothing,
	.purged = on_nothing,
};

/* What the model says to a range, as a set of faults; marks its pages in seen. */
static uint32_t judge_range(const struct ebb_range *range, bool *seen)
{
	uint64_t page, end = (range->gpa + range->bytes) / PAGE;
	uint32_t faults = 0;

	if (range->bytes == 0)
		return 1u << VIRTIO_EBB_FAULT_EMPTY;
	if (range->gpa % PAGE || range->bytes % PAGE)
		return 1u << VIRTIO_EBB_FAULT_ALIGN;
	if (range->gpa + range->bytes < range->gpa)
		return 1u << VIRTIO_EBB_FAULT_WRAP;
	for (page = range->gpa / PAGE; page < end; page++) {
		MUST(page < NR_SEEN);
		if (page >= NR_PAGES || !slot_of((uint32_t)page))
			faults |= 1u << VIRTIO_EBB_FAULT_NOT_RAM;
		else if (fuzz.in_flight[page])
			faults |= 1u << VIRTIO_EBB_FAULT_OVERLAP;
		if (seen[page])
			faults |= 1u << VIRTIO_EBB_FAULT_OVERLAP;
		seen[page] = true;
	}
	return faults;
}

/* Several faults may be there at once; then any of them is right. */
static uint32_t judge(const struct ebb_batch *batch)
{
	bool seen[NR_SEEN] = { false };
	uint32_t i, faults = 0;

	if (batch->nr_ranges == 0)
		return 1u << VIRTIO_EBB_FAULT_COUNT;
	for (i = 0; i < batch->nr_ranges; i++)
		faults |= judge_range(&batch->ranges[i], seen);
	return faults;
}

/* Look at what became of an answered offer, and use its memory again. */
static void reap_range(const struct offer *offer, const struct ebb_range *range)
{
	bool content = offer->batch.offer == EBB_OFFER_CONTENT;
	uint64_t zero = 0, pages = range->bytes / PAGE;
	uint32_t page, first = (uint32_t)(range->gpa / PAGE);

	MUST(range->done_bytes <= range->bytes && range->done_bytes % PAGE == 0);
	MUST(range->reason < VIRTIO_EBB_REASON_MAX);
	MUST((range->reason != VIRTIO_EBB_REASON_NONE) == (range->done_bytes < range->bytes));
	for (page = first; page < first + pages; page++) {
		const struct slot *slot = slot_of(page);
		uint64_t host = slot ? host_page(slot, page) : UINT64_MAX;

		fuzz.in_flight[page] = false;
		/* A region that went has taken its content along. */
		if (host == UINT64_MAX)
			continue;
		MUST(guest_ram_page(&fuzz.ram, host, SEED) != PAGE_OTHER);
		zero += guest_ram_page(&fuzz.ram, host, SEED) == PAGE_ZERO;
		guest_ram_fill(&fuzz.ram, host * PAGE, PAGE, SEED);
	}
	MUST(!content || !fuzz.hardened || range->verdict == VIRTIO_EBB_NOT_MARKED);
	switch (range->verdict) {
	case VIRTIO_EBB_MARKED:
		MUST(range->done_bytes && zero * PAGE <= range->done_bytes);
		break;
	case VIRTIO_EBB_DISCARDED:
		MUST(!content && range->done_bytes && zero * PAGE == range->done_bytes);
		break;
	case VIRTIO_EBB_NOT_MARKED:
		MUST(range->done_bytes == 0 && zero == 0);
		break;
	default:
		abort();
	}
}

/* Everything in flight has been answered. */
static void reap(void)
{
	uint32_t n, i;

	for (n = 0; n < NR_OFFERS; n++) {
		struct offer *offer = &fuzz.offers[n];

		if (!offer->flying)
			continue;
		MUST(offer->done == 1);
		for (i = 0; i < offer->batch.nr_ranges; i++)
			reap_range(offer, &offer->ranges[i]);
		offer->flying = false;
	}
	fuzz.nr_flying = 0;
	MUST(witness_breaches() == 0);
}

static void let_go(void)
{
	pthread_mutex_lock(&fuzz.lock);
	fuzz.hold = false;
	pthread_cond_broadcast(&fuzz.changed);
	pthread_mutex_unlock(&fuzz.lock);
}

static void drain(bool cancel)
{
	let_go();
	ebb_executor_quiesce(fuzz.executor, cancel);
	reap();
}

/* From here on what is offered stays in flight: the first offer holds the thread. */
static void hold(void)
{
	drain(false);
	pthread_mutex_lock(&fuzz.lock);
	fuzz.hold = true;
	pthread_mutex_unlock(&fuzz.lock);
}

/* Of the last release or collection that the guest was asked for. */
static uint64_t command_id(void)
{
	bool collect = next() % 2;
	uint64_t id;

	pthread_mutex_lock(&fuzz.lock);
	id = collect ? fuzz.collect_id : fuzz.release_id;
	pthread_mutex_unlock(&fuzz.lock);
	return id;
}

static void fill_offer(struct offer *offer)
{
	uint32_t i, nr = next() % (MAX_RANGES + 1);

	memset(offer, 0, sizeof(*offer));
	offer->batch = (struct ebb_batch){
		.offer = next() % 3 ? EBB_OFFER_FREE : EBB_OFFER_CONTENT,
		.command_id = next() % 2 ? command_id() : 0,
		.nr_ranges = nr,
		.ranges = offer->ranges,
		.opaque = offer,
	};
	for (i = 0; i < nr; i++) {
		uint8_t how = next();
		uint64_t first = (uint64_t)next() << (how & 1 ? 5 : 4), pages = next();

		if (how & 2)
			pages *= 16;
		offer->ranges[i].gpa = (first + (how & 4 ? next() : 0)) * PAGE;
		offer->ranges[i].bytes = pages * PAGE;
		if (how == 255)
			offer->ranges[i].gpa = -offer->ranges[i].bytes;
		if (how == 254)
			offer->ranges[i].gpa += 512;
	}
}

static void submit(void)
{
	enum virtio_ebb_fault fault = VIRTIO_EBB_FAULT_VALUE;
	struct offer *offer = fuzz.offers;
	uint32_t faults, i, page;
	bool first_held;
	int ret;

	while (offer->flying)
		offer++;
	fill_offer(offer);
	faults = judge(&offer->batch);
	/* The one that holds the thread is answered already: it is in flight no more. */
	pthread_mutex_lock(&fuzz.lock);
	first_held = fuzz.held;
	pthread_mutex_unlock(&fuzz.lock);
	for (i = 0; !faults && i < offer->batch.nr_ranges; i++)
		set_isolated(&offer->ranges[i], true);
	ret = ebb_executor_submit(fuzz.executor, &offer->batch, &fault);
	if (fuzz.paused || fuzz.nr_flying - first_held >= EBB_MAX_BATCHES) {
		MUST(ret == -EBUSY);
	} else if (faults) {
		MUST(ret == -EPROTO && (faults & (1u << fault)));
	} else {
		MUST(ret == 0);
	}
	if (ret) {
		for (i = 0; !faults && i < offer->batch.nr_ranges; i++)
			set_isolated(&offer->ranges[i], false);
		return;
	}
	offer->flying = true;
	fuzz.nr_flying++;
	for (i = 0; i < offer->batch.nr_ranges; i++)
		for (page = (uint32_t)(offer->ranges[i].gpa / PAGE);
		     page < (offer->ranges[i].gpa + offer->ranges[i].bytes) / PAGE; page++)
			fuzz.in_flight[page] = true;
	if (!fuzz.hold) {
		drain(false);
	} else if (!first_held) {
		pthread_mutex_lock(&fuzz.lock);
		while (!fuzz.held)
			pthread_cond_wait(&fuzz.changed, &fuzz.lock);
		pthread_mutex_unlock(&fuzz.lock);
		/* Its memory may be offered again at once. */
		for (i = 0; i < offer->batch.nr_ranges; i++)
			reap_range(offer, &offer->ranges[i]);
		offer->batch.nr_ranges = 0;
	}
}

static void add_slot(uint32_t i)
{
	struct ebb_region_desc desc = {
		.start_gpa = slots[i].first_page * PAGE,
		.size_bytes = slots[i].nr_pages * PAGE,
		.host = fuzz.ram.host + slots[i].host_offset,
		.page_bytes = slots[i].page_bytes,
		.backing = slots[i].backing,
		.why = slots[i].backing == EBB_BACKING_REFUSED ? "refused" : NULL,
		.opaque = (void *)&slots[i],
	};

	MUST(ebb_executor_region_add(fuzz.executor, &desc) == (fuzz.present[i] ? -EEXIST : 0));
	fuzz.present[i] = true;
}

static void remove_slot(uint32_t i)
{
	uint64_t gpa = slots[i].first_page * PAGE;

	let_go();
	MUST(ebb_executor_region_remove(fuzz.executor, gpa) == (fuzz.present[i] ? 0 : -ENOENT));
	/* The rest of what flies may still be under way. */
	drain(false);
	fuzz.present[i] = false;
}

static void harden(bool begin)
{
	drain(false);
	if (begin) {
		MUST(ebb_executor_harden(fuzz.executor) == 0);
		fuzz.hardened++;
	} else if (fuzz.hardened) {
		ebb_executor_unharden(fuzz.executor);
		fuzz.hardened--;
	}
}

/* Its losses are within what was offered as content, and so in RAM. */
static void purge(void)
{
	int ret = ebb_executor_purge(fuzz.executor, next() * PAGE);
	struct ebb_notice notice;

	MUST(ret == 0 || ret == -EINVAL || ret == -EBUSY || ret == -EPERM);
	MUST(ret || !fuzz.hardened);
	while (ebb_executor_take_notice(fuzz.executor, &notice)) {
		MUST(notice.bytes && (notice.gpa | notice.bytes) % PAGE == 0);
		MUST(notice.gpa + notice.bytes <= NR_PAGES * PAGE);
	}
}

static void collect(void)
{
	int ret = ebb_executor_collect(fuzz.executor);

	MUST(ret == 0 || ret == -EBUSY || ret == -EPERM || ret == -ENODEV || ret == -ENOSYS ||
	     ret == -EAGAIN);
	if (next() % 2)
		ebb_executor_release_done(fuzz.executor, command_id(), next() % 5, 1, 0);
	MUST(ebb_executor_set_tables_mode(fuzz.executor, EBB_TABLES_OFF + next() % 3) == 0);
}

/* Refused is exactly what is not RAM; nothing is done to the content in any case. */
static void hint(void)
{
	struct ebb_hint hints[3];
	enum virtio_ebb_fault fault;
	uint32_t i, nr = 1 + next() % 3;
	uint64_t after = 0, page;
	bool is_ram = true;

	for (i = 0; i < nr; i++) {
		hints[i].gpa = after + (uint64_t)next() * 8 * PAGE;
		hints[i].bytes = (1 + (uint64_t)next() * 4) * PAGE;
		hints[i].merge = next() % 3;
		after = hints[i].gpa + hints[i].bytes;
		for (page = hints[i].gpa / PAGE; page < after / PAGE; page++)
			is_ram &= page < NR_PAGES && slot_of((uint32_t)page) != NULL;
	}
	MUST(ebb_executor_hint(fuzz.executor, hints, nr, &fault) == (is_ram ? 0 : -EPROTO));
	MUST(is_ram || fault == VIRTIO_EBB_FAULT_NOT_RAM);
}

static void step(void)
{
	uint8_t what = next();

	switch (what % 22) {
	case 0:
		add_slot(next() % NR_SLOTS);
		break;
	case 1:
		remove_slot(next() % NR_SLOTS);
		break;
	case 2:
		let_go();
		ebb_executor_reset(fuzz.executor);
		reap();
		ebb_executor_set_driver(fuzz.executor, true);
		break;
	case 3:
		let_go();
		ebb_executor_pause(fuzz.executor);
		reap();
		fuzz.paused++;
		break;
	case 4:
		ebb_executor_resume(fuzz.executor);
		if (fuzz.paused)
			fuzz.paused--;
		break;
	case 5:
		drain(next() % 2);
		break;
	case 6:
		MUST(ebb_executor_set_mode(fuzz.executor, EBB_MODE_OFF + next() % 4) == 0);
		break;
	case 7:
		ebb_executor_set_poison(fuzz.executor, next() % 2);
		break;
	case 8:
		ebb_executor_release(fuzz.executor, next() * PAGE, 0);
		break;
	case 9:
		ebb_executor_release_done(fuzz.executor, next() % 8, next() % 5, 1, 0);
		break;
	case 10:
		pthread_mutex_lock(&fuzz.lock);
		fuzz.begin_ret = next() % 4 ? 0 : -EBUSY;
		pthread_mutex_unlock(&fuzz.lock);
		break;
	case 11:
		hold();
		break;
	case 12:
		harden(next() % 2);
		break;
	case 13:
		purge();
		break;
	case 14:
		collect();
		break;
	case 15:
		MUST(ebb_executor_set_merge(fuzz.executor, next() % EBB_MERGE_MAX) == 0);
		break;
	case 16:
		hint();
		break;
	default:
		submit();
		break;
	}
}

static void begin(const uint8_t *data, size_t size)
{
	const struct ebb_executor_config config = {
		.name = "fuzz",
		.front = EBB_FRONT_EBB,
		.mode = EBB_MODE_LAZY,
	};
	uint32_t i;

	if (!fuzz.ram_ready) {
		guest_ram_init(&fuzz.ram, 14 * MIB, 0, false);
		guest_ram_fill(&fuzz.ram, 0, fuzz.ram.bytes, SEED);
		fuzz.ram_ready = true;
	}
	witness_reset();
	fuzz.data = data;
	fuzz.size = size;
	fuzz.hold = fuzz.held = false;
	fuzz.begin_ret = 0;
	fuzz.release_id = 0;
	fuzz.collect_id = 0;
	fuzz.paused = fuzz.hardened = fuzz.nr_flying = 0;
	memset(fuzz.present, 0, sizeof(fuzz.present));
	MUST(ebb_executor_new(&fuzz.executor, &config, &ops, NULL) == 0);
	ebb_executor_set_driver(fuzz.executor, true);
	for (i = 0; i < NR_SLOTS; i++)
		add_slot(i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t n;

	if (size > 2048)
		return 0;
	begin(data, size);
	while (fuzz.size)
		step();
	let_go();
	ebb_executor_free(fuzz.executor);
	for (n = 0; n < NR_OFFERS; n++)
		MUST(!fuzz.offers[n].flying || fuzz.offers[n].done == 1);
	reap();
	MUST(guest_ram_count(&fuzz.ram, 0, fuzz.ram.bytes, SEED, PAGE_KEPT) ==
	     fuzz.ram.bytes / PAGE);
	return 0;
}
