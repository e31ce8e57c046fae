/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * offer.h - memory given to the executor (vmm/core) as a guest's driver offers it
 */
#ifndef RAWKVM_OFFER_H
#define RAWKVM_OFFER_H

#include <stdbool.h>
#include <stdint.h>

struct ebb_executor;

struct offer {
	struct ebb_executor *executor;
	int done_fd;
	uint64_t bytes;
	uint64_t done_bytes; /* of the last offer: marked or discarded */
};

/* Negative errno. The RAM begins at guest-physical address 0, as far as the executor knows. */
int offer_init(struct offer *offer, void *ram, uint64_t bytes);
void offer_deinit(struct offer *offer);

/*
 * Offer all of it: batches of 32 ranges of 4 MiB, in no order, each sent when the answer to
 * the one before it has come. lazy: it is marked; else discarded.
 */
int offer_all(struct offer *offer, bool lazy);

#endif /* RAWKVM_OFFER_H */
