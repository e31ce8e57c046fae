// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * smoke_main - run a fuzz target without libFuzzer
 *
 * Random inputs from a fixed seed, small changes of earlier inputs among them, so that
 * each compiler and sanitizer runs the targets in the ordinary tests as well.
 *
 * usage: TARGET [ITERATIONS] [INPUT-FILE...]   (files: only these, each once)
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BYTES   2048
#define KEPT_INPUTS 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t random_state = 0x5eed;

static uint32_t pick(uint32_t limit)
{
	random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(random_state >> 33) % limit;
}

static struct {
	uint8_t bytes[MAX_BYTES];
	size_t size;
} kept[KEPT_INPUTS];

static size_t make(uint8_t *input)
{
	uint32_t from = pick(KEPT_INPUTS), i, changes;
	size_t size = kept[from].size;

	if (size == 0 || pick(4) == 0) {
		size = pick(8) ? pick(300) : pick(MAX_BYTES);
		for (i = 0; i < size; i++)
			input[i] = pick(3) ? (uint8_t)pick(6) : (uint8_t)pick(256);
	} else {
		memcpy(input, kept[from].bytes, size);
		for (changes = 1 + pick(4); changes; changes--)
			input[pick((uint32_t)size)] = (uint8_t)pick(256);
	}
	if (size) {
		from = pick(KEPT_INPUTS);
		memcpy(kept[from].bytes, input, size);
		kept[from].size = size;
	}
	return size;
}

static int run_file(const char *path)
{
	static uint8_t input[1 << 20];
	FILE *file = fopen(path, "rb");
	size_t size;

	if (!file) {
		perror(path);
		return 1;
	}
	size = fread(input, 1, sizeof(input), file);
	fclose(file);
	LLVMFuzzerTestOneInput(input, size);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long iterations = argc > 1 ? strtoul(argv[1], NULL, 10) : 20000, i;
	uint8_t input[MAX_BYTES];
	int ret = 0, arg;

	for (arg = 2; arg < argc; arg++)
		ret |= run_file(argv[arg]);
	if (argc > 2)
		return ret;
	for (i = 0; i < iterations; i++)
		LLVMFuzzerTestOneInput(input, make(input));
	printf("%lu inputs\n", iterations);
	return 0;
}
