// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_unplugged - tables of memory that a memory device has taken back, and what it gives again
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "executor.h"
#include "fake_vmm.h"

#define BLOCK	    EBB_BLOCK_BYTES
#define RAM_BYTES   (64 * MIB)
#define FIRST_GPA   (1ull << 32)
#define TABLES(nr_) ((nr_)*EBB_TABLE_BYTES)

static struct fake_vmm vmm;
static struct guest_ram ram;
static enum ebb_tables_way way;

static void begin(void)
{
	struct fake_scene scene = {
		.ram_bytes = RAM_BYTES,
		.start_gpa = FIRST_GPA,
		.mode = EBB_MODE_LAZY,
		.tables_way = way,
	};

	fake_vmm_begin(&vmm, &ram, &scene);
}

static void end(void)
{
	fake_vmm_end(&vmm, &ram);
}

/* The device takes it back: as QEMU does, page by page here, so that tables are left. */
static void unplug(uint64_t offset, uint64_t bytes)
{
	uint64_t at;

	guest_ram_isolate(&ram, offset, bytes);
	for (at = offset; at < offset + bytes; at += MIB)
		madvise(ram.host + at, MIB, MADV_DONTNEED);
	ebb_executor_unplugged(vmm.executor, FIRST_GPA + offset, bytes);
}

static void plug(uint64_t offset, uint64_t bytes)
{
	ebb_executor_plugged(vmm.executor, FIRST_GPA + offset, bytes);
	guest_ram_use(&ram, offset, bytes);
}

static struct ebb_counters collect(void)
{
	uint64_t before = fake_vmm_collections(&vmm);

	assert_int_equal(ebb_executor_collect(vmm.executor), 0);
	return fake_vmm_wait_collected(&vmm, before);
}

/* Nobody is asked, and there need be nobody to ask. */
static void it_goes_without_a_question(void **state)
{
	uint64_t before_bytes;

	begin();
	assert_int_equal(ebb_executor_collect(vmm.executor), -ENODEV);
	guest_ram_fill(&ram, 0, RAM_BYTES, 3);
	before_bytes = ebb_tables_vm_pte_bytes();
	unplug(8 * MIB, 32 * MIB);
	assert_int_equal(collect().tables_unplugged, 16);
	assert_true(ebb_tables_vm_pte_bytes() <= before_bytes - TABLES(16));
	assert_int_equal(vmm.nr_collect, 0);
	assert_int_equal(guest_ram_count(&ram, 0, 8 * MIB, 3, PAGE_KEPT), 2048);
	assert_int_equal(guest_ram_count(&ram, 40 * MIB, 24 * MIB, 3, PAGE_KEPT), 6144);
	/* That was that. */
	assert_int_equal(ebb_executor_collect(vmm.executor), -ENODEV);
	/* With a driver the rest is asked for as ever: here there is none. */
	unplug(0, 8 * MIB);
	ebb_executor_set_driver(vmm.executor, true);
	assert_int_equal(collect().tables_unplugged, 20);
	assert_int_equal(vmm.nr_collect, 0);
	end();
}

/* Rule 1: what is plugged again is the guest's, even if it has not written to it yet. */
static void what_is_plugged_again_stays(void **state)
{
	struct ebb_counters counters;

	begin();
	guest_ram_fill(&ram, 0, RAM_BYTES, 3);
	unplug(8 * MIB, 32 * MIB);
	/* a part of it, which begins and ends inside of blocks */
	plug(13 * MIB, 6 * MIB);
	guest_ram_fill(&ram, 14 * MIB, MIB, 4);
	witness_reset();
	counters = collect();
	assert_int_equal(counters.tables_unplugged, 12);
	assert_int_equal(guest_ram_count(&ram, 14 * MIB, MIB, 4, PAGE_KEPT), 256);
	/* Parts of blocks are not empty by anybody's word. */
	unplug(41 * MIB, 2 * MIB);
	assert_int_equal(ebb_executor_collect(vmm.executor), -ENODEV);
	end();
}

/* A guest that uses what it has given back, before: it is not empty, and left. */
static void what_is_not_empty_stays(void **state)
{
	begin();
	guest_ram_fill(&ram, 0, RAM_BYTES, 3);
	unplug(8 * MIB, 8 * MIB);
	guest_ram_fill(&ram, 10 * MIB, PAGE, 6);
	assert_int_equal(collect().tables_unplugged, 3);
	assert_int_equal(guest_ram_count(&ram, 10 * MIB, PAGE, 6, PAGE_KEPT), 1);
	end();
}

/* A VMM that stands still loads a snapshot: its memory comes before the word that it is plugged. */
static void a_stop_forgets(void **state)
{
	begin();
	guest_ram_fill(&ram, 0, RAM_BYTES, 3);
	unplug(8 * MIB, 8 * MIB);
	ebb_executor_pause(vmm.executor);
	assert_int_equal(ebb_executor_collect(vmm.executor), -ENODEV);
	unplug(16 * MIB, 8 * MIB);
	assert_int_equal(ebb_executor_collect(vmm.executor), -ENODEV);
	ebb_executor_resume(vmm.executor);
	assert_int_equal(ebb_executor_collect(vmm.executor), -ENODEV);
	unplug(16 * MIB, 8 * MIB);
	assert_int_equal(collect().tables_unplugged, 4);
	end();
}

/* Off is off, and what the VMM forbids is not done. */
static void only_if_it_may(void **state)
{
	struct ebb_counters counters;

	begin();
	guest_ram_fill(&ram, 0, RAM_BYTES, 3);
	unplug(8 * MIB, 8 * MIB);
	ebb_executor_set_tables_mode(vmm.executor, EBB_TABLES_OFF);
	assert_int_equal(ebb_executor_collect(vmm.executor), -EPERM);
	ebb_executor_set_tables_mode(vmm.executor, EBB_TABLES_ON_DEMAND);
	vmm.begin_ret = -EBUSY;
	counters = collect();
	assert_int_equal(counters.tables_unplugged, 0);
	vmm.begin_ret = 0;
	assert_int_equal(collect().tables_unplugged, 4);
	end();
}

static bool stop_plugging;

/* Plugs, uses, and gives back, blocks of its own all the time; counts what it lost. */
static void *plugger(void *opaque)
{
	uint64_t *bad = opaque, seed = 1, offset;

	while (!__atomic_load_n(&stop_plugging, __ATOMIC_RELAXED)) {
		for (offset = 0; offset < RAM_BYTES; offset += 8 * MIB) {
			plug(offset, 8 * MIB);
			/* Nothing is written at once: the table is there, and empty. */
			guest_ram_fill(&ram, offset + 2 * MIB, 2 * MIB, seed);
			guest_ram_fill(&ram, offset + 5 * MIB, PAGE, seed);
		}
		for (offset = 0; offset < RAM_BYTES; offset += 8 * MIB) {
			*bad += 512 -
				guest_ram_count(&ram, offset + 2 * MIB, 2 * MIB, seed, PAGE_KEPT);
			*bad += 1 - guest_ram_count(&ram, offset + 5 * MIB, PAGE, seed, PAGE_KEPT);
			unplug(offset, 8 * MIB);
		}
		seed++;
	}
	return NULL;
}

/* Both at once: a plug waits for what is being done, and nothing is done after it. */
static void plugged_while_it_is_collected(void **state)
{
	struct ebb_status status;
	unsigned int i;
	uint64_t bad = 0;
	pthread_t thread;

	begin();
	guest_ram_fill(&ram, 0, RAM_BYTES, 3);
	stop_plugging = false;
	assert_int_equal(pthread_create(&thread, NULL, plugger, &bad), 0);
	for (i = 0; i < 300;) {
		i += ebb_executor_collect(vmm.executor) == 0;
		fake_vmm_wait_status(&vmm, &status, status.counters.collections >= i);
	}
	__atomic_store_n(&stop_plugging, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	assert_int_equal(bad, 0);
	ebb_executor_status(vmm.executor, &status);
	assert_true(status.counters.tables_unplugged > 0);
	end();
}

static void hook(void *opaque, int advice)
{
	/* In the executor thread, in the middle of its work: somebody wants to plug this. */
	bool *waited = opaque;

	pthread_mutex_lock(&vmm.executor->lock);
	*waited |= vmm.executor->emptying.region != NULL;
	pthread_mutex_unlock(&vmm.executor->lock);
}

/* It is known what is being worked on, whenever a call is made. */
static void who_plugs_knows_what_to_wait_for(void **state)
{
	bool known = false;

	begin();
	guest_ram_fill(&ram, 0, RAM_BYTES, 3);
	unplug(8 * MIB, 8 * MIB);
	witness_hook(hook, &known);
	assert_int_equal(collect().tables_unplugged, 4);
	assert_true(known);
	witness_hook(NULL, NULL);
	assert_null(vmm.executor->emptying.region);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_goes_without_a_question),
		cmocka_unit_test(what_is_plugged_again_stays),
		cmocka_unit_test(what_is_not_empty_stays),
		cmocka_unit_test(a_stop_forgets),
		cmocka_unit_test(only_if_it_may),
		cmocka_unit_test(who_plugs_knows_what_to_wait_for),
		cmocka_unit_test(plugged_while_it_is_collected),
	};
	int ret;

	ret = cmocka_run_group_tests(tests, NULL, NULL);
	way = EBB_TABLES_MOVE;
	return cmocka_run_group_tests_name("tables are moved", tests, NULL, NULL) + ret;
}
