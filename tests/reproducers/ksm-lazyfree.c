// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ksm-lazyfree - does this kernel lose an innocent process's pages when MADV_FREE meets KSM?
 *
 * A and B hold identical pages, KSM merges them, B goes: each KSM page is now mapped once. A gives
 * them up by MADV_FREE. C, which never gave anything up, holds identical pages, and KSM merges
 * these into the same ones. Then the kernel needs memory. A kernel with the fault discards the
 * pages for both, and C reads zeros. The second half does it in the order that ebb relies on,
 * MADV_FREE first and MADV_MERGEABLE after, and C must lose nothing.
 *
 * Prints a verdict. Exit status: 0 when both halves ran, 77 when they cannot run here, 1 when
 * something went wrong, or the safe order lost a page.
 *
 * Owns:    KSM's settings while it runs; it puts them back, on signals as well.
 * Thread:  one, and the processes A, B and C.
 * Locks:   none.
 * Never:   runs beside other users of KSM's settings.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pressure.h"

#define PAGES	   2000
#define PAGE_BYTES 4096
#define KSM	   "/sys/kernel/mm/ksm/"
#define SKIP	   77

/* Settings for the experiment; those that this kernel does not have are left out. */
static struct setting {
	const char *name;
	const char *value;
	char saved[64];
} settings[] = {
	{ "advisor_mode", "none", "" },	  { "smart_scan", "0", "" }, { "sleep_millisecs", "1", "" },
	{ "pages_to_scan", "10000", "" }, { "run", "1", "" },
};

#define NR_SETTINGS (sizeof(settings) / sizeof(settings[0]))

static int ksm_write(const char *name, const char *value)
{
	char path[128];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), KSM "%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = write(fd, value, strlen(value));
	close(fd);
	return n < 0 ? -EIO : 0;
}

static void ksm_save(struct setting *s)
{
	char path[128], *bracket;
	FILE *f;

	snprintf(path, sizeof(path), KSM "%s", s->name);
	f = fopen(path, "re");
	if (!f || !fgets(s->saved, sizeof(s->saved), f))
		s->saved[0] = '\0';
	if (f)
		fclose(f);
	/* A choice is shown as "[none] scan-time". */
	bracket = strchr(s->saved, '[');
	if (bracket) {
		memmove(s->saved, bracket + 1, strlen(bracket));
		s->saved[strcspn(s->saved, "]")] = '\0';
	}
	s->saved[strcspn(s->saved, "\n")] = '\0';
}

static void ksm_restore(void)
{
	for (size_t i = NR_SETTINGS; i-- > 0;)
		if (settings[i].saved[0])
			ksm_write(settings[i].name, settings[i].saved);
}

static void on_signal(int number)
{
	ksm_restore();
	_exit(128 + number);
}

/* A process that holds the pages and does as it is told, one letter at a time. */
struct holder {
	pid_t pid;
	int to, from;
};

static void fill(unsigned char *mem)
{
	for (uint64_t i = 0; i < PAGES; i++) {
		uint64_t *w = (uint64_t *)(mem + i * PAGE_BYTES);

		for (uint64_t k = 0; k < PAGE_BYTES / 8; k++)
			w[k] = 0x6562620000000001ULL + (i << 16) + k * 0x10001;
	}
}

static int lost_pages(const unsigned char *mem)
{
	static unsigned char want[PAGES * PAGE_BYTES];
	int lost = 0;

	fill(want);
	for (size_t i = 0; i < PAGES; i++)
		lost += memcmp(mem + i * PAGE_BYTES, want + i * PAGE_BYTES, PAGE_BYTES) != 0;
	return lost;
}

/* Pages of this process that are merged, or -1. */
static int merged_pages(void)
{
	int n = -1;
	FILE *f = fopen("/proc/self/ksm_merging_pages", "re");

	if (f && fscanf(f, "%d", &n) != 1)
		n = -1;
	if (f)
		fclose(f);
	return n;
}

static int obey(char order, unsigned char *mem)
{
	switch (order) {
	case 'm':
		return madvise(mem, PAGES * PAGE_BYTES, MADV_MERGEABLE) ? -errno : 0;
	case 'f':
		return madvise(mem, PAGES * PAGE_BYTES, MADV_FREE) ? -errno : 0;
	case 'n':
		return merged_pages();
	case 'v':
		return lost_pages(mem);
	}
	return -EINVAL;
}

static void hold(const struct pressure *p, int in, int out)
{
	unsigned char *mem = mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char order;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (mem == MAP_FAILED || pressure_enter(p))
		_exit(1);
	madvise(mem, PAGES * PAGE_BYTES, MADV_NOHUGEPAGE);
	fill(mem);
	while (read(in, &order, 1) == 1) {
		int answer = obey(order, mem);

		if (write(out, &answer, sizeof(answer)) != sizeof(answer))
			break;
	}
	_exit(0);
}

static int start(struct holder *h, const struct pressure *p)
{
	int to[2], from[2];

	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		return -errno;
	h->pid = fork();
	if (!h->pid) {
		/* Only the parent may hold the writing end, or no holder sees its end. */
		close(to[1]);
		close(from[0]);
		hold(p, to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	h->to = to[1];
	h->from = from[0];
	return h->pid < 0 ? -errno : 0;
}

static int tell(const struct holder *h, char order)
{
	int answer;

	if (write(h->to, &order, 1) != 1 ||
	    read(h->from, &answer, sizeof(answer)) != sizeof(answer))
		return -EPIPE;
	return answer;
}

static void stop(struct holder *h)
{
	if (h->pid <= 0)
		return;
	kill(h->pid, SIGKILL);
	waitpid(h->pid, NULL, 0);
	close(h->to);
	close(h->from);
	h->pid = 0;
}

/* Until KSM has merged nearly all of them; a few may be passed over while they change hands. */
static int wait_merged(const struct holder *h, const char *who)
{
	int n = 0;

	for (int i = 0; i < 6000; i++) {
		n = tell(h, 'n');
		if (n < 0 || n >= PAGES * 95 / 100)
			return n;
		usleep(10000);
	}
	fprintf(stderr, "ksm-lazyfree: KSM merged only %d of %d pages of %s\n", n, PAGES, who);
	return -ETIMEDOUT;
}

/* Returns the pages that C lost, or a negative errno. */
static int experiment(const struct pressure *p, bool free_first)
{
	struct holder a = { 0 }, b = { 0 }, c = { 0 };
	int n = start(&a, p);

	if (!n && free_first)
		n = tell(&a, 'f');
	if (!n)
		n = tell(&a, 'm');
	if (!n && !free_first) {
		n = start(&b, p);
		if (!n)
			n = tell(&b, 'm');
		if (!n)
			n = wait_merged(&a, "A");
		stop(&b);
		if (n >= 0)
			n = tell(&a, 'f');
	}
	if (n >= 0)
		n = start(&c, p);
	if (!n)
		n = tell(&c, 'm');
	if (!n)
		n = wait_merged(&c, "C");
	if (n >= 0)
		n = pressure_apply(p);
	if (!n)
		n = tell(&c, 'v');
	stop(&a);
	stop(&b);
	stop(&c);
	return n;
}

static int skip(const char *why)
{
	printf("ksm-lazyfree: SKIP: %s\n", why);
	return SKIP;
}

int main(void)
{
	struct pressure p;
	const char *why;
	int lost, lost_safe;

	if (access(KSM "run", W_OK))
		return skip("no KSM in this kernel, or not root");
	if (merged_pages() < 0)
		return skip("this kernel does not say how many pages of a process are merged");
	if (pressure_init(&p, &why))
		return skip(why);
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	for (size_t i = 0; i < NR_SETTINGS; i++) {
		ksm_save(&settings[i]);
		if (settings[i].saved[0])
			ksm_write(settings[i].name, settings[i].value);
	}
	lost = experiment(&p, false);
	lost_safe = lost < 0 ? lost : experiment(&p, true);
	ksm_restore();
	pressure_deinit(&p);
	if (lost < 0 || lost_safe < 0) {
		fprintf(stderr, "ksm-lazyfree: the experiment failed: %s\n",
			strerror(-(lost < 0 ? lost : lost_safe)));
		return 1;
	}
	printf("MADV_FREE of KSM pages: an innocent process lost %d of %d pages\n", lost, PAGES);
	printf("MADV_FREE first, MADV_MERGEABLE after: it lost %d of %d pages\n", lost_safe, PAGES);
	printf("verdict: this kernel %s the fault%s\n", lost ? "HAS" : "does not show",
	       lost ? ": never MADV_FREE a page that KSM may hold" : "");
	return lost_safe ? 1 : 0;
}
