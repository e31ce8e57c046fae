/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* cgroup.h - the memory limit above a process, and the name libvirt gave it; see cgroup.c */
#ifndef EBB_CGROUP_H
#define EBB_CGROUP_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proc.h"

struct cgroup_mount {
	int dirfd;	     /* of the mount point, or -1 */
	char root[PATH_MAX]; /* the cgroup that the mount point shows; "" for the root */
};

struct cgroup_mounts {
	struct cgroup_mount v1; /* the memory controller */
	struct cgroup_mount v2;
};

/* The tightest limit on the way from a process's cgroup to the root. */
struct cgroup_level {
	char path[PATH_MAX]; /* "v1:/..." or "v2:/..."; "" if nothing limits it */
	uint64_t limit_bytes;
	uint64_t available_bytes; /* limit - usage + the list of inactive file pages */
	struct proc_lists lists;
};

#define CGROUP_NAME_BYTES 64

int cgroup_mounts_open(int proc_dirfd, const char *mountinfo, struct cgroup_mounts *mounts);
void cgroup_mounts_close(struct cgroup_mounts *mounts);
int cgroup_read_level(const struct cgroup_mounts *mounts, int pid_dirfd, uint64_t host_total_bytes,
		      struct cgroup_level *level);
/*
 * KVM's own page tables that the process's cgroup of version 2 is charged for, which are those of
 * all guests in it. -ENODATA: it is in the root's, or the kernel does not tell (before Linux 6.1).
 */
int cgroup_read_kvm_tables(const struct cgroup_mounts *mounts, int pid_dirfd, uint64_t *bytes);
bool cgroup_machine_name(const char *cgroup_text, char name[CGROUP_NAME_BYTES]);
int cgroup_read_machine_name(int pid_dirfd, char name[CGROUP_NAME_BYTES]);

#endif /* EBB_CGROUP_H */
