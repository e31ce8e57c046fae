// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ksm - may a page of guest RAM be one that KSM shares? (rule 2)
 *
 * MADV_FREE on a KSM page that is mapped once succeeds; when KSM then merges another
 * process's page into it, memory pressure discards it for both. So memory is marked
 * only where KSM cannot have been. A page of this process is a KSM page only if the
 * kernel keeps an rmap item for it, and it gets there only through an area whose
 * VmFlags say "mg"; ksm_stat says both for the whole process at once.
 *
 * Owns:    the files of /proc, the regions' mergeable and locked flags.
 * Thread:  the executor thread.
 * Locks:   the executor's, for the regions.
 * Never:   allocates; reads smaps more often than once a second on account of pages.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <syslog.h>
#include <unistd.h>

#include "executor.h"

#ifndef PR_GET_MEMORY_MERGE
#define PR_GET_MEMORY_MERGE 68
#endif

#define LOOK_INTERVAL_NSEC     NSEC_PER_SEC
#define OWN_LOOK_INTERVAL_NSEC (10 * NSEC_PER_SEC)

const struct ebb_ksm_paths ebb_ksm_kernel_paths = {
	.stat = "/proc/self/ksm_stat",
	.pages = "/proc/self/ksm_merging_pages",
	.smaps = "/proc/self/smaps",
	.sysfs = "/sys/kernel/mm/ksm",
};

void ebb_ksm_init(struct ebb_ksm *ksm, const struct ebb_ksm_paths *paths)
{
	*ksm = (struct ebb_ksm){ .stat_fd = -1, .pages_fd = -1, .smaps = paths->smaps };
	ksm->stat_fd = open(paths->stat, O_RDONLY | O_CLOEXEC);
	if (ksm->stat_fd < 0)
		ksm->pages_fd = open(paths->pages, O_RDONLY | O_CLOEXEC);
	/* The parent directory of sysfs must be there for its absence to mean anything. */
	if (ksm->stat_fd < 0 && ksm->pages_fd < 0 && access("/sys/kernel/mm", F_OK) == 0)
		ksm->absent = access(paths->sysfs, F_OK) < 0 && errno == ENOENT;
}

void ebb_ksm_deinit(struct ebb_ksm *ksm)
{
	if (ksm->stat_fd >= 0)
		close(ksm->stat_fd);
	if (ksm->pages_fd >= 0)
		close(ksm->pages_fd);
	ksm->stat_fd = ksm->pages_fd = -1;
}

/* The text after "key" at the start of a line, or NULL. */
static const char *find_value(const char *text, const char *key)
{
	size_t length = strlen(key);

	while (text && *text) {
		if (strncmp(text, key, length) == 0)
			return text + length;
		text = strchr(text, '\n');
		if (text)
			text++;
	}
	return NULL;
}

struct ebb_ksm_word ebb_ksm_parse_stat(const char *text)
{
	struct ebb_ksm_word word = { .pages = true, .areas = true };
	const char *items = find_value(text, "ksm_rmap_items ");
	const char *mergeable = find_value(text, "ksm_mergeable: ");
	const char *any = find_value(text, "ksm_merge_any: ");

	if (items && strtoull(items, NULL, 10) == 0 && items[0] == '0')
		word.pages = false;
	if (mergeable && any && strncmp(mergeable, "no", 2) == 0 && strncmp(any, "no", 2) == 0)
		word.areas = false;
	return word;
}

static bool read_all(int fd, char *buffer, size_t size)
{
	ssize_t n = pread(fd, buffer, size - 1, 0);

	if (n <= 0)
		return false;
	buffer[n] = '\0';
	return true;
}

struct ebb_ksm_word ebb_ksm_ask(const struct ebb_ksm *ksm)
{
	struct ebb_ksm_word word = { .pages = true, .areas = true };
	char text[512];

	if (ksm->absent)
		return (struct ebb_ksm_word){ 0 };
	if (ksm->stat_fd >= 0) {
		if (read_all(ksm->stat_fd, text, sizeof(text)))
			word = ebb_ksm_parse_stat(text);
	} else if (ksm->pages_fd >= 0 && read_all(ksm->pages_fd, text, sizeof(text))) {
		word.pages = text[0] != '0';
	}
	return word;
}

/* One line of smaps: the head of an area, or its flags. */
static bool parse_line(const char *line, struct ebb_smaps_area *area)
{
	const char *flag;
	char *end;

	if (strncmp(line, "VmFlags:", 8) == 0) {
		for (flag = line + 8; *flag; flag++) {
			if (*flag == ' ')
				continue;
			area->mergeable |= strncmp(flag, "mg", 2) == 0;
			area->locked |= strncmp(flag, "lo", 2) == 0;
			while (flag[1] && flag[1] != ' ')
				flag++;
		}
		return true;
	}
	if ((line[0] >= '0' && line[0] <= '9') || (line[0] >= 'a' && line[0] <= 'f')) {
		*area = (struct ebb_smaps_area){ .start = strtoull(line, &end, 16) };
		if (*end == '-')
			area->end = strtoull(end + 1, NULL, 16);
	}
	return false;
}

int ebb_ksm_read_smaps(struct ebb_ksm *ksm,
		       void (*area_fn)(void *opaque, const struct ebb_smaps_area *area),
		       void *opaque)
{
	int fd = open(ksm->smaps, O_RDONLY | O_CLOEXEC);
	struct ebb_smaps_area area = { 0 };
	char line[256];
	size_t length = 0;
	ssize_t n, i;
	int ret = 0;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, ksm->buffer, sizeof(ksm->buffer))) > 0) {
		for (i = 0; i < n; i++) {
			/* What is longer is a path, of which nothing is wanted. */
			if (ksm->buffer[i] != '\n') {
				if (length < sizeof(line) - 1)
					line[length++] = ksm->buffer[i];
				continue;
			}
			line[length] = '\0';
			length = 0;
			if (parse_line(line, &area))
				area_fn(opaque, &area);
		}
	}
	if (n < 0)
		ret = -errno;
	close(fd);
	return ret;
}

/* Lock held. */
static void set_mergeable(struct ebb_region *region, bool mergeable)
{
	if (mergeable)
		ebb_region_set_ksm(region, true);
	else if (region->look_pending)
		ebb_region_set_ksm(region, false);
	region->mergeable = mergeable;
	region->look_pending = false;
}

static void look_at_area(void *opaque, const struct ebb_smaps_area *area)
{
	struct ebb_executor *executor = opaque;
	uint32_t i;

	pthread_mutex_lock(&executor->lock);
	for (i = 0; i < executor->map.nr; i++) {
		struct ebb_region *region = executor->map.regions[i];
		uint64_t low = region->host, high = region->host + region->desc.size_bytes;

		if (!region->looking || area->end <= low || area->start >= high)
			continue;
		low = area->start > low ? area->start : low;
		high = area->end < high ? area->end : high;
		region->found_bytes += high - low;
		region->found_mergeable |= area->mergeable && !ebb_merge_is_ours(region, low, high);
		region->found_locked |= area->locked;
	}
	pthread_mutex_unlock(&executor->lock);
}

static void begin_look(struct ebb_executor *executor)
{
	uint32_t i;

	pthread_mutex_lock(&executor->lock);
	for (i = 0; i < executor->map.nr; i++) {
		struct ebb_region *region = executor->map.regions[i];

		region->looking = region->desc.backing == EBB_BACKING_PRIVATE_ANON;
		region->found_mergeable = region->found_locked = false;
		region->found_bytes = 0;
	}
	pthread_mutex_unlock(&executor->lock);
}

static void look(struct ebb_executor *executor)
{
	uint64_t start_nsec = ebb_now_nsec();
	uint32_t i, nr_mergeable = 0, nr_locked = 0;
	int ret;

	begin_look(executor);
	ret = ebb_ksm_read_smaps(&executor->ksm, look_at_area, executor);

	pthread_mutex_lock(&executor->lock);
	for (i = 0; i < executor->map.nr; i++) {
		struct ebb_region *region = executor->map.regions[i];
		bool was_mergeable = region->mergeable && !region->look_pending;

		if (!region->looking)
			continue;
		region->looking = false;
		/* What smaps did not tell about is assumed; what was found once stays. */
		set_mergeable(region, ret || region->found_bytes < region->desc.size_bytes ||
					      region->found_mergeable || was_mergeable);
		nr_mergeable += region->mergeable && !was_mergeable;
		nr_locked += region->found_locked && !region->locked;
		region->locked |= region->found_locked;
	}
	/* Where merging is off or by hint that is undone. */
	if (nr_mergeable && ebb_merge_mode(&executor->merge) != EBB_MERGE_KEEP)
		executor->merge.pending = true;
	pthread_mutex_unlock(&executor->lock);
	executor->ksm.look_nsec = ebb_now_nsec();
	executor->ksm.look_took_nsec = executor->ksm.look_nsec - start_nsec;

	if (ret)
		ebb_log(executor, LOG_WARNING,
			"cannot read %s: %s: all guest RAM counts as mergeable by KSM, it is "
			"discarded and never marked",
			executor->ksm.smaps, strerror(-ret));
	else if (nr_mergeable)
		ebb_log(executor, LOG_INFO,
			"%u regions of guest RAM may be merged by KSM: they are discarded, never "
			"marked; mem-merge=off in the machine's options avoids it",
			nr_mergeable);
	if (nr_locked)
		ebb_log(executor, LOG_WARNING,
			"%u regions of guest RAM are locked in memory: nothing is marked or "
			"discarded there; do not lock the guest's memory",
			nr_locked);
}

/* No area of this process is mergeable. */
static void set_none_mergeable(struct ebb_executor *executor)
{
	uint32_t i;

	pthread_mutex_lock(&executor->lock);
	for (i = 0; i < executor->map.nr; i++) {
		struct ebb_region *region = executor->map.regions[i];

		if (region->desc.backing == EBB_BACKING_PRIVATE_ANON &&
		    (region->mergeable || region->look_pending))
			set_mergeable(region, false);
	}
	pthread_mutex_unlock(&executor->lock);
}

static void count_regions(struct ebb_executor *executor, uint32_t *nr_pending,
			  uint32_t *nr_markable)
{
	uint32_t i;

	*nr_pending = *nr_markable = 0;
	pthread_mutex_lock(&executor->lock);
	for (i = 0; i < executor->map.nr; i++) {
		const struct ebb_region *region = executor->map.regions[i];

		if (region->desc.backing != EBB_BACKING_PRIVATE_ANON)
			continue;
		*nr_pending += region->look_pending;
		*nr_markable += !region->mergeable;
	}
	pthread_mutex_unlock(&executor->lock);
}

bool ebb_ksm_vmm_merges(const struct ebb_region *region)
{
	return region->desc.vmm_merges &&
	       __atomic_load_n(region->desc.vmm_merges, __ATOMIC_ACQUIRE);
}

bool ebb_ksm_see_vmm_marks(struct ebb_executor *executor)
{
	bool seen = false;
	uint32_t i;

	pthread_mutex_lock(&executor->lock);
	for (i = 0; i < executor->map.nr; i++) {
		struct ebb_region *region = executor->map.regions[i];

		/* What is refused is not marked, and nobody undoes it. */
		if (region->desc.backing != EBB_BACKING_PRIVATE_ANON)
			continue;
		if (!ebb_ksm_vmm_merges(region) || region->look_pending ||
		    (region->mergeable && !region->undone_bytes &&
		     region->nr_ksm_blocks == region->nr_blocks))
			continue;
		seen |= !region->mergeable;
		region->mergeable = true;
		region->undone_bytes = 0;
		ebb_region_set_ksm(region, true);
		/* Where merging is off or by hint it is undone. */
		executor->merge.pending |= ebb_merge_mode(&executor->merge) != EBB_MERGE_KEEP;
	}
	pthread_mutex_unlock(&executor->lock);
	return seen;
}

/*
 * There are marks of ours, so that the kernel's short words tell nothing any more. Others come
 * from nobody but the VMM: where it makes a region (that is looked at), at a reset (likewise),
 * by its own switch (vmm_merges), or as a whole by prctl() (both are asked each time). It is
 * looked at now and then nevertheless, for at most a hundredth of the time.
 */
static bool look_is_old(const struct ebb_ksm *ksm)
{
	uint64_t interval_nsec = 100 * ksm->look_took_nsec;

	if (interval_nsec < OWN_LOOK_INTERVAL_NSEC)
		interval_nsec = OWN_LOOK_INTERVAL_NSEC;
	return ebb_now_nsec() - ksm->look_nsec >= interval_nsec;
}

void ebb_ksm_before_free(struct ebb_executor *executor)
{
	struct ebb_ksm *ksm = &executor->ksm;
	uint32_t nr_pending, nr_markable;
	struct ebb_ksm_word word;
	bool wanted, inherited;

	/* This is the look that a new region waits for; one that comes from here on asks anew. */
	pthread_mutex_lock(&executor->lock);
	executor->look_pending = false;
	wanted = ksm->look_wanted;
	ksm->look_wanted = false;
	pthread_mutex_unlock(&executor->lock);

	ebb_ksm_see_vmm_marks(executor);
	word = ebb_ksm_ask(ksm);
	ksm->doubt = false;
	ksm->pages = word.pages;
	/* The process's own switch makes every area mergeable, also those still to come. */
	inherited = prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1;
	if (!word.areas && !inherited) {
		set_none_mergeable(executor);
		return;
	}
	count_regions(executor, &nr_pending, &nr_markable);
	if (nr_pending || (wanted && executor->merge.ever)) {
		look(executor);
		return;
	}
	if (executor->merge.ever && !inherited) {
		if (look_is_old(ksm))
			look(executor);
		return;
	}
	if (!word.pages || nr_markable == 0)
		return;
	/* Merging was switched on for some area since: for which one? */
	if (ebb_now_nsec() - ksm->look_nsec >= LOOK_INTERVAL_NSEC)
		look(executor);
	else
		ksm->doubt = true;
}

bool ebb_ksm_came(struct ebb_executor *executor)
{
	struct ebb_ksm *ksm = &executor->ksm;

	/* Of blocks that we have marked ourselves none was marked as volatile. */
	if (ebb_ksm_see_vmm_marks(executor))
		return true;
	if (!executor->merge.ever && !ksm->pages && ebb_ksm_ask(ksm).pages)
		ksm->doubt = true;
	return ksm->doubt;
}
