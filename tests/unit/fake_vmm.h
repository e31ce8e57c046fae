/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fake_vmm.h - a VMM for tests of the executor: real RAM, recorded callbacks
 */
#ifndef EBB_TEST_FAKE_VMM_H
#define EBB_TEST_FAKE_VMM_H

#include <pthread.h>
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include "ebb_core.h"
#include "guest_ram.h"

#define FAKE_MAX_RANGES 1024

/* One batch of the guest; lives in the test. */
struct offer {
	struct ebb_batch batch;
	struct ebb_range ranges[FAKE_MAX_RANGES];
	struct guest_ram *ram; /* behind all ranges, from gpa ram_gpa on; NULL: none */
	uint64_t ram_gpa;
	unsigned int done;  /* times batch_done was called */
	unsigned int order; /* the nth batch that was done */
};

struct fake_vmm {
	struct ebb_executor *executor;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* What the VMM does */
	int begin_ret;
	int discard_ret;
	int release_ret;
	bool gate_closed; /* discard_begin waits */
	bool slow_answer; /* batch_done takes its time before it tells */
	/* What it saw */
	unsigned int nr_begin, nr_end, nr_done, nr_guide, nr_release, nr_stats, nr_discard, nr_log,
		nr_purged, nr_collect;
	unsigned int at_gate;
	struct ebb_guidance guidance;
	uint64_t release_id, release_bytes;
	uint32_t release_flags;
	int collect_ret;
	uint64_t collect_id;
	struct ebb_candidate candidates[VIRTIO_EBB_MAX_COLLECT];
	uint32_t nr_candidates;
	struct {
		void *region;
		uint64_t offset, bytes;
	} discards[16];
	char log[16][320];
	int log_level[16];
};

void fake_vmm_init(struct fake_vmm *vmm, uint32_t mode, uint32_t front, const char *agent_path);
void fake_vmm_deinit(struct fake_vmm *vmm);

/* A guest of one region of RAM, which most tests have. */
struct fake_scene {
	size_t ram_bytes;
	size_t host_offset; /* of the RAM in a block of the host */
	bool huge;
	uint64_t start_gpa;
	uint32_t mode;
	uint32_t tables_way; /* enum ebb_tables_way; 0: what this kernel does */
	bool driver;
};

void fake_vmm_begin(struct fake_vmm *vmm, struct guest_ram *ram, const struct fake_scene *scene);
void fake_vmm_end(struct fake_vmm *vmm, struct guest_ram *ram);

/* Private anonymous RAM at start_gpa. */
void fake_vmm_add_ram(struct fake_vmm *vmm, struct guest_ram *ram, uint64_t start_gpa);
/* A part of ram as a region. */
int fake_vmm_add_part(struct fake_vmm *vmm, struct guest_ram *ram, uint64_t start_gpa,
		      uint64_t offset, uint64_t bytes);

/* Wait until the condition holds; fails the test after a minute. */
#define fake_vmm_wait(vmm, condition)                 \
	do {                                          \
		pthread_mutex_lock(&(vmm)->lock);     \
		while (!(condition))                  \
			if (!fake_vmm_wait_once(vmm)) \
				break;                \
		pthread_mutex_unlock(&(vmm)->lock);   \
		assert_true(condition);               \
	} while (0)
bool fake_vmm_wait_once(struct fake_vmm *vmm);

/* Wait until a condition on the status holds. */
#define fake_vmm_wait_status(vmm, status, condition)                  \
	do {                                                          \
		int tries_ = 60000;                                   \
		do {                                                  \
			ebb_executor_status((vmm)->executor, status); \
		} while (!(condition) && --tries_ && fake_vmm_nap()); \
		assert_true(condition);                               \
	} while (0)
bool fake_vmm_nap(void);

void offer_init(struct offer *offer, struct guest_ram *ram, uint64_t ram_gpa);
void offer_add(struct offer *offer, uint64_t gpa, uint64_t bytes);
/* Isolate and submit; what submit says, the memory in use again if it was refused. */
int offer_submit(struct fake_vmm *vmm, struct offer *offer, enum virtio_ebb_fault *fault);
/* Submit, which must succeed, and wait for the answer. */
void offer_run(struct fake_vmm *vmm, struct offer *offer);
/* The same for one range, gpa to gpa + bytes, as the answer to a command; 0: to none. */
void offer_run_one(struct fake_vmm *vmm, struct offer *offer, struct guest_ram *ram,
		   uint64_t ram_gpa, uint64_t command_id, uint64_t gpa, uint64_t bytes);
/* One range, run, and its verdict checked. */
void offer_expect(struct fake_vmm *vmm, struct guest_ram *ram, uint64_t ram_gpa, uint64_t gpa,
		  uint64_t bytes, uint16_t verdict, uint16_t reason, uint64_t done_bytes);

/* How many collections are over. */
uint64_t fake_vmm_collections(struct fake_vmm *vmm);
/* Wait until there are more. It may be more than one: a pass in the background comes and goes. */
struct ebb_counters fake_vmm_wait_collected(struct fake_vmm *vmm, uint64_t before);
/* Begin a collection, and wait until the guest is asked: the id of the question. */
uint64_t fake_vmm_ask(struct fake_vmm *vmm);
/* The guest has answered all of it. */
struct ebb_counters fake_vmm_answer(struct fake_vmm *vmm, uint64_t id, uint32_t status);

/* Of the last release that the VMM was told of; 0: none. */
uint64_t fake_vmm_release_id(struct fake_vmm *vmm);

void fake_vmm_close_gate(struct fake_vmm *vmm);
void fake_vmm_open_gate(struct fake_vmm *vmm);

#endif /* EBB_TEST_FAKE_VMM_H */
