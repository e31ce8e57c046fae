// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_ksm - what is made of the kernel's words about merging (rule 2)
 *
 * Linked with --wrap=open: the executor's files in /proc may be replaced by files of
 * the test, so that KSM begins to work at a moment of its choice.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_vmm.h"
#include "executor.h"

static char dir[] = "/tmp/ebb-test-ksm-XXXXXX";
static bool replaced; /* /proc/self/ksm_stat and smaps are files in dir */

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);

int __wrap_open64(const char *path, int flags, ...)
{
	char other[256];

	if (replaced && (strcmp(path, ebb_ksm_kernel_paths.stat) == 0 ||
			 strcmp(path, ebb_ksm_kernel_paths.smaps) == 0)) {
		snprintf(other, sizeof(other), "%s/%s", dir, strrchr(path, '/') + 1);
		path = other;
	}
	/* The executor creates no file, so there is no mode. */
	return __real_open64(path, flags);
}

static void write_file(const char *name, const char *format, ...)
{
	char path[256];
	va_list args;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "we");
	assert_non_null(file);
	va_start(args, format);
	vfprintf(file, format, args);
	va_end(args);
	fclose(file);
}

static void write_stat(unsigned int items, const char *mergeable)
{
	write_file("ksm_stat",
		   "ksm_rmap_items %u\nksm_zero_pages 0\nksm_merging_pages 0\n"
		   "ksm_process_profit 0\nksm_merge_any: no\nksm_mergeable: %s\n",
		   items, mergeable);
}

static void write_smaps(const struct guest_ram *ram, const char *flags)
{
	write_file("smaps",
		   "55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0 [heap]\n"
		   "Size:                132 kB\nVmFlags: rd wr mr mw me ac sd mg \n"
		   "%lx-%lx rw-p 00000000 00:00 0 \nSize:              %lu kB\n"
		   "VmFlags: rd wr mr mw me ac sd %s\n"
		   "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]\n"
		   "VmFlags: rd wr mr mw me gd ac \n",
		   (unsigned long)ram->host, (unsigned long)ram->host + ram->bytes,
		   (unsigned long)(ram->bytes / 1024), flags);
}

static void parse_stat(void **state)
{
	struct ebb_ksm_word word;

	word = ebb_ksm_parse_stat("ksm_rmap_items 0\nksm_zero_pages 7\nksm_merge_any: no\n"
				  "ksm_mergeable: no\n");
	assert_false(word.pages);
	assert_false(word.areas);
	word = ebb_ksm_parse_stat("ksm_rmap_items 12\nksm_merge_any: no\nksm_mergeable: yes\n");
	assert_true(word.pages);
	assert_true(word.areas);
	word = ebb_ksm_parse_stat("ksm_rmap_items 0\nksm_merge_any: yes\nksm_mergeable: no\n");
	assert_false(word.pages);
	assert_true(word.areas);
	/* Linux 6.1 says no more than this. */
	word = ebb_ksm_parse_stat("ksm_rmap_items 0\n");
	assert_false(word.pages);
	assert_true(word.areas);
	/* What cannot be read is assumed. */
	word = ebb_ksm_parse_stat("");
	assert_true(word.pages && word.areas);
	word = ebb_ksm_parse_stat("ksm_rmap_items many\n");
	assert_true(word.pages && word.areas);
}

static void without_files(void **state)
{
	struct ebb_ksm_paths paths = { "/nowhere", "/nowhere", "/nowhere", "/" };
	struct ebb_ksm ksm;

	ebb_ksm_init(&ksm, &paths);
	assert_true(ebb_ksm_ask(&ksm).pages);
	assert_true(ebb_ksm_ask(&ksm).areas);
	assert_int_equal(ebb_ksm_read_smaps(&ksm, NULL, NULL), -ENOENT);
	ebb_ksm_deinit(&ksm);

	paths.sysfs = "/nowhere";
	ebb_ksm_init(&ksm, &paths);
	if (access("/sys/kernel/mm", F_OK) == 0)
		assert_false(ebb_ksm_ask(&ksm).pages);
	else
		assert_true(ebb_ksm_ask(&ksm).pages);
	ebb_ksm_deinit(&ksm);
}

static void old_kernels_tell_of_merged_pages(void **state)
{
	char path[256];
	struct ebb_ksm_paths paths = { "/nowhere", path, "/nowhere", "/" };
	struct ebb_ksm ksm;

	snprintf(path, sizeof(path), "%s/pages", dir);
	write_file("pages", "0\n");
	ebb_ksm_init(&ksm, &paths);
	assert_false(ebb_ksm_ask(&ksm).pages);
	assert_true(ebb_ksm_ask(&ksm).areas);
	write_file("pages", "31\n");
	assert_true(ebb_ksm_ask(&ksm).pages);
	ebb_ksm_deinit(&ksm);
}

struct areas {
	struct ebb_smaps_area area[8];
	unsigned int nr;
};

static void keep_area(void *opaque, const struct ebb_smaps_area *area)
{
	struct areas *areas = opaque;

	assert_true(areas->nr < 8);
	areas->area[areas->nr++] = *area;
}

static void parse_smaps(void **state)
{
	char path[256], name[5000];
	struct ebb_ksm_paths paths = { "/nowhere", "/nowhere", path, "/" };
	struct areas areas = { 0 };
	struct ebb_ksm ksm;

	memset(name, 'n', sizeof(name));
	memcpy(name, "/VmFlags: mg", 12);
	name[sizeof(name) - 1] = '\0';
	snprintf(path, sizeof(path), "%s/smaps", dir);
	write_file("smaps",
		   "1000-3000 rw-p 00000000 00:00 0 \nLocked: 0 kB\nVmFlags: rd wr lo mg\n"
		   "7f0000000000-7f0000002000 r--p 00000000 08:01 17 %s\nVmFlags: rd mr me \n"
		   "a000-b000 rw-p 00000000 00:00 0 mg\nVmFlags: rd wr sd mg \n",
		   name);
	ebb_ksm_init(&ksm, &paths);
	assert_int_equal(ebb_ksm_read_smaps(&ksm, keep_area, &areas), 0);
	ebb_ksm_deinit(&ksm);
	assert_int_equal(areas.nr, 3);
	assert_int_equal(areas.area[0].start, 0x1000);
	assert_int_equal(areas.area[0].end, 0x3000);
	assert_true(areas.area[0].mergeable && areas.area[0].locked);
	assert_int_equal(areas.area[1].end, 0x7f0000002000);
	assert_false(areas.area[1].mergeable || areas.area[1].locked);
	assert_true(areas.area[2].mergeable);
	assert_false(areas.area[2].locked);
}

static struct fake_vmm vmm;
static struct guest_ram ram;

static void begin(unsigned int items, const char *mergeable, const char *flags)
{
	guest_ram_init(&ram, 8 * MIB, 0, false);
	guest_ram_fill(&ram, 0, ram.bytes, 1);
	write_stat(items, mergeable);
	write_smaps(&ram, flags);
	replaced = true;
	fake_vmm_init(&vmm, EBB_MODE_LAZY, EBB_FRONT_EBB, NULL);
	fake_vmm_add_ram(&vmm, &ram, 0);
}

static void end(void)
{
	fake_vmm_deinit(&vmm);
	guest_ram_deinit(&ram);
	replaced = false;
}

static void expect(uint64_t gpa, uint64_t bytes, uint16_t verdict)
{
	offer_expect(&vmm, &ram, 0, gpa, bytes, verdict, 0, bytes);
}

static void merging_switched_on_at_run_time(void **state)
{
	begin(0, "no", "");
	expect(0, 4 * MIB, VIRTIO_EBB_MARKED);
	/* Switched on; ksmd has not been here yet. */
	write_stat(0, "yes");
	write_smaps(&ram, "mg ");
	expect(0, 4 * MIB, VIRTIO_EBB_MARKED);
	/* It has. */
	write_stat(100, "yes");
	expect(0, 4 * MIB, VIRTIO_EBB_DISCARDED);
	/* Its traces vanish, the area is still mergeable. */
	write_stat(0, "yes");
	expect(4 * MIB, 4 * MIB, VIRTIO_EBB_DISCARDED);
	/* Switched off: each block is discarded once more. */
	write_stat(0, "no");
	expect(0, 2 * MIB, VIRTIO_EBB_DISCARDED);
	expect(0, 2 * MIB, VIRTIO_EBB_MARKED);
	expect(0, 8 * MIB, VIRTIO_EBB_MARKED); /* of it 6 MiB are discarded */
	expect(0, 8 * MIB, VIRTIO_EBB_MARKED);
	assert_int_equal(witness_count(MADV_FREE), 5);
	assert_int_equal(witness_count(MADV_DONTNEED), 4);
	end();
}

/* Other memory of the process is merged: guest RAM may be marked, if a fresh look says so. */
static void merging_elsewhere(void **state)
{
	uint64_t start_nsec = ebb_now_nsec();
	unsigned int i;

	begin(50, "yes", "");
	for (i = 0; i < 60000 && witness_count(MADV_FREE) < 2; i++) {
		static struct offer offer;

		offer_init(&offer, &ram, 0);
		offer_add(&offer, 0, 4 * MIB);
		offer_run(&vmm, &offer);
		/* At most one look a second, and no mark without a look of its own. */
		assert_true(witness_count(MADV_FREE) <=
			    1 + (ebb_now_nsec() - start_nsec) / NSEC_PER_SEC);
		fake_vmm_nap();
	}
	assert_int_equal(witness_count(MADV_FREE), 2);
	end();
}

static void a_kernel_that_does_not_tell(void **state)
{
	uint64_t start_nsec = ebb_now_nsec();

	begin(0, "no", "");
	/* smaps has nothing about guest RAM, ksm_stat nothing that is known. */
	write_file("smaps", "55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0\nVmFlags: rd\n");
	write_file("ksm_stat", "nothing\n");
	assert_int_equal(ebb_executor_region_remove(vmm.executor, 0), 0);
	fake_vmm_add_ram(&vmm, &ram, 0);
	/* There is one look a second at most: so long that it would be an offer's own. */
	do {
		expect(0, 4 * MIB, VIRTIO_EBB_DISCARDED);
		fake_vmm_nap();
	} while (ebb_now_nsec() - start_nsec < 2 * NSEC_PER_SEC);
	assert_int_equal(witness_count(MADV_FREE), 0);
	end();
}

/* Linux 6.1 tells of pages alone: then smaps is looked at once. */
static void a_kernel_that_tells_of_pages_alone(void **state)
{
	begin(0, "no", "");
	write_file("ksm_stat", "ksm_rmap_items 0\n");
	assert_int_equal(ebb_executor_region_remove(vmm.executor, 0), 0);
	fake_vmm_add_ram(&vmm, &ram, 0);
	expect(0, 4 * MIB, VIRTIO_EBB_MARKED);
	write_smaps(&ram, "mg ");
	assert_int_equal(ebb_executor_region_remove(vmm.executor, 0), 0);
	fake_vmm_add_ram(&vmm, &ram, 0);
	expect(0, 4 * MIB, VIRTIO_EBB_DISCARDED);
	/* "Not any more" cannot be told there: it stays so. */
	write_smaps(&ram, "");
	expect(0, 4 * MIB, VIRTIO_EBB_DISCARDED);
	expect(0, 4 * MIB, VIRTIO_EBB_DISCARDED);
	assert_int_equal(witness_count(MADV_FREE), 1);
	end();
}

/* ksmd comes while the call runs: between the look before and the answer. */
static void ksm_comes(void *opaque, int advice)
{
	if (advice == MADV_FREE)
		write_stat(9, "yes");
}

static void ksm_comes_during_the_call(void **state)
{
	begin(0, "no", "");
	witness_hook(ksm_comes, NULL);
	expect(0, 4 * MIB, VIRTIO_EBB_DISCARDED);
	assert_int_equal(witness_count(MADV_FREE), 1);
	assert_int_equal(witness_count(MADV_DONTNEED), 1);
	assert_int_equal(guest_ram_count(&ram, 0, 4 * MIB, 1, PAGE_ZERO), 1024);
	assert_int_equal(guest_ram_count(&ram, 4 * MIB, 4 * MIB, 1, PAGE_KEPT), 1024);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse_stat),
		cmocka_unit_test(without_files),
		cmocka_unit_test(old_kernels_tell_of_merged_pages),
		cmocka_unit_test(parse_smaps),
		cmocka_unit_test(merging_switched_on_at_run_time),
		cmocka_unit_test(merging_elsewhere),
		cmocka_unit_test(a_kernel_that_does_not_tell),
		cmocka_unit_test(a_kernel_that_tells_of_pages_alone),
		cmocka_unit_test(ksm_comes_during_the_call),
	};
	char command[64];
	int ret;

	if (!mkdtemp(dir))
		return 1;
	ret = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command) || ret;
}
