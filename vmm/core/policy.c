// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * policy - what is done with offered memory
 *
 * Owns:    nothing; all is pure.
 * Thread:  any.
 * Locks:   none.
 * Never:   reads a clock, does I/O, logs.
 */
#include "policy.h"

uint32_t ebb_policy_mode(const struct ebb_policy *policy)
{
	if (policy->agent_mode != EBB_MODE_KEEP)
		return policy->agent_mode;
	return policy->operator_mode;
}

static struct ebb_decision decide_auto(const struct ebb_policy *policy)
{
	if (policy->stage == EBB_STAGE_SHORT)
		return (struct ebb_decision){ .action = EBB_ACTION_EAGER };
	/* A guest on the balloon front cannot be asked later: it is always marked. */
	if (policy->stage == EBB_STAGE_PLENTY && policy->front != EBB_FRONT_BALLOON)
		return (struct ebb_decision){ .reason = VIRTIO_EBB_REASON_REST };
	return (struct ebb_decision){ .action = EBB_ACTION_LAZY };
}

struct ebb_decision ebb_policy_decide(const struct ebb_policy *policy, bool release)
{
	uint32_t mode = ebb_policy_mode(policy);

	if (mode == EBB_MODE_OFF)
		return (struct ebb_decision){ .reason = VIRTIO_EBB_REASON_OFF };
	if (policy->poison)
		return (struct ebb_decision){ .reason = VIRTIO_EBB_REASON_POISON };
	if (release || mode == EBB_MODE_EAGER)
		return (struct ebb_decision){ .action = EBB_ACTION_EAGER };
	if (mode == EBB_MODE_LAZY)
		return (struct ebb_decision){ .action = EBB_ACTION_LAZY };
	return decide_auto(policy);
}

struct ebb_decision ebb_policy_decide_content(const struct ebb_policy *policy)
{
	uint32_t mode = ebb_policy_mode(policy);

	if (mode == EBB_MODE_OFF)
		return (struct ebb_decision){ .reason = VIRTIO_EBB_REASON_OFF };
	if (mode == EBB_MODE_AUTO && policy->stage == EBB_STAGE_PLENTY)
		return (struct ebb_decision){ .reason = VIRTIO_EBB_REASON_REST };
	return (struct ebb_decision){ .action = EBB_ACTION_LAZY };
}

uint32_t ebb_policy_reporting(const struct ebb_policy *policy)
{
	if (ebb_policy_decide(policy, false).action == EBB_ACTION_NONE)
		return VIRTIO_EBB_REPORTING_REST;
	return VIRTIO_EBB_REPORTING_RUN;
}

bool ebb_policy_reoffer(const struct ebb_policy *old, const struct ebb_policy *now)
{
	enum ebb_action before = ebb_policy_decide(old, false).action;
	enum ebb_action after = ebb_policy_decide(now, false).action;

	/* Marks are hints that expire: a worse stage asks again even for the same action. */
	return after > before || (after != EBB_ACTION_NONE && now->stage > old->stage);
}

uint32_t ebb_policy_tables_mode(const struct ebb_tables_policy *tables)
{
	return tables->agent_mode != EBB_TABLES_KEEP ? tables->agent_mode : tables->operator_mode;
}

bool ebb_policy_may_pass(const struct ebb_policy *policy, const struct ebb_tables_policy *tables)
{
	return ebb_policy_tables_mode(tables) == EBB_TABLES_BACKGROUND &&
	       policy->stage != EBB_STAGE_SHORT &&
	       ebb_policy_decide(policy, true).action != EBB_ACTION_NONE;
}
