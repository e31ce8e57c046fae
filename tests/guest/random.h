/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * random.h - numbers that follow from a seed (SplitMix64), for content and for choices
 */
#ifndef EBB_TEST_RANDOM_H
#define EBB_TEST_RANDOM_H

#include <stdint.h>

static inline uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ULL;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

static inline uint64_t random_next(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15ULL;
	return mix(*state);
}

#endif /* EBB_TEST_RANDOM_H */
