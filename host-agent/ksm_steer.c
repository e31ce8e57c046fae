// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ksm_steer - ebbd as the owner of KSM's settings
 *
 * The first step notes what it found; each later one writes only if what is there is still
 * what it wrote last. Whatever else is there is another owner's: that is said once, and
 * nothing is written any more until ebbd is reloaded or started again. What was found is
 * put back at the end; a record beside the state file lets a successor do that after a kill.
 *
 * Owns:    the descriptors of KSM's directory and of /proc, the record, KSM's settings while owner
 * is EBBD. Thread:  ebbd's only one. Locks:   none of ours. Never:   decides how fast
 * (ksm_policy.c); writes in a dry run, or what another owner wrote.
 */
#include "ksm_steer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

const char *ksm_owner_word(enum ksm_owner owner)
{
	static const char *const words[KSM_OWNER_MAX] = {
		[KSM_OWNER_EBBD] = "ebbd",     [KSM_OWNER_KSMTUNED] = "ksmtuned",
		[KSM_OWNER_KERNEL] = "kernel", [KSM_OWNER_OTHER] = "other",
		[KSM_OWNER_FAILED] = "failed",
	};

	return words[owner];
}

const char *ksm_why_word(enum ksm_why why)
{
	static const char *const words[KSM_WHY_MAX] = {
		[KSM_WHY_NOBODY] = "nobody",
		[KSM_WHY_MERGING] = "merging",
		[KSM_WHY_NO_GAIN] = "no-gain",
		[KSM_WHY_CPU_CEILING] = "cpu-ceiling",
		[KSM_WHY_PAGES_CEILING] = "pages-ceiling",
	};

	return words[why];
}

static void forget_record(struct ksm_steer *steer)
{
	if (steer->record_path && !steer->dry_run)
		unlink(steer->record_path);
}

static void keep_off(struct ksm_steer *steer, enum ksm_owner owner, const char *because)
{
	log_warning("KSM is not steered: %s; nothing is written until ebbd is reloaded", because);
	steer->owner = owner;
	forget_record(steer);
}

/* A write failed, perhaps the second of two: the first is taken back. */
static void write_failed(struct ksm_steer *steer, const struct ksm_settings *after, int error)
{
	struct ksm_record record = { steer->found, steer->written, *after };
	char text[128];

	ksm_recover(steer->ksm_dirfd, &record);
	snprintf(text, sizeof(text), "its settings cannot be written: %s", strerror(-error));
	keep_off(steer, KSM_OWNER_FAILED, text);
}

/* What an ebbd that was killed has left. */
static void recover(struct ksm_steer *steer)
{
	struct ksm_record record;
	int r;

	if (!steer->record_path || steer->dry_run || steer->ksm_dirfd < 0)
		return;
	r = ksm_load_record(steer->record_path, &record);
	if (r == -ENOENT)
		return;
	if (r == 0)
		r = ksm_recover(steer->ksm_dirfd, &record);
	if (r == 0)
		log_notice("an earlier ebbd was killed: KSM's settings are as it found them");
	else
		log_warning("%s: KSM's settings are not put back: %s", steer->record_path,
			    r == -EBUSY ? "somebody has changed them" : strerror(-r));
	forget_record(steer);
}

void ksm_steer_init(struct ksm_steer *steer, const char *ksm_dir, const char *proc_dir,
		    const char *state_path, bool dry_run)
{
	*steer = (struct ksm_steer){ .dry_run = dry_run };
	steer->proc_dirfd = open(proc_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	steer->ksm_dirfd = open(ksm_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (asprintf(&steer->record_path, "%s.ksm", state_path) < 0)
		steer->record_path = NULL;
	recover(steer);
}

/* Write it; the record comes first. */
static int put(struct ksm_steer *steer, const struct ksm_settings *after)
{
	struct ksm_record record = { steer->found, steer->written, *after };
	int r;

	if (ksm_same_settings(&steer->written, after))
		return 0;
	if (steer->dry_run) {
		log_notice("dry run: KSM's run = %u, pages_to_scan = %u, sleep_millisecs = %u, "
			   "use_zero_pages = %u would be written",
			   after->run, after->pages_to_scan, after->sleep_msec,
			   after->use_zero_pages);
	} else {
		r = steer->record_path ? ksm_save_record(steer->record_path, &record) : -ENOMEM;
		if (r == 0)
			r = ksm_write_settings(steer->ksm_dirfd, &steer->written, after);
		if (r < 0)
			return r;
	}
	steer->written = *after;
	return 0;
}

/* Put back what was found, unless somebody else has changed it. */
static void stop(struct ksm_steer *steer)
{
	struct ksm_settings now;
	int r;

	if (steer->owner == KSM_OWNER_EBBD) {
		r = ksm_read_settings(steer->ksm_dirfd, &now);
		if (r == 0 && !steer->dry_run && !ksm_same_settings(&now, &steer->written))
			log_warning("KSM's settings were changed by somebody else: left as they "
				    "are");
		else if (r == 0)
			r = put(steer, &steer->found);
		if (r < 0)
			log_error("KSM's settings cannot be put back: %s", strerror(-r));
		forget_record(steer);
	}
	steer->owner = KSM_OWNER_NONE;
	steer->plan = (struct ksm_plan){ 0 };
}

/* Is there another owner? Then keep off. */
static void look(struct ksm_steer *steer)
{
	bool begin = steer->owner == KSM_OWNER_NONE;

	if (ksm_find_ksmtuned(steer->proc_dirfd))
		keep_off(steer, KSM_OWNER_KSMTUNED, "ksmtuned is running");
	else if (ksm_has_advisor(steer->ksm_dirfd))
		keep_off(steer, KSM_OWNER_KERNEL, "the kernel's advisor steers it (advisor_mode)");
	else if (steer->now.run > 1)
		keep_off(steer, KSM_OWNER_OTHER, "run is 2, somebody has everything unmerged");
	else if (begin) {
		steer->owner = KSM_OWNER_EBBD;
		steer->found = steer->written = steer->now;
	} else if (!ksm_same_settings(&steer->now,
				      steer->dry_run ? &steer->found : &steer->written))
		keep_off(steer, KSM_OWNER_OTHER, "somebody else has changed its settings");
}

static struct ksm_settings wanted(const struct ksm_steer *steer, const struct ksm_conf *conf)
{
	struct ksm_settings settings = steer->found;

	settings.run = ksm_plan_runs(&steer->plan);
	if (settings.run) {
		settings.pages_to_scan = steer->plan.pages_to_scan;
		settings.sleep_msec = KSM_SLEEP_MSEC;
	}
	if (conf->zero_pages && settings.has_zero_pages)
		settings.use_zero_pages = 1;
	return settings;
}

/* False: there is nothing to go by. */
static bool read_all(struct ksm_steer *steer, struct ksm_sample *sample)
{
	int r;

	steer->has_now = false;
	r = steer->ksm_dirfd < 0 ? -ENOENT : ksm_read_settings(steer->ksm_dirfd, &steer->now);
	if (r == 0)
		r = ksm_read_figures(steer->ksm_dirfd, &steer->figures);
	steer->has_now = r == 0;
	if (r == 0 && ksm_read_cpu(steer->proc_dirfd, steer->ksmd, &sample->cpu_usec) < 0) {
		steer->ksmd = ksm_find_ksmd(steer->proc_dirfd);
		r = ksm_read_cpu(steer->proc_dirfd, steer->ksmd, &sample->cpu_usec);
		steer->plan.seen_usec = 0; /* another's time: no share of it is known yet */
	}
	steer->has_cpu = r == 0;
	sample->full_scans = steer->figures.full_scans;
	sample->pages_sharing = steer->figures.pages_sharing;
	sample->has_profit = steer->figures.has_profit;
	sample->profit_bytes = steer->figures.profit_bytes;
	return r == 0;
}

void ksm_steer_step(struct ksm_steer *steer, const struct ksm_conf *conf, uint64_t mergeable_bytes,
		    uint64_t now_usec)
{
	struct ksm_sample sample = { .mergeable_bytes = mergeable_bytes };
	enum ksm_why before = steer->plan.why;
	struct ksm_settings settings;
	int r;

	if (now_usec < steer->next_usec)
		return;
	steer->next_usec = now_usec + conf->interval_msec * 1000ull;
	if (!read_all(steer, &sample)) {
		if (conf->steer && steer->owner <= KSM_OWNER_EBBD) {
			stop(steer);
			keep_off(steer, KSM_OWNER_FAILED,
				 "the kernel has no KSM, or ksmd is not to be seen");
		}
		return;
	}
	if (conf->steer && steer->owner <= KSM_OWNER_EBBD)
		look(steer);
	/* For all others the plan only keeps count of ksmd's time. */
	if (steer->owner != KSM_OWNER_EBBD)
		sample.mergeable_bytes = 0;
	steer->plan = ksm_policy_step(conf, &steer->plan, &sample, now_usec);
	if (steer->owner != KSM_OWNER_EBBD)
		return;
	settings = wanted(steer, conf);
	r = put(steer, &settings);
	if (r < 0) {
		write_failed(steer, &settings, r);
		return;
	}
	if (!steer->dry_run)
		steer->now = settings;
	if (steer->plan.why != before)
		log_info("KSM: %s, run = %u, pages_to_scan = %u", ksm_why_word(steer->plan.why),
			 settings.run, settings.pages_to_scan);
}

/* The configuration is new: other owners are looked for again. */
void ksm_steer_reload(struct ksm_steer *steer, const struct ksm_conf *conf)
{
	if (!conf->steer || steer->owner > KSM_OWNER_EBBD)
		stop(steer);
	steer->next_usec = 0;
}

void ksm_steer_deinit(struct ksm_steer *steer)
{
	stop(steer);
	if (steer->ksm_dirfd >= 0)
		close(steer->ksm_dirfd);
	if (steer->proc_dirfd >= 0)
		close(steer->proc_dirfd);
	free(steer->record_path);
	*steer = (struct ksm_steer){ .ksm_dirfd = -1, .proc_dirfd = -1 };
}
