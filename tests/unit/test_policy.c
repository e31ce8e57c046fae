// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_policy - the table of what is done with offered memory
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "policy.h"

static struct ebb_policy make(uint32_t mode, uint32_t stage, uint32_t front)
{
	return (struct ebb_policy){
		.front = front,
		.operator_mode = mode,
		.agent_mode = EBB_MODE_KEEP,
		.stage = stage,
	};
}

/* One row for each mode and stage; the same for ebbd's word as for the operator's. */
static const struct {
	uint32_t mode;
	uint32_t stage;
	enum ebb_action action;	 /* virtio-ebb */
	enum ebb_action balloon; /* virtio-balloon: cannot rest */
	uint16_t reason;
} table[] = {
	{ EBB_MODE_OFF, EBB_STAGE_PLENTY, EBB_ACTION_NONE, EBB_ACTION_NONE, VIRTIO_EBB_REASON_OFF },
	{ EBB_MODE_OFF, EBB_STAGE_NEARING, EBB_ACTION_NONE, EBB_ACTION_NONE,
	  VIRTIO_EBB_REASON_OFF },
	{ EBB_MODE_OFF, EBB_STAGE_SHORT, EBB_ACTION_NONE, EBB_ACTION_NONE, VIRTIO_EBB_REASON_OFF },
	{ EBB_MODE_LAZY, EBB_STAGE_PLENTY, EBB_ACTION_LAZY, EBB_ACTION_LAZY, 0 },
	{ EBB_MODE_LAZY, EBB_STAGE_NEARING, EBB_ACTION_LAZY, EBB_ACTION_LAZY, 0 },
	{ EBB_MODE_LAZY, EBB_STAGE_SHORT, EBB_ACTION_LAZY, EBB_ACTION_LAZY, 0 },
	{ EBB_MODE_EAGER, EBB_STAGE_PLENTY, EBB_ACTION_EAGER, EBB_ACTION_EAGER, 0 },
	{ EBB_MODE_EAGER, EBB_STAGE_NEARING, EBB_ACTION_EAGER, EBB_ACTION_EAGER, 0 },
	{ EBB_MODE_EAGER, EBB_STAGE_SHORT, EBB_ACTION_EAGER, EBB_ACTION_EAGER, 0 },
	{ EBB_MODE_AUTO, EBB_STAGE_PLENTY, EBB_ACTION_NONE, EBB_ACTION_LAZY,
	  VIRTIO_EBB_REASON_REST },
	{ EBB_MODE_AUTO, EBB_STAGE_NEARING, EBB_ACTION_LAZY, EBB_ACTION_LAZY, 0 },
	{ EBB_MODE_AUTO, EBB_STAGE_SHORT, EBB_ACTION_EAGER, EBB_ACTION_EAGER, 0 },
};

#define NR_ROWS (sizeof(table) / sizeof(table[0]))

static void decisions(void **state)
{
	uint32_t i, front;

	for (i = 0; i < NR_ROWS; i++) {
		for (front = EBB_FRONT_EBB; front <= EBB_FRONT_BALLOON; front++) {
			struct ebb_policy policy = make(table[i].mode, table[i].stage, front);
			enum ebb_action action =
				front == EBB_FRONT_EBB ? table[i].action : table[i].balloon;
			struct ebb_decision decision = ebb_policy_decide(&policy, false);

			assert_int_equal(decision.action, action);
			assert_int_equal(decision.reason,
					 action == EBB_ACTION_NONE ? table[i].reason : 0);
			assert_int_equal(ebb_policy_reporting(&policy),
					 action == EBB_ACTION_NONE ? VIRTIO_EBB_REPORTING_REST
								   : VIRTIO_EBB_REPORTING_RUN);
		}
	}
}

static void a_release_is_eager_unless_off(void **state)
{
	uint32_t i;

	for (i = 0; i < NR_ROWS; i++) {
		struct ebb_policy policy = make(table[i].mode, table[i].stage, EBB_FRONT_EBB);

		assert_int_equal(ebb_policy_decide(&policy, true).action,
				 table[i].mode == EBB_MODE_OFF ? EBB_ACTION_NONE
							       : EBB_ACTION_EAGER);
	}
}

/* Rule 10 */
static void a_pattern_in_free_memory_is_kept(void **state)
{
	uint32_t i;

	for (i = 0; i < NR_ROWS; i++) {
		struct ebb_policy policy = make(table[i].mode, table[i].stage, EBB_FRONT_EBB);

		policy.poison = true;
		assert_int_equal(ebb_policy_decide(&policy, false).action, EBB_ACTION_NONE);
		assert_int_equal(ebb_policy_decide(&policy, true).action, EBB_ACTION_NONE);
		assert_int_equal(ebb_policy_decide(&policy, true).reason,
				 table[i].mode == EBB_MODE_OFF ? VIRTIO_EBB_REASON_OFF
							       : VIRTIO_EBB_REASON_POISON);
	}
}

static void the_agents_word_goes_before(void **state)
{
	struct ebb_policy policy = make(EBB_MODE_LAZY, EBB_STAGE_NEARING, EBB_FRONT_EBB);

	assert_int_equal(ebb_policy_mode(&policy), EBB_MODE_LAZY);
	policy.agent_mode = EBB_MODE_EAGER;
	assert_int_equal(ebb_policy_mode(&policy), EBB_MODE_EAGER);
	assert_int_equal(ebb_policy_decide(&policy, false).action, EBB_ACTION_EAGER);
	policy.agent_mode = EBB_MODE_KEEP;
	assert_int_equal(ebb_policy_decide(&policy, false).action, EBB_ACTION_LAZY);
}

static bool reoffer(uint32_t mode, uint32_t stage, uint32_t mode_now, uint32_t stage_now)
{
	struct ebb_policy old = make(mode, stage, EBB_FRONT_EBB);
	struct ebb_policy now = make(mode_now, stage_now, EBB_FRONT_EBB);

	return ebb_policy_reoffer(&old, &now);
}

static void when_all_is_offered_anew(void **state)
{
	/* the stage grows worse */
	assert_true(reoffer(EBB_MODE_AUTO, EBB_STAGE_PLENTY, EBB_MODE_AUTO, EBB_STAGE_NEARING));
	assert_true(reoffer(EBB_MODE_AUTO, EBB_STAGE_NEARING, EBB_MODE_AUTO, EBB_STAGE_SHORT));
	assert_true(reoffer(EBB_MODE_LAZY, EBB_STAGE_NEARING, EBB_MODE_LAZY, EBB_STAGE_SHORT));
	/* the mode grows stronger */
	assert_true(reoffer(EBB_MODE_LAZY, EBB_STAGE_PLENTY, EBB_MODE_EAGER, EBB_STAGE_PLENTY));
	assert_true(reoffer(EBB_MODE_OFF, EBB_STAGE_PLENTY, EBB_MODE_LAZY, EBB_STAGE_PLENTY));
	/* neither */
	assert_false(reoffer(EBB_MODE_AUTO, EBB_STAGE_SHORT, EBB_MODE_AUTO, EBB_STAGE_NEARING));
	assert_false(reoffer(EBB_MODE_AUTO, EBB_STAGE_NEARING, EBB_MODE_AUTO, EBB_STAGE_PLENTY));
	assert_false(reoffer(EBB_MODE_EAGER, EBB_STAGE_PLENTY, EBB_MODE_LAZY, EBB_STAGE_PLENTY));
	assert_false(reoffer(EBB_MODE_AUTO, EBB_STAGE_SHORT, EBB_MODE_AUTO, EBB_STAGE_SHORT));
	/* nothing would be done with it */
	assert_false(reoffer(EBB_MODE_OFF, EBB_STAGE_PLENTY, EBB_MODE_OFF, EBB_STAGE_SHORT));
}

/* Content is marked or left alone, and never discarded, whatever is short. */
static void content_is_never_discarded(void **state)
{
	uint32_t i;

	for (i = 0; i < NR_ROWS; i++) {
		struct ebb_policy policy = make(table[i].mode, table[i].stage, EBB_FRONT_EBB);
		struct ebb_decision decision = ebb_policy_decide_content(&policy);

		assert_int_equal(decision.action, table[i].action == EBB_ACTION_NONE
							  ? EBB_ACTION_NONE
							  : EBB_ACTION_LAZY);
		assert_int_equal(decision.reason, table[i].reason);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decisions),
		cmocka_unit_test(a_release_is_eager_unless_off),
		cmocka_unit_test(a_pattern_in_free_memory_is_kept),
		cmocka_unit_test(the_agents_word_goes_before),
		cmocka_unit_test(when_all_is_offered_anew),
		cmocka_unit_test(content_is_never_discarded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
