// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_move - page tables freed by moving them: the area stays as it is, whatever happens
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor.h"
#include "fake_vmm.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA	     0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#define POLICY_BIND 2

#define BLOCK	    EBB_BLOCK_BYTES
#define RAM_BYTES   (96 * MIB)
#define FIRST_GPA   (1ull << 32)
#define TABLES(nr_) ((nr_)*EBB_TABLE_BYTES)

static struct fake_vmm vmm;
static struct guest_ram ram;
static struct offer offer;

static void begin(bool huge)
{
	struct fake_scene scene = {
		.ram_bytes = RAM_BYTES,
		.huge = huge,
		.start_gpa = FIRST_GPA,
		.mode = EBB_MODE_EAGER,
		.tables_way = EBB_TABLES_MOVE,
		.driver = true,
	};

	fake_vmm_begin(&vmm, &ram, &scene);
}

static void end(void)
{
	fake_vmm_end(&vmm, &ram);
}

static void run(uint64_t command_id, uint64_t offset, uint64_t bytes)
{
	offer_run_one(&vmm, &offer, &ram, FIRST_GPA, command_id, FIRST_GPA + offset, bytes);
}

/* Discarded in parts, each block has a table without an entry. */
static void make_empty_tables(uint64_t offset, uint64_t bytes)
{
	uint64_t at;

	guest_ram_fill(&ram, offset, bytes, 3);
	for (at = offset; at < offset + bytes; at += MIB)
		run(0, at, MIB);
}

static struct ebb_counters over(uint64_t id)
{
	return fake_vmm_answer(&vmm, id, VIRTIO_EBB_DONE_OK);
}

/* The guest's answer to a question for [offset, offset + bytes), all of which has empty tables. */
static struct ebb_counters collect(uint64_t offset, uint64_t bytes)
{
	uint64_t id = fake_vmm_ask(&vmm);

	assert_int_equal(vmm.nr_candidates, 1);
	assert_int_equal(vmm.candidates[0].gpa, FIRST_GPA + offset);
	assert_int_equal(vmm.candidates[0].bytes, bytes);
	run(id, offset, bytes);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_DISCARDED);
	assert_int_equal(offer.ranges[0].done_bytes, bytes);
	return over(id);
}

static unsigned int nr_lines(const char *text)
{
	unsigned int nr = 0;

	for (; *text; text++)
		nr += *text == '\n';
	return nr;
}

static void advise(uint64_t offset, uint64_t bytes, int advice)
{
	assert_int_equal(madvise(ram.host + offset, bytes, advice), 0);
}

static int policy_of(uint64_t offset)
{
	int mode = -1;

	/* MPOL_F_ADDR */
	syscall(SYS_get_mempolicy, &mode, NULL, 0, ram.host + offset, 2);
	return mode;
}

/* Write protection by userfaultfd; -1: not allowed here. */
static int register_uffd(uint64_t offset, uint64_t bytes)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	struct uffdio_register area = {
		.range = { .start = (uintptr_t)ram.host + offset, .len = bytes },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0 && (ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &area) < 0)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* Advice, policy, name, registration and the areas' bounds, at its edges and in its middle. */
static void everything_stays(void **state)
{
	static const int advices[] = { MADV_MERGEABLE, MADV_DONTDUMP, MADV_DONTFORK,
				       MADV_WIPEONFORK, MADV_RANDOM };
	unsigned long node = 1;
	struct ebb_counters counters;
	char *before, *after;
	int fd, policy;
	size_t i;

	begin(true);
	for (i = 0; i < sizeof(advices) / sizeof(advices[0]); i++)
		advise(16 * MIB, 32 * MIB, advices[i]);
	advise(64 * MIB, 16 * MIB, MADV_NOHUGEPAGE);
	syscall(SYS_mbind, ram.host + 16 * MIB, 32 * MIB, POLICY_BIND, &node, 8 * sizeof(node), 0);
	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, ram.host + 8 * MIB, 48 * MIB, "guest");
	fd = register_uffd(32 * MIB, 24 * MIB);
	make_empty_tables(0, RAM_BYTES);
	policy = policy_of(20 * MIB);
	before = guest_ram_areas(&ram);
	assert_true(nr_lines(before) > 10);
	counters = collect(0, RAM_BYTES);
	assert_int_equal(counters.tables_freed, RAM_BYTES / BLOCK);
	assert_int_equal(counters.tables_failed, 0);
	after = guest_ram_areas(&ram);
	assert_string_equal(before, after);
	assert_int_equal(policy_of(20 * MIB), policy);
	if (fd >= 0) {
		struct uffdio_writeprotect protect = {
			.range = { .start = (uintptr_t)ram.host + 40 * MIB, .len = 16 * MIB },
			.mode = UFFDIO_WRITEPROTECT_MODE_WP,
		};

		assert_int_equal(ioctl(fd, UFFDIO_WRITEPROTECT, &protect), 0);
		close(fd);
	}
	free(before);
	free(after);
	guest_ram_fill(&ram, 0, RAM_BYTES, 9);
	assert_int_equal(guest_ram_count(&ram, 0, RAM_BYTES, 9, PAGE_KEPT), RAM_BYTES / PAGE);
	end();
}

/* One collection after the other leaves no area behind, here or elsewhere. */
static void areas_stay_as_many(void **state)
{
	struct ebb_counters counters;
	char *before, *after;
	uint64_t before_bytes;
	unsigned int i;

	begin(false);
	for (i = 0; i < 16; i++)
		advise(i * 6 * MIB, 2 * MIB, MADV_DONTDUMP);
	make_empty_tables(0, RAM_BYTES);
	before = guest_ram_areas(&ram);
	for (i = 1; i <= 5; i++) {
		before_bytes = ebb_tables_vm_pte_bytes();
		counters = collect(0, RAM_BYTES);
		assert_int_equal(counters.tables_freed, i * RAM_BYTES / BLOCK);
		assert_true(ebb_tables_vm_pte_bytes() <= before_bytes - TABLES(RAM_BYTES / BLOCK));
		make_empty_tables(0, RAM_BYTES);
	}
	after = guest_ram_areas(&ram);
	assert_string_equal(before, after);
	free(before);
	free(after);
	end();
}

/* What lies between areas inside of a block cannot be moved, and nothing happens to it. */
static void an_area_ends_inside_of_a_block(void **state)
{
	struct ebb_counters counters;

	begin(false);
	advise(5 * MIB, 2 * MIB, MADV_DONTDUMP);
	make_empty_tables(0, 16 * MIB);
	guest_ram_fill(&ram, 16 * MIB, 4 * MIB, 5);
	counters = collect(0, 16 * MIB);
	assert_int_equal(counters.tables_freed, 6);
	assert_int_equal(counters.tables_failed, 2);
	/* Both are found again. */
	counters = collect(4 * MIB, 4 * MIB);
	assert_int_equal(counters.tables_failed, 4);
	assert_int_equal(guest_ram_count(&ram, 16 * MIB, 4 * MIB, 5, PAGE_KEPT), 1024);
	guest_ram_fill(&ram, 0, 16 * MIB, 6);
	assert_int_equal(guest_ram_count(&ram, 0, 16 * MIB, 6, PAGE_KEPT), 4096);
	end();
}

/* The kernel has no memory for it: no hole, nothing lost, and another time it goes. */
static void no_room(void **state)
{
	struct ebb_counters counters;
	struct rlimit was, tight;
	char *before, *after;
	uint64_t id, pages;
	FILE *file;

	begin(false);
	make_empty_tables(0, 16 * MIB);
	guest_ram_fill(&ram, 16 * MIB, 4 * MIB, 5);
	before = guest_ram_areas(&ram);
	id = fake_vmm_ask(&vmm);
	getrlimit(RLIMIT_AS, &was);
	file = fopen("/proc/self/statm", "re");
	assert_int_equal(fscanf(file, "%lu", &pages), 1);
	fclose(file);
	tight = was;
	tight.rlim_cur = pages * PAGE + BLOCK;
	assert_int_equal(setrlimit(RLIMIT_AS, &tight), 0);
	run(id, 0, 16 * MIB);
	assert_int_equal(setrlimit(RLIMIT_AS, &was), 0);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_DISCARDED);
	counters = over(id);
	assert_int_equal(counters.tables_freed, 0);
	assert_int_equal(counters.tables_failed, 8);
	after = guest_ram_areas(&ram);
	assert_string_equal(before, after);
	assert_int_equal(guest_ram_count(&ram, 0, 16 * MIB, 3, PAGE_ZERO), 4096);
	assert_int_equal(guest_ram_count(&ram, 16 * MIB, 4 * MIB, 5, PAGE_KEPT), 1024);
	make_empty_tables(0, 16 * MIB);
	assert_int_equal(collect(0, 16 * MIB).tables_freed, 8);
	free(before);
	free(after);
	end();
}

/* No table is moved of what could not be discarded: a locked area would be locked no more. */
static void locked_memory_stays_locked(void **state)
{
	uint64_t id;
	char *before, *after;

	begin(false);
	make_empty_tables(0, 8 * MIB);
	id = fake_vmm_ask(&vmm);
	if (mlock2(ram.host, 4 * MIB, MLOCK_ONFAULT) < 0) {
		over(id);
		end();
		skip();
	}
	before = guest_ram_areas(&ram);
	witness_reset();
	run(id, 0, 4 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_NOT_MARKED);
	assert_int_equal(offer.ranges[0].reason, VIRTIO_EBB_REASON_BACKING);
	assert_int_equal(witness_count(ADVICE_MOVE), 0);
	over(id);
	after = guest_ram_areas(&ram);
	assert_string_equal(before, after);
	free(before);
	free(after);
	end();
}

/* Rule 12: the host became short after the guest was asked. */
static void not_while_the_host_is_short(void **state)
{
	struct ebb_counters counters;
	uint64_t id;

	begin(false);
	make_empty_tables(0, 8 * MIB);
	id = fake_vmm_ask(&vmm);
	pthread_mutex_lock(&vmm.executor->lock);
	vmm.executor->policy.stage = EBB_STAGE_SHORT;
	pthread_mutex_unlock(&vmm.executor->lock);
	witness_reset();
	run(id, 0, 8 * MIB);
	assert_int_equal(offer.ranges[0].done_bytes, 8 * MIB);
	assert_int_equal(witness_count(ADVICE_MOVE), 0);
	counters = over(id);
	assert_int_equal(counters.tables_failed, 4);
	assert_int_equal(ebb_executor_collect(vmm.executor), -EAGAIN);
	end();
}

static bool stop_lying;

/* Writes to what it has offered, and never stops. */
static void *liar(void *opaque)
{
	uint64_t page = 0;

	while (!__atomic_load_n(&stop_lying, __ATOMIC_RELAXED)) {
		volatile uint64_t *word = (uint64_t *)(ram.host + 2 * MIB + page * PAGE);

		*word = ~0ull;
		page = (page + 37) % 512;
	}
	return opaque;
}

/* Rule 7: it loses what it has offered and nothing else, and never sees what is not its own. */
static void a_guest_that_lies(void **state)
{
	struct ebb_counters counters = { 0 };
	unsigned int i;
	pthread_t thread;
	char *before, *after;
	uint64_t id, page;

	begin(false);
	guest_ram_fill(&ram, 0, 2 * MIB, 4);
	guest_ram_fill(&ram, 6 * MIB, 2 * MIB, 4);
	before = guest_ram_areas(&ram);
	for (i = 0; i < 200; i++) {
		make_empty_tables(2 * MIB, 4 * MIB);
		id = fake_vmm_ask(&vmm);
		stop_lying = false;
		assert_int_equal(pthread_create(&thread, NULL, liar, NULL), 0);
		run(id, 2 * MIB, 4 * MIB);
		__atomic_store_n(&stop_lying, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		counters = over(id);
		for (page = 512; page < 1024; page++) {
			uint64_t word = *(uint64_t *)(ram.host + page * PAGE);

			assert_true(word == 0 || word == ~0ull);
		}
	}
	assert_int_equal(counters.tables_offered, 400);
	assert_true(counters.tables_freed >= 200);
	assert_int_equal(guest_ram_count(&ram, 0, 2 * MIB, 4, PAGE_KEPT), 512);
	assert_int_equal(guest_ram_count(&ram, 6 * MIB, 2 * MIB, 4, PAGE_KEPT), 512);
	after = guest_ram_areas(&ram);
	assert_string_equal(before, after);
	free(before);
	free(after);
	end();
}

/* Of one that the kernel is asked for, and of a range with a hole: an error, and nothing changed.
 */
static void a_range_with_a_hole(void **state)
{
	begin(false);
	guest_ram_fill(&ram, 0, 8 * MIB, 5);
	assert_int_equal(munmap(ram.host + 4 * MIB, PAGE), 0);
	guest_ram_isolate(&ram, 0, 8 * MIB);
	assert_int_equal(ebb_tables_move_out((uintptr_t)ram.host, 8 * MIB), -EFAULT);
	guest_ram_use(&ram, 0, 8 * MIB);
	assert_int_equal(guest_ram_count(&ram, 0, 4 * MIB, 5, PAGE_KEPT), 1024);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_stays),
		cmocka_unit_test(areas_stay_as_many),
		cmocka_unit_test(an_area_ends_inside_of_a_block),
		cmocka_unit_test(no_room),
		cmocka_unit_test(locked_memory_stays_locked),
		cmocka_unit_test(not_while_the_host_is_short),
		cmocka_unit_test(a_guest_that_lies),
		cmocka_unit_test(a_range_with_a_hole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
