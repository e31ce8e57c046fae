// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * rawkvm - what marking, discarding and merging memory costs under KVM's MMU notifiers
 *
 * A guest without a kernel (vm.c) uses memory again that was left alone, marked, purged or
 * discarded, and the calls that did so are timed; the same is done in a process that never
 * had a virtual machine. Everything is measured in one run, round by round, since figures of
 * two runs do not compare on a machine that others use too. The content of each page is
 * checked, by the guest and from outside.
 *
 * usage: rawkvm [--json FILE] [--mib N] [--repeat N] [--call-mib N] [--small-guest-pages]
 *	  [--no-merging] [--spoil]
 *
 * --spoil changes one page behind the back of the check, which has to notice. Exit status 1:
 * a page was bad, or something failed.
 * Exit status 77: there is no KVM that can run it; standard error says why.
 *
 * Owns:    the two workers.
 * Thread:  one.
 * Locks:   none.
 * Never:   touches the memory itself.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "figures.h"
#include "ksm.h"
#include "vm.h"

#define MIB		 (1ull << 20)
#define SKIP_STATUS	 77
#define NR_EXITS	 2000
#define MAX_MERGE_ROUNDS 3

struct bench {
	struct worker worker[NR_WHO];
	struct figures *f;
	uint64_t generation; /* no two writes leave the same value in a page */
	bool merging;
	bool spoil; /* change a page behind the check's back */
};

static uint64_t nr_pages(const struct bench *bench)
{
	return bench->f->ram_bytes / PAGE_BYTES;
}

static struct answer do_work(struct bench *bench, enum who who, enum pages pages, enum work work,
			     uint64_t value)
{
	return worker_do(&bench->worker[who], (struct command){
						      .work = work,
						      .pages = pages,
						      .bytes = bench->f->ram_bytes,
						      .value = value,
					      });
}

static struct answer write_all(struct bench *bench, enum who who, enum pages pages)
{
	return do_work(bench, who, pages, WORK_WRITE, ++bench->generation << 32);
}

/* Every page holds what was written last, or zeros where that is allowed. */
static void check(struct bench *bench, const struct answer *found, bool may_keep, bool may_be_zero)
{
	uint64_t good = (may_keep ? found->kept : 0) + (may_be_zero ? found->zero : 0);

	bench->f->pages_checked += nr_pages(bench);
	bench->f->bad += nr_pages(bench) - good;
}

/* What the worker finds, and what somebody outside of the guest does: the same. */
static struct answer read_and_check(struct bench *bench, enum who who, enum pages pages,
				    bool may_keep, bool may_be_zero)
{
	uint64_t value = bench->generation << 32;
	struct answer found = do_work(bench, who, pages, WORK_READ, value);
	struct answer outside = do_work(bench, who, pages, WORK_LOOK, value);

	check(bench, &found, may_keep, may_be_zero);
	check(bench, &outside, may_keep, may_be_zero);
	if (found.kept != outside.kept || found.zero != outside.zero) {
		fprintf(stderr,
			"rawkvm: the guest found %llu pages kept and %llu of zeros, outside %llu "
			"and "
			"%llu\n",
			(unsigned long long)found.kept, (unsigned long long)found.zero,
			(unsigned long long)outside.kept, (unsigned long long)outside.zero);
		bench->f->bad++;
	}
	return found;
}

static void see_huge(struct bench *bench, enum who who)
{
	struct answer look = do_work(bench, who, PAGES_THP, WORK_LOOK, bench->generation << 32);
	double share = (double)look.huge_bytes / (double)bench->f->ram_bytes;

	if (share < bench->f->least_huge_share)
		bench->f->least_huge_share = share;
}

static void add_call(struct bench *bench, enum who who, enum pages pages, enum call call,
		     uint64_t nsec)
{
	series_add(&bench->f->calls[who][pages][call], (double)nsec / (double)nr_pages(bench));
}

static void bring_into(struct bench *bench, enum who who, enum pages pages, enum state state)
{
	switch (state) {
	case STATE_NEVER:
		break;
	case STATE_LAZY:
	case STATE_PURGED:
		add_call(bench, who, pages, CALL_FREE,
			 do_work(bench, who, pages, WORK_FREE, 0).cpu_nsec);
		if (state == STATE_PURGED)
			add_call(bench, who, pages, CALL_PURGE,
				 do_work(bench, who, pages, WORK_PAGEOUT, 0).cpu_nsec);
		break;
	case STATE_EAGER:
		add_call(bench, who, pages, CALL_DISCARD,
			 do_work(bench, who, pages, WORK_DISCARD, 0).cpu_nsec);
		break;
	case NR_STATES:
		break;
	}
}

/*
 * A host that is itself a guest may have told its hypervisor what it has free; to use that again
 * is dear, and it is not what is measured. So what is about to be used was in use just before.
 */
static void warm_up(uint64_t bytes, enum pages pages)
{
	uint64_t room = bytes + bytes / 4 + BLOCK_BYTES, offset;
	char *map = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED)
		return;
	madvise(map, room, pages == PAGES_THP ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (offset = 0; offset < room; offset += PAGE_BYTES)
		((volatile char *)map)[offset] = 1;
	munmap(map, room);
}

/*
 * What was purged may have left a page table behind, and merging splits: neither comes back
 * as huge pages otherwise, and kernels without CONFIG_PT_RECLAIM keep the table after a
 * discard too.
 */
static void renew(struct bench *bench, enum who who, enum pages pages)
{
	do_work(bench, who, pages, WORK_RENEW, 0);
	warm_up(bench->f->ram_bytes, pages);
	write_all(bench, who, pages);
}

static void add_reuse(struct bench *bench, struct reuse *reuse, enum access access,
		      const struct answer *answer)
{
	double pages = (double)nr_pages(bench);

	series_add(&reuse->wall_nsec, (double)answer->wall_nsec / pages);
	series_add(&reuse->cpu_nsec, (double)answer->cpu_nsec / pages);
	series_add(&reuse->exits, (double)answer->exits / pages);
	series_add(&reuse->kvm_faults, (double)answer->kvm_faults / pages);
	series_add(&reuse->faults, (double)answer->faults / pages);
	if (access == ACCESS_READ) {
		series_add(&reuse->kept, (double)answer->kept / pages);
		series_add(&reuse->zero, (double)answer->zero / pages);
	}
	reuse->sum_cpu_nsec += (double)answer->cpu_nsec;
	reuse->sum_kernel_nsec += (double)answer->kernel_nsec;
}

static void reuse_once(struct bench *bench, enum who who, enum pages pages, enum state state,
		       enum access access)
{
	struct reuse *reuse = &bench->f->reuse[who][pages][state][access];
	struct answer answer;

	if (pages == PAGES_THP)
		renew(bench, who, pages);
	write_all(bench, who, pages);
	if (pages == PAGES_THP)
		see_huge(bench, who);
	bring_into(bench, who, pages, state);
	if (state == STATE_PURGED || state == STATE_EAGER)
		warm_up(bench->f->ram_bytes, pages);
	answer = access == ACCESS_WRITE
			 ? write_all(bench, who, pages)
			 : do_work(bench, who, pages, WORK_READ, bench->generation << 32);
	add_reuse(bench, reuse, access, &answer);
	if (bench->spoil) {
		bench->spoil = false;
		worker_do(&bench->worker[who], (struct command){
						       .work = WORK_WRITE,
						       .pages = pages,
						       .offset_bytes = bench->f->ram_bytes / 2,
						       .bytes = PAGE_BYTES,
						       .value = 1,
					       });
	}
	if (access == ACCESS_WRITE) {
		read_and_check(bench, who, pages, true, false);
		return;
	}
	/* The kernel may take what was lazily freed whenever it likes. */
	check(bench, &answer, state != STATE_EAGER, state != STATE_NEVER);
	read_and_check(bench, who, pages, state != STATE_EAGER, state != STATE_NEVER);
	if (state != STATE_LAZY)
		return;
	/* Did reading end it? */
	do_work(bench, who, pages, WORK_PAGEOUT, 0);
	answer = read_and_check(bench, who, pages, true, true);
	series_add(&bench->f->volatile_after_read[who][pages],
		   (double)answer.zero / (double)nr_pages(bench));
}

/* The whole way: what the executor is offered, and what the guest finds after its answer. */
static void offer_once(struct bench *bench, enum who who, enum pages pages, bool lazy)
{
	struct answer answer;

	if (pages == PAGES_THP)
		renew(bench, who, pages);
	write_all(bench, who, pages);
	answer = do_work(bench, who, pages, lazy ? WORK_OFFER_LAZY : WORK_OFFER_EAGER, 0);
	add_call(bench, who, pages, lazy ? CALL_OFFER_LAZY : CALL_OFFER_EAGER, answer.wall_nsec);
	if (answer.kept != nr_pages(bench)) {
		fprintf(stderr, "rawkvm: offered %llu pages, the executor did %llu\n",
			(unsigned long long)nr_pages(bench), (unsigned long long)answer.kept);
		exit(1);
	}
	read_and_check(bench, who, pages, lazy, true);
}

/* The two halves are alike, page by page. */
static void write_alike(struct bench *bench, enum who who, enum pages pages)
{
	struct command command = {
		.work = WORK_WRITE,
		.pages = pages,
		.bytes = bench->f->ram_bytes / 2,
		.value = ++bench->generation << 32,
	};

	worker_do(&bench->worker[who], command);
	command.offset_bytes = command.bytes;
	worker_do(&bench->worker[who], command);
}

static void merge_once(struct bench *bench, enum who who, enum pages pages)
{
	struct answer answer;

	renew(bench, who, pages);
	write_alike(bench, who, pages);
	answer = do_work(bench, who, pages, WORK_MERGEABLE, 0);
	add_call(bench, who, pages, CALL_MERGEABLE, answer.cpu_nsec);
	answer = do_work(bench, who, pages, WORK_MERGED, 0);
	add_call(bench, who, pages, CALL_KSMD, answer.cpu_nsec);
	/* Half of the memory is written to and then by itself, the other half is parted by force.
	 */
	answer = write_all(bench, who, pages);
	add_call(bench, who, pages, CALL_COPY, answer.cpu_nsec);
	answer = do_work(bench, who, pages, WORK_UNMERGEABLE, 0);
	add_call(bench, who, pages, CALL_UNMERGEABLE, answer.cpu_nsec);
	read_and_check(bench, who, pages, true, false);
}

static void measure(struct bench *bench)
{
	struct figures *f = bench->f;
	int ret;

	for (unsigned int round = 0; round < f->repeat; round++) {
		struct command exits = { .work = WORK_EXIT, .bytes = NR_EXITS * PAGE_BYTES };

		for (int pages = 0; pages < NR_PAGES; pages++)
			for (int state = 0; state < NR_STATES; state++)
				for (int access = 0; access < NR_ACCESS; access++)
					for (int who = 0; who < NR_WHO; who++)
						reuse_once(bench, (enum who)who, (enum pages)pages,
							   (enum state)state, (enum access)access);
		for (int pages = 0; pages < NR_PAGES; pages++)
			for (int who = 0; who < NR_WHO; who++) {
				offer_once(bench, (enum who)who, (enum pages)pages, true);
				offer_once(bench, (enum who)who, (enum pages)pages, false);
			}
		series_add(&f->exit_nsec,
			   (double)worker_do(&bench->worker[WHO_KVM], exits).cpu_nsec / NR_EXITS);
	}
	if (!bench->merging) {
		f->no_merging = "--no-merging";
		return;
	}
	ret = ksm_run();
	if (ret) {
		f->no_merging = ret == -EBUSY ? "ksmd works for somebody else"
					      : "no KSM here, or only root may start it";
		return;
	}
	for (unsigned int round = 0; round < f->repeat && round < MAX_MERGE_ROUNDS; round++)
		for (int pages = 0; pages < NR_PAGES; pages++)
			for (int who = 0; who < NR_WHO; who++)
				merge_once(bench, (enum who)who, (enum pages)pages);
	ksm_restore();
}

static void start(struct bench *bench, bool small_guest_pages)
{
	struct worker_config config = {
		.ram_bytes = bench->f->ram_bytes,
		.call_bytes = bench->f->call_bytes,
		.small_guest_pages = small_guest_pages,
	};

	for (int who = 0; who < NR_WHO; who++) {
		config.vm = who == WHO_KVM;
		switch (worker_start(&bench->worker[who], &config)) {
		case 0:
			break;
		case -ENODEV:
			exit(SKIP_STATUS);
		default:
			exit(1);
		}
	}
}

static unsigned long long number(const char *text, unsigned long long max)
{
	char *end;
	unsigned long long value = strtoull(text, &end, 10);

	if (*end || !value || value > max) {
		fprintf(stderr, "rawkvm: %s is not a number from 1 to %llu\n", text, max);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", required_argument, NULL, 'j' },
		{ "mib", required_argument, NULL, 'm' },
		{ "repeat", required_argument, NULL, 'r' },
		{ "call-mib", required_argument, NULL, 'c' },
		{ "small-guest-pages", no_argument, NULL, 's' },
		{ "no-merging", no_argument, NULL, 'n' },
		{ "spoil", no_argument, NULL, 'x' },
		{ 0 },
	};
	static struct figures f = { .ram_bytes = 64 * MIB, .call_bytes = 4 * MIB, .repeat = 5 };
	struct bench bench = { .f = &f, .merging = true };
	const char *json_path = NULL;
	bool small_guest_pages = false;
	FILE *json = NULL;
	int option;

	f.least_huge_share = 1;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (option) {
		case 'j':
			json_path = optarg;
			break;
		case 'm':
			f.ram_bytes =
				(number(optarg, 1 << 18) * MIB + 4 * MIB - 1) & ~(4 * MIB - 1);
			break;
		case 'r':
			f.repeat = (unsigned int)number(optarg, MAX_REPEAT);
			break;
		case 'c':
			f.call_bytes = number(optarg, 1 << 18) * MIB;
			break;
		case 's':
			small_guest_pages = true;
			break;
		case 'n':
			bench.merging = false;
			break;
		case 'x':
			bench.spoil = true;
			break;
		default:
			fprintf(stderr,
				"usage: rawkvm [--json FILE] [--mib N] [--repeat N] "
				"[--call-mib N] [--small-guest-pages] [--no-merging] [--spoil]\n");
			return 2;
		}
	if (json_path && !(json = fopen(json_path, "we"))) {
		perror(json_path);
		return 1;
	}
	start(&bench, small_guest_pages);
	measure(&bench);
	for (int who = 0; who < NR_WHO; who++)
		worker_stop(&bench.worker[who]);
	figures_print(&f);
	if (json) {
		figures_json(&f, json);
		if (fclose(json)) {
			perror(json_path);
			return 1;
		}
	}
	return f.bad ? 1 : 0;
}
