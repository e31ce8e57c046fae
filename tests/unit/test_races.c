// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_races - a guest that offers without end while its VMM changes everything
 *
 * The VMM's calls come one at a time, as ebb_core.h wants it, in random order: offers,
 * resets, pauses, removal and return of regions, modes, releases. The witness knows at
 * each moment which pages are isolated, so that a system call before an offer, after
 * its answer or beside it is a breach of rule 1; content says the same once more.
 * EBB_TEST_SECONDS: how long (3).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "fake_vmm.h"

#define NR_REGIONS   4u
#define REGION_BYTES (8 * MIB)
#define NR_OFFERS    (EBB_MAX_BATCHES + 1)

static struct fake_vmm vmm;
static struct guest_ram ram;
static struct offer offers[NR_OFFERS];
static bool flying[NR_OFFERS];
static bool present[NR_REGIONS];
static uint8_t isolated[NR_REGIONS * REGION_BYTES / PAGE]; /* offered and not used again */
static uint64_t submitted, refused_busy;

static uint32_t pick(uint32_t limit)
{
	static uint64_t random = 99;

	random = random * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(random >> 33) % limit;
}

/* The guest takes the pages of an answered offer back and writes them anew. */
static void reap(unsigned int n)
{
	uint32_t i;

	flying[n] = false;
	for (i = 0; i < offers[n].batch.nr_ranges; i++) {
		const struct ebb_range *range = &offers[n].ranges[i];
		uint64_t other;

		assert_in_range(range->verdict, VIRTIO_EBB_MARKED, VIRTIO_EBB_NOT_MARKED);
		assert_true(range->done_bytes <= range->bytes);
		other = guest_ram_count(&ram, range->gpa, range->bytes, 5, PAGE_OTHER);
		assert_int_equal(other, 0);
		if (range->verdict == VIRTIO_EBB_NOT_MARKED)
			assert_int_equal(
				guest_ram_count(&ram, range->gpa, range->bytes, 5, PAGE_ZERO), 0);
		guest_ram_fill(&ram, range->gpa, range->bytes, 5);
		memset(&isolated[range->gpa / PAGE], 0, range->bytes / PAGE);
	}
}

static void reap_done(void)
{
	unsigned int n, done;

	for (n = 0; n < NR_OFFERS; n++) {
		if (!flying[n])
			continue;
		pthread_mutex_lock(&vmm.lock);
		done = offers[n].done;
		pthread_mutex_unlock(&vmm.lock);
		assert_true(done <= 1);
		if (done)
			reap(n);
	}
}

static void try_offer(void)
{
	unsigned int n, i, nr = 1 + pick(6);
	int ret;

	for (n = 0; n < NR_OFFERS && flying[n]; n++)
		;
	if (n == NR_OFFERS)
		return;
	offer_init(&offers[n], &ram, 0);
	for (i = 0; i < nr; i++) {
		uint32_t region = pick(NR_REGIONS);
		uint64_t gpa = region * REGION_BYTES + pick(2000) * PAGE;
		uint64_t bytes = (pick(2) ? 1 + pick(40) : 512 * (1 + pick(3))) * PAGE;

		if (bytes > (region + 1) * REGION_BYTES - gpa)
			bytes = (region + 1) * REGION_BYTES - gpa;
		if (!present[region] || memchr(&isolated[gpa / PAGE], 1, bytes / PAGE))
			continue;
		memset(&isolated[gpa / PAGE], 1, bytes / PAGE);
		offer_add(&offers[n], gpa, bytes);
	}
	if (!offers[n].batch.nr_ranges)
		return;
	if (pick(4) == 0)
		offers[n].batch.command_id = fake_vmm_release_id(&vmm);
	ret = offer_submit(&vmm, &offers[n], NULL);
	if (ret == 0) {
		flying[n] = true;
		submitted++;
		return;
	}
	assert_int_equal(ret, -EBUSY);
	refused_busy++;
	for (i = 0; i < offers[n].batch.nr_ranges; i++)
		memset(&isolated[offers[n].ranges[i].gpa / PAGE], 0,
		       offers[n].ranges[i].bytes / PAGE);
}

/* After this no batch may touch the region; its memory is at once used otherwise. */
static void remove_region(uint32_t region)
{
	unsigned int n, i;

	assert_int_equal(ebb_executor_region_remove(vmm.executor, region * REGION_BYTES), 0);
	present[region] = false;
	for (n = 0; n < NR_OFFERS; n++)
		for (i = 0; flying[n] && i < offers[n].batch.nr_ranges; i++)
			if (offers[n].ranges[i].gpa / REGION_BYTES == region)
				assert_int_equal(offers[n].done, 1);
}

static void all_answered(void)
{
	unsigned int n;

	for (n = 0; n < NR_OFFERS; n++)
		if (flying[n])
			assert_int_equal(offers[n].done, 1);
}

static void change_something(void)
{
	uint32_t region = pick(NR_REGIONS);

	switch (pick(10)) {
	case 0:
		ebb_executor_reset(vmm.executor);
		all_answered();
		ebb_executor_set_driver(vmm.executor, true);
		break;
	case 1:
		ebb_executor_pause(vmm.executor);
		all_answered();
		try_offer();
		ebb_executor_resume(vmm.executor);
		break;
	case 2:
		ebb_executor_quiesce(vmm.executor, pick(2));
		all_answered();
		break;
	case 3:
	case 4:
		if (present[region]) {
			remove_region(region);
		} else {
			assert_int_equal(fake_vmm_add_part(&vmm, &ram, region * REGION_BYTES,
							   region * REGION_BYTES, REGION_BYTES),
					 0);
			present[region] = true;
		}
		break;
	case 5:
		ebb_executor_set_mode(vmm.executor, EBB_MODE_OFF + pick(4));
		break;
	case 6:
		ebb_executor_release(vmm.executor, MIB, 0);
		break;
	case 7:
		ebb_executor_release_done(vmm.executor, fake_vmm_release_id(&vmm), 0, 1, 0);
		break;
	case 8:
		ebb_executor_set_poison(vmm.executor, pick(2));
		break;
	case 9:
		ebb_executor_reoffer(vmm.executor);
		break;
	}
}

static uint64_t seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec;
}

static void everything_at_once(void **state)
{
	const char *limit = getenv("EBB_TEST_SECONDS");
	uint64_t end = seconds() + (limit ? strtoull(limit, NULL, 10) : 3);
	unsigned int i;

	guest_ram_init(&ram, NR_REGIONS * REGION_BYTES, 0, false);
	guest_ram_fill(&ram, 0, ram.bytes, 5);
	fake_vmm_init(&vmm, EBB_MODE_LAZY, EBB_FRONT_EBB, NULL);
	for (i = 0; i < NR_REGIONS; i++) {
		assert_int_equal(fake_vmm_add_part(&vmm, &ram, i * REGION_BYTES, i * REGION_BYTES,
						   REGION_BYTES),
				 0);
		present[i] = true;
	}
	ebb_executor_set_driver(vmm.executor, true);
	do {
		for (i = 0; i < 100; i++) {
			reap_done();
			try_offer();
			if (pick(8) == 0)
				change_something();
		}
		assert_int_equal(witness_breaches(), 0);
	} while (seconds() < end);
	ebb_executor_quiesce(vmm.executor, false);
	reap_done();
	/* Nothing beside the offers has changed: all is whole, as the guest wrote it. */
	assert_int_equal(guest_ram_count(&ram, 0, ram.bytes, 5, PAGE_KEPT), ram.bytes / PAGE);
	assert_true(submitted > 100);
	print_message("%lu batches, %lu refused\n", submitted, refused_busy);
	fake_vmm_deinit(&vmm);
	guest_ram_deinit(&ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
