// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_cgroup - limits of both versions and libvirt's names, fed from files
 *
 * Owns:    a directory for each test: proc/ with mountinfo and cgroup, v1/ and v2/ as
 *          mount points.
 * Thread:  one.
 * Locks:   none.
 * Never:   looks at the machine's own cgroups.
 */
#include <errno.h>

#include "cgroup.h"
#include "cm.h"

#define MIB  (1ull << 20)
#define HOST (1024 * MIB)

/* mountinfo with these mounts, below dir. root: what the mount point shows. */
static void open_mounts(const char *dir, const char *v1_root, const char *v2_root,
			struct cgroup_mounts *mounts)
{
	char text[1024], *end = text;
	int dirfd;

	end += sprintf(end,
		       "23 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
		       "40 31 0:30 / %s/cpu rw shared:5 - cgroup cgroup rw,cpu,memoryless\n",
		       dir);
	if (v1_root)
		end += sprintf(end,
			       "35 31 0:32 %s %s/v1 rw,relatime shared:9 master:1 - cgroup "
			       "cgroup rw,memory\n",
			       v1_root, dir);
	if (v2_root)
		end += sprintf(end, "36 31 0:33 %s %s/v2 rw - cgroup2 cgroup2 rw,nsdelegate\n",
			       v2_root, dir);
	cm_file(dir, "proc/mountinfo", text);
	cm_file(dir, "v1/x", "");
	cm_file(dir, "v2/x", "");
	snprintf(text, sizeof(text), "%s/proc", dir);
	dirfd = cm_open_dir(text);
	assert_int_equal(cgroup_mounts_open(dirfd, "mountinfo", mounts), 0);
	close(dirfd);
}

static struct cgroup_level level_of(const char *dir, const struct cgroup_mounts *mounts,
				    const char *cgroup)
{
	struct cgroup_level level;
	char path[300];
	int dirfd;

	cm_file(dir, "proc/cgroup", cgroup);
	snprintf(path, sizeof(path), "%s/proc", dir);
	dirfd = cm_open_dir(path);
	assert_int_equal(cgroup_read_level(mounts, dirfd, HOST, &level), 0);
	close(dirfd);
	return level;
}

static void put_v1(const char *dir, const char *cgroup, uint64_t limit, uint64_t usage,
		   uint64_t inactive)
{
	char name[200], text[200];

	snprintf(name, sizeof(name), "v1%s/memory.limit_in_bytes", cgroup);
	snprintf(text, sizeof(text), "%llu\n", (unsigned long long)limit);
	cm_file(dir, name, text);
	snprintf(name, sizeof(name), "v1%s/memory.usage_in_bytes", cgroup);
	snprintf(text, sizeof(text), "%llu\n", (unsigned long long)usage);
	cm_file(dir, name, text);
	snprintf(name, sizeof(name), "v1%s/memory.stat", cgroup);
	snprintf(text, sizeof(text),
		 "cache 1\ninactive_file 1\ntotal_cache 9000\ntotal_shmem 1000\n"
		 "total_inactive_file %llu\n",
		 (unsigned long long)inactive);
	cm_file(dir, name, text);
}

static void put_v2(const char *dir, const char *cgroup, const char *max, const char *high,
		   uint64_t usage, uint64_t inactive)
{
	char name[200], text[200];

	snprintf(name, sizeof(name), "v2%s/memory.max", cgroup);
	cm_file(dir, name, max);
	snprintf(name, sizeof(name), "v2%s/memory.high", cgroup);
	cm_file(dir, name, high);
	snprintf(name, sizeof(name), "v2%s/memory.current", cgroup);
	snprintf(text, sizeof(text), "%llu\n", (unsigned long long)usage);
	cm_file(dir, name, text);
	snprintf(name, sizeof(name), "v2%s/memory.stat", cgroup);
	snprintf(text, sizeof(text), "anon 1\nfile 5000\nshmem 6000\ninactive_file %llu\n",
		 (unsigned long long)inactive);
	cm_file(dir, name, text);
}

static void test_v1(void **state)
{
	struct cgroup_mounts mounts;
	struct cgroup_level level;

	open_mounts(*state, "/", "/", &mounts);
	put_v1(*state, "/a/b", 9223372036854771712ull, 50 * MIB, 0);
	put_v1(*state, "/a", 100 * MIB, 90 * MIB, 20 * MIB);
	put_v1(*state, "", 9223372036854771712ull, 500 * MIB, 0);
	level = level_of(*state, &mounts, "4:cpu,memory:/a/b\n1:name=systemd:/x\n0::/\n");
	assert_string_equal(level.path, "v1:/a");
	assert_int_equal(level.limit_bytes, 100 * MIB);
	assert_int_equal(level.available_bytes, 30 * MIB);
	assert_int_equal(level.lists.listed_bytes, 20 * MIB);
	assert_int_equal(level.lists.cache_bytes, 8000);

	/* The tightest counts, relative to its limit. */
	put_v1(*state, "/a/b", 50 * MIB, 45 * MIB, 0);
	level = level_of(*state, &mounts, "4:memory:/a/b\n");
	assert_string_equal(level.path, "v1:/a/b");
	assert_int_equal(level.available_bytes, 5 * MIB);

	/* Nothing limits it: a limit over the host's memory is none. */
	put_v1(*state, "/c", HOST, 45 * MIB, 0);
	level = level_of(*state, &mounts, "4:memory:/c\n");
	assert_string_equal(level.path, "");

	/* A cgroup that is gone limits nothing, those above it do. */
	level = level_of(*state, &mounts, "4:memory:/a/gone/away\n");
	assert_string_equal(level.path, "v1:/a");
	cgroup_mounts_close(&mounts);
}

static int kvm_tables(const char *dir, const struct cgroup_mounts *mounts, const char *cgroup,
		      uint64_t *bytes)
{
	char path[300];
	int dirfd, r;

	cm_file(dir, "proc/cgroup", cgroup);
	snprintf(path, sizeof(path), "%s/proc", dir);
	dirfd = cm_open_dir(path);
	r = cgroup_read_kvm_tables(mounts, dirfd, bytes);
	close(dirfd);
	return r;
}

/* Of the cgroup, or of the next above that has an account; never of the whole host. */
static void test_kvm_tables(void **state)
{
	struct cgroup_mounts mounts;
	uint64_t bytes = 0;

	open_mounts(*state, "/", "/", &mounts);
	cm_file(*state, "v2/memory.stat", "anon 1\nsec_pagetables 99\n");
	cm_file(*state, "v2/m/vm.scope/memory.stat", "pagetables 8192\nsec_pagetables 4096\n");
	cm_file(*state, "v2/m/vm.scope/threads/x", "");
	cm_file(*state, "v2/m/old.scope/memory.stat", "anon 1\npagetables 8192\n");
	assert_int_equal(kvm_tables(*state, &mounts, "4:memory:/a\n0::/m/vm.scope\n", &bytes), 0);
	assert_int_equal(bytes, 4096);
	bytes = 0;
	assert_int_equal(kvm_tables(*state, &mounts, "0::/m/vm.scope/threads\n", &bytes), 0);
	assert_int_equal(bytes, 4096);
	assert_int_equal(kvm_tables(*state, &mounts, "0::/m/old.scope\n", &bytes), -ENODATA);
	assert_int_equal(kvm_tables(*state, &mounts, "0::/m/gone\n", &bytes), -ENODATA);
	assert_int_equal(kvm_tables(*state, &mounts, "0::/\n", &bytes), -ENODATA);
	assert_int_equal(kvm_tables(*state, &mounts, "0::/../m/vm.scope\n", &bytes), -ENODATA);
	assert_int_equal(kvm_tables(*state, &mounts, "4:memory:/m/vm.scope\n", &bytes), -ENODATA);
	cgroup_mounts_close(&mounts);
	/* What is mounted is not the root. */
	open_mounts(*state, NULL, "/m", &mounts);
	cm_file(*state, "v2/vm.scope/memory.stat", "sec_pagetables 8192\n");
	assert_int_equal(kvm_tables(*state, &mounts, "0::/m/vm.scope\n", &bytes), 0);
	assert_int_equal(bytes, 8192);
	assert_int_equal(kvm_tables(*state, &mounts, "0::/mm/vm.scope\n", &bytes), -ENODATA);
	cgroup_mounts_close(&mounts);
	open_mounts(*state, "/", NULL, &mounts);
	assert_int_equal(kvm_tables(*state, &mounts, "0::/m/vm.scope\n", &bytes), -ENODATA);
	cgroup_mounts_close(&mounts);
}

static void test_v2(void **state)
{
	struct cgroup_mounts mounts;
	struct cgroup_level level;

	open_mounts(*state, NULL, "/", &mounts);
	put_v2(*state, "/m/g", "max\n", "209715200\n", 150 * MIB, 10 * MIB);
	put_v2(*state, "/m", "max\n", "max\n", 150 * MIB, 10 * MIB);
	level = level_of(*state, &mounts, "0::/m/g\n");
	assert_string_equal(level.path, "v2:/m/g");
	assert_int_equal(level.limit_bytes, 200 * MIB);
	assert_int_equal(level.available_bytes, 60 * MIB);

	put_v2(*state, "/m/g", "104857600\n", "209715200\n", 150 * MIB, 10 * MIB);
	level = level_of(*state, &mounts, "0::/m/g\n");
	assert_int_equal(level.limit_bytes, 100 * MIB);
	/* Over its limit: only what the kernel can drop is left. */
	assert_int_equal(level.available_bytes, 10 * MIB);

	put_v2(*state, "/m/g", "max\n", "max\n", 150 * MIB, 10 * MIB);
	level = level_of(*state, &mounts, "0::/m/g\n");
	assert_string_equal(level.path, "");
	cgroup_mounts_close(&mounts);
}

/* Statistics lag behind: more cache than usage is no more than the limit. */
static void test_inconsistent(void **state)
{
	struct cgroup_mounts mounts;
	struct cgroup_level level;

	open_mounts(*state, NULL, "/", &mounts);
	put_v2(*state, "/g", "104857600\n", "max\n", 10 * MIB, 500 * MIB);
	level = level_of(*state, &mounts, "0::/g\n");
	assert_int_equal(level.available_bytes, 100 * MIB);
	cgroup_mounts_close(&mounts);
}

/* In a container the mount point shows a part of the tree only. */
static void test_mounted_below_root(void **state)
{
	struct cgroup_mounts mounts;
	struct cgroup_level level;

	open_mounts(*state, NULL, "/docker/x", &mounts);
	put_v2(*state, "/g", "104857600\n", "max\n", 10 * MIB, 0);
	put_v2(*state, "", "52428800\n", "max\n", 40 * MIB, 0);
	level = level_of(*state, &mounts, "0::/docker/x/g\n");
	assert_string_equal(level.path, "v2:/docker/x");
	assert_int_equal(level.available_bytes, 10 * MIB);
	level = level_of(*state, &mounts, "0::/docker/xy/g\n");
	assert_string_equal(level.path, "");
	level = level_of(*state, &mounts, "0::/docker/x/../y\n");
	assert_string_equal(level.path, "");
	level = level_of(*state, &mounts, "0::/g\n");
	assert_string_equal(level.path, "");
	cgroup_mounts_close(&mounts);
}

/* Whatever stands in the files, nothing is read that is not there. */
static void test_broken_files(void **state)
{
	static const char *const texts[] = { "",
					     "\n",
					     "::\n",
					     "0:\n",
					     "0::\n",
					     "nonsense",
					     "0::relative\n",
					     "4:memory\n",
					     "4:memory:\n0::/g" };
	struct cgroup_mounts mounts;
	struct cgroup_level level;
	size_t i;

	open_mounts(*state, NULL, "/", &mounts);
	for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		level = level_of(*state, &mounts, texts[i]);
		assert_string_equal(level.path, "");
	}
	cm_file(*state, "v2/g/memory.max", "lots\n");
	cm_file(*state, "v2/g/memory.high", "0\n");
	level = level_of(*state, &mounts, "0::/g\n");
	assert_string_equal(level.path, "");
	cgroup_mounts_close(&mounts);
}

static void test_no_cgroups(void **state)
{
	struct cgroup_mounts mounts;
	struct cgroup_level level;

	open_mounts(*state, NULL, NULL, &mounts);
	assert_int_equal(mounts.v1.dirfd, -1);
	assert_int_equal(mounts.v2.dirfd, -1);
	level = level_of(*state, &mounts, "4:memory:/a\n0::/a\n");
	assert_string_equal(level.path, "");
	cgroup_mounts_close(&mounts);
}

static void test_machine_names(void **state)
{
	static const struct {
		const char *text;
		const char *name; /* NULL: no machine of libvirt's */
	} cases[] = {
		{ "0::/machine/qemu-1-web.libvirt-qemu\n", "web" },
		{ "0::/machine/qemu-12-web-2.libvirt-qemu/emulator\n", "web-2" },
		{ "5:cpu:/\n4:memory:/machine/qemu-3-db.libvirt-qemu/vcpu0\n", "db" },
		{ "0::/machine.slice/machine-qemu\\x2d4\\x2dweb\\x2d1.scope/libvirt/emulator\n",
		  "web-1" },
		{ "0::/machine/prod.partition/qemu-1-web.libvirt-qemu\n", "web" },
		{ "0::/user.slice/machine/qemu-1-web.libvirt-qemu\n", NULL },
		{ "0::/machine/qemu-x-web.libvirt-qemu\n", NULL },
		{ "0::/machine/qemu-1-.libvirt-qemu\n", NULL },
		{ "0::/machine/qemu-1-web.libvirt-lxc\n", NULL },
		{ "0::/machine/lxc-1-web.libvirt-qemu\n", NULL },
		{ "0::/machine.slice/machine-qemu\\x2d4.scope\n", NULL },
		{ "0::/machine.slice/machine-qemu\\x2d4\\x2da\\x20b.scope\n", NULL },
		{ "0::/machine.slice/machine-qemu\\x2d4\\x2da\\x00b.scope\n", "a" },
		{ "0::/qemu-1-web.libvirt-qemu\n", NULL },
		{ "0::/machine\n", NULL },
		{ "", NULL },
		{ "garbage", NULL },
	};
	char name[CGROUP_NAME_BYTES], text[300];
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (cgroup_machine_name(cases[i].text, name) != (cases[i].name != NULL))
			fail_msg("%s", cases[i].text);
		if (cases[i].name)
			assert_string_equal(name, cases[i].name);
	}
	snprintf(text, sizeof(text), "0::/machine/qemu-1-%064d.libvirt-qemu\n", 0);
	assert_false(cgroup_machine_name(text, name));
	snprintf(text, sizeof(text), "0::/machine/qemu-1-%063d.libvirt-qemu\n", 0);
	assert_true(cgroup_machine_name(text, name));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_v1, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_v2, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_kvm_tables, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_inconsistent, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_mounted_below_root, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_broken_files, cm_dir, cm_dir_gone),
		cmocka_unit_test_setup_teardown(test_no_cgroups, cm_dir, cm_dir_gone),
		cmocka_unit_test(test_machine_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
