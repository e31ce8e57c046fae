// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * worker - a process that uses memory on command, through a virtual machine or directly
 *
 * Owns:    the memory and the virtual machine, in the child; the socket to it, in the parent.
 * Thread:  one in the child: the vCPU's thread makes the calls too, while the guest stands.
 * Locks:   none.
 * Never:   decides what is measured.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ksm.h"
#include "offer.h"
#include "vm.h"
#include "worker.h"

#define MERGE_LIMIT_NSEC 300000000000ull
#define MERGE_LOOK_USEC	 2000

struct process {
	struct worker_config config;
	char *ram[NR_PAGES];
	struct offer offer[NR_PAGES];
	struct vm vm;
	int ksmd_fd; /* -1: not known */
};

static uint64_t clock_nsec(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* Only pages of this kind, as far as the kernel can; without huge pages it refuses both. */
static int map_ram(char *ram, uint64_t bytes, bool huge)
{
	if (mmap(ram, bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -errno;
	madvise(ram, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return 0;
}

static char *make_ram(uint64_t bytes, bool huge)
{
	char *room = mmap(NULL, bytes + BLOCK_BYTES, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *ram;

	if (room == MAP_FAILED)
		return NULL;
	ram = (char *)(((uintptr_t)room + BLOCK_BYTES - 1) & ~(BLOCK_BYTES - 1));
	return map_ram(ram, bytes, huge) ? NULL : ram;
}

/* Of the areas within [start, start + bytes). */
static uint64_t huge_bytes(const char *start, uint64_t bytes)
{
	unsigned long area_start, area_end, kib;
	uint64_t sum = 0;
	bool within = false;
	char line[512];
	FILE *file = fopen("/proc/self/smaps", "re");

	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &area_start, &area_end) == 2)
			within = area_start >= (uintptr_t)start &&
				 area_end <= (uintptr_t)start + bytes;
		else if (within && sscanf(line, "AnonHugePages: %lu kB", &kib) == 1)
			sum += kib << 10;
	}
	fclose(file);
	return sum;
}

static void write_directly(char *at, uint64_t bytes, uint64_t value)
{
	uint64_t offset;

	for (offset = 0; offset < bytes; offset += PAGE_BYTES)
		*(volatile uint64_t *)(at + offset) = value++;
}

static void read_directly(const char *at, uint64_t bytes, uint64_t value, struct vm_found *found)
{
	uint64_t offset, word;

	*found = (struct vm_found){ 0 };
	for (offset = 0; offset < bytes; offset += PAGE_BYTES) {
		word = *(const volatile uint64_t *)(at + offset);
		found->kept += word == value++;
		found->zero += !word;
	}
}

static int advise(struct process *process, char *at, uint64_t bytes, int advice)
{
	uint64_t done, call_bytes;

	for (done = 0; done < bytes; done += call_bytes) {
		call_bytes = bytes - done;
		if (call_bytes > process->config.call_bytes)
			call_bytes = process->config.call_bytes;
		if (madvise(at + done, call_bytes, advice))
			return -errno;
	}
	return 0;
}

static int bare_exits(struct process *process, const struct command *command)
{
	uint64_t i;
	int ret = 0;

	for (i = 0; i < command->bytes / PAGE_BYTES && !ret; i++)
		ret = vm_write(&process->vm, command->pages, 0, PAGE_BYTES, command->value);
	return ret;
}

static int wait_merged(uint64_t bytes, struct answer *answer)
{
	uint64_t limit_nsec = clock_nsec(CLOCK_MONOTONIC) + MERGE_LIMIT_NSEC;

	/* The last pages may be the ones that it has just begun to look at. */
	while ((answer->kept = ksm_merged_pages()) < bytes / PAGE_BYTES) {
		if (clock_nsec(CLOCK_MONOTONIC) > limit_nsec)
			return -ETIMEDOUT;
		usleep(MERGE_LOOK_USEC);
	}
	return 0;
}

static int work(struct process *process, const struct command *command, struct answer *answer)
{
	char *at = process->ram[command->pages] + command->offset_bytes;
	struct vm *vm = process->config.vm ? &process->vm : NULL;
	struct vm_found found = { 0 };
	int ret = 0;

	switch (command->work) {
	case WORK_RENEW:
		return map_ram(at, command->bytes, command->pages == PAGES_THP);
	case WORK_WRITE:
		if (vm)
			return vm_write(vm, command->pages, command->offset_bytes, command->bytes,
					command->value);
		write_directly(at, command->bytes, command->value);
		return 0;
	case WORK_READ:
		if (vm)
			ret = vm_read(vm, command->pages, command->offset_bytes, command->bytes,
				      command->value, &found);
		else
			read_directly(at, command->bytes, command->value, &found);
		break;
	case WORK_LOOK:
		read_directly(at, command->bytes, command->value, &found);
		answer->huge_bytes =
			huge_bytes(process->ram[command->pages], process->config.ram_bytes);
		break;
	case WORK_FREE:
		return advise(process, at, command->bytes, MADV_FREE);
	case WORK_DISCARD:
		return advise(process, at, command->bytes, MADV_DONTNEED);
	case WORK_OFFER_LAZY:
	case WORK_OFFER_EAGER:
		ret = offer_all(&process->offer[command->pages], command->work == WORK_OFFER_LAZY);
		answer->kept = process->offer[command->pages].done_bytes / PAGE_BYTES;
		return ret;
	case WORK_PAGEOUT:
		return advise(process, at, command->bytes, MADV_PAGEOUT);
	case WORK_MERGEABLE:
		return advise(process, at, command->bytes, MADV_MERGEABLE);
	case WORK_MERGED:
		return wait_merged(command->bytes, answer);
	case WORK_UNMERGEABLE:
		return advise(process, at, command->bytes, MADV_UNMERGEABLE);
	case WORK_EXIT:
		return vm ? bare_exits(process, command) : -EINVAL;
	}
	answer->kept = found.kept;
	answer->zero = found.zero;
	return ret;
}

static uint64_t timeval_nsec(struct timeval time)
{
	return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_usec * 1000;
}

static struct answer measured(struct process *process, const struct command *command)
{
	struct answer answer = { 0 };
	struct rusage before, after;
	struct vm_stats stats = { 0 };
	uint64_t cpu_nsec, ksmd_nsec = ksm_ksmd_nsec(process->ksmd_fd);

	if (process->config.vm)
		stats = vm_stats(&process->vm);
	getrusage(RUSAGE_THREAD, &before);
	cpu_nsec = clock_nsec(CLOCK_THREAD_CPUTIME_ID);
	answer.wall_nsec = clock_nsec(CLOCK_MONOTONIC);
	answer.error = work(process, command, &answer);
	answer.wall_nsec = clock_nsec(CLOCK_MONOTONIC) - answer.wall_nsec;
	answer.cpu_nsec = clock_nsec(CLOCK_THREAD_CPUTIME_ID) - cpu_nsec;
	getrusage(RUSAGE_THREAD, &after);
	answer.kernel_nsec = timeval_nsec(after.ru_stime) - timeval_nsec(before.ru_stime);
	answer.faults = (uint64_t)(after.ru_minflt - before.ru_minflt);
	if (process->config.vm) {
		answer.exits = vm_stats(&process->vm).exits - stats.exits;
		answer.kvm_faults = vm_stats(&process->vm).pf_taken - stats.pf_taken;
	}
	if (command->work == WORK_MERGED)
		answer.cpu_nsec = ksm_ksmd_nsec(process->ksmd_fd) - ksmd_nsec;
	if (answer.error)
		fprintf(stderr, "rawkvm: command %d, %s memory: %s%s%s\n", (int)command->work,
			process->config.vm ? "the guest's" : "plain", strerror(-answer.error),
			process->vm.failed ? ", " : "",
			process->vm.failed ? process->vm.failed : "");
	return answer;
}

static int process_start(struct process *process, const struct worker_config *config)
{
	struct vm_ram ram[NR_PAGES];
	int ret;

	*process = (struct process){ .config = *config, .ksmd_fd = ksm_open_ksmd() };
	for (int i = 0; i < NR_PAGES; i++) {
		process->ram[i] = make_ram(config->ram_bytes, i == PAGES_THP);
		if (!process->ram[i]) {
			fprintf(stderr, "rawkvm: memory for the guest: %s\n", strerror(errno));
			return -ENOMEM;
		}
		ram[i] = (struct vm_ram){ .host = process->ram[i], .bytes = config->ram_bytes };
	}
	for (int i = 0; i < NR_PAGES; i++) {
		ret = offer_init(&process->offer[i], process->ram[i], config->ram_bytes);
		if (ret) {
			fprintf(stderr, "rawkvm: the executor: %s\n", strerror(-ret));
			return ret;
		}
	}
	if (!config->vm)
		return 0;
	ret = vm_init(&process->vm, ram, NR_PAGES, config->small_guest_pages);
	if (ret)
		fprintf(stderr, "rawkvm: %s: %s\n", process->vm.failed, strerror(errno));
	return ret;
}

static void process_main(const struct worker_config *config, int fd)
{
	struct process process;
	struct command command;
	struct answer answer;
	int ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ret = process_start(&process, config);
	if (write(fd, &ret, sizeof(ret)) != sizeof(ret))
		_exit(1);
	while (!ret && read(fd, &command, sizeof(command)) == sizeof(command)) {
		answer = measured(&process, &command);
		if (write(fd, &answer, sizeof(answer)) != sizeof(answer))
			_exit(1);
	}
	for (int i = 0; i < NR_PAGES; i++)
		offer_deinit(&process.offer[i]);
	if (config->vm)
		vm_deinit(&process.vm);
	_exit(0);
}

int worker_start(struct worker *worker, const struct worker_config *config)
{
	int fds[2], ret;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return -errno;
	fflush(NULL);
	worker->pid = fork();
	if (worker->pid < 0) {
		ret = -errno;
		close(fds[0]);
		close(fds[1]);
		return ret;
	}
	if (!worker->pid) {
		close(fds[0]);
		process_main(config, fds[1]);
	}
	close(fds[1]);
	worker->fd = fds[0];
	return read(worker->fd, &ret, sizeof(ret)) == sizeof(ret) ? ret : -EPIPE;
}

void worker_stop(struct worker *worker)
{
	/* Not close() alone: a worker that was started later holds a copy. */
	shutdown(worker->fd, SHUT_RDWR);
	close(worker->fd);
	waitpid(worker->pid, NULL, 0);
}

struct answer worker_do(struct worker *worker, struct command command)
{
	struct answer answer;

	if (write(worker->fd, &command, sizeof(command)) != sizeof(command) ||
	    read(worker->fd, &answer, sizeof(answer)) != sizeof(answer)) {
		fprintf(stderr, "rawkvm: a worker has ended\n");
		exit(1);
	}
	if (answer.error)
		exit(1);
	return answer;
}
