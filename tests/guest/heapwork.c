// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * heapwork - allocate and free at random, and check what is in each piece
 *
 * Each thread has pieces of its own: 16 bytes to 1 MiB by malloc(), calloc(), realloc() and
 * aligned_alloc(). A piece is filled with what follows from its number, and looked at when it is
 * resized or freed; what calloc() gives must be zeros. Now and then a thread forks: the child must
 * find all of that thread's pieces as they were, and may do with them what it likes. With -i it
 * then frees seven pieces of eight, says "idle", and goes on after a line of input.
 *
 * Owns:    its pieces.
 * Thread:  as many as are asked for (-t).
 * Locks:   none.
 * Never:   stops at a wrong piece: it counts it. Exit status 1 if there was any.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "random.h"

#define PIECES 256

struct piece {
	uint64_t *at;
	size_t words;
	uint64_t seed;
};

struct worker {
	pthread_t thread;
	struct piece pieces[PIECES];
	uint64_t random_state, last_seed, bad, forks;
};

static unsigned long rounds = 10000, fork_every = 2000;

static uint64_t random_below(struct worker *worker, uint64_t limit)
{
	return random_next(&worker->random_state) % limit;
}

static void bad(struct worker *worker, const struct piece *piece, const char *what)
{
	if (worker->bad++ < 4)
		printf("bad piece at %p, %zu bytes: %s\n", (void *)piece->at, piece->words * 8,
		       what);
}

static void fill(struct worker *worker, struct piece *piece)
{
	piece->seed = ++worker->last_seed << 8;
	for (size_t i = 0; i < piece->words; i++)
		piece->at[i] = piece->seed + i * 0x9e3779b97f4a7c15ULL;
}

static void look(struct worker *worker, const struct piece *piece, size_t words, const char *when)
{
	for (size_t i = 0; i < words; i++) {
		if (piece->at[i] != piece->seed + i * 0x9e3779b97f4a7c15ULL) {
			bad(worker, piece, when);
			return;
		}
	}
}

static size_t random_words(struct worker *worker)
{
	size_t most = 16ul << random_below(worker, 17);

	return (16 + random_below(worker, most)) / 8;
}

static void make(struct worker *worker, struct piece *piece)
{
	uint64_t how = random_below(worker, 4);

	piece->words = random_words(worker);
	if (how == 0)
		piece->at = aligned_alloc(64, (piece->words * 8 + 63) / 64 * 64);
	else
		piece->at = how == 1 ? calloc(piece->words, 8) : malloc(piece->words * 8);
	if (!piece->at) {
		printf("no memory for %zu bytes\n", piece->words * 8);
		exit(2);
	}
	for (size_t i = 0; how == 1 && i < piece->words; i++) {
		if (piece->at[i]) {
			bad(worker, piece, "calloc() gave what is not zero");
			break;
		}
	}
	fill(worker, piece);
}

static void resize(struct worker *worker, struct piece *piece)
{
	size_t words = random_words(worker);
	uint64_t *at = realloc(piece->at, words * 8);

	if (!at)
		exit(2);
	piece->at = at;
	look(worker, piece, words < piece->words ? words : piece->words, "after realloc()");
	piece->words = words;
	fill(worker, piece);
}

static void step(struct worker *worker)
{
	struct piece *piece = &worker->pieces[random_below(worker, PIECES)];

	if (!piece->at) {
		make(worker, piece);
	} else if (!random_below(worker, 4)) {
		resize(worker, piece);
	} else {
		look(worker, piece, piece->words, "when it was freed");
		free(piece->at);
		piece->at = NULL;
	}
}

static void look_at_all(struct worker *worker, const char *when)
{
	for (size_t i = 0; i < PIECES; i++)
		if (worker->pieces[i].at)
			look(worker, &worker->pieces[i], worker->pieces[i].words, when);
}

/* The child checks, and then spoils all that it can: nothing of it may be seen here. */
static void try_fork(struct worker *worker)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		worker->bad = 0;
		look_at_all(worker, "in a child");
		for (size_t i = 0; i < PIECES; i++)
			if (worker->pieces[i].at)
				memset(worker->pieces[i].at, 0xee, worker->pieces[i].words * 8);
		for (size_t i = 0; i < PIECES; i++) {
			free(worker->pieces[i].at);
			worker->pieces[i].at = NULL;
		}
		for (int i = 0; i < 200; i++)
			step(worker);
		fflush(stdout);
		_exit(worker->bad != 0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status) {
		printf("a child ended with status %#x\n", pid < 0 ? 0 : status);
		worker->bad++;
	}
	worker->forks++;
	look_at_all(worker, "after fork()");
}

static void *work(void *arg)
{
	struct worker *worker = arg;

	for (unsigned long i = 1; i <= rounds; i++) {
		step(worker);
		if (i % fork_every == 0)
			try_fork(worker);
	}
	look_at_all(worker, "in the end");
	return NULL;
}

static double now_sec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Returns the seconds that it took. */
static double run(struct worker *workers, unsigned long threads)
{
	double start_sec = now_sec();

	for (unsigned long i = 0; i < threads; i++)
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			exit(2);
	for (unsigned long i = 0; i < threads; i++)
		pthread_join(workers[i].thread, NULL);
	return now_sec() - start_sec;
}

static void be_idle(struct worker *workers, unsigned long threads)
{
	for (unsigned long i = 0; i < threads; i++) {
		for (size_t j = 0; j < PIECES; j++) {
			if (j % 8 == 0)
				continue;
			free(workers[i].pieces[j].at);
			workers[i].pieces[j].at = NULL;
		}
	}
	puts("idle");
	fflush(stdout);
	getchar();
}

int main(int argc, char **argv)
{
	unsigned long threads = 2;
	uint64_t nr_bad = 0, forks = 0;
	struct worker *workers;
	double took_sec;
	bool idle = false;
	int opt;

	while ((opt = getopt(argc, argv, "n:t:f:i")) != -1) {
		if (opt == 'n') {
			rounds = strtoul(optarg, NULL, 0);
		} else if (opt == 't') {
			threads = strtoul(optarg, NULL, 0);
		} else if (opt == 'f') {
			fork_every = strtoul(optarg, NULL, 0);
		} else if (opt == 'i') {
			idle = true;
		} else {
			fprintf(stderr, "usage: heapwork [-n ROUNDS] [-t THREADS] "
					"[-f ROUNDS_TO_A_FORK] [-i]\n");
			return 2;
		}
	}
	workers = calloc(threads, sizeof(*workers));
	if (!workers || !fork_every)
		return 2;
	for (unsigned long i = 0; i < threads; i++) {
		workers[i].random_state = i;
		workers[i].last_seed = i << 40;
	}
	took_sec = run(workers, threads);
	if (idle) {
		printf("seconds %.3f\n", took_sec);
		be_idle(workers, threads);
		printf("seconds %.3f\n", run(workers, threads));
	}
	for (unsigned long i = 0; i < threads; i++) {
		nr_bad += workers[i].bad;
		forks += workers[i].forks;
	}
	printf("rounds %lu, forks %llu, bad %llu\n", rounds * threads, (unsigned long long)forks,
	       (unsigned long long)nr_bad);
	return nr_bad != 0;
}
