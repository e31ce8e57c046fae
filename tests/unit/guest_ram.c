// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * guest_ram - real memory that plays a guest's RAM, and a witness of every madvise()
 *
 * Owns:    the mappings, the record of calls.
 * Thread:  any; the executor thread calls madvise().
 * Locks:   witness.lock, a leaf, not held across the call itself.
 * Never:   changes what the executor asks the kernel for, unless told to fail it.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "guest_ram.h"

#define BLOCK	    (2 * MIB)
#define MAX_ADVICES 4096
#define MAX_RAMS    8

static struct {
	pthread_mutex_t lock;
	struct guest_ram *rams[MAX_RAMS];
	struct advice advices[MAX_ADVICES];
	unsigned int nr_advices;
	unsigned int breaches;
	int fail_advice;
	int fail_error;
	void (*hook)(void *opaque, int advice);
	void *hook_opaque;
	void (*watch)(uint64_t offset, uint64_t bytes, int advice);
	pthread_mutex_t watch_lock; /* around a call and its watch */
} witness = { .lock = PTHREAD_MUTEX_INITIALIZER, .watch_lock = PTHREAD_MUTEX_INITIALIZER };

int __real_madvise(void *addr, size_t length, int advice);
int __wrap_madvise(void *addr, size_t length, int advice);
int __real_ebb_tables_move_out(uintptr_t host, uint64_t bytes);
int __wrap_ebb_tables_move_out(uintptr_t host, uint64_t bytes);

static void die(const char *what)
{
	perror(what);
	abort();
}

void guest_ram_init(struct guest_ram *ram, size_t bytes, size_t offset, bool huge)
{
	uintptr_t base;
	unsigned int i;

	*ram = (struct guest_ram){ .bytes = bytes, .mapping_bytes = bytes + 4 * BLOCK };
	ram->mapping = mmap(NULL, ram->mapping_bytes, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ram->mapping == MAP_FAILED)
		die("mmap");
	base = ((uintptr_t)ram->mapping + 2 * BLOCK - 1) & ~(BLOCK - 1);
	ram->host = (char *)base + offset;
	/* An area of its own between guards, so that smaps tells of it alone. */
	if (mmap(ram->host, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		 -1, 0) == MAP_FAILED)
		die("mmap");
	if (__real_madvise(ram->host, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0 && huge)
		die("madvise(MADV_HUGEPAGE)");
	ram->isolated = calloc(bytes / PAGE, 1);
	if (!ram->isolated)
		die("calloc");
	pthread_mutex_lock(&witness.lock);
	for (i = 0; i < MAX_RAMS && witness.rams[i]; i++)
		;
	if (i == MAX_RAMS)
		abort();
	witness.rams[i] = ram;
	pthread_mutex_unlock(&witness.lock);
}

void guest_ram_deinit(struct guest_ram *ram)
{
	unsigned int i;

	pthread_mutex_lock(&witness.lock);
	for (i = 0; i < MAX_RAMS; i++)
		if (witness.rams[i] == ram)
			witness.rams[i] = NULL;
	pthread_mutex_unlock(&witness.lock);
	munmap(ram->mapping, ram->mapping_bytes);
	free(ram->isolated);
}

uint64_t guest_ram_word(uint64_t page, uint64_t seed)
{
	return ((page + 1) * 0x9e3779b97f4a7c15ull + seed) | 1;
}

void guest_ram_fill(struct guest_ram *ram, size_t offset, size_t bytes, uint64_t seed)
{
	uint64_t page;

	for (page = offset / PAGE; page < (offset + bytes) / PAGE; page++) {
		uint64_t *words = (uint64_t *)(ram->host + page * PAGE);

		words[0] = words[PAGE / 8 - 1] = guest_ram_word(page, seed);
	}
}

enum page_is guest_ram_page(const struct guest_ram *ram, uint64_t page, uint64_t seed)
{
	const uint64_t *words = (const uint64_t *)(ram->host + page * PAGE);
	uint64_t first = words[0], last = words[PAGE / 8 - 1];

	if (first == 0 && last == 0)
		return PAGE_ZERO;
	if (first == guest_ram_word(page, seed) && last == first)
		return PAGE_KEPT;
	return PAGE_OTHER;
}

uint64_t guest_ram_count(const struct guest_ram *ram, size_t offset, size_t bytes, uint64_t seed,
			 enum page_is is)
{
	uint64_t page, nr = 0;

	for (page = offset / PAGE; page < (offset + bytes) / PAGE; page++)
		nr += guest_ram_page(ram, page, seed) == is;
	return nr;
}

static void set_isolated(struct guest_ram *ram, size_t offset, size_t bytes, uint8_t value)
{
	uint64_t page;

	for (page = offset / PAGE; page < (offset + bytes) / PAGE; page++)
		__atomic_store_n(&ram->isolated[page], value, __ATOMIC_SEQ_CST);
}

void guest_ram_isolate(struct guest_ram *ram, size_t offset, size_t bytes)
{
	set_isolated(ram, offset, bytes, 1);
}

void guest_ram_use(struct guest_ram *ram, size_t offset, size_t bytes)
{
	set_isolated(ram, offset, bytes, 0);
}

uint64_t guest_ram_smaps_bytes(const struct guest_ram *ram, const char *field)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	uint64_t start, end, kb, total = 0;
	bool inside = false, seen = false;
	size_t length = strlen(field);
	char line[512];

	if (!smaps)
		die("/proc/self/smaps");
	while (fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2) {
			inside = start >= (uintptr_t)ram->host &&
				 end <= (uintptr_t)ram->host + ram->bytes;
			continue;
		}
		if (inside && strncmp(line, field, length) == 0 && line[length] == ':' &&
		    sscanf(line + length + 1, "%" SCNu64, &kb) == 1) {
			total += kb * KIB;
			seen = true;
		}
	}
	fclose(smaps);
	if (!seen)
		abort();
	return total;
}

char *guest_ram_areas(const struct guest_ram *ram)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	uint64_t start, end;
	bool inside = false;
	char line[512], *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	if (!smaps || !out)
		die("/proc/self/smaps");
	while (fgets(line, sizeof(line), smaps)) {
		bool head = sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2;

		if (head)
			inside = end > (uintptr_t)ram->mapping &&
				 start < (uintptr_t)ram->mapping + ram->mapping_bytes;
		if (inside && (head || strncmp(line, "VmFlags:", 8) == 0))
			fputs(line, out);
	}
	fclose(smaps);
	fclose(out);
	return text;
}

/* The whole of [offset, offset + bytes) must be isolated; called with the lock held. */
static void judge(const struct guest_ram *ram, uint64_t offset, uint64_t bytes)
{
	uint64_t page;

	for (page = offset / PAGE; page < (offset + bytes + PAGE - 1) / PAGE; page++) {
		if (page < ram->bytes / PAGE &&
		    __atomic_load_n(&ram->isolated[page], __ATOMIC_SEQ_CST))
			continue;
		witness.breaches++;
		return;
	}
}

/* Is it on guest RAM? Records the call, returns its index or -1. */
static int record(void *addr, size_t length, int advice)
{
	uintptr_t at = (uintptr_t)addr;
	unsigned int i;
	int index = -1;

	pthread_mutex_lock(&witness.lock);
	for (i = 0; i < MAX_RAMS; i++) {
		const struct guest_ram *ram = witness.rams[i];

		if (!ram || at + length <= (uintptr_t)ram->mapping ||
		    at >= (uintptr_t)ram->mapping + ram->mapping_bytes)
			continue;
		if (advice == MADV_FREE || advice == MADV_DONTNEED || advice == ADVICE_MOVE)
			judge(ram, at - (uintptr_t)ram->host, length);
		index = (int)(witness.nr_advices++ % MAX_ADVICES);
		witness.advices[index] = (struct advice){
			.offset = at - (uintptr_t)ram->host,
			.bytes = length,
			.advice = advice,
		};
		break;
	}
	pthread_mutex_unlock(&witness.lock);
	return index;
}

static int make(void *addr, size_t length, int advice)
{
	int ret;

	if (advice != ADVICE_MOVE)
		return __real_madvise(addr, length, advice);
	ret = __real_ebb_tables_move_out((uintptr_t)addr, length);
	errno = -ret;
	return ret ? -1 : 0;
}

static int call(void *addr, size_t length, int advice, int index)
{
	int ret;

	if (!witness.watch || advice == ADVICE_MOVE)
		return make(addr, length, advice);
	pthread_mutex_lock(&witness.watch_lock);
	ret = __real_madvise(addr, length, advice);
	if (ret == 0)
		witness.watch(witness.advices[index].offset, length, advice);
	pthread_mutex_unlock(&witness.watch_lock);
	return ret;
}

static int witnessed(void *addr, size_t length, int advice)
{
	int index = record(addr, length, advice), ret, error = 0;
	void (*hook)(void *opaque, int advice) = NULL;
	void *opaque = NULL;

	if (index < 0)
		return make(addr, length, advice);
	pthread_mutex_lock(&witness.lock);
	if (witness.fail_error && witness.fail_advice == advice)
		error = witness.fail_error;
	hook = witness.hook;
	opaque = witness.hook_opaque;
	pthread_mutex_unlock(&witness.lock);
	if (hook)
		hook(opaque, advice);
	ret = error ? -1 : call(addr, length, advice, index);
	if (ret < 0 && !error)
		error = errno;
	pthread_mutex_lock(&witness.lock);
	witness.advices[index].error = error;
	pthread_mutex_unlock(&witness.lock);
	errno = error;
	return ret;
}

int __wrap_madvise(void *addr, size_t length, int advice)
{
	return witnessed(addr, length, advice);
}

int __wrap_ebb_tables_move_out(uintptr_t host, uint64_t bytes)
{
	return witnessed((void *)host, bytes, ADVICE_MOVE) ? -errno : 0;
}

void witness_reset(void)
{
	pthread_mutex_lock(&witness.lock);
	witness.nr_advices = 0;
	witness.breaches = 0;
	witness.fail_error = 0;
	witness.hook = NULL;
	witness.watch = NULL;
	pthread_mutex_unlock(&witness.lock);
}

unsigned int witness_count(int advice)
{
	unsigned int i, nr = 0;

	pthread_mutex_lock(&witness.lock);
	for (i = 0; i < witness.nr_advices && i < MAX_ADVICES; i++)
		nr += witness.advices[i].advice == advice;
	pthread_mutex_unlock(&witness.lock);
	return nr;
}

const struct advice *witness_get(unsigned int n)
{
	return n < witness.nr_advices ? &witness.advices[n] : NULL;
}

unsigned int witness_breaches(void)
{
	unsigned int breaches;

	pthread_mutex_lock(&witness.lock);
	breaches = witness.breaches;
	pthread_mutex_unlock(&witness.lock);
	return breaches;
}

void witness_fail(int advice, int error)
{
	pthread_mutex_lock(&witness.lock);
	witness.fail_advice = advice;
	witness.fail_error = error;
	pthread_mutex_unlock(&witness.lock);
}

void witness_hook(void (*hook)(void *opaque, int advice), void *opaque)
{
	pthread_mutex_lock(&witness.lock);
	witness.hook = hook;
	witness.hook_opaque = opaque;
	pthread_mutex_unlock(&witness.lock);
}

/* While no call is made. */
void witness_watch(void (*watch)(uint64_t offset, uint64_t bytes, int advice))
{
	witness.watch = watch;
}
