/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * figures.h - what is measured, and its output
 */
#ifndef RAWKVM_FIGURES_H
#define RAWKVM_FIGURES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "worker.h"

#define MAX_REPEAT 99

enum who {
	WHO_KVM,
	WHO_PLAIN,
	NR_WHO,
};

/* What became of the memory before it is used again. */
enum state {
	STATE_NEVER,
	STATE_LAZY,
	STATE_PURGED, /* lazily freed, and the kernel took it */
	STATE_EAGER,
	NR_STATES,
};

enum access {
	ACCESS_WRITE,
	ACCESS_READ,
	NR_ACCESS,
};

enum call {
	CALL_FREE,
	CALL_DISCARD,
	CALL_OFFER_LAZY, /* from the offer to the executor to its last answer */
	CALL_OFFER_EAGER,
	CALL_PURGE,
	CALL_MERGEABLE,
	CALL_KSMD, /* ksmd's time until all was merged */
	CALL_COPY, /* the first write to what was merged */
	CALL_UNMERGEABLE,
	NR_CALLS,
};

/* One number of many rounds. */
struct series {
	double value[MAX_REPEAT];
	unsigned int nr;
};

struct reuse {
	struct series wall_nsec; /* per page, all of them */
	struct series cpu_nsec;
	struct series exits;
	struct series kvm_faults;
	struct series faults;
	struct series kept; /* READ: the share of the pages that was as it was written */
	struct series zero;
	double sum_cpu_nsec;
	double sum_kernel_nsec;
};

struct figures {
	uint64_t ram_bytes;
	uint64_t call_bytes;
	unsigned int repeat;
	struct reuse reuse[NR_WHO][NR_PAGES][NR_STATES][NR_ACCESS];
	struct series calls[NR_WHO][NR_PAGES]
			   [NR_CALLS]; /* CPU time per page; OFFER: by the clock */
	struct series exit_nsec;
	/* Of the pages that were marked and then read, the share that could still be purged. */
	struct series volatile_after_read[NR_WHO][NR_PAGES];
	double least_huge_share; /* of the memory that shall be huge */
	uint64_t pages_checked;
	uint64_t bad;
	const char *no_merging; /* why it was not measured, or NULL */
};

void series_add(struct series *series, double value);
/* 0 if there is nothing. */
double series_median(const struct series *series);
double series_least(const struct series *series);

void figures_print(const struct figures *figures);
void figures_json(const struct figures *figures, FILE *file);

#endif /* RAWKVM_FIGURES_H */
