// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * content - what a page of the torture program must hold
 *
 * Owns:    the two seeds.
 * Thread:  any, after content_seed().
 * Locks:   none.
 * Never:   changes a page that it reports.
 */
#include "content.h"
#include "random.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static uint64_t own_seed, common_seed;

void content_seed(uint64_t own, uint64_t common)
{
	own_seed = own;
	common_seed = common;
}

/* Word k, from 2 on, is first + (k - 2) * step. */
static void page_words(uint64_t id, uint64_t index, uint64_t *first, uint64_t *step)
{
	uint64_t seed = ID_OWNER(id) == OWNER_SHARED ? common_seed : own_seed;

	*first = mix(seed ^ mix(id) ^ mix(~index));
	*step = mix(*first) | 1;
}

void content_write(uint64_t *words, uint64_t id, uint64_t index)
{
	uint64_t w, step;

	page_words(id, index, &w, &step);
	words[0] = id;
	words[1] = index;
	for (size_t i = 2; i < PAGE_WORDS; i += 2, w += 2 * step) {
		words[i] = w;
		words[i + 1] = w + step;
	}
}

static bool is_zero(const uint64_t *words)
{
	for (size_t i = 0; i < PAGE_WORDS; i += 8)
		if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] |
		    words[i + 5] | words[i + 6] | words[i + 7])
			return false;
	return true;
}

size_t content_first_wrong(const uint64_t *words, uint64_t id, uint64_t index)
{
	uint64_t w = 0, step = 0;

	if (!id && is_zero(words))
		return PAGE_WORDS;
	if (id)
		page_words(id, index, &w, &step);
	if (words[0] != id)
		return 0;
	if (words[1] != (id ? index : 0))
		return 1;
	for (size_t i = 2; i < PAGE_WORDS; i += 2, w += 2 * step)
		if ((words[i] ^ w) | (words[i + 1] ^ (w + step)))
			return words[i] == w ? i + 1 : i;
	return PAGE_WORDS;
}

static uint64_t physical_address(const void *at)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (pread(fd, &entry, 8, (off_t)((uintptr_t)at / PAGE_BYTES * 8)) != 8)
		entry = 0;
	close(fd);
	return (entry & ((1ULL << 55) - 1)) * PAGE_BYTES;
}

static void print_id(char *text, size_t size, uint64_t id, uint64_t index)
{
	snprintf(text, size, "owner %u.%u generation %llu page %#llx",
		 (unsigned int)(ID_OWNER(id) >> 16), (unsigned int)(ID_OWNER(id) & 0xffff),
		 (unsigned long long)ID_GENERATION(id), (unsigned long long)index);
}

void content_report(const uint64_t *words, uint64_t id, uint64_t index, size_t wrong,
		    const char *when)
{
	uint64_t got[PAGE_WORDS];
	char want[96], found[96];
	const char *how = "torn";
	size_t zeros = 0, now;

	memcpy(got, words, PAGE_BYTES);
	for (size_t i = 0; i < PAGE_WORDS; i++)
		zeros += !got[i];
	now = content_first_wrong(got, got[0], got[1]);
	print_id(want, sizeof(want), id, index);
	print_id(found, sizeof(found), got[0], got[1]);
	if (zeros == PAGE_WORDS)
		how = "zeros";
	else if (content_first_wrong(got, id, index) == PAGE_WORDS)
		how = "the right content by now";
	else if (now == PAGE_WORDS)
		how = "another page, whole";
	printf("BAD %s: at %p gpa %#llx process %d: want %s: word %zu wrong; found %s (first "
	       "words: "
	       "%s; %zu of 512 zero)\n",
	       when, (const void *)words, (unsigned long long)physical_address(words), getpid(),
	       id ? want : "zeros", wrong, how, found, zeros);
	fflush(stdout);
}
