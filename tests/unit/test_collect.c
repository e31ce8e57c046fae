// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_collect - empty page tables: found, asked for, and discarded only so
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor.h"
#include "fake_vmm.h"

#define BLOCK	    EBB_BLOCK_BYTES
#define RAM_BYTES   (64 * MIB)
#define RAM_BLOCKS  (RAM_BYTES / BLOCK)
#define FIRST_GPA   (1ull << 32)
#define NR(tables_) ((tables_)*EBB_TABLE_BYTES)

static struct fake_vmm vmm;
static struct guest_ram ram;
static struct offer offer;
/* How tables are freed; PROBE: as this kernel does. */
static enum ebb_tables_way way;

static void begin_at(uint32_t mode, size_t offset)
{
	struct fake_scene scene = {
		.ram_bytes = RAM_BYTES,
		.host_offset = offset,
		.start_gpa = FIRST_GPA,
		.mode = mode,
		.tables_way = way,
		.driver = true,
	};

	fake_vmm_begin(&vmm, &ram, &scene);
}

static void begin(uint32_t mode)
{
	begin_at(mode, 0);
}

static void end(void)
{
	fake_vmm_end(&vmm, &ram);
}

static bool can(void)
{
	struct ebb_status status;

	ebb_executor_status(vmm.executor, &status);
	return status.can_collect;
}

/* A kernel that has none of it: the test has nothing to look at. */
static void need_kernel(void)
{
	if (can())
		return;
	end();
	skip();
}

static void run(uint64_t command_id, uint64_t offset, uint64_t bytes)
{
	offer_run_one(&vmm, &offer, &ram, FIRST_GPA, command_id, FIRST_GPA + offset, bytes);
}

static uint8_t state_of(uint64_t offset)
{
	uint8_t state;

	ebb_tables_look(&vmm.executor->tables, (uintptr_t)ram.host + offset, 1, &state);
	return state;
}

/*
 * Marked, and then taken by the kernel: tables are left. It passes over pages now and then, which
 * wait in a batch: they are marked and tried again.
 */
static void mark_and_purge(uint64_t offset, uint64_t bytes)
{
	unsigned int tries = 0;
	uint64_t at;

	guest_ram_fill(&ram, offset, bytes, 7);
	for (at = offset; at < offset + bytes;) {
		run(0, offset, bytes);
		assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
		madvise(ram.host + offset, bytes, MADV_PAGEOUT);
		while (at < offset + bytes && state_of(at) != EBB_TABLE_USED)
			at += BLOCK;
		assert_true(tries++ < 1000);
	}
}

static uint64_t ask(void)
{
	return fake_vmm_ask(&vmm);
}

/* The same, if there is anything to ask for; else 0. */
static uint64_t ask_or_end(void)
{
	struct ebb_status status;
	uint64_t before = fake_vmm_collections(&vmm);
	unsigned int nr = vmm.nr_collect;

	assert_int_equal(ebb_executor_collect(vmm.executor), 0);
	fake_vmm_wait_status(&vmm, &status,
			     vmm.nr_collect > nr || status.counters.collections > before);
	return vmm.nr_collect > nr ? vmm.collect_id : 0;
}

static void over(uint64_t id)
{
	fake_vmm_answer(&vmm, id, VIRTIO_EBB_DONE_PARTIAL);
}

static void what_was_purged_is_collected(void **state)
{
	struct ebb_status status;
	uint64_t before_bytes, id;

	begin(EBB_MODE_LAZY);
	need_kernel();
	/* a little beside it stays in use, also a part of the last block */
	guest_ram_fill(&ram, 40 * MIB, 4 * MIB, 5);
	mark_and_purge(0, 32 * MIB);
	mark_and_purge(48 * MIB, 4 * MIB);
	guest_ram_fill(&ram, 50 * MIB, PAGE, 5);
	before_bytes = ebb_tables_vm_pte_bytes();
	id = ask();
	assert_int_equal(vmm.nr_candidates, 2);
	assert_int_equal(vmm.candidates[0].gpa, FIRST_GPA);
	assert_int_equal(vmm.candidates[0].bytes, 32 * MIB);
	assert_int_equal(vmm.candidates[1].gpa, FIRST_GPA + 48 * MIB);
	assert_int_equal(vmm.candidates[1].bytes, 2 * MIB);
	witness_reset();
	run(id, 0, 32 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_DISCARDED);
	assert_int_equal(offer.ranges[0].done_bytes, 32 * MIB);
	/* in one call */
	assert_int_equal(witness_count(MADV_DONTNEED), 1);
	over(id);
	assert_true(ebb_tables_vm_pte_bytes() <= before_bytes - NR(16));
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.tables_found, 17);
	assert_int_equal(status.counters.tables_asked, 17);
	assert_int_equal(status.counters.tables_offered, 16);
	assert_int_equal(status.counters.tables_freed, 16);
	assert_int_equal(status.counters.tables_refused, 0);
	assert_int_equal(guest_ram_count(&ram, 40 * MIB, 4 * MIB, 5, PAGE_KEPT), 1024);
	/* What is gone is not asked for again; what was not offered is. */
	id = ask();
	assert_int_equal(vmm.nr_candidates, 1);
	assert_int_equal(vmm.candidates[0].gpa, FIRST_GPA + 48 * MIB);
	run(id, 48 * MIB, 2 * MIB);
	over(id);
	assert_int_equal(ebb_executor_collect(vmm.executor), 0);
	fake_vmm_wait_status(&vmm, &status, status.counters.collections == 3);
	assert_int_equal(vmm.nr_collect, 2);
	end();
}

/* Rule 1: offered and asked for, in that exchange, and empty; nothing else. */
static void nothing_else_is_discarded(void **state)
{
	struct ebb_status status;
	uint64_t id;

	begin(EBB_MODE_LAZY);
	need_kernel();
	mark_and_purge(0, 8 * MIB);
	guest_ram_fill(&ram, 16 * MIB, 8 * MIB, 5);
	id = ask();
	/* not asked for: as any other offer */
	run(id, 16 * MIB, 4 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	/* asked for, but with another id */
	run(0, 0, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	run(id + 1, 0, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	/* used again since it was found, and free again */
	guest_ram_fill(&ram, 2 * MIB, PAGE, 6);
	run(id, 2 * MIB, 4 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	assert_int_equal(offer.ranges[0].done_bytes, 4 * MIB);
	/* part of a block */
	run(id, 6 * MIB, 2 * MIB - PAGE);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_NOT_MARKED);
	assert_int_equal(offer.ranges[0].reason, VIRTIO_EBB_REASON_FRAGMENT);
	over(id);
	/* after its end */
	run(id, 6 * MIB, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.tables_offered, 2);
	assert_int_equal(status.counters.tables_freed, 1);
	assert_int_equal(status.counters.tables_refused, 1);
	assert_int_equal(status.counters.discarded_bytes, 2 * MIB);
	assert_int_equal(guest_ram_count(&ram, 20 * MIB, 4 * MIB, 5, PAGE_KEPT), 1024);
	end();
}

/* At rest nothing is marked, and tables are collected all the same. */
static void at_rest(void **state)
{
	uint64_t id;

	begin(EBB_MODE_LAZY);
	need_kernel();
	mark_and_purge(0, 8 * MIB);
	guest_ram_fill(&ram, 8 * MIB, 8 * MIB, 5);
	pthread_mutex_lock(&vmm.executor->lock);
	vmm.executor->policy.operator_mode = EBB_MODE_AUTO;
	vmm.executor->policy.stage = EBB_STAGE_PLENTY;
	pthread_mutex_unlock(&vmm.executor->lock);
	id = ask();
	run(id, 6 * MIB, 4 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_DISCARDED);
	assert_int_equal(offer.ranges[0].done_bytes, 2 * MIB);
	assert_int_equal(offer.ranges[0].reason, VIRTIO_EBB_REASON_REST);
	run(id, 10 * MIB, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_NOT_MARKED);
	assert_int_equal(offer.ranges[0].reason, VIRTIO_EBB_REASON_REST);
	assert_int_equal(guest_ram_count(&ram, 8 * MIB, 8 * MIB, 5, PAGE_KEPT), 2048);
	/* Off is off, also for what was asked before. */
	ebb_executor_set_mode(vmm.executor, EBB_MODE_OFF);
	run(id, 0, 2 * MIB);
	assert_int_equal(offer.ranges[0].reason, VIRTIO_EBB_REASON_OFF);
	over(id);
	assert_int_equal(ebb_executor_collect(vmm.executor), -EPERM);
	end();
}

/* More pieces than one command has room for: it goes on where it stopped. */
static void many_pieces(void **state)
{
	static struct guest_ram large;
	struct ebb_status status;
	uint64_t id, i, pieces = VIRTIO_EBB_MAX_COLLECT + 20;

	begin(EBB_MODE_EAGER);
	need_kernel();
	guest_ram_init(&large, 2 * pieces * BLOCK, 0, false);
	fake_vmm_add_ram(&vmm, &large, 1ull << 40);
	for (i = 0; i < pieces; i++) {
		guest_ram_fill(&large, 2 * i * BLOCK, PAGE, 1);
		/* a part of a block: its table stays */
		offer_init(&offer, &large, 1ull << 40);
		offer_add(&offer, (1ull << 40) + 2 * i * BLOCK, PAGE);
		offer_run(&vmm, &offer);
	}
	id = ask();
	assert_int_equal(vmm.nr_candidates, VIRTIO_EBB_MAX_COLLECT);
	ebb_executor_release_done(vmm.executor, id, VIRTIO_EBB_DONE_OK, 1, 0);
	fake_vmm_wait(&vmm, vmm.nr_collect == 2);
	assert_int_equal(vmm.nr_candidates, 20);
	assert_int_equal(vmm.candidates[0].gpa, (1ull << 40) + 2 * VIRTIO_EBB_MAX_COLLECT * BLOCK);
	/* The first command is over: what it asked for is not asked for any more. */
	offer_init(&offer, &large, 1ull << 40);
	offer_add(&offer, (1ull << 40), BLOCK);
	offer.batch.command_id = vmm.collect_id;
	offer_run(&vmm, &offer);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.tables_offered, 0);
	/* A guest that is short ends it. */
	ebb_executor_release_done(vmm.executor, vmm.collect_id, VIRTIO_EBB_DONE_SHORT, 1, 0);
	fake_vmm_wait_status(&vmm, &status, status.counters.collections == 1);
	assert_int_equal(status.counters.tables_found, pieces);
	end();
	guest_ram_deinit(&large);
}

/* The block is that of the host's address, and whole: what a region has a part of is not one. */
static void misaligned_and_at_the_edge(void **state)
{
	uint64_t id;

	begin_at(EBB_MODE_EAGER, 64 * KIB);
	need_kernel();
	guest_ram_fill(&ram, 0, RAM_BYTES, 3);
	/* parts, so that all tables stay */
	run(0, 0, RAM_BYTES - PAGE);
	run(0, RAM_BYTES - PAGE, PAGE);
	guest_ram_fill(&ram, 0, RAM_BYTES, 3);
	for (id = 0; id < RAM_BYTES; id += MIB)
		run(0, id, MIB);
	id = ask();
	assert_int_equal(vmm.nr_candidates, 1);
	assert_int_equal(vmm.candidates[0].gpa, FIRST_GPA + 2 * MIB - 64 * KIB);
	assert_int_equal(vmm.candidates[0].bytes, RAM_BYTES - 2 * MIB);
	/* The guest's blocks are others: two neighbours hold one of the host's. */
	run(id, 2 * MIB, 2 * MIB);
	assert_int_equal(state_of(2 * MIB - 64 * KIB), EBB_TABLE_EMPTY);
	run(id, 2 * MIB, 4 * MIB);
	assert_int_equal(state_of(2 * MIB - 64 * KIB), EBB_TABLE_EMPTY);
	assert_int_equal(state_of(4 * MIB - 64 * KIB), EBB_TABLE_NONE);
	over(id);
	end();
}

/* A marker of write protection is an entry: the table stays. */
static void a_marker_stays(void **state)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	struct uffdio_register area = { .mode = UFFDIO_REGISTER_MODE_WP };
	struct uffdio_writeprotect protect = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	uint64_t id, before_bytes;
	int fd;

	begin(EBB_MODE_LAZY);
	need_kernel();
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
#ifdef UFFD_FEATURE_WP_UNPOPULATED
	api.features |= UFFD_FEATURE_WP_UNPOPULATED;
#else
	api.features |= 1 << 13; /* Linux 6.4 */
#endif
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0) {
		end();
		skip();
	}
	mark_and_purge(0, 8 * MIB);
	area.range.start = protect.range.start = (uintptr_t)ram.host;
	area.range.len = RAM_BYTES;
	protect.range.start += 2 * MIB + 5 * PAGE;
	protect.range.len = PAGE;
	assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &area), 0);
	assert_int_equal(ioctl(fd, UFFDIO_WRITEPROTECT, &protect), 0);
	assert_int_equal(state_of(2 * MIB), EBB_TABLE_USED);
	id = ask();
	/* An area with it is not skipped. */
	assert_int_equal(vmm.nr_candidates, 2);
	assert_int_equal(vmm.candidates[0].bytes, 2 * MIB);
	assert_int_equal(vmm.candidates[1].gpa, FIRST_GPA + 4 * MIB);
	/* A marker that came since keeps its table as well. */
	protect.range.start = (uintptr_t)ram.host + 6 * MIB;
	assert_int_equal(ioctl(fd, UFFDIO_WRITEPROTECT, &protect), 0);
	before_bytes = ebb_tables_vm_pte_bytes();
	ebb_executor_set_mode(vmm.executor, EBB_MODE_AUTO);
	pthread_mutex_lock(&vmm.executor->lock);
	vmm.executor->policy.stage = EBB_STAGE_PLENTY;
	pthread_mutex_unlock(&vmm.executor->lock);
	run(id, 0, 8 * MIB);
	assert_int_equal(offer.ranges[0].done_bytes, 4 * MIB);
	assert_int_equal(state_of(2 * MIB), EBB_TABLE_USED);
	assert_int_equal(state_of(6 * MIB), EBB_TABLE_USED);
	over(id);
	assert_int_equal(before_bytes - ebb_tables_vm_pte_bytes(), NR(2));
	/* An area with it shows no table as an empty one: that is not asked for for ever. */
	id = ask_or_end();
	assert_int_equal(id, 0);
	close(fd);
	end();
}

/* Without the kernel's word on tables: what was worked on, and has nothing in it now. */
static void by_history(void **state)
{
	struct ebb_status status;
	uint64_t id;

	begin(EBB_MODE_LAZY);
	need_kernel();
	vmm.executor->tables.finder = EBB_TABLES_HISTORY;
	vmm.executor->tables.can_scan = false;
	mark_and_purge(0, 8 * MIB);
	guest_ram_fill(&ram, 2 * MIB, PAGE, 6);
	id = ask();
	assert_int_equal(vmm.nr_candidates, 2);
	assert_int_equal(vmm.candidates[0].bytes, 2 * MIB);
	assert_int_equal(vmm.candidates[1].bytes, 4 * MIB);
	run(id, 0, 8 * MIB);
	over(id);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.tables_freed, 3);
	vmm.executor->tables.finder = EBB_TABLES_SCAN;
	vmm.executor->tables.can_scan = true;
	assert_int_equal(state_of(0), EBB_TABLE_NONE);
	assert_int_equal(state_of(2 * MIB), EBB_TABLE_USED);
	assert_int_equal(state_of(4 * MIB), EBB_TABLE_NONE);
	end();
}

/* As ebbd's word would have it. */
static void set_passes(uint32_t stage, uint64_t amount, uint64_t least)
{
	pthread_mutex_lock(&vmm.executor->lock);
	vmm.executor->policy.stage = stage;
	vmm.executor->tables_policy.delay_msec = EBB_TABLES_DELAY_MIN_MSEC;
	vmm.executor->tables_policy.amount_tables = amount;
	vmm.executor->tables_policy.least_tables = least;
	pthread_mutex_unlock(&vmm.executor->lock);
	assert_int_equal(ebb_executor_set_tables_mode(vmm.executor, EBB_TABLES_BACKGROUND), 0);
}

/* Wait until so many more passes have begun and ended. */
static void wait_passes(uint64_t nr)
{
	struct ebb_status status;
	uint64_t passes;

	ebb_executor_status(vmm.executor, &status);
	passes = status.counters.passes + nr;
	fake_vmm_wait_status(&vmm, &status, status.counters.passes >= passes);
}

/* Nobody asks for tables that cannot be there: VmPTE says how many there are at most. */
static void by_history_not_for_nothing(void **state)
{
	static struct guest_ram large;
	uint64_t bytes = 2048 * BLOCK, used = 600, i;

	begin(EBB_MODE_LAZY);
	need_kernel();
	vmm.executor->tables.finder = EBB_TABLES_HISTORY;
	vmm.executor->tables.can_scan = false;
	guest_ram_init(&large, bytes, 0, false);
	fake_vmm_add_ram(&vmm, &large, 1ull << 40);
	/* worked on, and never used: no table, which nobody tells it */
	offer_init(&offer, &large, 1ull << 40);
	offer_add(&offer, 1ull << 40, bytes);
	offer_run(&vmm, &offer);
	for (i = 0; i < used; i++)
		guest_ram_fill(&large, i * BLOCK, PAGE, 5);
	assert_in_range(ebb_tables_vm_pte_bytes(), NR(used), NR(2 * used - 1));
	set_passes(EBB_STAGE_PLENTY, 4096, used);
	wait_passes(3);
	assert_int_equal(vmm.nr_collect, 0);
	end();
	guest_ram_deinit(&large);
}

static void one_at_a_time_and_only_if_it_can_be_obeyed(void **state)
{
	struct ebb_status status;
	uint64_t id;

	begin(EBB_MODE_LAZY);
	need_kernel();
	mark_and_purge(0, 2 * MIB);
	id = ask();
	assert_int_equal(ebb_executor_collect(vmm.executor), -EBUSY);
	/* A release may be under way meanwhile. */
	assert_int_equal(ebb_executor_release(vmm.executor, MIB, 0), 0);
	fake_vmm_wait(&vmm, vmm.nr_release == 1);
	ebb_executor_release_done(vmm.executor, vmm.release_id, VIRTIO_EBB_DONE_OK, 1, 0);
	over(id);
	vmm.collect_ret = -ENODEV;
	ask();
	fake_vmm_wait_status(&vmm, &status, status.counters.collections == 2);
	vmm.collect_ret = 0;
	/* While discards are inhibited the guest is not even asked. */
	vmm.begin_ret = -EBUSY;
	assert_int_equal(ebb_executor_collect(vmm.executor), 0);
	fake_vmm_wait_status(&vmm, &status, status.counters.collections == 3);
	assert_int_equal(vmm.nr_collect, 2);
	vmm.begin_ret = 0;
	/* The driver goes, and the collection with it. */
	ask();
	ebb_executor_set_driver(vmm.executor, false);
	fake_vmm_wait_status(&vmm, &status, status.counters.collections == 4);
	assert_int_equal(ebb_executor_collect(vmm.executor), -ENODEV);
	ebb_executor_set_driver(vmm.executor, true);
	vmm.executor->tables.way = EBB_TABLES_NOTHING;
	assert_int_equal(ebb_executor_collect(vmm.executor), -ENOSYS);
	end();
}

/* Asked for and reset at once, again and again: no collection survives its reset. */
static void a_reset_at_any_moment(void **state)
{
	struct ebb_status status;
	unsigned int i, nr;

	begin(EBB_MODE_LAZY);
	need_kernel();
	mark_and_purge(0, 8 * MIB);
	for (i = 0; i < 1000; i++) {
		ebb_executor_set_driver(vmm.executor, true);
		nr = vmm.nr_collect;
		assert_int_equal(ebb_executor_collect(vmm.executor), 0);
		if (i % 3 == 0)
			fake_vmm_wait(&vmm, vmm.nr_collect > nr);
		ebb_executor_reset(vmm.executor);
		fake_vmm_wait_status(&vmm, &status, status.counters.collections == i + 1);
	}
	assert_int_equal(status.counters.tables_freed, 0);
	end();
}

/* So much at a time, where it stopped the last time; and not for too little. */
static void passes_in_the_background(void **state)
{
	unsigned int nr;
	uint64_t gpa;

	begin(EBB_MODE_LAZY);
	need_kernel();
	mark_and_purge(0, 32 * MIB);
	set_passes(EBB_STAGE_PLENTY, 6, 2);
	for (gpa = FIRST_GPA, nr = 1; gpa < FIRST_GPA + 24 * MIB; gpa += 12 * MIB, nr++) {
		fake_vmm_wait(&vmm, vmm.nr_collect == nr);
		assert_int_equal(vmm.nr_candidates, 1);
		assert_int_equal(vmm.candidates[0].gpa, gpa);
		assert_int_equal(vmm.candidates[0].bytes, 12 * MIB);
		run(vmm.collect_id, gpa - FIRST_GPA, 12 * MIB);
		ebb_executor_release_done(vmm.executor, vmm.collect_id, VIRTIO_EBB_DONE_OK, 1, 0);
	}
	fake_vmm_wait(&vmm, vmm.nr_collect == 3);
	assert_int_equal(vmm.candidates[0].gpa, FIRST_GPA + 24 * MIB);
	assert_int_equal(vmm.candidates[0].bytes, 8 * MIB);
	run(vmm.collect_id, 24 * MIB, 6 * MIB);
	ebb_executor_release_done(vmm.executor, vmm.collect_id, VIRTIO_EBB_DONE_OK, 1, 0);
	/* One is left: it is not worth it. */
	wait_passes(3);
	assert_int_equal(vmm.nr_collect, 3);
	assert_int_equal(state_of(30 * MIB), EBB_TABLE_EMPTY);
	set_passes(EBB_STAGE_PLENTY, 6, 1);
	fake_vmm_wait(&vmm, vmm.nr_collect == 4);
	end();
}

/* Nothing while the host is short, and nothing when it is not wanted. */
static void passes_give_way(void **state)
{
	struct ebb_status status;
	uint64_t passes;

	begin(EBB_MODE_LAZY);
	need_kernel();
	mark_and_purge(0, 8 * MIB);
	set_passes(EBB_STAGE_SHORT, 64, 1);
	usleep(5 * EBB_TABLES_DELAY_MIN_MSEC * 1000);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.passes, 0);
	assert_int_equal(status.tables_mode, EBB_TABLES_BACKGROUND);
	/* By hand it goes at any stage where it stalls nobody, but not when it is off. */
	if (vmm.executor->tables.way == EBB_TABLES_MOVE) {
		assert_int_equal(ebb_executor_collect(vmm.executor), -EAGAIN);
		set_passes(EBB_STAGE_NEARING, 64, 65);
	}
	over(ask());
	assert_int_equal(ebb_executor_set_tables_mode(vmm.executor, EBB_TABLES_OFF), 0);
	assert_int_equal(ebb_executor_collect(vmm.executor), -EPERM);
	assert_int_equal(ebb_executor_set_tables_mode(vmm.executor, EBB_TABLES_KEEP), -EINVAL);
	/* Short in the middle of a pass: it ends with the exchange. */
	set_passes(EBB_STAGE_PLENTY, 1, 1);
	fake_vmm_wait(&vmm, vmm.nr_collect == 2);
	set_passes(EBB_STAGE_SHORT, 1, 1);
	over(vmm.collect_id);
	ebb_executor_status(vmm.executor, &status);
	passes = status.counters.passes;
	usleep(3 * EBB_TABLES_DELAY_MIN_MSEC * 1000);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.passes, passes);
	end();
}

/* A region goes while its blocks are asked for: the one that comes after it was asked nothing. */
static void its_region_goes(void **state)
{
	struct ebb_status status;
	uint64_t id;

	begin(EBB_MODE_LAZY);
	need_kernel();
	mark_and_purge(0, 8 * MIB);
	id = ask();
	assert_int_equal(ebb_executor_region_remove(vmm.executor, FIRST_GPA), 0);
	assert_int_equal(offer_submit(&vmm, &offer, NULL), -EPROTO);
	fake_vmm_add_ram(&vmm, &ram, FIRST_GPA);
	run(id, 0, 8 * MIB);
	assert_int_equal(offer.ranges[0].done_bytes, 8 * MIB);
	over(id);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.counters.tables_offered, 0);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_purged_is_collected),
		cmocka_unit_test(nothing_else_is_discarded),
		cmocka_unit_test(at_rest),
		cmocka_unit_test(many_pieces),
		cmocka_unit_test(misaligned_and_at_the_edge),
		cmocka_unit_test(a_marker_stays),
		cmocka_unit_test(by_history),
		cmocka_unit_test(by_history_not_for_nothing),
		cmocka_unit_test(one_at_a_time_and_only_if_it_can_be_obeyed),
		cmocka_unit_test(a_reset_at_any_moment),
		cmocka_unit_test(its_region_goes),
		cmocka_unit_test(passes_in_the_background),
		cmocka_unit_test(passes_give_way),
	};
	cpu_set_t one;
	int ret;

	/* What the kernel keeps in a batch for each processor is drained by who asks for it. */
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	ret = cmocka_run_group_tests(tests, NULL, NULL);
	way = EBB_TABLES_MOVE;
	return cmocka_run_group_tests_name("tables are moved", tests, NULL, NULL) + ret;
}
