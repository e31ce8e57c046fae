/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ksm_steer.h - ebbd as the owner of KSM's settings; see ksm_steer.c */
#ifndef EBB_KSM_STEER_H
#define EBB_KSM_STEER_H

#include "ksm.h"
#include "ksm_policy.h"

enum ksm_owner {
	KSM_OWNER_NONE, /* not looked yet, or not to be steered: nothing was written */
	KSM_OWNER_EBBD,
	KSM_OWNER_KSMTUNED, /* this and below: keep off until ebbd is reloaded */
	KSM_OWNER_KERNEL,   /* its advisor */
	KSM_OWNER_OTHER,
	KSM_OWNER_FAILED, /* it cannot be read or written */
	KSM_OWNER_MAX,
};

struct ksm_steer {
	int ksm_dirfd; /* -1: the kernel has no KSM */
	int proc_dirfd;
	char *record_path;
	bool dry_run;
	enum ksm_owner owner;
	struct ksm_settings found;   /* EBBD: before the first write */
	struct ksm_settings written; /* EBBD: the last; of a dry run, what would be there */
	struct ksm_plan plan;
	uint64_t next_usec; /* no step before */
	pid_t ksmd;
	/* For people: */
	bool has_now, has_cpu;
	struct ksm_settings now;
	struct ksm_figures figures;
};

void ksm_steer_init(struct ksm_steer *steer, const char *ksm_dir, const char *proc_dir,
		    const char *state_path, bool dry_run);
void ksm_steer_step(struct ksm_steer *steer, const struct ksm_conf *conf, uint64_t mergeable_bytes,
		    uint64_t now_usec);
void ksm_steer_reload(struct ksm_steer *steer, const struct ksm_conf *conf);
void ksm_steer_deinit(struct ksm_steer *steer);

const char *ksm_owner_word(enum ksm_owner owner);
const char *ksm_why_word(enum ksm_why why);

#endif /* EBB_KSM_STEER_H */
