/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * policy.h - what is done with offered memory, as pure functions
 */
#ifndef EBB_POLICY_H
#define EBB_POLICY_H

#include "ebb_core.h"

/* In order of strength: each gives the host no less than the one before it. */
enum ebb_action {
	EBB_ACTION_NONE,
	EBB_ACTION_LAZY,
	EBB_ACTION_EAGER,
};

/* All that the decision depends on. */
struct ebb_policy {
	uint32_t front;		/* EBB_FRONT_* */
	uint32_t operator_mode; /* EBB_MODE_*, not KEEP */
	uint32_t agent_mode;	/* EBB_MODE_*; KEEP also where no agent was ever heard */
	uint32_t stage;		/* EBB_STAGE_*; NEARING where no agent was ever heard */
	bool poison;		/* the guest relies on a pattern in free memory */
};

struct ebb_decision {
	enum ebb_action action;
	uint16_t reason; /* NONE: VIRTIO_EBB_REASON_* for the guest; else 0 */
};

/* When empty page tables are collected. */
struct ebb_tables_policy {
	uint32_t operator_mode; /* EBB_TABLES_*, not KEEP */
	uint32_t agent_mode;	/* EBB_TABLES_*; KEEP also where no agent was ever heard */
	uint32_t delay_msec;
	uint64_t amount_tables;
	uint64_t least_tables;
};

uint32_t ebb_policy_tables_mode(const struct ebb_tables_policy *tables);

/*
 * May a pass in the background begin or go on? Not while the host is short: it needs its
 * processors and locks for other things, and the guest's answer comes late.
 */
bool ebb_policy_may_pass(const struct ebb_policy *policy, const struct ebb_tables_policy *tables);

/* The mode in force: ebbd's word, unless it is KEEP, goes before the operator's. */
uint32_t ebb_policy_mode(const struct ebb_policy *policy);

/* What is done with an offer; release: it answers the release that is under way. */
struct ebb_decision ebb_policy_decide(const struct ebb_policy *policy, bool release);

/*
 * What is done with an offer of memory with content: marked or nothing, never discarded.
 */
struct ebb_decision ebb_policy_decide_content(const struct ebb_policy *policy);

/* What the guest's driver does of its own accord: VIRTIO_EBB_REPORTING_*. */
uint32_t ebb_policy_reporting(const struct ebb_policy *policy);

/* Shall all that is free be offered anew after the change from old to now? */
bool ebb_policy_reoffer(const struct ebb_policy *old, const struct ebb_policy *now);

#endif /* EBB_POLICY_H */
