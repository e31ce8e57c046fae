// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * bench_tables - what passes in the background over page tables cost
 *
 * A guest of GIB, as an area without reserve of which little is touched. Passes follow each
 * other as fast as they may; what counts is the processor's time of the executor's thread for
 * each, and what share of one that is with a pass each 10 s.
 *
 * usage: bench_tables [-o] [-j FILE] [GIB]
 *
 * -o: as on a kernel before Linux 6.7, without PAGEMAP_SCAN, by moving tables.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "executor.h"

#define PASSES	     20u
#define DELAY_NSEC   (10 * NSEC_PER_SEC)
#define RANGES	     512u
#define FRESH_TABLES 512u /* that have gone empty from one pass to the next */

struct bench {
	struct ebb_executor *executor;
	char *ram;
	uint64_t bytes;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under the lock. */
	unsigned int nr_done;
	uint64_t asked_id; /* 0: none waits */
	struct ebb_candidate asked[VIRTIO_EBB_MAX_COLLECT];
	uint32_t nr_asked;
	/* Of the main thread. */
	struct ebb_range ranges[RANGES];
	struct ebb_batch batch;
};

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
	struct bench *bench = vmm;

	pthread_mutex_lock(&bench->lock);
	bench->nr_done++;
	pthread_cond_broadcast(&bench->changed);
	pthread_mutex_unlock(&bench->lock);
}

static void on_guide(void *vmm, struct ebb_guidance guidance)
{
}

static int on_release(void *vmm, uint64_t id, uint64_t bytes, uint32_t flags)
{
	return 0;
}

static int on_collect(void *vmm, uint64_t id, const struct ebb_candidate *ranges,
		      uint32_t nr_ranges)
{
	struct bench *bench = vmm;

	pthread_mutex_lock(&bench->lock);
	memcpy(bench->asked, ranges, nr_ranges * sizeof(*ranges));
	bench->nr_asked = nr_ranges;
	bench->asked_id = id;
	pthread_cond_broadcast(&bench->changed);
	pthread_mutex_unlock(&bench->lock);
	return 0;
}

static const struct ebb_vmm_ops ops = {
	.discard_begin = on_begin,
	.discard_end = on_nothing,
	.discard = on_discard,
	.batch_done = on_done,
	.guide = on_guide,
	.release = on_release,
	.collect = on_collect,
	.want_stats = on_nothing,
};

/* Offer what is in ranges and wait for the answer. */
static void offer(struct bench *bench, uint32_t nr, uint64_t id)
{
	enum virtio_ebb_fault fault;
	unsigned int done = bench->nr_done;

	if (!nr)
		return;
	bench->batch = (struct ebb_batch){
		.command_id = id,
		.nr_ranges = nr,
		.ranges = bench->ranges,
	};
	if (ebb_executor_submit(bench->executor, &bench->batch, &fault))
		abort();
	pthread_mutex_lock(&bench->lock);
	while (bench->nr_done == done)
		pthread_cond_wait(&bench->changed, &bench->lock);
	pthread_mutex_unlock(&bench->lock);
}

/* One page of each step-th block from first on is written, and discarded unless it is kept. */
static void touch(struct bench *bench, uint64_t first, uint64_t nr, uint64_t step, bool keep)
{
	uint64_t i, block = first;
	uint32_t n = 0;

	for (i = 0; i < nr; i++, block += step) {
		uint64_t gpa = block * EBB_BLOCK_BYTES % bench->bytes;

		bench->ram[gpa] = 1;
		/* Of one that is kept another page is offered: the block was worked on. */
		bench->ranges[n++] = (struct ebb_range){
			.gpa = gpa + (keep ? EBB_PAGE_BYTES : 0),
			.bytes = EBB_PAGE_BYTES,
		};
		if (n == RANGES) {
			offer(bench, n, 0);
			n = 0;
		}
	}
	offer(bench, n, 0);
}

/* The guest's part: until a pass is over, offer what is asked for. */
static void serve(struct bench *bench, uint64_t passes)
{
	struct ebb_status status;
	uint64_t id;
	uint32_t i;

	for (;;) {
		ebb_executor_status(bench->executor, &status);
		if (status.counters.collections >= passes)
			return;
		pthread_mutex_lock(&bench->lock);
		id = bench->asked_id;
		bench->asked_id = 0;
		for (i = 0; i < bench->nr_asked; i++)
			bench->ranges[i] = (struct ebb_range){ .gpa = bench->asked[i].gpa,
							       .bytes = bench->asked[i].bytes };
		pthread_mutex_unlock(&bench->lock);
		if (!id) {
			usleep(1000);
			continue;
		}
		offer(bench, bench->nr_asked, id);
		ebb_executor_release_done(bench->executor, id, VIRTIO_EBB_DONE_PARTIAL, 1, 0);
	}
}

static uint64_t cpu_nsec(const struct bench *bench)
{
	struct timespec used;
	clockid_t clock;

	if (pthread_getcpuclockid(bench->executor->thread, &clock) || clock_gettime(clock, &used))
		abort();
	return (uint64_t)used.tv_sec * NSEC_PER_SEC + (uint64_t)used.tv_nsec;
}

struct result {
	const char *name;
	double usec_a_pass;
	double percent;
	uint64_t found;
	uint64_t freed;
};

/* fresh: so many tables go empty before each pass. */
static struct result measure(struct bench *bench, const char *name, uint64_t fresh)
{
	struct ebb_status before, status;
	uint64_t nsec = 0, start_nsec;
	struct result result;
	unsigned int i;

	ebb_executor_status(bench->executor, &before);
	for (i = 0; i < PASSES; i++) {
		ebb_executor_set_tables_mode(bench->executor, EBB_TABLES_ON_DEMAND);
		if (fresh)
			touch(bench, i, fresh, bench->bytes / EBB_BLOCK_BYTES / fresh, false);
		start_nsec = cpu_nsec(bench);
		ebb_executor_set_tables_mode(bench->executor, EBB_TABLES_BACKGROUND);
		serve(bench, before.counters.collections + i + 1);
		nsec += cpu_nsec(bench) - start_nsec;
	}
	ebb_executor_set_tables_mode(bench->executor, EBB_TABLES_ON_DEMAND);
	ebb_executor_status(bench->executor, &status);
	result = (struct result){
		.name = name,
		.usec_a_pass = (double)nsec / PASSES / 1e3,
		.percent = 100.0 * (double)nsec / PASSES / DELAY_NSEC,
		.found = status.counters.tables_found - before.counters.tables_found,
		.freed = status.counters.tables_freed - before.counters.tables_freed,
	};
	printf("%-34s %12.0f %9.4f %9llu %9llu\n", name, result.usec_a_pass, result.percent,
	       (unsigned long long)result.found, (unsigned long long)result.freed);
	fflush(stdout);
	return result;
}

static void start(struct bench *bench, uint64_t bytes, bool older)
{
	struct ebb_executor_config config = {
		.name = "bench",
		.front = EBB_FRONT_EBB,
		.mode = EBB_MODE_EAGER,
		.tables_way = older ? EBB_TABLES_MOVE : EBB_TABLES_PROBE,
		.tables_no_scan = older,
	};
	struct ebb_region_desc desc = {
		.size_bytes = bytes,
		.page_bytes = EBB_PAGE_BYTES,
		.backing = EBB_BACKING_PRIVATE_ANON,
	};
	char *mapping = mmap(NULL, bytes + EBB_BLOCK_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mapping == MAP_FAILED) {
		perror("bench_tables: mmap");
		exit(1);
	}
	bench->bytes = bytes;
	bench->ram = (char *)(((uintptr_t)mapping + EBB_BLOCK_BYTES - 1) & ~(EBB_BLOCK_BYTES - 1));
	desc.host = bench->ram;
	madvise(bench->ram, bytes, MADV_NOHUGEPAGE);
	if (ebb_executor_new(&bench->executor, &config, &ops, bench) ||
	    ebb_executor_region_add(bench->executor, &desc))
		abort();
	ebb_executor_set_driver(bench->executor, true);
	pthread_mutex_lock(&bench->executor->lock);
	bench->executor->tables_policy.delay_msec = EBB_TABLES_DELAY_MIN_MSEC;
	bench->executor->tables_policy.least_tables = 1;
	pthread_mutex_unlock(&bench->executor->lock);
}

static int write_json(const char *path, uint64_t bytes, const struct result *results,
		      unsigned int nr)
{
	FILE *json = fopen(path, "we");
	unsigned int i;

	if (!json) {
		perror(path);
		return 1;
	}
	fprintf(json, "{\"ram_bytes\": %llu, \"passes\": %u, \"cases\": [",
		(unsigned long long)bytes, PASSES);
	for (i = 0; i < nr; i++)
		fprintf(json,
			"%s{\"name\": \"%s\", \"usec_a_pass\": %.1f, "
			"\"percent_of_a_core_each_10_s\": "
			"%.5f, \"found_tables\": %llu, \"freed_tables\": %llu}",
			i ? ", " : "", results[i].name, results[i].usec_a_pass, results[i].percent,
			(unsigned long long)results[i].found, (unsigned long long)results[i].freed);
	fprintf(json, "]}\n");
	return fclose(json) ? 1 : 0;
}

int main(int argc, char **argv)
{
	static struct bench bench = { .lock = PTHREAD_MUTEX_INITIALIZER,
				      .changed = PTHREAD_COND_INITIALIZER };
	const char *json_path = NULL;
	struct result results[4];
	uint64_t bytes, blocks;
	bool older = false;
	int option;

	while ((option = getopt(argc, argv, "oj:")) == 'j' || option == 'o') {
		json_path = option == 'j' ? optarg : json_path;
		older |= option == 'o';
	}
	bytes = (optind < argc ? strtoull(argv[optind], NULL, 10) : 64) << 30;
	if (option != -1 || bytes == 0) {
		fprintf(stderr, "usage: bench_tables [-o] [-j FILE] [GIB]\n");
		return 2;
	}
	start(&bench, bytes, older);
	if (!ebb_tables_can(&bench.executor->tables)) {
		printf("this kernel cannot find or free empty page tables\n");
		return 77;
	}
	blocks = bytes / EBB_BLOCK_BYTES;
	printf("passes over a guest of %llu GiB; percent: of a core, with one each 10 s\n",
	       (unsigned long long)(bytes >> 30));
	printf("%-34s %12s %9s %9s %9s\n", "", "usec a pass", "percent", "found", "freed");
	results[0] = measure(&bench, "nothing was worked on", 0);
	results[1] = measure(&bench, "512 tables go empty each time", FRESH_TABLES);
	touch(&bench, 0, blocks / 8, 8, true);
	results[2] = measure(&bench, "one page in use in each 16 MiB", 0);
	touch(&bench, 0, blocks, 1, true);
	results[3] = measure(&bench, "one page in use in each 2 MiB", 0);
	ebb_executor_free(bench.executor);
	return json_path ? write_json(json_path, bytes, results, 4) : 0;
}
