// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_executor - what may be submitted, the order of things, and who waits for what
 *
 * Rules 1, 7 and 11. The gate of the fake VMM holds the executor thread between
 * discard_begin and the first system call of a batch.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fake_vmm.h"

#define NR_OFFERS (EBB_MAX_BATCHES + 2)

static struct fake_vmm vmm;
static struct guest_ram ram;
static struct offer offers[NR_OFFERS];

static void begin(uint32_t mode, uint32_t front)
{
	guest_ram_init(&ram, 64 * MIB, 0, false);
	fake_vmm_init(&vmm, mode, front, NULL);
	fake_vmm_add_ram(&vmm, &ram, 0);
}

static void end(void)
{
	fake_vmm_deinit(&vmm);
	guest_ram_deinit(&ram);
}

/* The nth offer: 2 MiB at n * 2 MiB. */
static int submit(unsigned int n, enum virtio_ebb_fault *fault)
{
	offer_init(&offers[n], &ram, 0);
	offer_add(&offers[n], n * 2 * MIB, 2 * MIB);
	return offer_submit(&vmm, &offers[n], fault);
}

/* Close the gate and have the thread wait there with offer 0. */
static void hold_first(void)
{
	fake_vmm_close_gate(&vmm);
	assert_int_equal(submit(0, NULL), 0);
	fake_vmm_wait(&vmm, vmm.at_gate == 1);
}

static void expect_verdict(unsigned int n, uint16_t verdict, uint16_t reason)
{
	assert_int_equal(offers[n].done, 1);
	assert_int_equal(offers[n].ranges[0].verdict, verdict);
	assert_int_equal(offers[n].ranges[0].reason, reason);
}

static void configurations(void **state)
{
	static const struct ebb_vmm_ops no_ops;
	const struct ebb_executor_config good = { "vm-1", NULL, EBB_FRONT_EBB, EBB_MODE_AUTO };
	struct ebb_executor *executor;
	struct ebb_executor_config config;
	char path[200];

	assert_int_equal(ebb_executor_new(&executor, &good, &no_ops, NULL), 0);
	ebb_executor_free(executor);
	ebb_executor_free(NULL);
#define REFUSED(change, error)                                                                \
	do {                                                                                  \
		config = good;                                                                \
		change;                                                                       \
		assert_int_equal(ebb_executor_new(&executor, &config, &no_ops, NULL), error); \
	} while (0)
	REFUSED(config.name = NULL, -EINVAL);
	REFUSED(config.name = "", -EINVAL);
	REFUSED(config.name = "a/b", -EINVAL);
	REFUSED(config.name = "a b", -EINVAL);
	REFUSED(config.name = "0123456789012345678901234567890123456789012345678901234567890123",
		-EINVAL);
	REFUSED(config.front = 0, -EINVAL);
	REFUSED(config.front = 3, -EINVAL);
	REFUSED(config.mode = EBB_MODE_KEEP, -EINVAL);
	REFUSED(config.mode = EBB_MODE_MAX, -EINVAL);
	memset(path, 'p', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	REFUSED(config.agent_path = path, -ENAMETOOLONG);
#undef REFUSED
}

static void expect_fault(uint64_t gpa, uint64_t bytes, enum virtio_ebb_fault expected)
{
	enum virtio_ebb_fault fault;

	offer_init(&offers[9], NULL, 0);
	offer_add(&offers[9], gpa, bytes);
	assert_int_equal(offer_submit(&vmm, &offers[9], &fault), -EPROTO);
	assert_int_equal(fault, expected);
}

/* Rule 7: everything is checked, counted, and nothing is done. */
static void bad_offers_are_refused(void **state)
{
	enum virtio_ebb_fault fault;
	struct ebb_status status;

	begin(EBB_MODE_EAGER, EBB_FRONT_EBB);
	expect_fault(0, 0, VIRTIO_EBB_FAULT_EMPTY);
	expect_fault(512, PAGE, VIRTIO_EBB_FAULT_ALIGN);
	expect_fault(0, 512, VIRTIO_EBB_FAULT_ALIGN);
	expect_fault(UINT64_MAX - PAGE + 1, PAGE, VIRTIO_EBB_FAULT_WRAP);
	expect_fault(64 * MIB, PAGE, VIRTIO_EBB_FAULT_NOT_RAM);
	expect_fault(64 * MIB - PAGE, 2 * PAGE, VIRTIO_EBB_FAULT_NOT_RAM);
	expect_fault(1ull << 62, 2 * MIB, VIRTIO_EBB_FAULT_NOT_RAM);
	offer_init(&offers[9], NULL, 0);
	assert_int_equal(offer_submit(&vmm, &offers[9], &fault), -EPROTO);
	assert_int_equal(fault, VIRTIO_EBB_FAULT_COUNT);
	/* one bad range spoils the batch */
	offer_init(&offers[9], NULL, 0);
	offer_add(&offers[9], 0, 2 * MIB);
	offer_add(&offers[9], 8 * MIB, 2 * MIB);
	offer_add(&offers[9], MIB, 2 * MIB);
	assert_int_equal(offer_submit(&vmm, &offers[9], &fault), -EPROTO);
	assert_int_equal(fault, VIRTIO_EBB_FAULT_OVERLAP);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.violations, 9);
	assert_int_equal(status.counters.requests, 0);
	assert_true(status.broken);
	assert_null(witness_get(0));
	ebb_executor_violation(vmm.executor);
	ebb_executor_reset(vmm.executor);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.violations, 10);
	assert_false(status.broken);
	assert_int_equal(submit(0, &fault), 0);
	end();
}

/* Rules 1 and 7: memory in flight is offered once; after the answer it may come again. */
static void in_flight_is_not_offered_again(void **state)
{
	unsigned int i;

	begin(EBB_MODE_EAGER, EBB_FRONT_EBB);
	hold_first();
	assert_int_equal(submit(1, NULL), 0);
	expect_fault(MIB, PAGE, VIRTIO_EBB_FAULT_OVERLAP);
	expect_fault(2 * MIB, 2 * MIB, VIRTIO_EBB_FAULT_OVERLAP);
	expect_fault(4 * MIB - PAGE, 2 * MIB, VIRTIO_EBB_FAULT_OVERLAP);
	fake_vmm_open_gate(&vmm);
	fake_vmm_wait(&vmm, offers[0].done && offers[1].done);
	/* At once after the answer, many times: the old offer must be forgotten by then. */
	for (i = 0; i < 2000; i++) {
		assert_int_equal(submit(0, NULL), 0);
		fake_vmm_wait(&vmm, offers[0].done);
	}
	end();
}

static void the_queue_is_bounded_and_in_order(void **state)
{
	enum virtio_ebb_fault fault = VIRTIO_EBB_FAULT_VALUE;
	unsigned int i;

	begin(EBB_MODE_EAGER, EBB_FRONT_EBB);
	hold_first();
	for (i = 1; i < EBB_MAX_BATCHES; i++)
		assert_int_equal(submit(i, NULL), 0);
	assert_int_equal(submit(i, &fault), -EBUSY);
	assert_int_equal(fault, VIRTIO_EBB_FAULT_NONE);
	assert_int_equal(offers[i].done, 0);
	fake_vmm_open_gate(&vmm);
	ebb_executor_quiesce(vmm.executor, false);
	for (i = 0; i < EBB_MAX_BATCHES; i++) {
		expect_verdict(i, VIRTIO_EBB_DISCARDED, 0);
		assert_int_equal(offers[i].order, i);
	}
	end();
}

static void *open_gate_later(void *opaque)
{
	/* Whoever waits has surely begun to; if not, it finds less to wait for. */
	fake_vmm_nap();
	fake_vmm_nap();
	fake_vmm_open_gate(&vmm);
	return NULL;
}

/* Hold offer 0 at the gate with 1 and 2 behind it, and open it while call() waits. */
#define WITH_THREE_IN_FLIGHT(call)                                                          \
	do {                                                                                \
		pthread_t opener_;                                                          \
		hold_first();                                                               \
		assert_int_equal(submit(1, NULL), 0);                                       \
		assert_int_equal(submit(2, NULL), 0);                                       \
		assert_int_equal(pthread_create(&opener_, NULL, open_gate_later, NULL), 0); \
		call;                                                                       \
		pthread_join(opener_, NULL);                                                \
	} while (0)

static void quiesce_waits(void **state)
{
	begin(EBB_MODE_EAGER, EBB_FRONT_EBB);
	WITH_THREE_IN_FLIGHT(ebb_executor_quiesce(vmm.executor, false));
	expect_verdict(0, VIRTIO_EBB_DISCARDED, 0);
	expect_verdict(1, VIRTIO_EBB_DISCARDED, 0);
	expect_verdict(2, VIRTIO_EBB_DISCARDED, 0);
	end();
}

static void quiesce_cancels(void **state)
{
	begin(EBB_MODE_EAGER, EBB_FRONT_EBB);
	WITH_THREE_IN_FLIGHT(ebb_executor_quiesce(vmm.executor, true));
	/* What runs is finished, what is queued is not begun. */
	expect_verdict(0, VIRTIO_EBB_DISCARDED, 0);
	expect_verdict(1, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_CANCELLED);
	expect_verdict(2, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_CANCELLED);
	assert_int_equal(witness_count(MADV_DONTNEED), 1);
	end();
}

/* Who waits for a batch waits for the whole of its answer. */
static void all_wait_for_the_answer(void **state)
{
	begin(EBB_MODE_EAGER, EBB_FRONT_EBB);
	vmm.slow_answer = true;
	assert_int_equal(submit(0, NULL), 0);
	ebb_executor_quiesce(vmm.executor, false);
	assert_int_equal(offers[0].done, 1);
	assert_int_equal(submit(0, NULL), 0);
	ebb_executor_reset(vmm.executor);
	assert_int_equal(offers[0].done, 1);
	assert_int_equal(submit(0, NULL), 0);
	ebb_executor_pause(vmm.executor);
	assert_int_equal(offers[0].done, 1);
	ebb_executor_resume(vmm.executor);
	assert_int_equal(submit(0, NULL), 0);
	assert_int_equal(ebb_executor_region_remove(vmm.executor, 0), 0);
	assert_int_equal(offers[0].done, 1);
	end();
}

static void pause_drains_and_nests(void **state)
{
	begin(EBB_MODE_EAGER, EBB_FRONT_EBB);
	WITH_THREE_IN_FLIGHT(ebb_executor_pause(vmm.executor));
	expect_verdict(2, VIRTIO_EBB_DISCARDED, 0);
	assert_int_equal(submit(3, NULL), -EBUSY);
	ebb_executor_pause(vmm.executor);
	ebb_executor_resume(vmm.executor);
	assert_int_equal(submit(3, NULL), -EBUSY);
	ebb_executor_resume(vmm.executor);
	assert_int_equal(submit(3, NULL), 0);
	ebb_executor_quiesce(vmm.executor, false);
	expect_verdict(3, VIRTIO_EBB_DISCARDED, 0);
	end();
}

static void reset_cancels_and_forgets(void **state)
{
	struct ebb_guest_stats stats = { { 0 } };
	struct ebb_status status;

	begin(EBB_MODE_EAGER, EBB_FRONT_EBB);
	ebb_executor_set_driver(vmm.executor, true);
	ebb_executor_set_poison(vmm.executor, true);
	ebb_executor_set_poison(vmm.executor, false);
	stats.value[VIRTIO_EBB_S_FREE] = 5;
	ebb_executor_guest_stats(vmm.executor, &stats);
	ebb_executor_status(vmm.executor, &status);
	assert_true(status.driver && status.guest_valid);
	assert_int_equal(status.guest.value[VIRTIO_EBB_S_FREE], 5);
	WITH_THREE_IN_FLIGHT(ebb_executor_reset(vmm.executor));
	expect_verdict(1, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_CANCELLED);
	expect_verdict(2, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_CANCELLED);
	ebb_executor_status(vmm.executor, &status);
	assert_false(status.driver || status.guest_valid);
	ebb_executor_set_poison(vmm.executor, true);
	ebb_executor_reset(vmm.executor);
	assert_int_equal(submit(3, NULL), 0);
	ebb_executor_quiesce(vmm.executor, false);
	expect_verdict(3, VIRTIO_EBB_DISCARDED, 0);
	end();
}

static bool called; /* under vmm.lock */

static void slow_call(void *opaque, int advice)
{
	pthread_mutex_lock(&vmm.lock);
	called = true;
	pthread_cond_broadcast(&vmm.changed);
	pthread_mutex_unlock(&vmm.lock);
	fake_vmm_nap();
}

/* A reset does not wait for all of a large batch; what was not done is told. */
static void reset_cuts_what_runs_short(void **state)
{
	bool cut = false, uncut = true;
	unsigned int i;

	guest_ram_init(&ram, 64 * MIB, 0, false);
	fake_vmm_init(&vmm, EBB_MODE_EAGER, EBB_FRONT_EBB, NULL);
	fake_vmm_add_ram(&vmm, &ram, 0);
	/* The reset comes during the first call nearly always; once is enough. */
	for (i = 0; i < 1000 && !cut; i++) {
		const struct ebb_range *ranges = offers[0].ranges;
		unsigned int j;

		witness_reset();
		witness_hook(slow_call, NULL);
		called = false;
		offer_init(&offers[0], &ram, 0);
		for (j = 0; j < 16; j++)
			offer_add(&offers[0], j * 4 * MIB, 2 * MIB);
		assert_int_equal(offer_submit(&vmm, &offers[0], NULL), 0);
		fake_vmm_wait(&vmm, called);
		ebb_executor_reset(vmm.executor);
		assert_int_equal(offers[0].done, 1);
		assert_int_equal(ranges[0].verdict, VIRTIO_EBB_DISCARDED);
		for (j = 1; j < 16; j++) {
			cut |= ranges[j].verdict == VIRTIO_EBB_NOT_MARKED;
			if (ranges[j].verdict == VIRTIO_EBB_NOT_MARKED)
				assert_int_equal(ranges[j].reason, VIRTIO_EBB_REASON_CANCELLED);
			else
				uncut &= !cut;
		}
		assert_int_equal(witness_breaches(), 0);
	}
	assert_true(cut && uncut);
	end();
}

static void free_answers_all(void **state)
{
	unsigned int i;

	begin(EBB_MODE_EAGER, EBB_FRONT_EBB);
	WITH_THREE_IN_FLIGHT(ebb_executor_free(vmm.executor));
	for (i = 0; i < 3; i++)
		assert_int_equal(offers[i].done, 1);
	expect_verdict(2, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_CANCELLED);
	assert_int_equal(witness_breaches(), 0);
	guest_ram_deinit(&ram);
}

/* Rule 11: work on a region that goes is cancelled or waited for; other work is not. */
static void removal_cancels_what_touches(void **state)
{
	guest_ram_init(&ram, 64 * MIB, 0, false);
	fake_vmm_init(&vmm, EBB_MODE_EAGER, EBB_FRONT_EBB, NULL);
	assert_int_equal(fake_vmm_add_part(&vmm, &ram, 0, 0, 2 * MIB), 0);
	assert_int_equal(fake_vmm_add_part(&vmm, &ram, 2 * MIB, 2 * MIB, 2 * MIB), 0);
	assert_int_equal(fake_vmm_add_part(&vmm, &ram, 4 * MIB, 4 * MIB, 60 * MIB), 0);
	assert_int_equal(ebb_executor_region_remove(vmm.executor, MIB), -ENOENT);
	assert_int_equal(ebb_executor_region_remove(vmm.executor, 64 * MIB), -ENOENT);
	assert_int_equal(fake_vmm_add_part(&vmm, &ram, MIB, 0, 2 * MIB), -EEXIST);

	WITH_THREE_IN_FLIGHT(
		assert_int_equal(ebb_executor_region_remove(vmm.executor, 2 * MIB), 0));
	fake_vmm_wait(&vmm, offers[2].done);
	expect_verdict(0, VIRTIO_EBB_DISCARDED, 0);
	expect_verdict(1, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_CANCELLED);
	expect_verdict(2, VIRTIO_EBB_DISCARDED, 0);
	expect_fault(2 * MIB, 2 * MIB, VIRTIO_EBB_FAULT_NOT_RAM);

	end();
}

/* Rule 11: the region of a batch that runs stays until the batch was answered. */
static void removal_waits_for_what_runs(void **state)
{
	begin(EBB_MODE_EAGER, EBB_FRONT_EBB);
	guest_ram_fill(&ram, 0, ram.bytes, 1);
	WITH_THREE_IN_FLIGHT(assert_int_equal(ebb_executor_region_remove(vmm.executor, 0), 0));
	expect_verdict(0, VIRTIO_EBB_DISCARDED, 0);
	expect_verdict(1, VIRTIO_EBB_NOT_MARKED, VIRTIO_EBB_REASON_CANCELLED);
	assert_int_equal(witness_count(MADV_DONTNEED), 1);
	/* The same address again. */
	fake_vmm_add_ram(&vmm, &ram, 0);
	assert_int_equal(submit(3, NULL), 0);
	ebb_executor_quiesce(vmm.executor, false);
	expect_verdict(3, VIRTIO_EBB_DISCARDED, 0);
	end();
}

static void guidance_follows_mode_and_stage(void **state)
{
	struct ebb_status status;

	begin(EBB_MODE_AUTO, EBB_FRONT_EBB);
	ebb_executor_status(vmm.executor, &status);
	/* Without ebbd AUTO is at NEARING. */
	assert_int_equal(status.mode, EBB_MODE_AUTO);
	assert_int_equal(status.stage, EBB_STAGE_NEARING);
	assert_int_equal(status.guidance.reporting, VIRTIO_EBB_REPORTING_RUN);
	assert_int_equal(status.guidance.reoffer_generation, 0);

	assert_int_equal(ebb_executor_set_mode(vmm.executor, EBB_MODE_KEEP), -EINVAL);
	assert_int_equal(ebb_executor_set_mode(vmm.executor, EBB_MODE_MAX), -EINVAL);
	ebb_executor_set_mode(vmm.executor, EBB_MODE_LAZY); /* no change of guidance */
	ebb_executor_set_mode(vmm.executor, EBB_MODE_OFF);
	fake_vmm_wait(&vmm, vmm.nr_guide == 1);
	assert_int_equal(vmm.guidance.reporting, VIRTIO_EBB_REPORTING_REST);
	assert_int_equal(vmm.guidance.reoffer_generation, 0);
	ebb_executor_set_mode(vmm.executor, EBB_MODE_EAGER);
	fake_vmm_wait(&vmm, vmm.nr_guide == 2);
	assert_int_equal(vmm.guidance.reporting, VIRTIO_EBB_REPORTING_RUN);
	assert_int_equal(vmm.guidance.reoffer_generation, 1);
	ebb_executor_reoffer(vmm.executor);
	fake_vmm_wait(&vmm, vmm.nr_guide == 3);
	assert_int_equal(vmm.guidance.reoffer_generation, 2);
	ebb_executor_set_mode(vmm.executor, EBB_MODE_LAZY);
	assert_int_equal(submit(0, NULL), 0);
	ebb_executor_quiesce(vmm.executor, false);
	assert_int_equal(vmm.nr_guide, 3);
	end();
}

/* The thread is woken for each change, whatever it is about to do at that moment. */
static void no_guidance_is_forgotten(void **state)
{
	unsigned int i, spin;

	begin(EBB_MODE_LAZY, EBB_FRONT_EBB);
	for (i = 1; i <= 2000; i++) {
		ebb_executor_set_mode(vmm.executor, i % 2 ? EBB_MODE_OFF : EBB_MODE_LAZY);
		fake_vmm_wait(&vmm, vmm.nr_guide == i);
		for (spin = 0; spin < i * 10; spin++)
			__asm__ volatile("");
	}
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(configurations),
		cmocka_unit_test(bad_offers_are_refused),
		cmocka_unit_test(in_flight_is_not_offered_again),
		cmocka_unit_test(the_queue_is_bounded_and_in_order),
		cmocka_unit_test(quiesce_waits),
		cmocka_unit_test(quiesce_cancels),
		cmocka_unit_test(all_wait_for_the_answer),
		cmocka_unit_test(pause_drains_and_nests),
		cmocka_unit_test(reset_cancels_and_forgets),
		cmocka_unit_test(reset_cuts_what_runs_short),
		cmocka_unit_test(free_answers_all),
		cmocka_unit_test(removal_cancels_what_touches),
		cmocka_unit_test(removal_waits_for_what_runs),
		cmocka_unit_test(guidance_follows_mode_and_stage),
		cmocka_unit_test(no_guidance_is_forgotten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
