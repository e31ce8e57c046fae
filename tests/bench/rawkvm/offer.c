// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * offer - memory given to the executor (vmm/core) as a guest's driver offers it
 *
 * Owns:    the executor and the event file descriptor that tells of its answers.
 * Thread:  one; the executor's own thread calls back.
 * Locks:   none.
 * Never:   touches the memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ebb_core.h"
#include "offer.h"

#define RANGE_BYTES (4ull << 20)
#define NR_RANGES   32u
#define STRIDE	    13u /* coprime to every possible number of ranges but multiples of it */

static int on_begin(void *vmm)
{
	return 0;
}

static void on_nothing(void *vmm)
{
}

static int on_discard(void *vmm, void *region, uint64_t offset_bytes, uint64_t bytes)
{
	return -EOPNOTSUPP;
}

static void on_done(void *vmm, struct ebb_batch *batch)
{
	eventfd_write(((struct offer *)vmm)->done_fd, 1);
}

static void on_guide(void *vmm, struct ebb_guidance guidance)
{
}

static int on_release(void *vmm, uint64_t id, uint64_t bytes, uint32_t flags)
{
	return -ENODEV;
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

int offer_init(struct offer *offer, void *ram, uint64_t bytes)
{
	struct ebb_executor_config config = {
		.name = "rawkvm",
		.front = EBB_FRONT_EBB,
		.mode = EBB_MODE_LAZY,
	};
	struct ebb_region_desc desc = {
		.size_bytes = bytes,
		.host = ram,
		.page_bytes = 4096,
		.backing = EBB_BACKING_PRIVATE_ANON,
	};
	int ret;

	*offer = (struct offer){ .bytes = bytes, .done_fd = eventfd(0, EFD_CLOEXEC) };
	if (offer->done_fd < 0)
		return -errno;
	ret = ebb_executor_new(&offer->executor, &config, &ops, offer);
	if (ret)
		return ret;
	ret = ebb_executor_region_add(offer->executor, &desc);
	ebb_executor_set_driver(offer->executor, true);
	return ret;
}

void offer_deinit(struct offer *offer)
{
	ebb_executor_free(offer->executor);
	if (offer->done_fd >= 0)
		close(offer->done_fd);
}

static int offer_batch(struct offer *offer, uint64_t gpa, uint32_t nr_ranges)
{
	struct ebb_range ranges[NR_RANGES];
	struct ebb_batch batch = { .nr_ranges = nr_ranges, .ranges = ranges };
	enum virtio_ebb_fault fault;
	eventfd_t count;
	uint32_t i;
	int ret;

	for (i = 0; i < nr_ranges; i++)
		ranges[i] = (struct ebb_range){
			.gpa = gpa +
			       (nr_ranges % STRIDE ? i * STRIDE % nr_ranges : i) * RANGE_BYTES,
			.bytes = RANGE_BYTES,
		};
	ret = ebb_executor_submit(offer->executor, &batch, &fault);
	if (ret)
		return ret;
	if (eventfd_read(offer->done_fd, &count))
		return -errno;
	for (i = 0; i < nr_ranges; i++)
		offer->done_bytes += ranges[i].done_bytes;
	return 0;
}

int offer_all(struct offer *offer, bool lazy)
{
	uint64_t gpa, left;
	int ret;

	ret = ebb_executor_set_mode(offer->executor, lazy ? EBB_MODE_LAZY : EBB_MODE_EAGER);
	offer->done_bytes = 0;
	for (gpa = 0; gpa < offer->bytes && !ret; gpa += NR_RANGES * RANGE_BYTES) {
		left = (offer->bytes - gpa) / RANGE_BYTES;
		ret = offer_batch(offer, gpa, left < NR_RANGES ? (uint32_t)left : NR_RANGES);
	}
	return ret;
}
