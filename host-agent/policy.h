/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * policy.h - what to do, from what is known
 *
 * Pure functions: no clock, no input or output, no log, nothing allocated. Time is an
 * argument. A "domain" is what memory comes from: the host, or a memory cgroup with a
 * limit. Each guest takes from the host and perhaps from one limited cgroup.
 */
#ifndef EBB_POLICY_H
#define EBB_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent.h"

#define POLICY_WEIGHT_MIN     1
#define POLICY_WEIGHT_DEFAULT 100
#define POLICY_WEIGHT_MAX     10000

struct policy_conf {
	unsigned int nearing_percent;	 /* NEARING below this much available */
	unsigned int short_percent;	 /* SHORT below this much */
	unsigned int hysteresis_percent; /* a stage is left this much above its mark */
	unsigned int calm_msec;		 /* and only after so long above it */
	unsigned int answer_msec;   /* what guests need to answer: how far a fall is foreseen */
	unsigned int settle_msec;   /* after a release no other one for so long */
	uint64_t guest_floor_bytes; /* free memory that a release leaves a guest */
};

/* What is known of a domain at a moment. */
struct policy_level {
	uint64_t total_bytes; /* or the limit; not 0 */
	uint64_t available_bytes;
	uint64_t marked_bytes; /* of these, so only because guests' free memory is marked */
};

/* What policy remembers of a domain. All zeros: nothing yet. */
struct policy_gauge {
	uint32_t stage;		      /* EBB_STAGE_*, 0: nothing known yet */
	uint64_t seen_unmarked_bytes; /* available without any mark */
	uint64_t seen_usec;
	uint64_t calm_since_usec;    /* above the way out of stage since then; 0: is not */
	uint64_t release_until_usec; /* no release before this */
};

struct policy_level policy_level(uint64_t total_bytes, uint64_t available_bytes,
				 uint64_t listed_bytes, uint64_t cache_bytes,
				 uint64_t lazyfree_bytes);
struct policy_gauge policy_stage(const struct policy_conf *conf, const struct policy_gauge *gauge,
				 const struct policy_level *level, uint64_t now_usec);

/* A guest as a source of memory. */
struct policy_guest {
	bool askable;	      /* a driver that obeys, mode auto, nothing under way, not broken */
	uint64_t total_bytes; /* that the guest's kernel manages */
	uint64_t free_bytes;  /* of these */
	uint64_t resident_bytes;
	uint64_t kept_bytes;	 /* of these, what no release brings */
	bool purgeable;		 /* its executor can purge now */
	uint64_t volatile_bytes; /* with content, as the guest says */
	uint64_t unused_usec;	 /* since it was last seen to mark or take back any of that */
	unsigned int weight;	 /* POLICY_WEIGHT_MIN to MAX: one of twice that loses half */
	uint64_t want_bytes;	 /* out: ask for so much; 0: do not ask */
	uint64_t purge_bytes;	 /* out: purge so much; 0: do not */
};

uint64_t policy_deficit(const struct policy_conf *conf, const struct policy_gauge *gauge,
			const struct policy_level *level, uint64_t now_usec);
uint64_t policy_excess_bytes(const struct policy_guest *guest);
uint64_t policy_kept_bytes(uint64_t before_bytes, uint64_t after_bytes, uint64_t discarded_bytes);
size_t policy_release(const struct policy_conf *conf, uint64_t deficit_bytes,
		      struct policy_guest *guests, size_t nr_guests);
size_t policy_purge(uint64_t deficit_bytes, struct policy_guest *guests, size_t nr_guests);
struct policy_gauge policy_released(const struct policy_conf *conf,
				    const struct policy_gauge *gauge, uint64_t now_usec);

#endif /* EBB_POLICY_H */
