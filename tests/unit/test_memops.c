// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_memops - what the executor does to real memory, and what it leaves alone
 *
 * Rules 1, 2, 5 and 6 on real mappings of this process.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fake_vmm.h"

#define SEED 7

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
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

static void expect_kept(size_t offset, size_t bytes)
{
	assert_int_equal(guest_ram_count(&ram, offset, bytes, SEED, PAGE_KEPT), bytes / PAGE);
}

static void expect_zero(size_t offset, size_t bytes)
{
	assert_int_equal(guest_ram_count(&ram, offset, bytes, SEED, PAGE_ZERO), bytes / PAGE);
}

static void lazy_is_volatile(void **state)
{
	begin(EBB_MODE_LAZY, 16 * MIB, 0, false);
	offer_expect(&vmm, &ram, 0, 4 * MIB, 8 * MIB, VIRTIO_EBB_MARKED, 0, 8 * MIB);
	/* The kernel keeps a few pages of each CPU in a batch that smaps does not count. */
	assert_in_range(guest_ram_smaps_bytes(&ram, "LazyFree"), 7 * MIB, 8 * MIB);
	assert_int_equal(guest_ram_smaps_bytes(&ram, "Rss"), 16 * MIB);
	assert_int_equal(madvise(ram.host + 4 * MIB, 8 * MIB, MADV_PAGEOUT), 0);
	assert_true(guest_ram_smaps_bytes(&ram, "Rss") < 9 * MIB);
	/* Each page is old content or zeros, never a mixture; neighbours are whole. */
	assert_int_equal(guest_ram_count(&ram, 4 * MIB, 8 * MIB, SEED, PAGE_OTHER), 0);
	assert_true(guest_ram_count(&ram, 4 * MIB, 8 * MIB, SEED, PAGE_ZERO) > 1024);
	expect_kept(0, 4 * MIB);
	expect_kept(12 * MIB, 4 * MIB);
	end();
}

static void lazy_keeps_content_without_pressure(void **state)
{
	begin(EBB_MODE_LAZY, 8 * MIB, 0, false);
	offer_expect(&vmm, &ram, 0, 0, 8 * MIB, VIRTIO_EBB_MARKED, 0, 8 * MIB);
	expect_kept(0, 8 * MIB);
	assert_int_equal(witness_count(MADV_FREE), 1);
	assert_int_equal(witness_count(MADV_DONTNEED), 0);
	end();
}

static void lazy_marks_whole_blocks_only(void **state)
{
	begin(EBB_MODE_LAZY, 16 * MIB, 0, false);
	offer_expect(&vmm, &ram, 0, 3 * MIB, 4 * MIB, VIRTIO_EBB_MARKED, VIRTIO_EBB_REASON_FRAGMENT,
		     2 * MIB);
	assert_int_equal(witness_get(0)->offset, 4 * MIB);
	assert_int_equal(witness_get(0)->bytes, 2 * MIB);
	offer_expect(&vmm, &ram, 0, 8 * MIB + PAGE, 2 * MIB, VIRTIO_EBB_NOT_MARKED,
		     VIRTIO_EBB_REASON_FRAGMENT, 0);
	offer_expect(&vmm, &ram, 0, 8 * MIB, 2 * MIB - PAGE, VIRTIO_EBB_NOT_MARKED,
		     VIRTIO_EBB_REASON_FRAGMENT, 0);
	assert_null(witness_get(1));
	end();
}

static void neighbours_are_joined(void **state)
{
	static struct offer offer;
	unsigned int i;

	begin(EBB_MODE_LAZY, 16 * MIB, 0, false);
	offer_init(&offer, &ram, 0);
	/* Quarters of blocks from the end to the start, without the last one: [2, 9.5) MiB. */
	for (i = 15; i-- > 0;)
		offer_add(&offer, 2 * MIB + i * 512 * KIB, 512 * KIB);
	offer_run(&vmm, &offer);
	assert_int_equal(witness_get(0)->offset, 2 * MIB);
	assert_int_equal(witness_get(0)->bytes, 6 * MIB);
	assert_null(witness_get(1));
	for (i = 0; i < 3; i++) {
		assert_int_equal(offer.ranges[i].verdict, VIRTIO_EBB_NOT_MARKED);
		assert_int_equal(offer.ranges[i].reason, VIRTIO_EBB_REASON_FRAGMENT);
		assert_int_equal(offer.ranges[i].done_bytes, 0);
	}
	for (; i < 15; i++) {
		assert_int_equal(offer.ranges[i].verdict, VIRTIO_EBB_MARKED);
		assert_int_equal(offer.ranges[i].reason, VIRTIO_EBB_REASON_NONE);
		assert_int_equal(offer.ranges[i].done_bytes, 512 * KIB);
	}
	end();
}

static void what_lies_between_is_left_alone(void **state)
{
	static struct offer offer;

	begin(EBB_MODE_EAGER, 16 * MIB, 0, false);
	offer_init(&offer, &ram, 0);
	offer_add(&offer, 2 * MIB + PAGE, 2 * MIB);
	offer_add(&offer, 0, 2 * MIB);
	offer_add(&offer, 8 * MIB, PAGE);
	offer_run(&vmm, &offer);
	expect_zero(0, 2 * MIB);
	expect_kept(2 * MIB, PAGE);
	expect_zero(2 * MIB + PAGE, 2 * MIB);
	expect_kept(4 * MIB + PAGE, 4 * MIB - PAGE);
	expect_zero(8 * MIB, PAGE);
	expect_kept(8 * MIB + PAGE, 8 * MIB - PAGE);
	assert_int_equal(witness_count(MADV_DONTNEED), 3);
	end();
}

static void eager_discards_fragments(void **state)
{
	begin(EBB_MODE_EAGER, 16 * MIB, 0, false);
	offer_expect(&vmm, &ram, 0, 3 * MIB, 4 * MIB + PAGE, VIRTIO_EBB_DISCARDED, 0,
		     4 * MIB + PAGE);
	offer_expect(&vmm, &ram, 0, 12 * MIB, PAGE, VIRTIO_EBB_DISCARDED, 0, PAGE);
	expect_zero(3 * MIB, 4 * MIB + PAGE);
	expect_zero(12 * MIB, PAGE);
	expect_kept(0, 3 * MIB);
	expect_kept(7 * MIB + PAGE, 5 * MIB - PAGE);
	expect_kept(12 * MIB + PAGE, 4 * MIB - PAGE);
	assert_int_equal(witness_count(MADV_FREE), 0);
	end();
}

/* Rule 5 as to huge pages: a mark never covers a part of one. */
static void huge_pages_stay_whole(void **state)
{
	uint64_t huge_bytes;

	begin(EBB_MODE_LAZY, 32 * MIB, 0, true);
	huge_bytes = guest_ram_smaps_bytes(&ram, "AnonHugePages");
	if (huge_bytes < 32 * MIB) {
		end();
		print_message("skipped: the kernel gave no huge pages\n");
		skip();
	}
	offer_expect(&vmm, &ram, 0, MIB, 9 * MIB, VIRTIO_EBB_MARKED, VIRTIO_EBB_REASON_FRAGMENT,
		     8 * MIB);
	offer_expect(&vmm, &ram, 0, 16 * MIB + PAGE, 4 * MIB, VIRTIO_EBB_MARKED,
		     VIRTIO_EBB_REASON_FRAGMENT, 2 * MIB);
	offer_expect(&vmm, &ram, 0, 22 * MIB + PAGE, 2 * MIB, VIRTIO_EBB_NOT_MARKED,
		     VIRTIO_EBB_REASON_FRAGMENT, 0);
	assert_int_equal(guest_ram_smaps_bytes(&ram, "AnonHugePages"), huge_bytes);
	end();
}

/* Blocks are those of the host's addresses, whatever the guest's are. */
static void blocks_are_of_the_host(void **state)
{
	begin(EBB_MODE_LAZY, 16 * MIB, 64 * KIB, false);
	offer_expect(&vmm, &ram, 0, 4 * MIB, 4 * MIB, VIRTIO_EBB_MARKED, VIRTIO_EBB_REASON_FRAGMENT,
		     2 * MIB);
	assert_int_equal(((uintptr_t)ram.host + witness_get(0)->offset) % (2 * MIB), 0);
	assert_int_equal(witness_get(0)->offset, 6 * MIB - 64 * KIB);
	assert_int_equal(witness_get(0)->bytes, 2 * MIB);
	/* At both ends of the region a block reaches beyond it. */
	offer_expect(&vmm, &ram, 0, 0, MIB, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_FRAGMENT, 0);
	offer_expect(&vmm, &ram, 0, 15 * MIB, MIB, VIRTIO_EBB_NOT_MARKED,
		     VIRTIO_EBB_REASON_FRAGMENT, 0);
	assert_null(witness_get(1));
	end();
}

static void a_batch_may_span_regions(void **state)
{
	guest_ram_init(&ram, 16 * MIB, 0, false);
	guest_ram_fill(&ram, 0, 16 * MIB, SEED);
	fake_vmm_init(&vmm, EBB_MODE_EAGER, EBB_FRONT_EBB, NULL);
	/* Adjacent for the guest, the other way around on the host. */
	assert_int_equal(fake_vmm_add_part(&vmm, &ram, 0, 8 * MIB, 8 * MIB), 0);
	assert_int_equal(fake_vmm_add_part(&vmm, &ram, 8 * MIB, 0, 8 * MIB), 0);
	/* Of the guest's [6, 10) MiB: host [14, 16) and [0, 2). */
	guest_ram_isolate(&ram, 14 * MIB, 2 * MIB);
	guest_ram_isolate(&ram, 0, 2 * MIB);
	offer_expect(&vmm, NULL, 0, 6 * MIB, 4 * MIB, VIRTIO_EBB_DISCARDED, 0, 4 * MIB);
	expect_zero(14 * MIB, 2 * MIB);
	expect_zero(0, 2 * MIB);
	expect_kept(2 * MIB, 12 * MIB);
	end();
}

static void a_block_across_regions_is_a_fragment(void **state)
{
	guest_ram_init(&ram, 4 * MIB, 0, false);
	fake_vmm_init(&vmm, EBB_MODE_LAZY, EBB_FRONT_EBB, NULL);
	assert_int_equal(fake_vmm_add_part(&vmm, &ram, 0, 0, MIB), 0);
	assert_int_equal(fake_vmm_add_part(&vmm, &ram, MIB, MIB, 3 * MIB), 0);
	offer_expect(&vmm, &ram, 0, 0, 4 * MIB, VIRTIO_EBB_MARKED, VIRTIO_EBB_REASON_FRAGMENT,
		     2 * MIB);
	assert_int_equal(witness_get(0)->offset, 2 * MIB);
	assert_null(witness_get(1));
	end();
}

static bool make_mergeable(bool mergeable)
{
	return madvise(ram.host, ram.bytes, mergeable ? MADV_MERGEABLE : MADV_UNMERGEABLE) == 0;
}

/* Rule 2 */
static void mergeable_memory_is_never_marked(void **state)
{
	struct ebb_status status;

	guest_ram_init(&ram, 16 * MIB, 0, false);
	guest_ram_fill(&ram, 0, 16 * MIB, SEED);
	if (!make_mergeable(true)) {
		guest_ram_deinit(&ram);
		print_message("skipped: the kernel has no KSM\n");
		skip();
	}
	fake_vmm_init(&vmm, EBB_MODE_LAZY, EBB_FRONT_EBB, NULL);
	fake_vmm_add_ram(&vmm, &ram, 0);
	offer_expect(&vmm, &ram, 0, 3 * MIB, 5 * MIB, VIRTIO_EBB_DISCARDED,
		     VIRTIO_EBB_REASON_FRAGMENT, 4 * MIB);
	assert_int_equal(witness_count(MADV_FREE), 0);
	ebb_executor_status(vmm.executor, &status);
	assert_true(status.mergeable);
	expect_zero(4 * MIB, 4 * MIB);
	expect_kept(0, 4 * MIB);
	end();
}

/* Rule 2: a block that was mergeable once must be discarded before it may be marked. */
static void what_was_mergeable_is_discarded_first(void **state)
{
	struct ebb_status status;

	guest_ram_init(&ram, 8 * MIB, 0, false);
	if (!make_mergeable(true)) {
		guest_ram_deinit(&ram);
		print_message("skipped: the kernel has no KSM\n");
		skip();
	}
	fake_vmm_init(&vmm, EBB_MODE_LAZY, EBB_FRONT_EBB, NULL);
	fake_vmm_add_ram(&vmm, &ram, 0);
	/* While it is mergeable a discard cleans nothing for good. */
	offer_expect(&vmm, &ram, 0, 0, 4 * MIB, VIRTIO_EBB_DISCARDED, 0, 4 * MIB);
	assert_true(make_mergeable(false));
	offer_expect(&vmm, &ram, 0, 0, 2 * MIB, VIRTIO_EBB_DISCARDED, 0, 2 * MIB);
	ebb_executor_status(vmm.executor, &status);
	if (witness_count(MADV_FREE) == 0 && status.mergeable) {
		/* Kernels that do not say that no area is mergeable: it stays for good. */
		offer_expect(&vmm, &ram, 0, 2 * MIB, 2 * MIB, VIRTIO_EBB_DISCARDED, 0, 2 * MIB);
	}
	end();
}

/* Rule 2: a new region at an old address starts as "may hold KSM pages" (rule 11 too). */
static void mergeable_regions_among_others(void **state)
{
	static struct guest_ram other;

	guest_ram_init(&ram, 8 * MIB, 0, false);
	guest_ram_init(&other, 8 * MIB, 0, false);
	if (!make_mergeable(true)) {
		guest_ram_deinit(&ram);
		guest_ram_deinit(&other);
		print_message("skipped: the kernel has no KSM\n");
		skip();
	}
	fake_vmm_init(&vmm, EBB_MODE_LAZY, EBB_FRONT_EBB, NULL);
	fake_vmm_add_ram(&vmm, &ram, 0);
	fake_vmm_add_ram(&vmm, &other, 8 * MIB);
	offer_expect(&vmm, &other, 8 * MIB, 8 * MIB, 4 * MIB, VIRTIO_EBB_MARKED, 0, 4 * MIB);
	offer_expect(&vmm, &ram, 0, 0, 4 * MIB, VIRTIO_EBB_DISCARDED, 0, 4 * MIB);
	/* The plain region goes and the mergeable one comes to its address. */
	assert_int_equal(ebb_executor_region_remove(vmm.executor, 0), 0);
	assert_int_equal(ebb_executor_region_remove(vmm.executor, 8 * MIB), 0);
	fake_vmm_add_ram(&vmm, &ram, 8 * MIB);
	offer_expect(&vmm, &ram, 8 * MIB, 8 * MIB, 4 * MIB, VIRTIO_EBB_DISCARDED, 0, 4 * MIB);
	assert_int_equal(witness_count(MADV_FREE), 1);
	end();
	guest_ram_deinit(&other);
}

/* Rule 6: locked memory is refused, and said so. (Sanitizers make mlock() do nothing.) */
static void locked_memory_is_refused(void **state)
{
	struct ebb_status status;

	guest_ram_init(&ram, 4 * MIB, 0, false);
	guest_ram_fill(&ram, 0, 4 * MIB, SEED);
	if (syscall(SYS_mlock, ram.host, ram.bytes) < 0) {
		guest_ram_deinit(&ram);
		print_message("skipped: mlock: %s\n", strerror(errno));
		skip();
	}
	fake_vmm_init(&vmm, EBB_MODE_EAGER, EBB_FRONT_EBB, NULL);
	fake_vmm_add_ram(&vmm, &ram, 0);
	offer_expect(&vmm, &ram, 0, 0, 4 * MIB, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_BACKING,
		     0);
	expect_kept(0, 4 * MIB);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.refused_ram_bytes, 4 * MIB);
	assert_non_null(status.refused_why);
	assert_int_equal(status.counters.not_marked_bytes[VIRTIO_EBB_REASON_BACKING], 4 * MIB);
	assert_int_equal(vmm.nr_log, 1);
	/* It is not tried again and again, and not said again. */
	witness_reset();
	ebb_executor_set_mode(vmm.executor, EBB_MODE_LAZY);
	offer_expect(&vmm, &ram, 0, 0, 2 * MIB, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_BACKING,
		     0);
	assert_null(witness_get(0));
	assert_int_equal(vmm.nr_log, 1);
	end();
}

static void failed_calls_are_told(void **state)
{
	struct ebb_status status;
	unsigned int i;

	begin(EBB_MODE_LAZY, 8 * MIB, 0, false);
	witness_fail(MADV_FREE, ENOMEM);
	for (i = 0; i < 3; i++)
		offer_expect(&vmm, &ram, 0, 0, 4 * MIB, VIRTIO_EBB_NOT_MARKED,
			     VIRTIO_EBB_REASON_FAILED, 0);
	assert_int_equal(vmm.nr_log, 1);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.not_marked_bytes[VIRTIO_EBB_REASON_FAILED], 12 * MIB);
	assert_int_equal(status.counters.marked_bytes, 0);
	witness_fail(MADV_FREE, 0);
	offer_expect(&vmm, &ram, 0, 0, 4 * MIB, VIRTIO_EBB_MARKED, 0, 4 * MIB);
	end();
}

/* Rules 5 and 6: a helper's backing is discarded by whole pages of its own, never marked. */
static void helper_gets_whole_pages(void **state)
{
	struct ebb_region_desc desc = {
		.size_bytes = 16 * MIB,
		.page_bytes = 2 * MIB,
		.backing = EBB_BACKING_HELPER,
		.opaque = &desc,
	};

	guest_ram_init(&ram, 16 * MIB, 0, false);
	fake_vmm_init(&vmm, EBB_MODE_LAZY, EBB_FRONT_EBB, NULL);
	desc.host = ram.host;
	assert_int_equal(ebb_executor_region_add(vmm.executor, &desc), 0);
	offer_expect(&vmm, &ram, 0, 3 * MIB, 6 * MIB, VIRTIO_EBB_DISCARDED,
		     VIRTIO_EBB_REASON_FRAGMENT, 4 * MIB);
	assert_int_equal(vmm.nr_discard, 1);
	assert_ptr_equal(vmm.discards[0].region, &desc);
	assert_int_equal(vmm.discards[0].offset, 4 * MIB);
	assert_int_equal(vmm.discards[0].bytes, 4 * MIB);
	offer_expect(&vmm, &ram, 0, 12 * MIB + PAGE, 2 * MIB, VIRTIO_EBB_NOT_MARKED,
		     VIRTIO_EBB_REASON_FRAGMENT, 0);
	assert_int_equal(vmm.nr_discard, 1);
	vmm.discard_ret = -EIO;
	offer_expect(&vmm, &ram, 0, 0, 2 * MIB, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_FAILED, 0);
	assert_null(witness_get(0));
	end();
}

static void helper_pages_may_be_larger_than_blocks(void **state)
{
	struct ebb_region_desc desc = {
		.size_bytes = 16 * MIB,
		.page_bytes = 8 * MIB,
		.backing = EBB_BACKING_HELPER,
	};

	guest_ram_init(&ram, 16 * MIB, 0, false);
	fake_vmm_init(&vmm, EBB_MODE_EAGER, EBB_FRONT_EBB, NULL);
	/* The kernel aligns such a mapping to its pages. */
	desc.host = (void *)(((uintptr_t)ram.host + 8 * MIB - 1) & ~(8 * MIB - 1));
	desc.start_gpa = 4 * MIB;
	assert_int_equal(ebb_executor_region_add(vmm.executor, &desc), 0);
	offer_expect(&vmm, NULL, 0, 4 * MIB, 8 * MIB - PAGE, VIRTIO_EBB_NOT_MARKED,
		     VIRTIO_EBB_REASON_FRAGMENT, 0);
	offer_expect(&vmm, NULL, 0, 4 * MIB, 12 * MIB, VIRTIO_EBB_DISCARDED,
		     VIRTIO_EBB_REASON_FRAGMENT, 8 * MIB);
	assert_int_equal(vmm.discards[0].offset, 0);
	assert_int_equal(vmm.discards[0].bytes, 8 * MIB);
	end();
}

static void large_calls_are_made_in_pieces(void **state)
{
	struct ebb_region_desc desc = {
		.start_gpa = 4096 * MIB,
		.size_bytes = 1024 * MIB,
		.host = (void *)(uintptr_t)(1ull << 40),
		.page_bytes = 1024 * MIB,
		.backing = EBB_BACKING_HELPER,
	};
	unsigned int i;

	guest_ram_init(&ram, 900 * MIB, 0, false);
	fake_vmm_init(&vmm, EBB_MODE_LAZY, EBB_FRONT_EBB, NULL);
	fake_vmm_add_ram(&vmm, &ram, 0);
	offer_expect(&vmm, &ram, 0, 0, 900 * MIB, VIRTIO_EBB_MARKED, 0, 900 * MIB);
	for (i = 0; i < 4; i++)
		assert_int_equal(witness_get(i)->offset, i * 256 * MIB);
	assert_int_equal(witness_get(3)->bytes, 132 * MIB);
	assert_null(witness_get(4));
	/* but never in parts of a page */
	assert_int_equal(ebb_executor_region_add(vmm.executor, &desc), 0);
	offer_expect(&vmm, NULL, 0, 4096 * MIB, 1024 * MIB, VIRTIO_EBB_DISCARDED, 0, 1024 * MIB);
	assert_int_equal(vmm.nr_discard, 1);
	end();
}

static void refused_regions_are_ram(void **state)
{
	struct ebb_region_desc desc = {
		.start_gpa = 16 * MIB,
		.size_bytes = 4 * MIB,
		.backing = EBB_BACKING_REFUSED,
		.why = "a file",
	};
	struct ebb_status status;

	begin(EBB_MODE_EAGER, 16 * MIB, 0, false);
	assert_int_equal(ebb_executor_region_add(vmm.executor, &desc), 0);
	guest_ram_isolate(&ram, 14 * MIB, 2 * MIB);
	offer_expect(&vmm, NULL, 0, 14 * MIB, 4 * MIB, VIRTIO_EBB_DISCARDED,
		     VIRTIO_EBB_REASON_BACKING, 2 * MIB);
	offer_expect(&vmm, NULL, 0, 16 * MIB, 4 * MIB, VIRTIO_EBB_NOT_MARKED,
		     VIRTIO_EBB_REASON_BACKING, 0);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.ram_bytes, 20 * MIB);
	assert_int_equal(status.refused_ram_bytes, 4 * MIB);
	assert_string_equal(status.refused_why, "a file");
	end();
}

static void nothing_is_done_while_inhibited(void **state)
{
	struct ebb_status status;

	begin(EBB_MODE_EAGER, 4 * MIB, 0, false);
	vmm.begin_ret = -EBUSY;
	offer_expect(&vmm, &ram, 0, 0, 4 * MIB, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_INHIBITED,
		     0);
	assert_null(witness_get(0));
	ebb_executor_status(vmm.executor, &status);
	assert_true(status.inhibited);
	assert_int_equal(status.guidance.reoffer_generation, 0);
	pthread_mutex_lock(&vmm.lock);
	vmm.begin_ret = 0;
	pthread_mutex_unlock(&vmm.lock);
	/* The executor asks again by itself, and what was turned away is offered anew. */
	fake_vmm_wait(&vmm, vmm.guidance.reoffer_generation == 1);
	ebb_executor_status(vmm.executor, &status);
	assert_false(status.inhibited);
	end();
}

static void policy_that_does_nothing(void **state)
{
	begin(EBB_MODE_OFF, 4 * MIB, 0, false);
	offer_expect(&vmm, &ram, 0, 0, 4 * MIB, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_OFF, 0);
	ebb_executor_set_mode(vmm.executor, EBB_MODE_EAGER);
	ebb_executor_set_poison(vmm.executor, true);
	offer_expect(&vmm, &ram, 0, 0, 4 * MIB, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_POISON, 0);
	assert_null(witness_get(0));
	assert_int_equal(vmm.nr_begin, 0);
	expect_kept(0, 4 * MIB);
	end();
}

/* What is gone since the look that follows the mark was purged. */
static void purges_are_seen(void **state)
{
	struct ebb_status status;

	begin(EBB_MODE_LAZY, 16 * MIB, 0, false);
	offer_expect(&vmm, &ram, 0, 0, 8 * MIB, VIRTIO_EBB_MARKED, 0, 8 * MIB);
	/* The first look comes after the answer and belongs to the batch. */
	ebb_executor_quiesce(vmm.executor, false);
	assert_int_equal(madvise(ram.host, 8 * MIB, MADV_PAGEOUT), 0);
	fake_vmm_wait_status(&vmm, &status, status.counters.purged_seen_bytes >= 4 * MIB);
	assert_true(status.counters.purged_seen_bytes <= 8 * MIB);
	end();
}

/* What we discard ourselves of marked memory is no purge. */
static void discards_are_no_purges(void **state)
{
	struct ebb_status status;

	begin(EBB_MODE_LAZY, 16 * MIB, 0, false);
	offer_expect(&vmm, &ram, 0, 0, 8 * MIB, VIRTIO_EBB_MARKED, 0, 8 * MIB);
	ebb_executor_quiesce(vmm.executor, false);
	ebb_executor_set_mode(vmm.executor, EBB_MODE_EAGER);
	offer_expect(&vmm, &ram, 0, MIB, 2 * MIB, VIRTIO_EBB_DISCARDED, 0, 2 * MIB);
	/* A purge elsewhere shows that the blocks were looked at since. */
	assert_int_equal(madvise(ram.host + 6 * MIB, 2 * MIB, MADV_PAGEOUT), 0);
	fake_vmm_wait_status(&vmm, &status, status.counters.purged_seen_bytes > 0);
	assert_true(status.counters.purged_seen_bytes <= 2 * MIB);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lazy_is_volatile),
		cmocka_unit_test(lazy_keeps_content_without_pressure),
		cmocka_unit_test(lazy_marks_whole_blocks_only),
		cmocka_unit_test(neighbours_are_joined),
		cmocka_unit_test(what_lies_between_is_left_alone),
		cmocka_unit_test(eager_discards_fragments),
		cmocka_unit_test(huge_pages_stay_whole),
		cmocka_unit_test(blocks_are_of_the_host),
		cmocka_unit_test(a_batch_may_span_regions),
		cmocka_unit_test(a_block_across_regions_is_a_fragment),
		cmocka_unit_test(mergeable_memory_is_never_marked),
		cmocka_unit_test(what_was_mergeable_is_discarded_first),
		cmocka_unit_test(mergeable_regions_among_others),
		cmocka_unit_test(locked_memory_is_refused),
		cmocka_unit_test(failed_calls_are_told),
		cmocka_unit_test(helper_gets_whole_pages),
		cmocka_unit_test(helper_pages_may_be_larger_than_blocks),
		cmocka_unit_test(large_calls_are_made_in_pieces),
		cmocka_unit_test(refused_regions_are_ram),
		cmocka_unit_test(nothing_is_done_while_inhibited),
		cmocka_unit_test(policy_that_does_nothing),
		cmocka_unit_test(purges_are_seen),
		cmocka_unit_test(discards_are_no_purges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
