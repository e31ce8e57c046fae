// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * cacheload - use a cache through libmemcached, and check each value that it gives
 *
 * A key that is missed is set. A value follows from its key and a generation: 50 bytes to 60 KiB,
 * so that some share a page and some have many. A hit must be what was set last.
 *
 * Owns:    the keys "key-0" to "key-N" of the cache.
 * Thread:  one.
 * Locks:   none.
 * Never:   stops at a wrong value: it counts it. Exit status 1 if there was any.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libmemcached/memcached.h>

#include "random.h"

#define MAX_BYTES (60u << 10)

static unsigned int *generations; /* 0: never set */
static uint64_t random_state = 1;

static uint64_t random_below(uint64_t limit)
{
	return random_next(&random_state) % limit;
}

static size_t make_value(uint64_t key, char *value)
{
	uint64_t word = mix(key << 32 | generations[key]);
	size_t bytes = 50 + word % (key % 2 ? 1000 : MAX_BYTES - 50);

	for (size_t i = 0; i < bytes; i += 8) {
		word = word * 6364136223846793005ULL + 1442695040888963407ULL;
		memcpy(value + i, &word, 8);
	}
	return bytes;
}

int main(int argc, char **argv)
{
	static char want[MAX_BYTES + 8];
	uint64_t gets = 10000, keys = 1000, hits = 0, wrong = 0, failed = 0, key;
	memcached_return_t result;
	memcached_st *cache;
	size_t bytes, want_bytes;
	uint32_t flags;
	char name[32], *got;
	int opt, name_bytes;

	while ((opt = getopt(argc, argv, "n:k:")) != -1) {
		if (opt == 'n') {
			gets = strtoull(optarg, NULL, 0);
		} else if (opt == 'k') {
			keys = strtoull(optarg, NULL, 0);
		} else {
			fprintf(stderr, "usage: cacheload [-n GETS] [-k KEYS]\n");
			return 2;
		}
	}
	generations = calloc(keys, sizeof(*generations));
	cache = memcached("--SERVER=127.0.0.1", strlen("--SERVER=127.0.0.1"));
	if (!generations || !cache)
		return 2;
	/* A host that swaps, or does much else, takes its time. */
	memcached_behavior_set(cache, MEMCACHED_BEHAVIOR_POLL_TIMEOUT, 60000);
	/* What an earlier run has left has values of its own. */
	failed += memcached_flush(cache, 0) != MEMCACHED_SUCCESS;
	for (uint64_t i = 0; i < gets && !failed; i++) {
		key = random_below(keys);
		name_bytes = snprintf(name, sizeof(name), "key-%llu", (unsigned long long)key);
		got = memcached_get(cache, name, (size_t)name_bytes, &bytes, &flags, &result);
		want_bytes = make_value(key, want);
		if (result == MEMCACHED_SUCCESS) {
			hits++;
			wrong += !generations[key] || flags != key || bytes != want_bytes ||
				 memcmp(got, want, bytes) != 0;
			free(got);
			if (random_below(20))
				continue;
		} else if (result != MEMCACHED_NOTFOUND) {
			printf("get: %s\n", memcached_strerror(cache, result));
			failed++;
		}
		generations[key]++;
		want_bytes = make_value(key, want);
		result = memcached_set(cache, name, (size_t)name_bytes, want, want_bytes, 0,
				       (uint32_t)key);
		if (result != MEMCACHED_SUCCESS) {
			printf("set: %s\n", memcached_strerror(cache, result));
			failed++;
		}
	}
	printf("gets %llu, hits %llu, wrong %llu, failed %llu\n", (unsigned long long)gets,
	       (unsigned long long)hits, (unsigned long long)wrong, (unsigned long long)failed);
	memcached_free(cache);
	return wrong || failed;
}
