// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_content - memory that is marked with content is whole or gone, and never discarded
 *
 * Rules 2, 3 and 5 on real mappings of this process.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "executor.h"
#include "fake_vmm.h"
#include "notices.h"

#define SEED 7

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static struct fake_vmm vmm;
static struct guest_ram ram;

static void begin(uint32_t mode, size_t bytes, size_t offset, bool huge)
{
	struct fake_scene scene = {
		.ram_bytes = bytes, .host_offset = offset, .huge = huge, .mode = mode
	};

	fake_vmm_begin(&vmm, &ram, &scene);
	guest_ram_fill(&ram, 0, bytes, SEED);
}

static void end(void)
{
	fake_vmm_end(&vmm, &ram);
}

static struct ebb_range offer_content(uint64_t gpa, uint64_t bytes)
{
	static struct offer offer;

	offer_init(&offer, &ram, 0);
	offer.batch.offer = EBB_OFFER_CONTENT;
	offer_add(&offer, gpa, bytes);
	offer_run(&vmm, &offer);
	return offer.ranges[0];
}

static void expect(struct ebb_range range, uint16_t verdict, uint16_t reason, uint64_t done_bytes)
{
	assert_int_equal(range.verdict, verdict);
	assert_int_equal(range.reason, reason);
	assert_int_equal(range.done_bytes, done_bytes);
}

static uint64_t gone(size_t offset, size_t bytes)
{
	assert_int_equal(guest_ram_count(&ram, offset, bytes, SEED, PAGE_OTHER), 0);
	return guest_ram_count(&ram, offset, bytes, SEED, PAGE_ZERO);
}

static struct ebb_counters counters(void)
{
	struct ebb_status status;

	ebb_executor_status(vmm.executor, &status);
	return status.counters;
}

static uint64_t content_block_bytes(void)
{
	struct ebb_status status;

	ebb_executor_status(vmm.executor, &status);
	return status.content_block_bytes;
}

/* The kernel takes what it may take; what it passes over once it takes at another time. */
static void kernel_takes(size_t offset, size_t bytes)
{
	assert_int_equal(madvise(ram.host + offset, bytes, MADV_PAGEOUT), 0);
}

static const uint32_t modes[] = { EBB_MODE_LAZY, EBB_MODE_EAGER, EBB_MODE_AUTO };

static void marked_in_every_mode(void **state)
{
	unsigned int i;

	for (i = 0; i < 3; i++) {
		begin(modes[i], 16 * MIB, 0, false);
		expect(offer_content(4 * MIB, 8 * MIB), VIRTIO_EBB_MARKED, 0, 8 * MIB);
		assert_int_equal(witness_count(MADV_DONTNEED), 0);
		assert_int_equal(gone(0, 16 * MIB), 0);
		assert_int_equal(counters().content_marked_bytes, 8 * MIB);
		assert_int_equal(counters().marked_bytes, 0);
		kernel_takes(0, 16 * MIB);
		assert_true(gone(4 * MIB, 8 * MIB) > 1024);
		assert_int_equal(gone(0, 4 * MIB), 0);
		assert_int_equal(gone(12 * MIB, 4 * MIB), 0);
		end();
	}
}

static void refused_when_off(void **state)
{
	begin(EBB_MODE_OFF, 4 * MIB, 0, false);
	expect(offer_content(0, 4 * MIB), VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_OFF, 0);
	assert_null(witness_get(0));
	end();
}

static void small_ranges_where_no_huge_page_is(void **state)
{
	begin(EBB_MODE_LAZY, 8 * MIB, 0, false);
	expect(offer_content(2 * MIB + PAGE, 3 * PAGE), VIRTIO_EBB_MARKED, 0, 3 * PAGE);
	assert_int_equal(witness_get(0)->offset, 2 * MIB + PAGE);
	assert_int_equal(witness_get(0)->bytes, 3 * PAGE);
	/* A tail, a whole block and a head: the block by a call of its own. */
	witness_reset();
	expect(offer_content(3 * MIB, 4 * MIB), VIRTIO_EBB_MARKED, 0, 4 * MIB);
	assert_int_equal(witness_count(MADV_FREE), 3);
	assert_int_equal(content_block_bytes(), 6 * MIB);
	end();
}

/* 16 MiB in huge pages. Returns how much of it is. */
static uint64_t begin_huge(uint32_t mode)
{
	uint64_t huge_bytes;

	begin(mode, 16 * MIB, 0, true);
	huge_bytes = guest_ram_smaps_bytes(&ram, "AnonHugePages");
	if (huge_bytes < 16 * MIB) {
		end();
		print_message("skipped: the kernel gave no huge pages\n");
		skip();
	}
	return huge_bytes;
}

static void no_huge_page_is_split(void **state)
{
	uint64_t huge_bytes = begin_huge(EBB_MODE_LAZY);

	expect(offer_content(PAGE, PAGE), VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_FRAGMENT, 0);
	expect(offer_content(3 * MIB, 4 * MIB), VIRTIO_EBB_MARKED, VIRTIO_EBB_REASON_FRAGMENT,
	       2 * MIB);
	assert_int_equal(guest_ram_smaps_bytes(&ram, "AnonHugePages"), huge_bytes);
	end();
}

/* While memory is short, for as much as pays; then the rest of the block goes page by page. */
static void a_huge_page_is_split_when_short(void **state)
{
	uint64_t huge_bytes = begin_huge(EBB_MODE_AUTO);

	pthread_mutex_lock(&vmm.executor->lock);
	vmm.executor->policy.stage = EBB_STAGE_SHORT;
	pthread_mutex_unlock(&vmm.executor->lock);
	expect(offer_content(0, 31 * PAGE), VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_FRAGMENT, 0);
	assert_int_equal(guest_ram_smaps_bytes(&ram, "AnonHugePages"), huge_bytes);
	expect(offer_content(PAGE, 32 * PAGE), VIRTIO_EBB_MARKED, 0, 32 * PAGE);
	assert_int_equal(guest_ram_smaps_bytes(&ram, "AnonHugePages"), huge_bytes - 2 * MIB);
	expect(offer_content(64 * PAGE, PAGE), VIRTIO_EBB_MARKED, 0, PAGE);
	kernel_takes(0, 16 * MIB);
	assert_int_equal(gone(0, PAGE), 0);
	assert_true(gone(PAGE, 32 * PAGE) > 16);
	assert_int_equal(gone(33 * PAGE, 31 * PAGE), 0);
	assert_int_equal(gone(65 * PAGE, 16 * MIB - 65 * PAGE), 0);
	/* A whole block as well: one page that is touched does not keep the others. */
	expect(offer_content(4 * MIB, 4 * MIB), VIRTIO_EBB_MARKED, 0, 4 * MIB);
	guest_ram_fill(&ram, 4 * MIB, PAGE, SEED);
	guest_ram_fill(&ram, 7 * MIB, PAGE, SEED);
	kernel_takes(0, 16 * MIB);
	assert_true(gone(4 * MIB, 2 * MIB) > 256);
	assert_true(gone(6 * MIB, 2 * MIB) > 256);
	assert_int_equal(gone(4 * MIB, PAGE) + gone(7 * MIB, PAGE), 0);
	end();
}

/* Blocks that the region has only a part of are left out. */
static void ends_of_a_region(void **state)
{
	begin(EBB_MODE_LAZY, 8 * MIB, 64 * KIB, false);
	expect(offer_content(0, 8 * MIB), VIRTIO_EBB_MARKED, VIRTIO_EBB_REASON_FRAGMENT, 6 * MIB);
	assert_int_equal(witness_count(MADV_FREE), 1);
	expect(offer_content(0, PAGE), VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_FRAGMENT, 0);
	expect(offer_content(8 * MIB - PAGE, PAGE), VIRTIO_EBB_NOT_MARKED,
	       VIRTIO_EBB_REASON_FRAGMENT, 0);
	end();
}

static void hardened_content_stays(void **state)
{
	uint32_t before;

	begin(EBB_MODE_LAZY, 16 * MIB, 0, false);
	offer_content(0, 8 * MIB);
	offer_content(12 * MIB, PAGE);
	before = vmm.guidance.reoffer_generation;
	assert_int_equal(ebb_executor_harden(vmm.executor), 0);
	kernel_takes(0, 16 * MIB);
	assert_int_equal(gone(0, 16 * MIB), 0);
	assert_int_equal(content_block_bytes(), 0);
	expect(offer_content(0, 8 * MIB), VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_INHIBITED, 0);
	/* Free memory is treated as ever. */
	offer_expect(&vmm, &ram, 0, 14 * MIB, 2 * MIB, VIRTIO_EBB_MARKED, 0, 2 * MIB);
	/* Nested: it takes as many calls to end it. */
	assert_int_equal(ebb_executor_harden(vmm.executor), 0);
	ebb_executor_unharden(vmm.executor);
	expect(offer_content(0, 8 * MIB), VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_INHIBITED, 0);
	ebb_executor_unharden(vmm.executor);
	fake_vmm_wait(&vmm, vmm.guidance.reoffer_generation != before);
	expect(offer_content(0, 8 * MIB), VIRTIO_EBB_MARKED, 0, 8 * MIB);
	end();
}

static void holes_are_not_filled(void **state)
{
	uint64_t rss_bytes;

	begin(EBB_MODE_LAZY, 16 * MIB, 0, false);
	offer_content(0, 16 * MIB);
	kernel_takes(0, 8 * MIB);
	rss_bytes = guest_ram_smaps_bytes(&ram, "Rss");
	assert_true(rss_bytes < 10 * MIB);
	assert_int_equal(ebb_executor_harden(vmm.executor), 0);
	assert_int_equal(guest_ram_smaps_bytes(&ram, "Rss"), rss_bytes);
	kernel_takes(0, 16 * MIB);
	assert_int_equal(guest_ram_smaps_bytes(&ram, "Rss"), rss_bytes);
	ebb_executor_unharden(vmm.executor);
	end();
}

static void hardening_says_when_it_failed(void **state)
{
	begin(EBB_MODE_LAZY, 8 * MIB, 0, false);
	offer_content(0, 4 * MIB);
	witness_fail(MADV_POPULATE_WRITE, EFAULT);
	assert_int_equal(ebb_executor_harden(vmm.executor), -EFAULT);
	assert_true(content_block_bytes() > 0);
	witness_fail(MADV_POPULATE_WRITE, 0);
	/* What is left is done by the next one. */
	assert_int_equal(ebb_executor_harden(vmm.executor), 0);
	kernel_takes(0, 8 * MIB);
	assert_int_equal(gone(0, 8 * MIB), 0);
	end();
}

static void a_reset_hardens(void **state)
{
	begin(EBB_MODE_LAZY, 8 * MIB, 0, false);
	offer_content(0, 8 * MIB);
	ebb_executor_reset(vmm.executor);
	kernel_takes(0, 8 * MIB);
	assert_int_equal(gone(0, 8 * MIB), 0);
	expect(offer_content(0, 8 * MIB), VIRTIO_EBB_MARKED, 0, 8 * MIB);
	end();
}

static void losses_are_told(void **state)
{
	struct ebb_notice notice;
	uint64_t told_bytes = 0;

	begin(EBB_MODE_LAZY, 16 * MIB, 0, false);
	offer_content(4 * MIB, 8 * MIB);
	assert_false(ebb_executor_take_notice(vmm.executor, &notice));
	kernel_takes(6 * MIB, 2 * MIB);
	fake_vmm_wait(&vmm, vmm.nr_purged);
	while (ebb_executor_take_notice(vmm.executor, &notice)) {
		assert_true(notice.gpa >= 6 * MIB && notice.gpa + notice.bytes <= 8 * MIB);
		assert_int_equal(gone(notice.gpa, notice.bytes), notice.bytes / PAGE);
		assert_false(notice.complete);
		told_bytes += notice.bytes;
	}
	assert_int_equal(told_bytes, gone(4 * MIB, 8 * MIB) * PAGE);
	assert_int_equal(counters().content_purged_bytes, told_bytes);
	assert_int_equal(counters().purged_seen_bytes, 0);
	end();
}

static void what_is_offered_as_free_is_content_no_more(void **state)
{
	struct ebb_notice notice;

	begin(EBB_MODE_EAGER, 16 * MIB, 0, false);
	offer_content(0, 4 * MIB);
	offer_expect(&vmm, &ram, 0, 0, 3 * MIB, VIRTIO_EBB_DISCARDED, 0, 3 * MIB);
	assert_int_equal(content_block_bytes(), 2 * MIB);
	offer_expect(&vmm, &ram, 0, 3 * MIB, MIB, VIRTIO_EBB_DISCARDED, 0, MIB);
	assert_int_equal(content_block_bytes(), 0);
	assert_false(ebb_executor_take_notice(vmm.executor, &notice));
	assert_int_equal(ebb_executor_set_mode(vmm.executor, EBB_MODE_LAZY), 0);
	offer_content(4 * MIB, 2 * MIB);
	offer_expect(&vmm, &ram, 0, 4 * MIB, 2 * MIB, VIRTIO_EBB_MARKED, 0, 2 * MIB);
	assert_int_equal(content_block_bytes(), 0);
	end();
}

static void wait_purged(unsigned int purges)
{
	struct ebb_status status;

	fake_vmm_wait_status(&vmm, &status, status.counters.purges == purges);
}

static void the_oldest_go_first_and_no_more_than_needed(void **state)
{
	begin(EBB_MODE_LAZY, 32 * MIB, 0, false);
	offer_content(16 * MIB, 8 * MIB);
	assert_int_equal(ebb_executor_purge(vmm.executor, 1), 0);
	wait_purged(1); /* some of the first 8 MiB; what is marked from here on is younger */
	offer_content(0, 8 * MIB);
	assert_int_equal(ebb_executor_purge(vmm.executor, 4 * MIB), 0);
	wait_purged(2);
	assert_int_equal(gone(0, 8 * MIB), 0);
	assert_in_range(gone(16 * MIB, 8 * MIB) * PAGE, 4 * MIB, 8 * MIB);
	assert_int_equal(gone(8 * MIB, 8 * MIB) + gone(24 * MIB, 8 * MIB), 0);
	assert_int_equal(counters().content_purged_bytes, gone(0, 32 * MIB) * PAGE);
	end();
}

static void a_purge_takes_nothing_that_is_in_use(void **state)
{
	begin(EBB_MODE_LAZY, 16 * MIB, 0, false);
	offer_content(0, 16 * MIB);
	guest_ram_fill(&ram, 4 * MIB, 4 * MIB, SEED); /* taken back */
	assert_int_equal(ebb_executor_purge(vmm.executor, 64 * MIB), 0);
	wait_purged(1);
	assert_int_equal(gone(4 * MIB, 4 * MIB), 0);
	assert_true(gone(0, 16 * MIB) > 2048);
	/* Twice it is tried, then it counts as taken back. */
	assert_int_equal(ebb_executor_purge(vmm.executor, 64 * MIB), 0);
	wait_purged(2);
	witness_reset();
	assert_int_equal(ebb_executor_purge(vmm.executor, 64 * MIB), 0);
	wait_purged(3);
	assert_int_equal(witness_count(MADV_PAGEOUT), 0);
	end();
}

static void nothing_is_purged_while_hardened(void **state)
{
	begin(EBB_MODE_LAZY, 8 * MIB, 0, false);
	offer_content(0, 8 * MIB);
	assert_int_equal(ebb_executor_harden(vmm.executor), 0);
	assert_int_equal(ebb_executor_purge(vmm.executor, 8 * MIB), -EPERM);
	ebb_executor_unharden(vmm.executor);
	assert_int_equal(ebb_executor_purge(vmm.executor, 0), -EINVAL);
	assert_int_equal(ebb_executor_purge(vmm.executor, 8 * MIB), 0);
	wait_purged(1);
	assert_int_equal(gone(0, 8 * MIB), 0);
	end();
}

/* A call that failed may have freed a part: the guest must look. */
static void a_failed_mark_is_in_doubt(void **state)
{
	begin(EBB_MODE_LAZY, 8 * MIB, 0, false);
	witness_fail(MADV_FREE, ENOMEM);
	expect(offer_content(0, 4 * MIB), VIRTIO_EBB_MARKED, VIRTIO_EBB_REASON_FAILED, 0);
	assert_int_equal(content_block_bytes(), 4 * MIB);
	end();
}

static void the_notices_are_bounded(void **state)
{
	static struct ebb_notices notices;
	uint64_t gpa, bytes, last_end = 0, covered = 0;
	uint32_t i;

	/* Every second page of many: more than fit, each still told of. */
	for (i = 0; i < 1000; i++)
		ebb_notices_add(&notices, (uint64_t)(i * 7919 % 1000) * 2 * PAGE, PAGE);
	assert_true(notices.nr <= EBB_MAX_NOTICES);
	while (ebb_notices_take(&notices, &gpa, &bytes)) {
		assert_true(bytes && gpa >= last_end && gpa % (2 * PAGE) == 0);
		last_end = gpa + bytes;
		covered += (bytes / PAGE + 1) / 2;
	}
	assert_int_equal(covered, 1000);
	/* Neighbours and what overlaps become one. */
	ebb_notices_add(&notices, 10 * PAGE, PAGE);
	ebb_notices_add(&notices, 12 * PAGE, PAGE);
	ebb_notices_add(&notices, 11 * PAGE, PAGE);
	ebb_notices_add(&notices, 8 * PAGE, 3 * PAGE);
	assert_true(ebb_notices_take(&notices, &gpa, &bytes));
	assert_int_equal(gpa, 8 * PAGE);
	assert_int_equal(bytes, 5 * PAGE);
	assert_false(ebb_notices_take(&notices, &gpa, &bytes));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(marked_in_every_mode),
		cmocka_unit_test(refused_when_off),
		cmocka_unit_test(small_ranges_where_no_huge_page_is),
		cmocka_unit_test(no_huge_page_is_split),
		cmocka_unit_test(a_huge_page_is_split_when_short),
		cmocka_unit_test(ends_of_a_region),
		cmocka_unit_test(hardened_content_stays),
		cmocka_unit_test(holes_are_not_filled),
		cmocka_unit_test(hardening_says_when_it_failed),
		cmocka_unit_test(a_reset_hardens),
		cmocka_unit_test(losses_are_told),
		cmocka_unit_test(what_is_offered_as_free_is_content_no_more),
		cmocka_unit_test(the_oldest_go_first_and_no_more_than_needed),
		cmocka_unit_test(a_purge_takes_nothing_that_is_in_use),
		cmocka_unit_test(nothing_is_purged_while_hardened),
		cmocka_unit_test(a_failed_mark_is_in_doubt),
		cmocka_unit_test(the_notices_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
