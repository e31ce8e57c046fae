// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * vm - a virtual machine without a kernel, which touches memory on command
 *
 * One vCPU in long mode at privilege level 3, with page tables that are built beforehand and
 * map guest-virtual to guest-physical one to one. It never takes an interrupt and has no
 * descriptor tables: whatever it should not do ends in a triple fault and is reported. It
 * asks for its next command by a store to an address without memory, since that leaves the
 * guest from any privilege level on every KVM.
 *
 * Owns:    the KVM file descriptors, the page tables and the mailbox; not the RAM.
 * Thread:  the one that called vm_init().
 * Locks:   none.
 * Never:   touches the guest's RAM.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vm.h"

/* Guest-physical addresses. */
#define CODE_GPA     0x1000ull
#define MAILBOX_GPA  0x2000ull
#define TABLES_GPA   0x10000ull
#define TSS_GPA	     0xfffbd000ull /* used by KVM on some Intel processors */
#define MMIO_GPA     0xc0000000ull /* nothing is there */
#define RAM_GPA	     0x100000000ull

#define PTE_PRESENT  0x01ull
#define PTE_WRITE    0x02ull
#define PTE_USER     0x04ull
#define PTE_ACCESSED 0x20ull
#define PTE_DIRTY    0x40ull
#define PTE_HUGE     0x80ull
#define PTE_TABLE    (PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_ACCESSED)
#define PTE_PAGE     (PTE_TABLE | PTE_DIRTY)

#define CR0_PE	     0x00000001ull
#define CR0_MP	     0x00000002ull
#define CR0_ET	     0x00000010ull
#define CR0_NE	     0x00000020ull
#define CR0_WP	     0x00010000ull
#define CR0_PG	     0x80000000ull
#define CR4_PAE	     0x20ull
#define EFER_LME     0x100ull
#define EFER_LMA     0x400ull

#define RFLAGS_FIXED 0x2ull

enum {
	COMMAND_WRITE = 0,
	COMMAND_READ = 1,
};

/* The guest's code knows these offsets. */
struct mailbox {
	uint64_t start;
	uint64_t end;
	uint64_t value;
	uint64_t command;
	uint64_t kept;
	uint64_t zero;
};

/*
 * rbx: mailbox, rbp: address without memory. Any place in memory will do for it.
 */
__asm__(".pushsection .rodata\n"
	"guest_code:\n"
	"1:	movl	%eax, (%rbp)\n" /* leaves the guest */
	"	movq	0(%rbx), %rdi\n"
	"	movq	8(%rbx), %rsi\n"
	"	movq	16(%rbx), %rdx\n"
	"	cmpq	$0, 24(%rbx)\n"
	"	jne	3f\n"
	"2:	movq	%rdx, (%rdi)\n" /* COMMAND_WRITE */
	"	incq	%rdx\n"
	"	addq	$4096, %rdi\n"
	"	cmpq	%rsi, %rdi\n"
	"	jb	2b\n"
	"	jmp	1b\n"
	"3:	xorl	%r8d, %r8d\n" /* COMMAND_READ */
	"	xorl	%r9d, %r9d\n"
	"	xorl	%ecx, %ecx\n"
	"4:	movq	(%rdi), %rax\n"
	"	cmpq	%rdx, %rax\n"
	"	sete	%cl\n"
	"	addq	%rcx, %r8\n"
	"	testq	%rax, %rax\n"
	"	sete	%cl\n"
	"	addq	%rcx, %r9\n"
	"	incq	%rdx\n"
	"	addq	$4096, %rdi\n"
	"	cmpq	%rsi, %rdi\n"
	"	jb	4b\n"
	"	movq	%r8, 32(%rbx)\n"
	"	movq	%r9, 40(%rbx)\n"
	"	jmp	1b\n"
	"guest_code_end:\n"
	".popsection\n");

extern const uint8_t guest_code[], guest_code_end[];

static int fail(struct vm *vm, const char *what)
{
	int ret = -errno;

	vm->failed = what;
	return ret;
}

static struct mailbox *mailbox(struct vm *vm)
{
	return (struct mailbox *)(vm->system + MAILBOX_GPA);
}

/* The table that entry nr of a table points to; made if it is not there. */
static uint64_t *table_below(struct vm *vm, uint64_t *table, uint64_t nr)
{
	if (!table[nr]) {
		table[nr] = vm->tables_used | PTE_TABLE;
		vm->tables_used += PAGE_BYTES;
	}
	return (uint64_t *)(vm->system + (table[nr] & ~(PAGE_BYTES - 1)));
}

static void map_block(struct vm *vm, uint64_t gpa, bool small_pages)
{
	uint64_t *pml4 = (uint64_t *)(vm->system + TABLES_GPA);
	uint64_t *pdpt = table_below(vm, pml4, gpa >> 39 & 511);
	uint64_t *pd = table_below(vm, pdpt, gpa >> 30 & 511);
	uint64_t *pt, i;

	if (!small_pages) {
		pd[gpa >> 21 & 511] = gpa | PTE_PAGE | PTE_HUGE;
		return;
	}
	pt = table_below(vm, pd, gpa >> 21 & 511);
	for (i = 0; i < BLOCK_BYTES / PAGE_BYTES; i++)
		pt[i] = (gpa + i * PAGE_BYTES) | PTE_PAGE;
}

static int add_slot(struct vm *vm, uint32_t slot, uint64_t gpa, void *host, uint64_t bytes)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = bytes,
		.userspace_addr = (uintptr_t)host,
	};

	if (ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
		return fail(vm, "KVM_SET_USER_MEMORY_REGION");
	return 0;
}

static int make_memory(struct vm *vm, bool small_pages)
{
	uint64_t bytes = 0, nr_blocks = 0, gpa = RAM_GPA, offset;
	unsigned int i;
	int ret;

	for (i = 0; i < vm->nr_ram; i++)
		nr_blocks += vm->ram[i].bytes / BLOCK_BYTES;
	/* A table for each block, one for each GiB begun in each RAM, and those above them. */
	bytes = TABLES_GPA + PAGE_BYTES * (nr_blocks + nr_blocks / 512 + 2 * vm->nr_ram + 16);
	vm->system_bytes = (bytes + BLOCK_BYTES - 1) & ~(BLOCK_BYTES - 1);
	vm->system = mmap(NULL, vm->system_bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm->system == MAP_FAILED) {
		vm->system = NULL;
		return fail(vm, "memory for the page tables");
	}
	memcpy(vm->system + CODE_GPA, guest_code, (size_t)(guest_code_end - guest_code));
	vm->tables_used = TABLES_GPA + PAGE_BYTES;
	map_block(vm, 0, true);
	map_block(vm, MMIO_GPA, true);
	ret = add_slot(vm, 0, 0, vm->system, vm->system_bytes);
	for (i = 0; i < vm->nr_ram && !ret; i++) {
		vm->ram[i].gpa = gpa;
		for (offset = 0; offset < vm->ram[i].bytes; offset += BLOCK_BYTES)
			map_block(vm, gpa + offset, small_pages);
		ret = add_slot(vm, i + 1, gpa, vm->ram[i].host, vm->ram[i].bytes);
		gpa += vm->ram[i].bytes;
	}
	return ret;
}

static struct kvm_segment segment(uint8_t type, uint16_t selector, bool code)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.dpl = 3,
		.s = 1,
		.l = code,
		.db = !code,
		.g = 1,
	};
}

static int set_cpuid(struct vm *vm)
{
	struct kvm_cpuid2 *cpuid;
	uint32_t nr = 256;
	int ret = 0;

	cpuid = calloc(1, sizeof(*cpuid) + nr * sizeof(cpuid->entries[0]));
	if (!cpuid)
		return fail(vm, "memory for CPUID");
	cpuid->nent = nr;
	if (ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) ||
	    ioctl(vm->vcpu_fd, KVM_SET_CPUID2, cpuid))
		ret = fail(vm, "KVM_SET_CPUID2");
	free(cpuid);
	return ret;
}

static int set_registers(struct vm *vm)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {
		.rip = CODE_GPA,
		.rbx = MAILBOX_GPA,
		.rbp = MMIO_GPA,
		.rsp = MAILBOX_GPA + PAGE_BYTES,
		.rflags = RFLAGS_FIXED,
	};

	if (ioctl(vm->vcpu_fd, KVM_GET_SREGS, &sregs))
		return fail(vm, "KVM_GET_SREGS");
	sregs.cs = segment(11, 0x33, true);
	sregs.ss = segment(3, 0x2b, false);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss;
	sregs.tr = (struct kvm_segment){ .type = 11, .present = 1, .limit = 0x67 };
	sregs.ldt = (struct kvm_segment){ .unusable = 1, .type = 2 };
	sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	sregs.cr3 = TABLES_GPA;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LME | EFER_LMA;
	if (ioctl(vm->vcpu_fd, KVM_SET_SREGS, &sregs))
		return fail(vm, "KVM_SET_SREGS");
	if (ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs))
		return fail(vm, "KVM_SET_REGS");
	return 0;
}

/* Where the vCPU's statistics hold what we want. Without them all stays as it is. */
static void find_stats(struct vm *vm)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *desc;
	size_t desc_bytes;
	uint32_t i;

	vm->stats_fd = ioctl(vm->vcpu_fd, KVM_GET_STATS_FD, NULL);
	if (vm->stats_fd < 0)
		return;
	if (pread(vm->stats_fd, &header, sizeof(header), 0) != sizeof(header))
		return;
	desc_bytes = sizeof(*desc) + header.name_size;
	desc = malloc(desc_bytes);
	for (i = 0; desc && i < header.num_desc; i++) {
		if (pread(vm->stats_fd, desc, desc_bytes,
			  (off_t)(header.desc_offset + i * desc_bytes)) != (ssize_t)desc_bytes)
			break;
		if (!strcmp(desc->name, "exits"))
			vm->exits_offset = header.data_offset + desc->offset;
		if (!strcmp(desc->name, "pf_taken"))
			vm->pf_taken_offset = header.data_offset + desc->offset;
	}
	free(desc);
}

struct vm_stats vm_stats(const struct vm *vm)
{
	struct vm_stats stats = { 0 };

	if (vm->exits_offset &&
	    pread(vm->stats_fd, &stats.exits, sizeof(stats.exits), (off_t)vm->exits_offset) < 0)
		stats.exits = 0;
	if (vm->pf_taken_offset && pread(vm->stats_fd, &stats.pf_taken, sizeof(stats.pf_taken),
					 (off_t)vm->pf_taken_offset) < 0)
		stats.pf_taken = 0;
	return stats;
}

/* Run until the guest asks for its next command. */
static int run(struct vm *vm)
{
	do {
		if (ioctl(vm->vcpu_fd, KVM_RUN, NULL) && errno != EINTR && errno != EAGAIN)
			return fail(vm, "KVM_RUN");
	} while (vm->run->exit_reason == KVM_EXIT_INTR);
	if (vm->run->exit_reason == KVM_EXIT_MMIO && vm->run->mmio.phys_addr == MMIO_GPA)
		return 0;
	fprintf(stderr, "rawkvm: the guest left with reason %u, suberror %u\n",
		vm->run->exit_reason, vm->run->internal.suberror);
	vm->failed = "the guest's code (reason on standard error)";
	return -ENODEV;
}

int vm_init(struct vm *vm, const struct vm_ram *ram, unsigned int nr_ram, bool small_pages)
{
	long run_bytes;
	int ret;

	*vm = (struct vm){ .vm_fd = -1, .vcpu_fd = -1, .stats_fd = -1, .nr_ram = nr_ram };
	memcpy(vm->ram, ram, nr_ram * sizeof(*ram));
	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0) {
		fail(vm, "/dev/kvm cannot be opened");
		return -ENODEV;
	}
	vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
	if (vm->vm_fd < 0)
		return fail(vm, "KVM_CREATE_VM");
	/* Only some processors know it. */
	ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, TSS_GPA);
	ret = make_memory(vm, small_pages);
	if (ret)
		return ret;
	vm->vcpu_fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, 0);
	run_bytes = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vm->vcpu_fd < 0 || run_bytes < 0)
		return fail(vm, "KVM_CREATE_VCPU");
	vm->run_bytes = (size_t)run_bytes;
	vm->run = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd, 0);
	if (vm->run == MAP_FAILED) {
		vm->run = NULL;
		return fail(vm, "mapping struct kvm_run");
	}
	find_stats(vm);
	ret = set_cpuid(vm);
	if (!ret)
		ret = set_registers(vm);
	return ret ? ret : run(vm);
}

void vm_deinit(struct vm *vm)
{
	if (vm->run)
		munmap(vm->run, vm->run_bytes);
	if (vm->stats_fd >= 0)
		close(vm->stats_fd);
	if (vm->vcpu_fd >= 0)
		close(vm->vcpu_fd);
	if (vm->vm_fd >= 0)
		close(vm->vm_fd);
	if (vm->kvm_fd >= 0)
		close(vm->kvm_fd);
	if (vm->system)
		munmap(vm->system, vm->system_bytes);
}

static int command(struct vm *vm, unsigned int nr, uint64_t offset_bytes, uint64_t bytes,
		   uint64_t value, uint64_t what)
{
	uint64_t start = vm->ram[nr].gpa + offset_bytes;

	*mailbox(vm) = (struct mailbox){
		.start = start,
		.end = start + bytes,
		.value = value,
		.command = what,
	};
	return run(vm);
}

int vm_write(struct vm *vm, unsigned int nr, uint64_t offset_bytes, uint64_t bytes, uint64_t value)
{
	return command(vm, nr, offset_bytes, bytes, value, COMMAND_WRITE);
}

int vm_read(struct vm *vm, unsigned int nr, uint64_t offset_bytes, uint64_t bytes, uint64_t value,
	    struct vm_found *found)
{
	int ret = command(vm, nr, offset_bytes, bytes, value, COMMAND_READ);

	*found = (struct vm_found){ .kept = mailbox(vm)->kept, .zero = mailbox(vm)->zero };
	return ret;
}
