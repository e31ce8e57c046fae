// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_merge - marks for KSM, and rule 2 beside them
 *
 * The guest's RAM is real memory; what the kernel is asked for is seen by the witness. The
 * property test holds each call that marks, takes back, frees and discards against a model of
 * every block: MADV_FREE on a block that KSM may have reached since it was discarded or taken
 * back as a whole is the one thing that must never happen.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fake_vmm.h"
#include "executor.h"

#define SEED   1
#define BLOCKS 24ull
#define BYTES  (BLOCKS * EBB_BLOCK_BYTES)
#define GPA    (64 * MIB)

static struct fake_vmm vmm;
static struct guest_ram ram;
static bool vmm_merges;

/* What the model knows of a block. */
static struct {
	bool mergeable;	   /* MADV_MERGEABLE was the last of its kind */
	bool may_hold_ksm; /* since it was mergeable: not discarded as a whole while it is not */
} model[BLOCKS];
static unsigned int nr_marked_calls, nr_unmarked_calls, nr_breaches;

static void model_range(uint64_t offset, uint64_t bytes, int advice)
{
	uint64_t block = offset / EBB_BLOCK_BYTES, end = (offset + bytes) / EBB_BLOCK_BYTES;

	for (; block < end && block < BLOCKS; block++) {
		switch (advice) {
		case MADV_MERGEABLE:
			model[block].mergeable = model[block].may_hold_ksm = true;
			break;
		case MADV_UNMERGEABLE:
			model[block].mergeable = model[block].may_hold_ksm = false;
			break;
		case MADV_DONTNEED:
			model[block].may_hold_ksm &= model[block].mergeable;
			break;
		case MADV_FREE:
			nr_breaches += model[block].may_hold_ksm;
			break;
		}
	}
}

/* Every call on the guest's RAM that succeeded. */
static void see(uint64_t offset, uint64_t bytes, int advice)
{
	nr_marked_calls += advice == MADV_MERGEABLE;
	nr_unmarked_calls += advice == MADV_UNMERGEABLE;
	model_range(offset, bytes, advice);
}

static bool kernel_has_ksm(void)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool has = page != MAP_FAILED && madvise(page, PAGE, MADV_MERGEABLE) == 0;

	if (page != MAP_FAILED)
		munmap(page, PAGE);
	return has;
}

static void add_region(bool *merges)
{
	const struct ebb_region_desc desc = {
		.start_gpa = GPA,
		.size_bytes = BYTES,
		.host = ram.host,
		.page_bytes = PAGE,
		.backing = EBB_BACKING_PRIVATE_ANON,
		.vmm_merges = merges,
	};

	assert_int_equal(ebb_executor_region_add(vmm.executor, &desc), 0);
}

static int begin(void **state)
{
	if (!kernel_has_ksm()) {
		print_message("skipped: the kernel has no KSM\n");
		skip();
	}
	memset(model, 0, sizeof(model));
	nr_marked_calls = nr_unmarked_calls = nr_breaches = 0;
	vmm_merges = false;
	guest_ram_init(&ram, BYTES, 0, false);
	guest_ram_fill(&ram, 0, BYTES, SEED);
	fake_vmm_init(&vmm, EBB_MODE_LAZY, EBB_FRONT_EBB, NULL);
	witness_watch(see);
	add_region(&vmm_merges);
	return 0;
}

static int end(void **state)
{
	assert_int_equal(nr_breaches, 0);
	fake_vmm_deinit(&vmm);
	guest_ram_deinit(&ram);
	return 0;
}

static void set_merge(uint32_t mode)
{
	assert_int_equal(ebb_executor_set_merge(vmm.executor, mode), 0);
}

static int hint(uint64_t first, uint64_t nr, bool merge)
{
	const struct ebb_hint one = { GPA + first * EBB_BLOCK_BYTES, nr * EBB_BLOCK_BYTES, merge };
	enum virtio_ebb_fault fault;

	return ebb_executor_hint(vmm.executor, &one, 1, &fault);
}

/* Until marks are as they are wanted. */
static struct ebb_merge_status settled(void)
{
	struct ebb_status status;

	fake_vmm_wait_status(&vmm, &status, !status.merge.pending);
	return status.merge;
}

static uint64_t marked(void)
{
	return settled().marked_bytes / EBB_BLOCK_BYTES;
}

static void expect(uint64_t first, uint64_t nr, uint16_t verdict)
{
	offer_expect(&vmm, &ram, GPA, GPA + first * EBB_BLOCK_BYTES, nr * EBB_BLOCK_BYTES, verdict,
		     VIRTIO_EBB_REASON_NONE, nr * EBB_BLOCK_BYTES);
}

static void hints_are_marked_and_taken_back(void **state)
{
	struct ebb_merge_status status;

	assert_int_equal(hint(0, 2, true), 0);
	assert_int_equal(marked(), 0);
	set_merge(EBB_MERGE_HINTED);
	/* What was hinted before nobody asked for. */
	assert_int_equal(settled().hinted_bytes, 0);
	assert_int_equal(vmm.guidance.hinting, VIRTIO_EBB_HINTING_RUN);
	assert_int_equal(hint(2, 4, true), 0);
	assert_int_equal(marked(), 4);
	assert_int_equal(nr_marked_calls, 1);
	/* A neighbour joins: one run. */
	assert_int_equal(hint(6, 1, true), 0);
	status = settled();
	assert_int_equal(status.marked_bytes, 5 * EBB_BLOCK_BYTES);
	assert_int_equal(status.areas, 2);
	assert_int_equal(hint(4, 1, false), 0);
	status = settled();
	assert_int_equal(status.marked_bytes, 4 * EBB_BLOCK_BYTES);
	assert_int_equal(status.areas, 4);
	set_merge(EBB_MERGE_OFF);
	status = settled();
	assert_int_equal(status.marked_bytes, 0);
	assert_int_equal(status.hinted_bytes, 0);
	assert_int_equal(status.areas, 0);
	assert_int_equal(guest_ram_count(&ram, 0, BYTES, SEED, PAGE_KEPT), BYTES / PAGE);
}

static void the_mode_all_marks_everything_in_one_call(void **state)
{
	set_merge(EBB_MERGE_ALL);
	assert_int_equal(marked(), BLOCKS);
	assert_int_equal(nr_marked_calls, 1);
	expect(3, 2, VIRTIO_EBB_DISCARDED);
	set_merge(EBB_MERGE_KEEP);
	assert_int_equal(marked(), 0);
	expect(3, 2, VIRTIO_EBB_MARKED);
}

/* Rule 2, block by block. */
static void free_memory_beside_marks(void **state)
{
	set_merge(EBB_MERGE_HINTED);
	assert_int_equal(hint(4, 2, true), 0);
	assert_int_equal(marked(), 2);
	expect(2, 2, VIRTIO_EBB_MARKED);
	expect(4, 2, VIRTIO_EBB_DISCARDED);
	/* Discarded, it is mergeable still. */
	expect(4, 2, VIRTIO_EBB_DISCARDED);
	assert_int_equal(hint(4, 2, false), 0);
	assert_int_equal(marked(), 0);
	expect(4, 2, VIRTIO_EBB_MARKED);
}

static void content_is_not_marked(void **state)
{
	static struct offer offer;

	set_merge(EBB_MERGE_HINTED);
	offer_init(&offer, &ram, GPA);
	offer.batch.offer = EBB_OFFER_CONTENT;
	offer_add(&offer, GPA, EBB_BLOCK_BYTES);
	offer_run(&vmm, &offer);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	assert_int_equal(hint(0, 2, true), 0);
	assert_int_equal(marked(), 1);
	assert_false(model[0].mergeable);
	/* And the other way around. */
	offer_init(&offer, &ram, GPA);
	offer.batch.offer = EBB_OFFER_CONTENT;
	offer_add(&offer, GPA + EBB_BLOCK_BYTES, EBB_BLOCK_BYTES);
	offer_run(&vmm, &offer);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_NOT_MARKED);
	assert_int_equal(offer.ranges[0].reason, VIRTIO_EBB_REASON_BACKING);
}

/* The VMM marks all RAM: what was marked by an offer before it is discarded by one after it. */
static void marks_all_between_two_offers(void)
{
	expect(8, 1, VIRTIO_EBB_MARKED);
	fake_vmm_close_gate(&vmm);
	assert_int_equal(madvise(ram.host, BYTES, MADV_MERGEABLE), 0);
	__atomic_store_n(&vmm_merges, true, __ATOMIC_RELEASE);
	fake_vmm_open_gate(&vmm);
	expect(8, 1, VIRTIO_EBB_DISCARDED);
}

/* The VMM's own switch, at any time: seen before the next mark, and undone where it is unwanted. */
static void the_vmm_marks_all(void **state)
{
	set_merge(EBB_MERGE_HINTED);
	assert_int_equal(hint(0, 1, true), 0);
	assert_int_equal(marked(), 1);
	marks_all_between_two_offers();
	assert_int_equal(marked(), 1);
	assert_false(vmm_merges);
	assert_false(model[8].mergeable);
	assert_true(model[0].mergeable);
	expect(8, 1, VIRTIO_EBB_MARKED);
}

/* Read-only RAM has the switch of the RAM beside it; nobody frees it or undoes its mark. */
static void refused_memory_is_left_out(void **state)
{
	const struct ebb_region_desc rom = {
		.start_gpa = GPA + BYTES,
		.size_bytes = PAGE,
		.host = ram.host,
		.page_bytes = PAGE,
		.backing = EBB_BACKING_REFUSED,
		.why = "read-only",
		.vmm_merges = &vmm_merges,
	};

	assert_int_equal(ebb_executor_region_add(vmm.executor, &rom), 0);
	set_merge(EBB_MERGE_HINTED);
	marks_all_between_two_offers();
	assert_false(settled().whole);
	expect(8, 1, VIRTIO_EBB_MARKED);
}

static void a_failure_to_take_back_leaves_the_mark(void **state)
{
	struct ebb_status status;

	set_merge(EBB_MERGE_HINTED);
	assert_int_equal(hint(0, 2, true), 0);
	assert_int_equal(marked(), 2);
	witness_fail(MADV_UNMERGEABLE, ENOMEM);
	assert_int_equal(hint(0, 2, false), 0);
	fake_vmm_wait_status(&vmm, &status, status.merge.failures >= 2);
	assert_int_equal(status.merge.marked_bytes, 2 * EBB_BLOCK_BYTES);
	expect(0, 2, VIRTIO_EBB_DISCARDED);
	witness_fail(0, 0);
	assert_int_equal(marked(), 0);
	expect(0, 2, VIRTIO_EBB_MARKED);
}

/* EAGAIN: the kernel has no more areas. What was half marked is taken back, and tried again. */
static void no_more_areas(void **state)
{
	struct ebb_status status;

	set_merge(EBB_MERGE_HINTED);
	witness_fail(MADV_MERGEABLE, EAGAIN);
	assert_int_equal(hint(0, 2, true), 0);
	fake_vmm_wait_status(&vmm, &status, status.merge.full && status.merge.failures);
	assert_int_equal(status.merge.marked_bytes, 0);
	assert_true(nr_unmarked_calls > 0);
	/* It may have been mergeable for a moment. */
	expect(0, 2, VIRTIO_EBB_DISCARDED);
	witness_fail(0, 0);
	assert_int_equal(marked(), 2);
	assert_false(settled().full);
}

static void a_region_that_goes_takes_its_marks_along(void **state)
{
	set_merge(EBB_MERGE_HINTED);
	assert_int_equal(hint(3, 5, true), 0);
	assert_int_equal(marked(), 5);
	assert_int_equal(ebb_executor_region_remove(vmm.executor, GPA), 0);
	assert_false(model[3].mergeable);
	assert_int_equal(settled().marked_bytes, 0);
	add_region(&vmm_merges);
	assert_int_equal(marked(), 0);
	expect(3, 1, VIRTIO_EBB_MARKED);
}

static void a_reset_forgets_the_hints(void **state)
{
	set_merge(EBB_MERGE_HINTED);
	assert_int_equal(hint(0, BLOCKS, true), 0);
	assert_int_equal(marked(), BLOCKS);
	ebb_executor_reset(vmm.executor);
	assert_int_equal(marked(), 0);
	assert_int_equal(settled().hinted_bytes, 0);
}

static void hints_outside_of_ram(void **state)
{
	const struct ebb_hint hints[] = {
		{ GPA, EBB_BLOCK_BYTES, true },
		{ GPA + BYTES - EBB_BLOCK_BYTES, 2 * EBB_BLOCK_BYTES, true },
	};
	enum virtio_ebb_fault fault;
	struct ebb_status status;

	set_merge(EBB_MERGE_HINTED);
	assert_int_equal(ebb_executor_hint(vmm.executor, hints, 2, &fault), -EPROTO);
	assert_int_equal(fault, VIRTIO_EBB_FAULT_NOT_RAM);
	ebb_executor_status(vmm.executor, &status);
	assert_true(status.broken);
	assert_int_equal(status.counters.violations, 1);
	assert_int_equal(status.merge.hinted_bytes, 0);
	assert_int_equal(marked(), 0);
}

/* Pure. */
static void budgets(void **state)
{
	struct ebb_merge_budget budget = ebb_merge_budget(EBB_STAGE_SHORT, true);

	assert_int_equal(budget.calls, 0);
	budget = ebb_merge_budget(EBB_STAGE_SHORT, false);
	assert_int_equal(budget.calls, 0);
	budget = ebb_merge_budget(EBB_STAGE_PLENTY, true);
	assert_true(budget.calls && budget.mark_bytes && budget.unmark_bytes > 32 * MIB);
	budget = ebb_merge_budget(EBB_STAGE_NEARING, true);
	assert_true(budget.calls && budget.unmark_bytes && budget.unmark_bytes <= 32 * MIB);
	/* Without an agent NEARING says nothing. */
	assert_int_equal(ebb_merge_budget(EBB_STAGE_NEARING, false).unmark_bytes,
			 ebb_merge_budget(EBB_STAGE_PLENTY, true).unmark_bytes);
}

static void runs_are_counted(void **state)
{
	uint8_t blocks[8] = { 0 };
	struct ebb_region region = { .blocks = blocks, .nr_blocks = 8 };
	unsigned int i, first, end;
	uint64_t before;

	for (i = 0; i < 256; i++) {
		uint64_t b;

		for (first = 0; first < 8; first++)
			for (end = first + 1; end <= 8; end++) {
				bool mark;

				for (b = 0; b < 8; b++)
					blocks[b] = i >> b & 1 ? EBB_BLOCK_MERGE : 0;
				mark = !(blocks[first] & EBB_BLOCK_MERGE);
				for (b = first; b < end; b++)
					blocks[b] = mark ? 0 : EBB_BLOCK_MERGE;
				before = ebb_merge_count_runs(&region) +
					 (uint64_t)(int64_t)ebb_merge_runs_change(&region, first,
										  end, mark);
				for (b = first; b < end; b++)
					blocks[b] ^= EBB_BLOCK_MERGE;
				assert_int_equal(ebb_merge_count_runs(&region), before);
			}
	}
}

static uint64_t random_word(uint64_t *random)
{
	*random = *random * 6364136223846793005ull + 1442695040888963407ull;
	return *random >> 33;
}

/*
 * Hints, modes, the VMM's switch, free memory and failing calls at random: MADV_FREE never on a
 * block that may hold KSM pages, marks as they are wanted in the end, no content lost beside.
 */
static void random_transitions(void **state)
{
	static struct offer offer;
	uint64_t random = 20, step, first, nr;
	unsigned int freed = 0, discarded = 0;
	int fails = 0;

	set_merge(EBB_MERGE_HINTED);
	for (step = 0; step < 400; step++) {
		first = random_word(&random) % BLOCKS;
		nr = 1 + random_word(&random) % (BLOCKS - first);
		/* Now and then all is brought about that was asked for. */
		if (step % 8 == 7) {
			fails = 0;
			witness_fail(0, 0);
			settled();
		}
		switch (random_word(&random) % 12) {
		case 0:
			set_merge(random_word(&random) % 2
					  ? EBB_MERGE_HINTED
					  : (uint32_t)(random_word(&random) % EBB_MERGE_MAX));
			break;
		case 1:
			if (random_word(&random) % 4)
				break;
			fails = random_word(&random) % 2 ? MADV_MERGEABLE : MADV_UNMERGEABLE;
			witness_fail(fails, random_word(&random) % 2 ? ENOMEM : EAGAIN);
			break;
		case 2:
			witness_fail(0, 0);
			break;
		case 3:
			ebb_executor_reset(vmm.executor);
			break;
		case 4:
			/* As QEMU does it; nothing of ours runs meanwhile. */
			fake_vmm_close_gate(&vmm);
			if (!vmm_merges && fails != MADV_MERGEABLE) {
				assert_int_equal(madvise(ram.host, BYTES, MADV_MERGEABLE), 0);
				__atomic_store_n(&vmm_merges, true, __ATOMIC_RELEASE);
			}
			fake_vmm_open_gate(&vmm);
			break;
		case 5:
		case 6:
		case 7:
			offer_init(&offer, &ram, GPA);
			offer_add(&offer, GPA + first * EBB_BLOCK_BYTES, nr * EBB_BLOCK_BYTES);
			offer_run(&vmm, &offer);
			freed += offer.ranges[0].verdict == VIRTIO_EBB_MARKED;
			discarded += offer.ranges[0].verdict == VIRTIO_EBB_DISCARDED;
			assert_int_equal(nr_breaches, 0);
			break;
		default:
			assert_int_equal(hint(first, nr, random_word(&random) % 3 != 0), 0);
			break;
		}
	}
	witness_fail(0, 0);
	set_merge(EBB_MERGE_OFF);
	assert_int_equal(marked(), 0);
	for (first = 0; first < BLOCKS; first++)
		assert_false(model[first].mergeable);
	print_message("marked lazily %u times, discarded %u, mergeable %u, taken back %u\n", freed,
		      discarded, nr_marked_calls, nr_unmarked_calls);
	assert_true(freed > 10 && discarded > 10);
	assert_true(nr_marked_calls > 20 && nr_unmarked_calls > 20);
	assert_int_equal(witness_breaches(), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(hints_are_marked_and_taken_back),
		TEST(the_mode_all_marks_everything_in_one_call),
		TEST(free_memory_beside_marks),
		TEST(content_is_not_marked),
		TEST(the_vmm_marks_all),
		TEST(refused_memory_is_left_out),
		TEST(a_failure_to_take_back_leaves_the_mark),
		TEST(no_more_areas),
		TEST(a_region_that_goes_takes_its_marks_along),
		TEST(a_reset_forgets_the_hints),
		TEST(hints_outside_of_ram),
		TEST(random_transitions),
		cmocka_unit_test(budgets),
		cmocka_unit_test(runs_are_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
