// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * executor - the thread, and the life of an executor
 *
 * Owns:    the thread and the status of one guest.
 * Thread:  thread_main() and what it calls; the functions of ebb_core.h any other.
 * Locks:   lock (leaf), never held across a system call that can block, an allocation
 *          or a callback.
 * Never:   parses guest memory, waits for the guest or for ebbd.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "agent_check.h"
#include "executor.h"

/* How often an inhibited executor asks the VMM again, and marked blocks are looked at. */
#define TICK_NSEC NSEC_PER_SEC

uint64_t ebb_now_nsec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

void ebb_log(struct ebb_executor *executor, int level, const char *format, ...)
{
	char line[320];
	va_list args;

	if (!executor->ops->log)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	executor->ops->log(executor->vmm, level, line);
}

struct ebb_region *ebb_executor_region_at(struct ebb_executor *executor, uint64_t gpa)
{
	struct ebb_region *region;

	pthread_mutex_lock(&executor->lock);
	region = ebb_ram_map_find(&executor->map, gpa);
	pthread_mutex_unlock(&executor->lock);
	return region;
}

void ebb_executor_wake(struct ebb_executor *executor)
{
	uint64_t one = 1;
	bool sleeping;
	ssize_t n;

	pthread_mutex_lock(&executor->lock);
	sleeping = executor->sleeping;
	executor->sleeping = false;
	pthread_mutex_unlock(&executor->lock);
	if (!sleeping)
		return;
	do {
		n = write(executor->wake_fd, &one, sizeof(one));
	} while (n < 0 && errno == EINTR);
}

void ebb_executor_policy_changed(struct ebb_executor *executor, const struct ebb_policy *old)
{
	struct ebb_status *status = &executor->status;
	uint32_t reporting = ebb_policy_reporting(&executor->policy);

	status->mode = ebb_policy_mode(&executor->policy);
	status->stage = executor->policy.stage;
	if (reporting != status->guidance.reporting) {
		status->guidance.reporting = reporting;
		executor->guide_pending = true;
	}
	if (old && ebb_policy_reoffer(old, &executor->policy)) {
		status->guidance.reoffer_generation++;
		executor->guide_pending = true;
	}
}

static void guide(struct ebb_executor *executor)
{
	struct ebb_guidance guidance;
	bool pending;

	pthread_mutex_lock(&executor->lock);
	pending = executor->guide_pending;
	executor->guide_pending = false;
	guidance = executor->status.guidance;
	pthread_mutex_unlock(&executor->lock);
	if (pending)
		executor->ops->guide(executor->vmm, guidance);
}

/*
 * A look at smaps may take long where the kernel cannot say it shorter: nothing waits for
 * it while no batch comes. The first batch to be marked takes it else. Lock held.
 */
static bool look_is_due(const struct ebb_executor *executor)
{
	return executor->look_pending && !executor->queue_head &&
	       executor->release.state == EBB_RELEASE_NONE;
}

/* Lock held. */
static bool merge_is_due(const struct ebb_executor *executor)
{
	return executor->merge.pending && !executor->look_pending &&
	       ebb_now_nsec() >= executor->merge.next_nsec;
}

/* Is there work that needs no file descriptor? If not, the thread counts as asleep. */
static bool go_to_sleep(struct ebb_executor *executor)
{
	bool asleep;

	pthread_mutex_lock(&executor->lock);
	asleep = !executor->queue_head && !executor->purge.active && !executor->guide_pending &&
		 executor->collect.state != EBB_COLLECT_WANTED &&
		 executor->collect.state != EBB_COLLECT_ANSWERED && !executor->stop &&
		 !merge_is_due(executor) && !look_is_due(executor) && !executor->link.done_new &&
		 executor->content.harden_wanted == executor->content.harden_done &&
		 executor->release.state != EBB_RELEASE_WANTED;
	executor->sleeping = asleep;
	pthread_mutex_unlock(&executor->lock);
	return asleep;
}

/* Returns whether the agent's socket has something. */
static bool wait_for_work(struct ebb_executor *executor, uint64_t deadline_nsec)
{
	struct pollfd fds[2] = {
		{ .fd = executor->wake_fd, .events = POLLIN },
		{ .fd = ebb_link_poll_fd(&executor->link), .events = POLLIN },
	};
	struct timespec timeout = { 0 };
	uint64_t now_nsec, count, left_nsec;
	bool asleep = go_to_sleep(executor);
	int ret;

	if (asleep && deadline_nsec != UINT64_MAX) {
		now_nsec = ebb_now_nsec();
		left_nsec = deadline_nsec > now_nsec ? deadline_nsec - now_nsec : 0;
		timeout.tv_sec = (time_t)(left_nsec / NSEC_PER_SEC);
		timeout.tv_nsec = (long)(left_nsec % NSEC_PER_SEC);
	}
	ret = ppoll(fds, 2, asleep && deadline_nsec == UINT64_MAX ? NULL : &timeout, NULL);
	if (asleep) {
		pthread_mutex_lock(&executor->lock);
		executor->sleeping = false;
		pthread_mutex_unlock(&executor->lock);
	}
	if (ret <= 0)
		return false;
	if (fds[0].revents && read(executor->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		ebb_log(executor, 4, "the executor's eventfd: %s", strerror(errno));
	return fds[1].revents != 0;
}

/*
 * What is due once a second while there is anything to look after. Returns the next time,
 * UINT64_MAX if nothing will be due.
 */
static uint64_t tick(struct ebb_executor *executor, uint64_t next_nsec)
{
	uint64_t now_nsec = ebb_now_nsec();
	bool look, inhibited, busy;

	pthread_mutex_lock(&executor->lock);
	look = look_is_due(executor);
	inhibited = executor->status.inhibited;
	busy = executor->queue_head || executor->release.state != EBB_RELEASE_NONE;
	pthread_mutex_unlock(&executor->lock);

	if (look)
		ebb_ksm_before_free(executor);
	if (!inhibited && !executor->marked && !executor->content.marked)
		return UINT64_MAX;
	if (next_nsec == UINT64_MAX)
		return now_nsec + TICK_NSEC;
	if (now_nsec < next_nsec)
		return next_nsec;
	if (inhibited && ebb_memops_begin(executor))
		ebb_memops_end(executor);
	executor->content.age++;
	if (!busy) {
		ebb_scan_pass(executor);
		ebb_content_scan(executor);
	}
	return now_nsec + TICK_NSEC;
}

static bool should_stop(struct ebb_executor *executor)
{
	bool stop;

	pthread_mutex_lock(&executor->lock);
	stop = executor->stop;
	pthread_mutex_unlock(&executor->lock);
	return stop;
}

static uint64_t earliest(uint64_t a, uint64_t b, uint64_t c)
{
	a = a < b ? a : b;
	return a < c ? a : c;
}

static void *thread_main(void *opaque)
{
	struct ebb_executor *executor = opaque;
	uint64_t tick_nsec = UINT64_MAX, pass_nsec, deadline_nsec;
	bool readable = false;

	while (!should_stop(executor)) {
		ebb_flights_run(executor);
		ebb_content_harden_if_wanted(executor);
		ebb_purge_work(executor);
		ebb_collect_work(executor);
		guide(executor);
		ebb_link_work(executor, readable);
		ebb_release_ask(executor);
		tick_nsec = tick(executor, tick_nsec);
		ebb_merge_work(executor);
		ebb_content_tell(executor);
		pass_nsec = ebb_collect_plan(executor);
		deadline_nsec = earliest(ebb_link_deadline_nsec(&executor->link), tick_nsec,
					 ebb_merge_deadline_nsec(executor));
		if (pass_nsec < deadline_nsec)
			deadline_nsec = pass_nsec;
		readable = wait_for_work(executor, deadline_nsec);
	}
	return NULL;
}

/* Old kernels know no MADV_FREE. */
static bool kernel_has_free(void)
{
	size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
	void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool has_free;

	if (page == MAP_FAILED)
		return false;
	has_free = madvise(page, bytes, MADV_FREE) == 0;
	munmap(page, bytes);
	return has_free;
}

static int start_thread(struct ebb_executor *executor)
{
	sigset_t all, old;
	int ret;

	/* QEMU takes its signals by signalfd: they are for no thread of ours. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = -pthread_create(&executor->thread, NULL, thread_main, executor);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!ret)
		pthread_setname_np(executor->thread, "ebb-executor");
	return ret;
}

static void dispose(struct ebb_executor *executor)
{
	uint32_t i;

	ebb_link_deinit(&executor->link);
	ebb_ksm_deinit(&executor->ksm);
	ebb_scan_deinit(&executor->scan);
	ebb_content_deinit(&executor->content);
	ebb_tables_deinit(&executor->tables);
	ebb_ram_map_deinit(&executor->map);
	for (i = 0; i < EBB_MAX_FLIGHTS; i++)
		free(executor->flights[i].spans);
	if (executor->wake_fd >= 0)
		close(executor->wake_fd);
	pthread_cond_destroy(&executor->idle);
	pthread_mutex_destroy(&executor->lock);
	free(executor);
}

static bool config_is_valid(const struct ebb_executor_config *config)
{
	char name[EBB_AGENT_NAME_BYTES] = { 0 };

	if (!config->name || strlen(config->name) >= sizeof(name))
		return false;
	strcpy(name, config->name);
	return ebb_agent_check_text(name, sizeof(name), 1) == EBB_AGENT_FAULT_NONE &&
	       (config->front == EBB_FRONT_EBB || config->front == EBB_FRONT_BALLOON) &&
	       config->mode > EBB_MODE_KEEP && config->mode < EBB_MODE_MAX &&
	       config->tables_mode < EBB_TABLES_MAX && config->merge < EBB_MERGE_MAX;
}

/* Everything that the way of a batch needs is allocated here (rule 12). */
static int allocate(struct ebb_executor *executor)
{
	uint32_t i;

	executor->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (executor->wake_fd < 0)
		return -errno;
	for (i = 0; i < EBB_MAX_FLIGHTS; i++) {
		executor->flights[i].spans =
			calloc(VIRTIO_EBB_MAX_RANGES_LIMIT, sizeof(struct ebb_span));
		if (!executor->flights[i].spans)
			return -ENOMEM;
	}
	return 0;
}

int ebb_executor_new(struct ebb_executor **ret, const struct ebb_executor_config *config,
		     const struct ebb_vmm_ops *ops, void *vmm)
{
	struct ebb_executor *executor;
	int error;

	if (!config_is_valid(config))
		return -EINVAL;
	executor = calloc(1, sizeof(*executor));
	if (!executor)
		return -ENOMEM;
	executor->ops = ops;
	executor->vmm = vmm;
	executor->wake_fd = -1;
	executor->next_release_id = 1;
	strcpy(executor->name, config->name);
	executor->policy = (struct ebb_policy){
		.front = config->front,
		.operator_mode = config->mode,
		.agent_mode = EBB_MODE_KEEP,
		.stage = EBB_STAGE_NEARING,
	};
	executor->tables_policy = (struct ebb_tables_policy){
		.operator_mode = config->tables_mode ? config->tables_mode : EBB_TABLES_ON_DEMAND,
		.delay_msec = 10000,
		.amount_tables = 4096,
		.least_tables = 64,
	};
	executor->can_free = kernel_has_free();
	ebb_executor_policy_changed(executor, NULL);
	executor->merge.operator_mode = config->merge;
	executor->merge.agent_mode = EBB_MERGE_KEEP;
	ebb_merge_mode_changed(executor, EBB_MERGE_KEEP);
	executor->guide_pending = false;
	pthread_mutex_init(&executor->lock, NULL);
	pthread_cond_init(&executor->idle, NULL);
	ebb_scan_init(&executor->scan);
	ebb_content_init(&executor->content);
	ebb_tables_init(&executor->tables, (enum ebb_tables_way)config->tables_way,
			config->tables_no_scan);
	ebb_ksm_init(&executor->ksm, &ebb_ksm_kernel_paths);
	error = ebb_link_init(&executor->link, config->agent_path);
	if (!error)
		error = allocate(executor);
	if (!error)
		error = start_thread(executor);
	if (error) {
		dispose(executor);
		return error;
	}
	*ret = executor;
	return 0;
}

static void drain(struct ebb_executor *executor)
{
	while (ebb_flights_busy(executor, 0, UINT64_MAX))
		pthread_cond_wait(&executor->idle, &executor->lock);
}

void ebb_executor_free(struct ebb_executor *executor)
{
	if (!executor)
		return;
	pthread_mutex_lock(&executor->lock);
	executor->pause_depth++;
	ebb_flights_cancel(executor, 0, UINT64_MAX);
	drain(executor);
	executor->stop = true;
	pthread_mutex_unlock(&executor->lock);
	ebb_executor_wake(executor);
	pthread_join(executor->thread, NULL);
	dispose(executor);
}

int ebb_executor_region_add(struct ebb_executor *executor, const struct ebb_region_desc *desc)
{
	struct ebb_region *region, **spare;
	uint32_t capacity;
	int ret = ebb_region_new(&region, desc);

	if (ret)
		return ret;
	spare = ebb_ram_map_grow(&executor->map, &capacity);
	pthread_mutex_lock(&executor->lock);
	ret = ebb_ram_map_insert(&executor->map, region, &spare, capacity);
	if (!ret && region->look_pending)
		executor->look_pending = true;
	executor->merge.pending |= ebb_merge_mode(&executor->merge) != EBB_MERGE_KEEP;
	pthread_mutex_unlock(&executor->lock);
	free(spare);
	if (ret) {
		ebb_region_free(region);
		return ret;
	}
	ebb_executor_wake(executor);
	return 0;
}

int ebb_executor_region_remove(struct ebb_executor *executor, uint64_t start_gpa)
{
	struct ebb_region *region;
	uint64_t bytes;

	pthread_mutex_lock(&executor->lock);
	region = ebb_ram_map_find(&executor->map, start_gpa);
	if (!region || region->desc.start_gpa != start_gpa) {
		pthread_mutex_unlock(&executor->lock);
		return -ENOENT;
	}
	bytes = region->desc.size_bytes;
	region->removing = true;
	ebb_flights_cancel(executor, start_gpa, bytes);
	while (ebb_flights_busy(executor, start_gpa, bytes) || executor->scanning == region)
		pthread_cond_wait(&executor->idle, &executor->lock);
	ebb_ram_map_take_out(&executor->map, region);
	pthread_mutex_unlock(&executor->lock);
	ebb_merge_drop_region(region);
	ebb_region_free(region);
	return 0;
}

int ebb_executor_submit(struct ebb_executor *executor, struct ebb_batch *batch,
			enum virtio_ebb_fault *fault)
{
	int ret;

	pthread_mutex_lock(&executor->lock);
	ret = ebb_flights_enqueue(executor, batch, fault);
	pthread_mutex_unlock(&executor->lock);
	if (!ret)
		ebb_executor_wake(executor);
	return ret;
}

void ebb_executor_violation(struct ebb_executor *executor)
{
	pthread_mutex_lock(&executor->lock);
	executor->status.counters.violations++;
	executor->status.broken = true;
	pthread_mutex_unlock(&executor->lock);
}

void ebb_executor_quiesce(struct ebb_executor *executor, bool cancel_queued)
{
	pthread_mutex_lock(&executor->lock);
	if (cancel_queued)
		ebb_flights_cancel(executor, 0, UINT64_MAX);
	drain(executor);
	pthread_mutex_unlock(&executor->lock);
}

void ebb_executor_pause(struct ebb_executor *executor)
{
	pthread_mutex_lock(&executor->lock);
	executor->pause_depth++;
	drain(executor);
	ebb_unplugged_forget(executor);
	pthread_mutex_unlock(&executor->lock);
}

void ebb_executor_resume(struct ebb_executor *executor)
{
	pthread_mutex_lock(&executor->lock);
	if (executor->pause_depth)
		executor->pause_depth--;
	pthread_mutex_unlock(&executor->lock);
}

/* Lock held; may be let go meanwhile. */
static int harden(struct ebb_executor *executor)
{
	struct ebb_content *content = &executor->content;
	uint64_t ticket = ++content->harden_wanted;

	pthread_mutex_unlock(&executor->lock);
	ebb_executor_wake(executor);
	pthread_mutex_lock(&executor->lock);
	while (content->harden_done < ticket)
		pthread_cond_wait(&executor->idle, &executor->lock);
	return content->harden_error;
}

int ebb_executor_harden(struct ebb_executor *executor)
{
	int ret;

	pthread_mutex_lock(&executor->lock);
	executor->content.harden_depth++;
	ret = harden(executor);
	pthread_mutex_unlock(&executor->lock);
	return ret;
}

int ebb_executor_settle(struct ebb_executor *executor)
{
	int ret;

	pthread_mutex_lock(&executor->lock);
	executor->content.settle_wanted = true;
	ret = harden(executor);
	pthread_mutex_unlock(&executor->lock);
	return ret;
}

void ebb_executor_unharden(struct ebb_executor *executor)
{
	struct ebb_content *content = &executor->content;

	pthread_mutex_lock(&executor->lock);
	if (content->harden_depth && --content->harden_depth == 0 && content->reoffer) {
		content->reoffer = false;
		executor->status.guidance.reoffer_generation++;
		executor->guide_pending = true;
	}
	pthread_mutex_unlock(&executor->lock);
	ebb_executor_wake(executor);
}

int ebb_executor_purge(struct ebb_executor *executor, uint64_t bytes)
{
	int ret;

	if (bytes == 0)
		return -EINVAL;
	pthread_mutex_lock(&executor->lock);
	ret = ebb_purge_start(executor, 0, bytes);
	pthread_mutex_unlock(&executor->lock);
	if (!ret)
		ebb_executor_wake(executor);
	return ret;
}

bool ebb_executor_take_notice(struct ebb_executor *executor, struct ebb_notice *notice)
{
	bool taken;

	pthread_mutex_lock(&executor->lock);
	taken = ebb_notices_take(&executor->content.notices, &notice->gpa, &notice->bytes);
	notice->complete = executor->policy.stage == EBB_STAGE_SHORT;
	executor->status.counters.notices += taken;
	pthread_mutex_unlock(&executor->lock);
	return taken;
}

void ebb_executor_reset(struct ebb_executor *executor)
{
	struct ebb_policy old;

	pthread_mutex_lock(&executor->lock);
	ebb_flights_cancel(executor, 0, UINT64_MAX);
	drain(executor);
	while (executor->release.asking || executor->collect.asking)
		pthread_cond_wait(&executor->idle, &executor->lock);
	ebb_collect_answer(executor, VIRTIO_EBB_DONE_CANCELLED);
	if (executor->release.state != EBB_RELEASE_NONE)
		ebb_release_end(executor, VIRTIO_EBB_DONE_CANCELLED, 0, 0);
	/* What was offered before is not known any more: it is kept. */
	harden(executor);
	executor->content.notices.nr = 0;
	/* Nor is what was hinted. The VMM may map memory anew, and mergeable, at a reset. */
	ebb_merge_forget_hints(executor);
	executor->ksm.look_wanted = true;
	executor->status.driver = false;
	executor->status.broken = false;
	executor->status.guest_valid = false;
	old = executor->policy;
	executor->policy.poison = false;
	ebb_executor_policy_changed(executor, &old);
	pthread_mutex_unlock(&executor->lock);
	ebb_executor_wake(executor);
}

void ebb_executor_set_driver(struct ebb_executor *executor, bool present)
{
	pthread_mutex_lock(&executor->lock);
	executor->status.driver = present;
	if (!present && executor->release.state != EBB_RELEASE_NONE)
		ebb_release_end(executor, EBB_RELEASE_NO_DRIVER, 0, 0);
	if (!present)
		ebb_collect_answer(executor, EBB_RELEASE_NO_DRIVER);
	pthread_mutex_unlock(&executor->lock);
	ebb_executor_wake(executor);
}

int ebb_executor_set_mode(struct ebb_executor *executor, uint32_t mode)
{
	struct ebb_policy old;

	if (mode == EBB_MODE_KEEP || mode >= EBB_MODE_MAX)
		return -EINVAL;
	pthread_mutex_lock(&executor->lock);
	old = executor->policy;
	executor->policy.operator_mode = mode;
	ebb_executor_policy_changed(executor, &old);
	pthread_mutex_unlock(&executor->lock);
	ebb_executor_wake(executor);
	return 0;
}

void ebb_executor_reoffer(struct ebb_executor *executor)
{
	pthread_mutex_lock(&executor->lock);
	executor->status.guidance.reoffer_generation++;
	executor->guide_pending = true;
	pthread_mutex_unlock(&executor->lock);
	ebb_executor_wake(executor);
}

void ebb_executor_set_poison(struct ebb_executor *executor, bool poison)
{
	struct ebb_policy old;

	pthread_mutex_lock(&executor->lock);
	old = executor->policy;
	executor->policy.poison = poison;
	ebb_executor_policy_changed(executor, &old);
	pthread_mutex_unlock(&executor->lock);
	ebb_executor_wake(executor);
}

int ebb_executor_release(struct ebb_executor *executor, uint64_t bytes, uint32_t flags)
{
	int ret;

	if (bytes == 0 || (flags & ~(uint32_t)VIRTIO_EBB_RELEASE_F_ANEW))
		return -EINVAL;
	pthread_mutex_lock(&executor->lock);
	ret = ebb_release_start(executor, 0, bytes, flags);
	pthread_mutex_unlock(&executor->lock);
	if (!ret)
		ebb_executor_wake(executor);
	return ret;
}

void ebb_executor_release_done(struct ebb_executor *executor, uint64_t id, uint32_t status,
			       uint32_t passes, uint64_t offered_bytes)
{
	pthread_mutex_lock(&executor->lock);
	if (executor->release.state == EBB_RELEASE_ACTIVE && executor->release.id == id)
		ebb_release_end(executor, status, passes, offered_bytes);
	else if (executor->collect.state == EBB_COLLECT_ACTIVE && executor->collect.id == id)
		ebb_collect_answer(executor, status);
	pthread_mutex_unlock(&executor->lock);
	ebb_executor_wake(executor);
}

int ebb_executor_set_tables_mode(struct ebb_executor *executor, uint32_t mode)
{
	if (mode == EBB_TABLES_KEEP || mode >= EBB_TABLES_MAX)
		return -EINVAL;
	pthread_mutex_lock(&executor->lock);
	executor->tables_policy.operator_mode = mode;
	pthread_mutex_unlock(&executor->lock);
	ebb_executor_wake(executor);
	return 0;
}

int ebb_executor_collect(struct ebb_executor *executor)
{
	int ret;

	pthread_mutex_lock(&executor->lock);
	ret = ebb_collect_start(executor, 0);
	pthread_mutex_unlock(&executor->lock);
	if (!ret)
		ebb_executor_wake(executor);
	return ret;
}

void ebb_executor_guest_stats(struct ebb_executor *executor, const struct ebb_guest_stats *stats)
{
	pthread_mutex_lock(&executor->lock);
	executor->status.guest = *stats;
	executor->status.guest_valid = true;
	pthread_mutex_unlock(&executor->lock);
}

void ebb_executor_status(struct ebb_executor *executor, struct ebb_status *status)
{
	uint32_t i;
	bool ours;

	pthread_mutex_lock(&executor->lock);
	ours = executor->merge.ever;
	*status = executor->status;
	status->hardened = executor->content.harden_depth != 0;
	status->tables_mode = ebb_policy_tables_mode(&executor->tables_policy);
	status->can_collect = ebb_tables_can(&executor->tables);
	status->moves_tables = executor->tables.way == EBB_TABLES_MOVE;
	for (i = 0; i < executor->map.nr; i++) {
		const struct ebb_region *region = executor->map.regions[i];

		status->ram_bytes += region->desc.size_bytes;
		status->mergeable |= region->mergeable || (!ours && region->nr_ksm_blocks);
		status->content_block_bytes +=
			EBB_BLOCK_BYTES *
			__atomic_load_n(&region->nr_content_blocks, __ATOMIC_RELAXED);
		if (region->desc.backing != EBB_BACKING_PRIVATE_ANON || region->locked) {
			status->skipped_ram_bytes += region->desc.size_bytes;
			status->skipped_by_bytes[region->locked ? EBB_SKIPPED_LOCKED
								: region->desc.skipped] +=
				region->desc.size_bytes;
		}
		if (region->desc.backing != EBB_BACKING_REFUSED && !region->locked)
			continue;
		status->refused_ram_bytes += region->desc.size_bytes;
		status->refused_why =
			region->locked ? "locked or special memory" : region->desc.why;
	}
	ebb_merge_status(executor, &status->merge);
	pthread_mutex_unlock(&executor->lock);
}
