// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_release - asking the guest for memory now
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fake_vmm.h"

static struct fake_vmm vmm;
static struct guest_ram ram;
static struct offer offer;

static void begin(uint32_t mode)
{
	guest_ram_init(&ram, 16 * MIB, 0, false);
	fake_vmm_init(&vmm, mode, EBB_FRONT_EBB, NULL);
	fake_vmm_add_ram(&vmm, &ram, 0);
	ebb_executor_set_driver(vmm.executor, true);
}

static void end(void)
{
	fake_vmm_deinit(&vmm);
	guest_ram_deinit(&ram);
}

static void run(uint64_t command_id, uint64_t gpa, uint64_t bytes)
{
	offer_run_one(&vmm, &offer, &ram, 0, command_id, gpa, bytes);
}

static uint64_t start(uint64_t bytes, uint32_t flags)
{
	unsigned int nr = vmm.nr_release;

	assert_int_equal(ebb_executor_release(vmm.executor, bytes, flags), 0);
	fake_vmm_wait(&vmm, vmm.nr_release == nr + 1);
	assert_int_equal(vmm.release_bytes, bytes);
	assert_int_equal(vmm.release_flags, flags);
	assert_int_not_equal(vmm.release_id, 0);
	return vmm.release_id;
}

static void its_batches_are_discarded(void **state)
{
	struct ebb_status status;
	uint64_t id;

	begin(EBB_MODE_LAZY);
	id = start(8 * MIB, VIRTIO_EBB_RELEASE_F_ANEW);
	run(id, 0, 4 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_DISCARDED);
	/* a fragment as well: a release is eager */
	run(id, 5 * MIB, PAGE);
	assert_int_equal(offer.ranges[0].done_bytes, PAGE);
	/* what the guest reports of its own accord is marked as ever, and so is a wrong id */
	run(0, 8 * MIB, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	run(id + 1, 10 * MIB, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	ebb_executor_release_done(vmm.executor, id + 1, VIRTIO_EBB_DONE_OK, 1, 0);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.releases, 0);
	ebb_executor_release_done(vmm.executor, id, VIRTIO_EBB_DONE_OK, 2, 4 * MIB);
	run(id, 12 * MIB, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.releases, 1);
	assert_int_equal(status.counters.released_bytes, 4 * MIB + PAGE);
	assert_int_equal(status.counters.discarded_bytes, 4 * MIB + PAGE);
	assert_int_equal(status.counters.marked_bytes, 6 * MIB);
	end();
}

static void one_at_a_time_and_only_if_it_can_be_obeyed(void **state)
{
	uint64_t id;

	begin(EBB_MODE_LAZY);
	assert_int_equal(ebb_executor_release(vmm.executor, 0, 0), -EINVAL);
	assert_int_equal(ebb_executor_release(vmm.executor, MIB, 2), -EINVAL);
	id = start(MIB, 0);
	assert_int_equal(ebb_executor_release(vmm.executor, MIB, 0), -EBUSY);
	ebb_executor_release_done(vmm.executor, id, VIRTIO_EBB_DONE_PARTIAL, 1, 0);
	assert_int_not_equal(start(MIB, 0), id);

	/* The driver goes, and the release with it. */
	ebb_executor_set_driver(vmm.executor, false);
	assert_int_equal(ebb_executor_release(vmm.executor, MIB, 0), -ENODEV);
	ebb_executor_set_driver(vmm.executor, true);
	ebb_executor_set_mode(vmm.executor, EBB_MODE_OFF);
	assert_int_equal(ebb_executor_release(vmm.executor, MIB, 0), -EPERM);
	ebb_executor_set_mode(vmm.executor, EBB_MODE_LAZY);
	ebb_executor_set_poison(vmm.executor, true);
	assert_int_equal(ebb_executor_release(vmm.executor, MIB, 0), -EPERM);
	ebb_executor_set_poison(vmm.executor, false);
	ebb_executor_violation(vmm.executor);
	assert_int_equal(ebb_executor_release(vmm.executor, MIB, 0), -ENODEV);
	end();
}

static void the_vmm_may_refuse(void **state)
{
	struct ebb_status status;

	begin(EBB_MODE_LAZY);
	vmm.release_ret = -ENODEV;
	start(MIB, 0);
	fake_vmm_wait_status(&vmm, &status, status.counters.releases == 1);
	vmm.release_ret = 0;
	/* While discards are inhibited the guest is not even asked. */
	vmm.begin_ret = -EBUSY;
	assert_int_equal(ebb_executor_release(vmm.executor, MIB, 0), 0);
	fake_vmm_wait_status(&vmm, &status, status.counters.releases == 2);
	assert_int_equal(vmm.nr_release, 1);
	vmm.begin_ret = 0;
	start(MIB, 0);
	end();
}

static void a_reset_ends_it(void **state)
{
	struct ebb_status status;
	uint64_t id;

	begin(EBB_MODE_LAZY);
	id = start(MIB, 0);
	ebb_executor_reset(vmm.executor);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.releases, 1);
	ebb_executor_set_driver(vmm.executor, true);
	run(id, 0, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	assert_int_not_equal(start(MIB, 0), id);
	end();
}

/* Asked for and reset at once, again and again: no release survives its reset. */
static void a_reset_at_any_moment(void **state)
{
	unsigned int i, nr;

	begin(EBB_MODE_LAZY);
	for (i = 0; i < 2000; i++) {
		ebb_executor_set_driver(vmm.executor, true);
		nr = vmm.nr_release;
		assert_int_equal(ebb_executor_release(vmm.executor, MIB, 0), 0);
		if (i % 3 == 0)
			fake_vmm_wait(&vmm, vmm.nr_release > nr);
		ebb_executor_reset(vmm.executor);
	}
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(its_batches_are_discarded),
		cmocka_unit_test(one_at_a_time_and_only_if_it_can_be_obeyed),
		cmocka_unit_test(the_vmm_may_refuse),
		cmocka_unit_test(a_reset_ends_it),
		cmocka_unit_test(a_reset_at_any_moment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
