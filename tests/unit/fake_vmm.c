// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * fake_vmm - a VMM for tests of the executor: real RAM, recorded callbacks
 *
 * Owns:    the executor under test, what its callbacks saw.
 * Thread:  callbacks in the executor thread, the rest in the test's.
 * Locks:   lock; callbacks take it, so never hold it across a call of the executor.
 * Never:   calls assert_*() in the executor thread: cmocka would jump out of the test's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fake_vmm.h"

static int on_begin(void *opaque)
{
	struct fake_vmm *vmm = opaque;
	int ret;

	pthread_mutex_lock(&vmm->lock);
	vmm->nr_begin++;
	vmm->at_gate++;
	pthread_cond_broadcast(&vmm->changed);
	while (vmm->gate_closed)
		pthread_cond_wait(&vmm->changed, &vmm->lock);
	vmm->at_gate--;
	ret = vmm->begin_ret;
	if (ret)
		vmm->nr_begin--;
	pthread_mutex_unlock(&vmm->lock);
	return ret;
}

static void on_end(void *opaque)
{
	struct fake_vmm *vmm = opaque;

	pthread_mutex_lock(&vmm->lock);
	vmm->nr_end++;
	pthread_mutex_unlock(&vmm->lock);
}

static int on_discard(void *opaque, void *region, uint64_t offset, uint64_t bytes)
{
	struct fake_vmm *vmm = opaque;
	int ret;

	pthread_mutex_lock(&vmm->lock);
	vmm->discards[vmm->nr_discard % 16].region = region;
	vmm->discards[vmm->nr_discard % 16].offset = offset;
	vmm->discards[vmm->nr_discard % 16].bytes = bytes;
	vmm->nr_discard++;
	ret = vmm->discard_ret;
	pthread_mutex_unlock(&vmm->lock);
	return ret;
}

static void in_use_again(const struct offer *offer)
{
	uint32_t i;

	for (i = 0; offer->ram && i < offer->batch.nr_ranges; i++)
		guest_ram_use(offer->ram, offer->ranges[i].gpa - offer->ram_gpa,
			      offer->ranges[i].bytes);
}

static void on_done(void *opaque, struct ebb_batch *batch)
{
	struct fake_vmm *vmm = opaque;
	struct offer *offer = batch->opaque;
	struct ebb_status status;
	unsigned int naps;

	/* From here on the guest uses the memory: any later call is a breach of rule 1. */
	in_use_again(offer);
	ebb_executor_status(vmm->executor, &status);
	for (naps = 0; vmm->slow_answer && naps < 20; naps++)
		fake_vmm_nap();
	pthread_mutex_lock(&vmm->lock);
	offer->order = vmm->nr_done++;
	offer->done++;
	pthread_cond_broadcast(&vmm->changed);
	pthread_mutex_unlock(&vmm->lock);
}

static void on_guide(void *opaque, struct ebb_guidance guidance)
{
	struct fake_vmm *vmm = opaque;

	pthread_mutex_lock(&vmm->lock);
	vmm->guidance = guidance;
	vmm->nr_guide++;
	pthread_cond_broadcast(&vmm->changed);
	pthread_mutex_unlock(&vmm->lock);
}

static int on_release(void *opaque, uint64_t id, uint64_t bytes, uint32_t flags)
{
	struct fake_vmm *vmm = opaque;
	int ret;

	pthread_mutex_lock(&vmm->lock);
	vmm->release_id = id;
	vmm->release_bytes = bytes;
	vmm->release_flags = flags;
	vmm->nr_release++;
	ret = vmm->release_ret;
	pthread_cond_broadcast(&vmm->changed);
	pthread_mutex_unlock(&vmm->lock);
	return ret;
}

static int on_collect(void *opaque, uint64_t id, const struct ebb_candidate *ranges,
		      uint32_t nr_ranges)
{
	struct fake_vmm *vmm = opaque;
	int ret;

	pthread_mutex_lock(&vmm->lock);
	vmm->collect_id = id;
	vmm->nr_candidates = nr_ranges;
	memcpy(vmm->candidates, ranges, nr_ranges * sizeof(*ranges));
	vmm->nr_collect++;
	ret = vmm->collect_ret;
	pthread_cond_broadcast(&vmm->changed);
	pthread_mutex_unlock(&vmm->lock);
	return ret;
}

static void on_want_stats(void *opaque)
{
	struct fake_vmm *vmm = opaque;

	pthread_mutex_lock(&vmm->lock);
	vmm->nr_stats++;
	pthread_cond_broadcast(&vmm->changed);
	pthread_mutex_unlock(&vmm->lock);
}

static void on_purged(void *opaque)
{
	struct fake_vmm *vmm = opaque;

	pthread_mutex_lock(&vmm->lock);
	vmm->nr_purged++;
	pthread_cond_broadcast(&vmm->changed);
	pthread_mutex_unlock(&vmm->lock);
}

static void on_log(void *opaque, int level, const char *line)
{
	struct fake_vmm *vmm = opaque;

	pthread_mutex_lock(&vmm->lock);
	strncpy(vmm->log[vmm->nr_log % 16], line, sizeof(vmm->log[0]) - 1);
	vmm->log_level[vmm->nr_log % 16] = level;
	vmm->nr_log++;
	pthread_cond_broadcast(&vmm->changed);
	pthread_mutex_unlock(&vmm->lock);
}

static const struct ebb_vmm_ops fake_ops = {
	.discard_begin = on_begin,
	.discard_end = on_end,
	.discard = on_discard,
	.batch_done = on_done,
	.guide = on_guide,
	.release = on_release,
	.collect = on_collect,
	.want_stats = on_want_stats,
	.purged = on_purged,
	.log = on_log,
};

static void init(struct fake_vmm *vmm, const struct ebb_executor_config *config)
{
	memset(vmm, 0, sizeof(*vmm));
	pthread_mutex_init(&vmm->lock, NULL);
	pthread_cond_init(&vmm->changed, NULL);
	witness_reset();
	assert_int_equal(ebb_executor_new(&vmm->executor, config, &fake_ops, vmm), 0);
}

void fake_vmm_init(struct fake_vmm *vmm, uint32_t mode, uint32_t front, const char *agent_path)
{
	struct ebb_executor_config config = {
		.name = "test",
		.agent_path = agent_path,
		.front = front,
		.mode = mode,
	};

	init(vmm, &config);
}

void fake_vmm_begin(struct fake_vmm *vmm, struct guest_ram *ram, const struct fake_scene *scene)
{
	struct ebb_executor_config config = {
		.name = "test",
		.front = EBB_FRONT_EBB,
		.mode = scene->mode,
		.tables_way = scene->tables_way,
	};

	guest_ram_init(ram, scene->ram_bytes, scene->host_offset, scene->huge);
	init(vmm, &config);
	fake_vmm_add_ram(vmm, ram, scene->start_gpa);
	ebb_executor_set_driver(vmm->executor, scene->driver);
}

void fake_vmm_end(struct fake_vmm *vmm, struct guest_ram *ram)
{
	fake_vmm_deinit(vmm);
	guest_ram_deinit(ram);
}

void fake_vmm_deinit(struct fake_vmm *vmm)
{
	ebb_executor_free(vmm->executor);
	assert_int_equal(vmm->nr_begin, vmm->nr_end);
	assert_int_equal(witness_breaches(), 0);
	pthread_cond_destroy(&vmm->changed);
	pthread_mutex_destroy(&vmm->lock);
}

int fake_vmm_add_part(struct fake_vmm *vmm, struct guest_ram *ram, uint64_t start_gpa,
		      uint64_t offset, uint64_t bytes)
{
	struct ebb_region_desc desc = {
		.start_gpa = start_gpa,
		.size_bytes = bytes,
		.host = ram->host + offset,
		.page_bytes = PAGE,
		.backing = EBB_BACKING_PRIVATE_ANON,
	};

	return ebb_executor_region_add(vmm->executor, &desc);
}

void fake_vmm_add_ram(struct fake_vmm *vmm, struct guest_ram *ram, uint64_t start_gpa)
{
	assert_int_equal(fake_vmm_add_part(vmm, ram, start_gpa, 0, ram->bytes), 0);
}

bool fake_vmm_wait_once(struct fake_vmm *vmm)
{
	struct timespec deadline;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += 60;
	return pthread_cond_timedwait(&vmm->changed, &vmm->lock, &deadline) != ETIMEDOUT;
}

bool fake_vmm_nap(void)
{
	usleep(1000);
	return true;
}

void offer_init(struct offer *offer, struct guest_ram *ram, uint64_t ram_gpa)
{
	memset(&offer->batch, 0, sizeof(offer->batch));
	offer->batch.ranges = offer->ranges;
	offer->batch.opaque = offer;
	offer->ram = ram;
	offer->ram_gpa = ram_gpa;
	offer->done = 0;
}

void offer_add(struct offer *offer, uint64_t gpa, uint64_t bytes)
{
	assert_true(offer->batch.nr_ranges < FAKE_MAX_RANGES);
	/* Verdicts are poisoned: each must be written. */
	offer->ranges[offer->batch.nr_ranges++] = (struct ebb_range){
		.gpa = gpa,
		.bytes = bytes,
		.done_bytes = 0xdead,
		.verdict = 0xdead,
		.reason = 0xdead,
	};
}

int offer_submit(struct fake_vmm *vmm, struct offer *offer, enum virtio_ebb_fault *fault)
{
	enum virtio_ebb_fault ignored;
	uint32_t i;
	int ret;

	offer->done = 0;
	for (i = 0; offer->ram && i < offer->batch.nr_ranges; i++)
		guest_ram_isolate(offer->ram, offer->ranges[i].gpa - offer->ram_gpa,
				  offer->ranges[i].bytes);
	ret = ebb_executor_submit(vmm->executor, &offer->batch, fault ? fault : &ignored);
	if (ret)
		in_use_again(offer);
	return ret;
}

void offer_run(struct fake_vmm *vmm, struct offer *offer)
{
	assert_int_equal(offer_submit(vmm, offer, NULL), 0);
	fake_vmm_wait(vmm, offer->done);
	assert_int_equal(offer->done, 1);
}

void offer_run_one(struct fake_vmm *vmm, struct offer *offer, struct guest_ram *ram,
		   uint64_t ram_gpa, uint64_t command_id, uint64_t gpa, uint64_t bytes)
{
	offer_init(offer, ram, ram_gpa);
	offer_add(offer, gpa, bytes);
	offer->batch.command_id = command_id;
	offer_run(vmm, offer);
}

void offer_expect(struct fake_vmm *vmm, struct guest_ram *ram, uint64_t ram_gpa, uint64_t gpa,
		  uint64_t bytes, uint16_t verdict, uint16_t reason, uint64_t done_bytes)
{
	static struct offer offer;

	offer_run_one(vmm, &offer, ram, ram_gpa, 0, gpa, bytes);
	assert_int_equal(offer.ranges[0].verdict, verdict);
	assert_int_equal(offer.ranges[0].reason, reason);
	assert_int_equal(offer.ranges[0].done_bytes, done_bytes);
}

uint64_t fake_vmm_collections(struct fake_vmm *vmm)
{
	struct ebb_status status;

	ebb_executor_status(vmm->executor, &status);
	return status.counters.collections;
}

struct ebb_counters fake_vmm_wait_collected(struct fake_vmm *vmm, uint64_t before)
{
	struct ebb_status status;

	fake_vmm_wait_status(vmm, &status, status.counters.collections > before);
	return status.counters;
}

uint64_t fake_vmm_ask(struct fake_vmm *vmm)
{
	unsigned int nr = vmm->nr_collect;

	assert_int_equal(ebb_executor_collect(vmm->executor), 0);
	fake_vmm_wait(vmm, vmm->nr_collect > nr);
	return vmm->collect_id;
}

struct ebb_counters fake_vmm_answer(struct fake_vmm *vmm, uint64_t id, uint32_t status)
{
	uint64_t before = fake_vmm_collections(vmm);

	ebb_executor_release_done(vmm->executor, id, status, 1, 0);
	return fake_vmm_wait_collected(vmm, before);
}

uint64_t fake_vmm_release_id(struct fake_vmm *vmm)
{
	uint64_t id;

	pthread_mutex_lock(&vmm->lock);
	id = vmm->release_id;
	pthread_mutex_unlock(&vmm->lock);
	return id;
}

void fake_vmm_close_gate(struct fake_vmm *vmm)
{
	pthread_mutex_lock(&vmm->lock);
	vmm->gate_closed = true;
	pthread_mutex_unlock(&vmm->lock);
}

void fake_vmm_open_gate(struct fake_vmm *vmm)
{
	pthread_mutex_lock(&vmm->lock);
	vmm->gate_closed = false;
	pthread_cond_broadcast(&vmm->changed);
	pthread_mutex_unlock(&vmm->lock);
}
