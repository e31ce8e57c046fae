// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_progress - rule 12: nothing is allocated between an offer and its answer
 *
 * This program's malloc() and its kin are its own and count who calls them, libraries
 * included. Sanitizers and valgrind bring their own: there the test is skipped.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_vmm.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifdef SANITIZED

int main(void)
{
	printf("skipped: a sanitizer has taken malloc()\n");
	return 77;
}

#else

static atomic_bool watching;
static atomic_uint allocations;

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t nr, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);

static void count(void)
{
	if (atomic_load(&watching))
		atomic_fetch_add(&allocations, 1);
}

void *malloc(size_t bytes)
{
	count();
	return __libc_malloc(bytes);
}

void *calloc(size_t nr, size_t bytes)
{
	count();
	return __libc_calloc(nr, bytes);
}

void *realloc(void *old, size_t bytes)
{
	count();
	return __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t align, size_t bytes)
{
	count();
	return __libc_memalign(align, bytes);
}

static struct fake_vmm vmm;
static struct guest_ram ram;
static struct offer offers[EBB_MAX_BATCHES];

/* As many ranges as fit, the last first, so that they must be sorted. */
static void fill_offer(unsigned int n)
{
	unsigned int i;

	offer_init(&offers[n], &ram, 0);
	for (i = FAKE_MAX_RANGES; i-- > 0;)
		offer_add(&offers[n], (n * FAKE_MAX_RANGES + i) * 2 * PAGE, 2 * PAGE);
}

static void run_all(void)
{
	unsigned int i;

	for (i = 0; i < EBB_MAX_BATCHES; i++)
		fill_offer(i);
	atomic_store(&watching, true);
	for (i = 0; i < EBB_MAX_BATCHES; i++)
		assert_int_equal(offer_submit(&vmm, &offers[i], NULL), 0);
	ebb_executor_quiesce(vmm.executor, false);
	atomic_store(&watching, false);
}

static void nothing_is_allocated(void **state)
{
	const uint32_t modes[] = { EBB_MODE_LAZY, EBB_MODE_EAGER, EBB_MODE_OFF };
	unsigned int i;

	guest_ram_init(&ram, EBB_MAX_BATCHES * FAKE_MAX_RANGES * 2 * PAGE, 0, false);
	fake_vmm_init(&vmm, EBB_MODE_LAZY, EBB_FRONT_EBB, NULL);
	fake_vmm_add_ram(&vmm, &ram, 0);
	for (i = 0; i < 3; i++) {
		ebb_executor_set_mode(vmm.executor, modes[i]);
		run_all();
	}
	/* What may hold KSM pages takes a look at smaps: no allocation there either. */
	if (madvise(ram.host, ram.bytes, MADV_MERGEABLE) == 0) {
		ebb_executor_region_remove(vmm.executor, 0);
		fake_vmm_add_ram(&vmm, &ram, 0);
		ebb_executor_set_mode(vmm.executor, EBB_MODE_LAZY);
		run_all();
	}
	/* Calls that fail, with a line for the log. */
	witness_fail(MADV_DONTNEED, 12);
	ebb_executor_set_mode(vmm.executor, EBB_MODE_EAGER);
	run_all();
	assert_int_equal(atomic_load(&allocations), 0);
	fake_vmm_deinit(&vmm);
	guest_ram_deinit(&ram);
}

static atomic_bool stuck;
static bool in_call, status_read; /* under vmm.lock */

static void wait_for_status(void *opaque, int advice)
{
	unsigned int naps;
	bool read = false;

	pthread_mutex_lock(&vmm.lock);
	in_call = true;
	pthread_cond_broadcast(&vmm.changed);
	pthread_mutex_unlock(&vmm.lock);
	for (naps = 0; naps < 5000 && !read; naps++) {
		fake_vmm_nap();
		pthread_mutex_lock(&vmm.lock);
		read = status_read;
		pthread_mutex_unlock(&vmm.lock);
	}
	if (!read)
		atomic_store(&stuck, true);
}

/* The lock is not held across a system call: others read and submit during it. */
static void calls_are_made_without_the_lock(void **state)
{
	struct ebb_status status;

	guest_ram_init(&ram, 8 * MIB, 0, false);
	fake_vmm_init(&vmm, EBB_MODE_EAGER, EBB_FRONT_EBB, NULL);
	fake_vmm_add_ram(&vmm, &ram, 0);
	witness_hook(wait_for_status, NULL);
	offer_init(&offers[0], &ram, 0);
	offer_add(&offers[0], 0, 2 * MIB);
	assert_int_equal(offer_submit(&vmm, &offers[0], NULL), 0);
	fake_vmm_wait(&vmm, in_call);
	ebb_executor_status(vmm.executor, &status);
	offer_init(&offers[1], &ram, 0);
	offer_add(&offers[1], 4 * MIB, 2 * MIB);
	assert_int_equal(offer_submit(&vmm, &offers[1], NULL), 0);
	pthread_mutex_lock(&vmm.lock);
	status_read = true;
	pthread_mutex_unlock(&vmm.lock);
	ebb_executor_quiesce(vmm.executor, false);
	assert_false(atomic_load(&stuck));
	fake_vmm_deinit(&vmm);
	guest_ram_deinit(&ram);
}

/* That the counters count. */
static void allocations_are_seen(void **state)
{
	unsigned int before = atomic_load(&allocations);
	void *volatile block;

	atomic_store(&watching, true);
	block = malloc(10);
	free(block);
	block = strdup("counted");
	free(block);
	atomic_store(&watching, false);
	assert_int_equal(atomic_load(&allocations), before + 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_allocated),
		cmocka_unit_test(calls_are_made_without_the_lock),
		cmocka_unit_test(allocations_are_seen),
	};
	const char *preload = getenv("LD_PRELOAD");

	if (preload && strstr(preload, "vgpreload")) {
		printf("skipped: valgrind has taken malloc()\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
