/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store.h - values by their keys: an index in ordinary memory, values in volatile memory
 */
#ifndef EBB_STORE_H
#define EBB_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STORE_MAX_KEY	250
#define STORE_MAX_VALUE ((size_t)1 << 20)

struct item {
	struct item *next_hash;
	struct item *newer, *older;
	struct item *next_in_page;
	uint64_t cas;
	int64_t expires; /* seconds since 1970; 0: never */
	uint32_t flags;
	uint32_t bytes;
	uint32_t block;
	uint8_t order;
	uint8_t key_bytes;
	char key[];
};

struct store_figures {
	uint64_t items, total_items;
	uint64_t bytes;	    /* of values */
	uint64_t evictions; /* for want of room */
	uint64_t purged;    /* items whose value was found or told to be gone */
	uint64_t failed;    /* take-backs that gave no answer */
};

extern struct store_figures store_figures;

/* 0, or -1 and errno. is_plain: values in ordinary memory. */
int store_init(size_t bytes, bool is_plain);
/* A descriptor that is readable when values were purged, or -1; then call store_hear_of_purges().
 */
int store_event_fd(void);
void store_hear_of_purges(void);

struct item *store_find(const char *key, size_t key_bytes, int64_t now);
/* Copies the value: true. False: it was purged; the item is gone, and others perhaps. */
bool store_read(struct item *item, void *out);
/* In place of any item of that key, which is gone in any case; NULL: there is no room. */
struct item *store_set(const char *key, size_t key_bytes, uint32_t flags, int64_t expires,
		       const void *value, size_t bytes);
void store_delete(struct item *item);
void store_flush(void);

#endif
