// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * release - ask the guest for free memory now, one at a time
 *
 * WANTED by ebbd or the operator; ACTIVE once the VMM was told; ends by the driver's
 * word, a reset, or because nobody can obey. Batches that carry its id are discarded.
 *
 * Owns:    struct ebb_release.
 * Thread:  any with the executor's lock; ebb_release_ask() the executor thread.
 * Locks:   the executor's.
 * Never:   waits for the guest.
 */
#include <errno.h>

#include "executor.h"

int ebb_release_start(struct ebb_executor *executor, uint64_t agent_id, uint64_t bytes,
		      uint32_t flags)
{
	struct ebb_release *release = &executor->release;

	if (release->state != EBB_RELEASE_NONE)
		return -EBUSY;
	if (ebb_policy_decide(&executor->policy, true).action == EBB_ACTION_NONE)
		return -EPERM;
	if (!executor->status.driver || executor->status.broken)
		return -ENODEV;
	*release = (struct ebb_release){
		.state = EBB_RELEASE_WANTED,
		.asking = release->asking,
		.id = executor->next_release_id++,
		.agent_id = agent_id,
		.bytes = bytes,
		.flags = flags,
		.start_nsec = ebb_now_nsec(),
	};
	return 0;
}

void ebb_release_end(struct ebb_executor *executor, uint32_t status, uint32_t passes,
		     uint64_t offered_bytes)
{
	struct ebb_release *release = &executor->release;
	uint64_t end_nsec = release->last_answer_nsec;

	if (!end_nsec)
		end_nsec = ebb_now_nsec();
	if (release->agent_id)
		ebb_link_push_done(&executor->link,
				   &(struct ebb_link_done){
					   .id = release->agent_id,
					   .offered_bytes = offered_bytes,
					   .discarded_bytes = release->discarded_bytes,
					   .usec = (end_nsec - release->start_nsec) / NSEC_PER_USEC,
					   .status = status,
					   .passes = passes,
				   });
	executor->status.counters.releases++;
	release->state = EBB_RELEASE_NONE;
	release->agent_id = 0;
}

/* Nothing that was begun may outlive a refusal of the VMM. */
static void end_if(struct ebb_executor *executor, uint64_t id, uint32_t status)
{
	if (executor->release.state != EBB_RELEASE_NONE && executor->release.id == id)
		ebb_release_end(executor, status, 0, 0);
}

void ebb_release_ask(struct ebb_executor *executor)
{
	struct ebb_release *release = &executor->release;
	uint64_t id, bytes;
	uint32_t flags;
	bool wanted;
	int ret;

	pthread_mutex_lock(&executor->lock);
	wanted = release->state == EBB_RELEASE_WANTED;
	id = release->id;
	bytes = release->bytes;
	flags = release->flags;
	pthread_mutex_unlock(&executor->lock);
	if (!wanted)
		return;

	if (!ebb_memops_begin(executor)) {
		pthread_mutex_lock(&executor->lock);
		end_if(executor, id, EBB_RELEASE_OFF);
		pthread_mutex_unlock(&executor->lock);
		return;
	}
	ebb_memops_end(executor);

	/* A reset that comes from here on waits until the VMM was told. */
	pthread_mutex_lock(&executor->lock);
	wanted = release->state == EBB_RELEASE_WANTED && release->id == id;
	if (wanted) {
		release->state = EBB_RELEASE_ACTIVE;
		release->asking = true;
	}
	pthread_mutex_unlock(&executor->lock);
	if (!wanted)
		return;
	ret = executor->ops->release(executor->vmm, id, bytes, flags);
	pthread_mutex_lock(&executor->lock);
	release->asking = false;
	if (ret)
		end_if(executor, id, EBB_RELEASE_NO_DRIVER);
	pthread_cond_broadcast(&executor->idle);
	pthread_mutex_unlock(&executor->lock);
}
