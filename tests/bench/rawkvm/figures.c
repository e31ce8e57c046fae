// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * figures - medians, the table and the JSON
 *
 * Owns:    nothing.
 * Thread:  any.
 * Locks:   none.
 * Never:   measures.
 */
#include <stdlib.h>
#include <string.h>

#include "figures.h"

#define PAGES_PER_GIB 262144.0
#define NSEC_PER_MSEC 1e6

static const char *const pages_names[NR_PAGES] = { "4k", "thp" };
static const char *const who_words[NR_WHO] = { "guest", "plain" };
static const char *const who_prefix[NR_WHO] = { "", "plain_" };
static const char *const state_names[NR_STATES] = { "never", "lazy", "purged", "eager" };
static const char *const access_words[NR_ACCESS] = { "write", "read" };
static const char *const access_prefix[NR_ACCESS] = { "", "read_" };
static const char *const call_names[NR_CALLS] = { "free",	 "discard", "offer_lazy",
						  "offer_eager", "purge",   "mergeable",
						  "ksmd",	 "copy",    "unmergeable" };
static const char *const call_words[NR_CALLS] = {
	"MADV_FREE",
	"MADV_DONTNEED",
	"offered and marked",
	"offered and discarded",
	"MADV_PAGEOUT of the freed",
	"MADV_MERGEABLE",
	"ksmd, until all is merged",
	"write to merged pages",
	"MADV_UNMERGEABLE",
};

void series_add(struct series *series, double value)
{
	if (series->nr < MAX_REPEAT)
		series->value[series->nr++] = value;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

double series_median(const struct series *series)
{
	struct series sorted = *series;
	unsigned int middle = sorted.nr / 2;

	if (!sorted.nr)
		return 0;
	qsort(sorted.value, sorted.nr, sizeof(*sorted.value), compare);
	if (sorted.nr % 2)
		return sorted.value[middle];
	return (sorted.value[middle - 1] + sorted.value[middle]) / 2;
}

double series_least(const struct series *series)
{
	double least = series->nr ? series->value[0] : 0;

	for (unsigned int i = 1; i < series->nr; i++)
		if (series->value[i] < least)
			least = series->value[i];
	return least;
}

static double kernel_share(const struct reuse *reuse)
{
	return reuse->sum_cpu_nsec > 0 ? reuse->sum_kernel_nsec / reuse->sum_cpu_nsec : 0;
}

static void print_reuse(const struct figures *f, enum pages pages)
{
	printf("\n%-13s%36s%40s\n", pages_names[pages], "in the guest", "plain memory");
	printf("%-13s%10s%8s%8s%8s%8s%8s%10s%8s%8s\n", "", "CPU", "least", "kernel", "wall",
	       "exits", "faults", "CPU", "least", "faults");
	for (int access = 0; access < NR_ACCESS; access++)
		for (int state = 0; state < NR_STATES; state++) {
			const struct reuse *kvm = &f->reuse[WHO_KVM][pages][state][access];
			const struct reuse *plain = &f->reuse[WHO_PLAIN][pages][state][access];

			printf("%-6s%-7s%10.0f%8.0f%7.0f%%%8.0f%8.3f%8.3f%10.0f%8.0f%8.3f\n",
			       access_words[access], state_names[state],
			       series_median(&kvm->cpu_nsec), series_least(&kvm->cpu_nsec),
			       100 * kernel_share(kvm), series_median(&kvm->wall_nsec),
			       series_median(&kvm->exits), series_median(&kvm->kvm_faults),
			       series_median(&plain->cpu_nsec), series_least(&plain->cpu_nsec),
			       series_median(&plain->faults));
		}
}

static double ms_per_gib(double nsec_per_page)
{
	return nsec_per_page * PAGES_PER_GIB / NSEC_PER_MSEC;
}

static void print_calls(const struct figures *f)
{
	printf("\nThe calls, in pieces of %llu MiB: milliseconds per GiB (CPU; offered: by the "
	       "clock)\n\n%-28s",
	       (unsigned long long)(f->call_bytes >> 20), "");
	for (int pages = 0; pages < NR_PAGES; pages++)
		printf("%8s guest%10s%8s", pages_names[pages], "plain", "ratio");
	printf("\n");
	for (int call = 0; call < NR_CALLS; call++) {
		if (!f->calls[WHO_KVM][PAGES_4K][call].nr)
			continue;
		printf("%-28s", call_words[call]);
		for (int pages = 0; pages < NR_PAGES; pages++) {
			double kvm = ms_per_gib(series_median(&f->calls[WHO_KVM][pages][call]));
			double plain = ms_per_gib(series_median(&f->calls[WHO_PLAIN][pages][call]));

			printf("%14.2f%10.2f%8.1f", kvm, plain, plain > 0 ? kvm / plain : 0);
		}
		printf("\n");
	}
	if (f->no_merging)
		printf("Merging was not measured: %s\n", f->no_merging);
}

/* What reuse in this state takes more than of memory that was left alone, for each fault. */
static double nsec_per_fault(const struct figures *f, enum pages pages, enum state state)
{
	const struct reuse *never = &f->reuse[WHO_KVM][pages][STATE_NEVER][ACCESS_WRITE];
	const struct reuse *reuse = &f->reuse[WHO_KVM][pages][state][ACCESS_WRITE];
	double faults = series_median(&reuse->kvm_faults);

	if (faults <= 0)
		return 0;
	return (series_median(&reuse->cpu_nsec) - series_median(&never->cpu_nsec)) / faults;
}

static double of_eager(const struct figures *f, enum who who, enum pages pages)
{
	const struct reuse *lazy = &f->reuse[who][pages][STATE_LAZY][ACCESS_WRITE];
	const struct reuse *eager = &f->reuse[who][pages][STATE_EAGER][ACCESS_WRITE];
	double eager_nsec = series_median(&eager->cpu_nsec);

	return eager_nsec > 0 ? series_median(&lazy->cpu_nsec) / eager_nsec : 0;
}

void figures_print(const struct figures *f)
{
	printf("Using %llu MiB again, nanoseconds per page of 4 KiB, medians of %u\n",
	       (unsigned long long)(f->ram_bytes >> 20), f->repeat);
	for (int pages = 0; pages < NR_PAGES; pages++)
		print_reuse(f, (enum pages)pages);
	printf("\nCPU: of the thread that uses the memory, exits included; kernel: share of it;\n"
	       "exits: times that the guest was left, faults: page faults that came to KVM, each\n"
	       "per page. In plain memory, faults are the kernel's.\n");
	print_calls(f);
	printf("\nLeaving the guest and coming back: %.0f ns\n", series_median(&f->exit_nsec));
	for (int pages = 0; pages < NR_PAGES; pages++)
		printf("A fault of the guest (%s): %.0f ns after lazy, %.0f after eager\n",
		       pages_names[pages], nsec_per_fault(f, (enum pages)pages, STATE_LAZY),
		       nsec_per_fault(f, (enum pages)pages, STATE_EAGER));
	for (int who = 0; who < NR_WHO; who++)
		for (int pages = 0; pages < NR_PAGES; pages++)
			printf("Still volatile after a read (%s, %s): %.1f %%\n",
			       pages_names[pages], who_words[who],
			       100 * series_median(&f->volatile_after_read[who][pages]));
	printf("Of what shall be huge pages, at least %.0f %% was\n", 100 * f->least_huge_share);
	for (int who = 0; who < NR_WHO; who++)
		printf("Write after lazy / after eager (%s): 4k %.2f, thp %.2f\n", who_words[who],
		       of_eager(f, (enum who)who, PAGES_4K), of_eager(f, (enum who)who, PAGES_THP));
	printf("pages checked %llu, bad %llu\n", (unsigned long long)f->pages_checked,
	       (unsigned long long)f->bad);
}

static void json_reuse(const struct reuse *reuse, const char *name, FILE *file)
{
	fprintf(file, " \"%s_ns_per_page\": %.1f,\n", name, series_median(&reuse->cpu_nsec));
	fprintf(file, " \"%s_min_ns_per_page\": %.1f,\n", name, series_least(&reuse->cpu_nsec));
	fprintf(file, " \"%s_wall_ns_per_page\": %.1f,\n", name, series_median(&reuse->wall_nsec));
	fprintf(file, " \"%s_kernel_share\": %.3f,\n", name, kernel_share(reuse));
	fprintf(file, " \"%s_exits_per_page\": %.4f,\n", name, series_median(&reuse->exits));
	fprintf(file, " \"%s_kvm_faults_per_page\": %.4f,\n", name,
		series_median(&reuse->kvm_faults));
	if (reuse->kept.nr)
		fprintf(file, " \"%s_kept\": %.6f,\n \"%s_zero\": %.6f,\n", name,
			series_median(&reuse->kept), name, series_median(&reuse->zero));
	fprintf(file, " \"%s_faults_per_page\": %.4f,\n", name, series_median(&reuse->faults));
}

static void json_call(const struct series *series, const char *prefix, const char *name, FILE *file)
{
	fprintf(file, " \"%scalls_%s_ms_per_gib\": %.3f,\n \"%scalls_%s_min_ms_per_gib\": %.3f,\n",
		prefix, name, ms_per_gib(series_median(series)), prefix, name,
		ms_per_gib(series_least(series)));
}

static void json_pages(const struct figures *f, enum pages pages, FILE *file)
{
	char name[64];

	fprintf(file, "\"%s\": {\n", pages_names[pages]);
	for (int who = 0; who < NR_WHO; who++) {
		for (int state = 0; state < NR_STATES; state++)
			for (int access = 0; access < NR_ACCESS; access++) {
				snprintf(name, sizeof(name), "%s%s%s", who_prefix[who],
					 access_prefix[access], state_names[state]);
				json_reuse(&f->reuse[who][pages][state][access], name, file);
			}
		for (int call = 0; call < NR_CALLS; call++)
			if (f->calls[who][pages][call].nr)
				json_call(&f->calls[who][pages][call], who_prefix[who],
					  call_names[call], file);
		fprintf(file, " \"%svolatile_after_read\": %.4f,\n", who_prefix[who],
			series_median(&f->volatile_after_read[who][pages]));
	}
	fprintf(file, " \"lazy_ns_per_fault\": %.1f,\n \"eager_ns_per_fault\": %.1f,\n",
		nsec_per_fault(f, pages, STATE_LAZY), nsec_per_fault(f, pages, STATE_EAGER));
	fprintf(file, " \"lazy_of_eager\": %.4f,\n \"plain_lazy_of_eager\": %.4f\n},\n",
		of_eager(f, WHO_KVM, pages), of_eager(f, WHO_PLAIN, pages));
}

void figures_json(const struct figures *f, FILE *file)
{
	fprintf(file, "{\n");
	for (int pages = 0; pages < NR_PAGES; pages++)
		json_pages(f, (enum pages)pages, file);
	fprintf(file, "\"ram_bytes\": %llu,\n\"call_bytes\": %llu,\n\"repeat\": %u,\n",
		(unsigned long long)f->ram_bytes, (unsigned long long)f->call_bytes, f->repeat);
	fprintf(file, "\"exit_ns\": %.1f,\n\"huge_share\": %.4f,\n", series_median(&f->exit_nsec),
		f->least_huge_share);
	if (f->no_merging)
		fprintf(file, "\"no_merging\": \"%s\",\n", f->no_merging);
	fprintf(file, "\"pages_checked\": %llu,\n\"bad\": %llu\n}\n",
		(unsigned long long)f->pages_checked, (unsigned long long)f->bad);
}
