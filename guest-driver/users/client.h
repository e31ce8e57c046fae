/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * client.h - a client of the cache, and what it says
 */
#ifndef EBB_CLIENT_H
#define EBB_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define READ_BYTES ((size_t)16 << 10)

struct buffer {
	char *data;
	size_t used, room;
};

struct client {
	int fd;
	struct buffer in, out;
	size_t sent;				    /* of out */
	size_t skip;				    /* bytes of a value that is not taken */
	enum { NO_KEYS, GET_KEYS, GETS_KEYS } keys; /* in the midst of a "get" */
	bool no_reply, is_closing, is_failed;
};

struct cache {
	uint64_t gets, sets, hits, misses, purged, flushes, connections;
	unsigned int clients;
	size_t limit_bytes;
	int64_t now, started; /* seconds since 1970 */
	int64_t flush_at;     /* 0: not */
};

extern struct cache cache;

/* Room for so many bytes more. */
bool reserve(struct buffer *buffer, size_t bytes);

/* A decimal number up to max, and nothing else. */
bool number(const char *word, uint64_t max, uint64_t *value);

/*
 * Takes a command, or one key of a "get", from what came, and answers it. Returns how many bytes
 * that was; 0: there is not enough yet. in ends with a zero.
 */
size_t consume(struct client *client, const char *in, size_t bytes);

#endif
