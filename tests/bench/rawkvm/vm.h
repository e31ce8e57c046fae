/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vm.h - a virtual machine without a kernel, which touches memory on command
 */
#ifndef RAWKVM_VM_H
#define RAWKVM_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES  4096ull
#define BLOCK_BYTES (2ull << 20)
#define MAX_RAM	    2

struct kvm_run;

struct vm_ram {
	void *host;
	uint64_t bytes;
	uint64_t gpa;
};

struct vm {
	int kvm_fd;
	int vm_fd;
	int vcpu_fd;
	int stats_fd; /* -1: the kernel has none */
	uint64_t stats_offset;
	uint64_t exits_offset;	  /* in the statistics; 0: not there */
	uint64_t pf_taken_offset; /* the same */
	struct kvm_run *run;
	size_t run_bytes;
	uint8_t *system; /* code, mailbox and page tables */
	uint64_t system_bytes;
	uint64_t tables_used; /* bytes of system */
	struct vm_ram ram[MAX_RAM];
	unsigned int nr_ram;
	const char *failed; /* what did not work, for people */
};

struct vm_stats {
	uint64_t exits;
	uint64_t pf_taken; /* page faults that came to KVM */
};

struct vm_found {
	uint64_t kept; /* pages whose first word is what was expected */
	uint64_t zero;
};

/*
 * A machine with this RAM; host and bytes of each are given and are multiples of 2 MiB.
 * small_pages: the guest's own page tables have 4 KiB entries, else 2 MiB.
 * Negative errno; vm->failed then says what it was. -ENODEV: no usable /dev/kvm.
 */
int vm_init(struct vm *vm, const struct vm_ram *ram, unsigned int nr_ram, bool small_pages);
void vm_deinit(struct vm *vm);

/*
 * In each page of [offset_bytes, offset_bytes + bytes) of RAM nr the guest writes its first
 * word: value, value + 1, ... Negative errno.
 */
int vm_write(struct vm *vm, unsigned int nr, uint64_t offset_bytes, uint64_t bytes, uint64_t value);
/* The same for reading; counts what was found. */
int vm_read(struct vm *vm, unsigned int nr, uint64_t offset_bytes, uint64_t bytes, uint64_t value,
	    struct vm_found *found);

/* What KVM counted since the machine began; zeros where it does not. */
struct vm_stats vm_stats(const struct vm *vm);

#endif /* RAWKVM_VM_H */
