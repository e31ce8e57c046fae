// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * bench_core - what the executor adds to the bare system calls
 *
 * A release as the guest's driver does it: batches of 32 ranges of 4 MiB, one at a
 * time, each sent when the answer to the one before it has come, through an event file
 * descriptor as in a VMM's main loop. Beside it the same calls made directly.
 *
 * usage: bench_core [-j FILE] [GIB] [ROUNDS]
 */
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "ebb_core.h"

#define MIB	    (1ull << 20)
#define RANGE_BYTES (4 * MIB)
#define NR_RANGES   32u
#define MAX_ROUNDS  101

struct bench {
	struct ebb_executor *executor;
	int done_fd;
	uint64_t release_id;
	char *ram;
	uint64_t bytes;
	uint64_t bare_nsec;
	struct ebb_range ranges[NR_RANGES];
	struct ebb_batch batch;
};

static uint64_t now_nsec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static void kick(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) != sizeof(one))
		abort();
}

static void wait_for(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	uint64_t count;

	if (poll(&pollfd, 1, -1) != 1 || read(fd, &count, sizeof(count)) != sizeof(count))
		abort();
}

static int on_begin(void *vmm)
{
	return 0;
}

static void on_nothing(void *vmm)
{
}

static int on_discard(void *vmm, void *region, uint64_t offset_bytes, uint64_t bytes)
{
	return 0;
}

static void on_done(void *vmm, struct ebb_batch *batch)
{
	kick(((struct bench *)vmm)->done_fd);
}

static void on_guide(void *vmm, struct ebb_guidance guidance)
{
}

static int on_release(void *vmm, uint64_t id, uint64_t bytes, uint32_t flags)
{
	struct bench *bench = vmm;

	bench->release_id = id;
	kick(bench->done_fd);
	return 0;
}

static const struct ebb_vmm_ops ops = {
	.discard_begin = on_begin,
	.discard_end = on_nothing,
	.discard = on_discard,
	.batch_done = on_done,
	.guide = on_guide,
	.release = on_release,
	.want_stats = on_nothing,
};

static void run_batch(struct bench *bench, uint64_t gpa)
{
	enum virtio_ebb_fault fault;
	uint32_t i;

	for (i = 0; i < NR_RANGES; i++)
		bench->ranges[i] = (struct ebb_range){
			/* every other block of the guest's free lists, in no order */
			.gpa = gpa + (i * 13 % NR_RANGES) * RANGE_BYTES,
			.bytes = RANGE_BYTES,
		};
	bench->batch = (struct ebb_batch){
		.command_id = bench->release_id,
		.nr_ranges = NR_RANGES,
		.ranges = bench->ranges,
	};
	if (ebb_executor_submit(bench->executor, &bench->batch, &fault))
		abort();
	wait_for(bench->done_fd);
}

/* Returns nanoseconds for all of the RAM, from the order to the last answer. */
static uint64_t release(struct bench *bench)
{
	uint64_t start_nsec = now_nsec(), gpa;

	if (ebb_executor_release(bench->executor, bench->bytes, 0))
		abort();
	wait_for(bench->done_fd);
	for (gpa = 0; gpa < bench->bytes; gpa += NR_RANGES * RANGE_BYTES)
		run_batch(bench, gpa);
	ebb_executor_release_done(bench->executor, bench->release_id, VIRTIO_EBB_DONE_OK, 1,
				  bench->bytes);
	return now_nsec() - start_nsec;
}

/* The same calls without anything around them, by a thread that did not touch the RAM. */
static void *bare_main(void *opaque)
{
	struct bench *bench = opaque;
	uint64_t start_nsec = now_nsec(), offset;

	for (offset = 0; offset < bench->bytes; offset += NR_RANGES * RANGE_BYTES)
		if (madvise(bench->ram + offset, NR_RANGES * RANGE_BYTES, MADV_DONTNEED))
			abort();
	bench->bare_nsec = now_nsec() - start_nsec;
	return NULL;
}

static uint64_t bare(struct bench *bench)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, bare_main, bench) || pthread_join(thread, NULL))
		abort();
	return bench->bare_nsec;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

struct result {
	double release_usec, release_worst_usec, calls_usec, bare_usec, empty_usec;
};

static struct result measure(struct bench *bench, unsigned int rounds)
{
	uint64_t released[MAX_ROUNDS], bared[MAX_ROUNDS], empty[MAX_ROUNDS], calls[MAX_ROUNDS];
	struct ebb_status before, after;
	unsigned int i;

	for (i = 0; i < rounds; i++) {
		memset(bench->ram, 1, bench->bytes);
		ebb_executor_status(bench->executor, &before);
		released[i] = release(bench);
		ebb_executor_status(bench->executor, &after);
		calls[i] = after.counters.madvise_nsec - before.counters.madvise_nsec;
		/* Of RAM that is gone already: the round trips alone. */
		empty[i] = release(bench);
		memset(bench->ram, 1, bench->bytes);
		bared[i] = bare(bench);
	}
	qsort(released, rounds, sizeof(*released), compare);
	qsort(bared, rounds, sizeof(*bared), compare);
	qsort(empty, rounds, sizeof(*empty), compare);
	qsort(calls, rounds, sizeof(*calls), compare);
	return (struct result){
		.calls_usec = (double)calls[rounds / 2] / 1e3,
		.release_usec = (double)released[rounds / 2] / 1e3,
		.release_worst_usec = (double)released[rounds - 1] / 1e3,
		.bare_usec = (double)bared[rounds / 2] / 1e3,
		.empty_usec = (double)empty[rounds / 2] / 1e3,
	};
}

static void start(struct bench *bench, uint64_t bytes, bool huge)
{
	struct ebb_executor_config config = {
		.name = "bench",
		.front = EBB_FRONT_EBB,
		.mode = EBB_MODE_LAZY,
	};
	struct ebb_region_desc desc = {
		.size_bytes = bytes,
		.page_bytes = 4096,
		.backing = EBB_BACKING_PRIVATE_ANON,
	};
	char *mapping = mmap(NULL, bytes + EBB_BLOCK_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mapping == MAP_FAILED) {
		perror("bench_core: mmap");
		exit(1);
	}
	*bench = (struct bench){ .bytes = bytes, .done_fd = eventfd(0, EFD_CLOEXEC) };
	bench->ram = (char *)(((uintptr_t)mapping + EBB_BLOCK_BYTES - 1) & ~(EBB_BLOCK_BYTES - 1));
	desc.host = bench->ram;
	madvise(bench->ram, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	if (ebb_executor_new(&bench->executor, &config, &ops, bench) ||
	    ebb_executor_region_add(bench->executor, &desc))
		abort();
	ebb_executor_set_driver(bench->executor, true);
}

int main(int argc, char **argv)
{
	const char *json_path = NULL;
	struct result result[2];
	uint64_t bytes;
	unsigned int rounds, i;
	FILE *json;
	int option;

	while ((option = getopt(argc, argv, "j:")) == 'j')
		json_path = optarg;
	bytes = (optind < argc ? strtoull(argv[optind], NULL, 10) : 1) << 30;
	rounds = optind + 1 < argc ? (unsigned int)atoi(argv[optind + 1]) : 20;
	if (option != -1 || !bytes || !rounds || rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: bench_core [-j FILE] [GIB] [ROUNDS, at most %d]\n",
			MAX_ROUNDS);
		return 2;
	}
	printf("release of %llu MiB in batches of %u x %llu MiB, usec (median of %u)\n",
	       (unsigned long long)(bytes / MIB), NR_RANGES, RANGE_BYTES / MIB, rounds);
	printf("%-6s %10s %10s %10s %10s %10s %10s\n", "pages", "release", "worst", "calls", "bare",
	       "ratio", "empty");
	for (i = 0; i < 2; i++) {
		struct bench bench;

		start(&bench, bytes, i == 1);
		result[i] = measure(&bench, rounds);
		ebb_executor_free(bench.executor);
		munmap(bench.ram, bytes);
		close(bench.done_fd);
		printf("%-6s %10.0f %10.0f %10.0f %10.0f %10.2f %10.0f\n", i ? "huge" : "4k",
		       result[i].release_usec, result[i].release_worst_usec, result[i].calls_usec,
		       result[i].bare_usec, result[i].release_usec / result[i].bare_usec,
		       result[i].empty_usec);
	}
	if (!json_path)
		return 0;
	json = fopen(json_path, "we");
	if (!json) {
		perror(json_path);
		return 1;
	}
	fprintf(json, "{");
	for (i = 0; i < 2; i++)
		fprintf(json,
			"%s\"%s\": {\"release_usec\": %.1f, \"release_worst_usec\": %.1f, "
			"\"calls_usec\": %.1f, \"bare_usec\": %.1f, \"empty_usec\": %.1f}",
			i ? ", " : "", i ? "thp" : "4k", result[i].release_usec,
			result[i].release_worst_usec, result[i].calls_usec, result[i].bare_usec,
			result[i].empty_usec);
	fprintf(json, "}\n");
	return fclose(json) ? 1 : 0;
}
