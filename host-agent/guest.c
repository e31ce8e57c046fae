// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * guest - what is known of a guest and asked of it
 *
 * A guest is there from HELLO until its connection ends. Its figures come from two
 * sides: what the executor says of its device (SAMPLE, believed for display only), and
 * what the kernel says of the VMM's process, which is what resident and reclaimable
 * mean. What is wanted of it (mode, stage) and what it was told last are kept apart, and
 * guest_push_policy() is the one place that makes them agree.
 *
 * Owns:    the guest's name, samples, wanted and sent policy, the release under way.
 * Thread:  ebbd's only one.
 * Locks:   none.
 * Never:   waits for the guest; one request to it is under way at most.
 */
#include "guest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control.h"
#include "peer.h"
#include "words.h"

/*
 * smaps_rollup walks the page tables: at most 1/50 of the processor's time is spent on that of
 * one guest and 1/4 on those of all; and at most 1/8 of the time is waited for it, since the
 * process may hold its own lock, or the machine be busy.
 */
#define ROLLUP_CPU_FACTOR     50
#define ROLLUP_CPU_FACTOR_ALL 4
#define ROLLUP_WAIT_FACTOR    8
#define ROLLUP_INTERVAL_USEC  100000
/* A block: less than that cannot be offered anew. */
#define MARKS_BYTES (2ull << 20)

struct guest *guest_find(struct manager *manager, const char *name)
{
	struct guest *guest;

	TAILQ_FOREACH(guest, &manager->guests, link)
	if (strcmp(guest->name, name) == 0)
		return guest;
	return NULL;
}

static void insert_sorted(struct guest *guest)
{
	struct guest *other;

	TAILQ_FOREACH(other, &guest->manager->guests, link)
	{
		if (strcmp(other->name, guest->name) > 0) {
			TAILQ_INSERT_BEFORE(other, guest, link);
			return;
		}
	}
	TAILQ_INSERT_TAIL(&guest->manager->guests, guest, link);
}

/* NAME is taken: NAME~PID, and NAME~PID.2 for a second one of the same process. */
static void make_unique(struct guest *guest, const char *name)
{
	unsigned int n = 1;

	snprintf(guest->name, sizeof(guest->name), "%s~%d", name, (int)guest->peer->pid);
	while (guest_find(guest->manager, guest->name))
		snprintf(guest->name, sizeof(guest->name), "%s~%d.%u", name, (int)guest->peer->pid,
			 ++n);
}

/*
 * libvirt's name, which only root can give, goes before a label: who merely calls
 * itself so makes way.
 */
static void find_name(struct guest *guest)
{
	char machine[CGROUP_NAME_BYTES];
	const char *name = guest->label;
	struct guest *holder;

	if (cgroup_read_machine_name(guest->peer->proc_dirfd, machine) == 0) {
		guest->named_by_libvirt = true;
		name = machine;
	}
	holder = guest_find(guest->manager, name);
	if (holder && guest->named_by_libvirt && !holder->named_by_libvirt) {
		TAILQ_REMOVE(&guest->manager->guests, holder, link);
		make_unique(holder, name);
		insert_sorted(holder);
		log_info("guest %s of libvirt is here: the one that called itself so is %s now",
			 name, holder->name);
		guest_find_mode(holder);
		manager_admit_groups(guest->manager);
		guest_push_policy(holder);
		holder = NULL;
	}
	if (holder)
		make_unique(guest, name);
	else
		snprintf(guest->name, sizeof(guest->name), "%s", name);
}

/* NULL: out of memory. The hello has been checked. */
struct guest *guest_new(struct peer *peer, const struct ebb_msg_hello *hello)
{
	struct guest *guest = calloc(1, sizeof(*guest));

	if (!guest)
		return NULL;
	guest->peer = peer;
	guest->manager = peer->manager;
	guest->front = ebb_get_le32(&hello->front);
	guest->stage = EBB_STAGE_PLENTY;
	guest->merge_waits = true;
	memcpy(guest->label, hello->name, sizeof(guest->label));
	find_name(guest);
	guest_find_mode(guest);
	insert_sorted(guest);
	guest->manager->nr_guests++;
	return guest;
}

static void release_over(struct guest *guest, enum control_release_end end)
{
	struct control *waiter = guest->release.waiter;

	guest->release.id = 0;
	guest->release.waiter = NULL;
	guest->release.late_source = sd_event_source_disable_unref(guest->release.late_source);
	if (waiter)
		control_release_over(waiter, guest, end);
}

/* The connection ended: out of sight at once, freed with the peer. */
void guest_gone(struct guest *guest)
{
	TAILQ_REMOVE(&guest->manager->guests, guest, link);
	guest->manager->nr_guests--;
	release_over(guest, CONTROL_RELEASE_GONE);
}

void guest_free(struct guest *guest)
{
	sd_event_source_disable_unref(guest->release.late_source);
	free(guest);
}

static uint64_t cpu_usec(void)
{
	struct timespec used;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	return (uint64_t)used.tv_sec * 1000000 + (uint64_t)used.tv_nsec / 1000;
}

/* How long to leave a guest's smaps_rollup alone, after what the last reading took. */
static uint64_t rollup_pause_usec(const struct guest *guest, uint64_t took_usec,
				  uint64_t took_cpu_usec)
{
	uint64_t factor = (uint64_t)ROLLUP_CPU_FACTOR_ALL * guest->manager->nr_guests;
	uint64_t pause_usec = ROLLUP_INTERVAL_USEC;

	if (factor < ROLLUP_CPU_FACTOR)
		factor = ROLLUP_CPU_FACTOR;
	if (pause_usec < took_cpu_usec * factor)
		pause_usec = took_cpu_usec * factor;
	if (pause_usec < took_usec * ROLLUP_WAIT_FACTOR)
		pause_usec = took_usec * ROLLUP_WAIT_FACTOR;
	return pause_usec;
}

static void read_rollup(struct guest *guest)
{
	uint64_t start_usec = clock_usec(), start_cpu_usec = cpu_usec();
	struct proc_rollup rollup;
	int r;

	if (start_usec < guest->rollup_next_usec)
		return;
	r = proc_read_rollup(guest->peer->proc_dirfd, &rollup);
	guest->rollup_next_usec = start_usec + rollup_pause_usec(guest, clock_usec() - start_usec,
								 cpu_usec() - start_cpu_usec);
	if (r == 0) {
		guest->rollup = rollup;
		guest->rollup_usec = start_usec;
		guest->has_rollup = true;
	} else if (r != guest->rollup_error && r != -ESRCH && r != -ENODATA) {
		guest->has_rollup = false;
		log_warning("guest %s: cannot read smaps_rollup of its process %d: %s%s",
			    guest->name, (int)guest->peer->pid, strerror(-r),
			    r == -EACCES ? ": run ebbd as root or with CAP_SYS_PTRACE" : "");
	}
	guest->rollup_error = r;
}

/* What the kernel says of the VMM's process. A failure keeps what was known. */
void guest_read_proc(struct guest *guest)
{
	int dirfd = guest->peer->proc_dirfd;

	read_rollup(guest);
	if (proc_read_status(dirfd, &guest->status) == 0)
		guest->has_status = true;
	if (proc_read_ksm(dirfd, &guest->ksm) == 0)
		guest->has_ksm = true;
	guest->has_kvm_tables = cgroup_read_kvm_tables(&guest->manager->mounts, dirfd,
						       &guest->kvm_table_bytes) == 0;
	cgroup_read_level(&guest->manager->mounts, dirfd, guest->manager->host.level.total_bytes,
			  &guest->level);
}

/*
 * Is there memory that the guest has offered and the kernel has not taken? To discard
 * it a release has to ask for what was offered before as well.
 */
bool guest_has_marks(const struct guest *guest)
{
	return guest->has_rollup && guest->rollup.lazyfree_bytes >= MARKS_BYTES;
}

/* What ebbctl has set goes before the configuration. */
void guest_find_mode(struct guest *guest)
{
	if (!state_get(&guest->manager->state, guest->name, &guest->mode))
		guest->mode = conf_guest_mode(&guest->manager->conf, guest->name);
	if (!state_get_tables(&guest->manager->state, guest->name, &guest->tables_mode))
		guest->tables_mode = conf_guest_tables(&guest->manager->conf, guest->name);
	if (!state_get_merge(&guest->manager->state, guest->name, &guest->merge))
		guest->merge = conf_guest_merge(&guest->manager->conf, guest->name);
	conf_guest_merge_group(&guest->manager->conf, guest->name, guest->merge_group);
	guest->weight = state_get_weight(&guest->manager->state, guest->name);
	if (!guest->weight)
		guest->weight = conf_guest_weight(&guest->manager->conf, guest->name);
}

/* When its executor collects page tables, if it was told otherwise last and knows of them. */
static void push_tables(struct guest *guest)
{
	const struct conf *conf = &guest->manager->conf;
	struct ebb_msg_tables_policy policy = { 0 };

	if (guest->peer->ended || guest->peer->version < 3)
		return;
	ebb_put_le16(&policy.hdr.type, EBB_MSG_TABLES_POLICY);
	ebb_put_le32(&policy.hdr.length_bytes, sizeof(policy));
	ebb_put_le32(&policy.mode, guest->tables_mode);
	ebb_put_le32(&policy.delay_msec, conf->page_tables_delay_msec);
	ebb_put_le64(&policy.amount_tables, conf->page_tables_amount);
	ebb_put_le64(&policy.least_tables, conf->page_tables_least);
	if (memcmp(&policy, &guest->sent_tables, sizeof(policy)) == 0)
		return;
	if (guest->manager->dry_run)
		log_notice("dry run: TABLES_POLICY %s would be sent to %s",
			   tables_word(guest->tables_mode), guest->name);
	else if (peer_send(guest->peer, &policy, sizeof(policy)) < 0)
		return;
	guest->sent_tables = policy;
}

static bool is_merging(uint32_t merge)
{
	return merge == EBB_MERGE_HINTED || merge == EBB_MERGE_ALL;
}

/*
 * How it stands to its group. With KEEP it is none of ours. Its executor says when it has taken all
 * back, and where the kernel says of the process whether any of it is mergeable, that must hold
 * as well: a VMM may lie.
 */
struct merge_member guest_merge_member(const struct guest *guest)
{
	const struct ebb_msg_merge_state *state = &guest->merge_state;
	uint32_t flags = ebb_get_le32(&state->flags);
	struct merge_member member = { .group = guest->merge_group };

	if (guest->peer->version < 3 || guest->merge == EBB_MERGE_KEEP)
		return member;
	member.wants = is_merging(guest->merge);
	member.told = is_merging(guest->sent_merge);
	member.holds = guest->sent_merge != EBB_MERGE_OFF || !guest->has_merge_state ||
		       ebb_get_le32(&state->mode) != EBB_MERGE_OFF ||
		       ebb_get_le64(&state->marked_bytes) ||
		       (flags & (EBB_MERGE_F_WHOLE | EBB_MERGE_F_PENDING)) ||
		       (guest->has_ksm && guest->ksm.has_mergeable && guest->ksm.mergeable);
	return member;
}

/* Tell it what KSM may merge of it, if it was told otherwise last. */
static void push_merge(struct guest *guest)
{
	uint32_t mode =
		guest->merge_waits && is_merging(guest->merge) ? EBB_MERGE_OFF : guest->merge;
	struct ebb_msg_merge merge = { 0 };

	if (guest->peer->ended || guest->peer->version < 3 || guest->sent_merge == mode)
		return;
	if (guest->manager->dry_run) {
		log_notice("dry run: MERGE %s would be sent to %s", merge_word(mode), guest->name);
	} else {
		ebb_put_le16(&merge.hdr.type, EBB_MSG_MERGE);
		ebb_put_le32(&merge.hdr.length_bytes, sizeof(merge));
		ebb_put_le32(&merge.mode, mode);
		if (peer_send(guest->peer, &merge, sizeof(merge)) < 0)
			return;
	}
	guest->sent_merge = mode;
}

/* Tell the guest's executor mode and stage, if it was told others last. */
static void push_policy(struct guest *guest)
{
	struct ebb_msg_policy policy = { 0 };

	if (guest->peer->ended ||
	    (guest->sent_mode == guest->mode && guest->sent_stage == guest->stage))
		return;
	if (guest->manager->dry_run) {
		log_notice("dry run: POLICY mode %s, stage %s would be sent to %s",
			   mode_word(guest->mode), stage_word(guest->stage), guest->name);
	} else {
		ebb_put_le16(&policy.hdr.type, EBB_MSG_POLICY);
		ebb_put_le32(&policy.hdr.length_bytes, sizeof(policy));
		ebb_put_le32(&policy.mode, guest->mode);
		ebb_put_le32(&policy.stage, guest->stage);
		if (peer_send(guest->peer, &policy, sizeof(policy)) < 0)
			return;
	}
	guest->sent_mode = guest->mode;
	guest->sent_stage = guest->stage;
}

/* Tell the guest's executor what is wanted of it, if it was told otherwise last. */
void guest_push_policy(struct guest *guest)
{
	push_policy(guest);
	push_tables(guest);
	push_merge(guest);
}

/* Its socket was full and is not any more. */
void guest_writable(struct guest *guest)
{
	guest_push_policy(guest);
}

void guest_sample(struct guest *guest, const struct ebb_msg_sample *sample)
{
	uint32_t before = guest->sample_usec ? ebb_get_le32(&guest->sample.flags) : 0;
	uint32_t flags = ebb_get_le32(&sample->flags);

	guest->sample = *sample;
	guest->sample_usec = manager_now_usec(guest->manager);
	if (flags & ~before & EBB_SAMPLE_F_BROKEN)
		log_warning("guest %s broke the device's rules: its device does nothing until it "
			    "is reset",
			    guest->name);
	if (flags & ~before & EBB_SAMPLE_F_INHIBITED)
		log_info("guest %s: its VMM forbids discards at the moment", guest->name);
}

void guest_content(struct guest *guest, const struct ebb_msg_content *content)
{
	const struct ebb_msg_content *before = &guest->content;

	/* Counters that only grow; as they come. */
	if (!guest->has_content || content->marked_bytes != before->marked_bytes ||
	    content->guest_taken_whole_pages != before->guest_taken_whole_pages ||
	    content->guest_taken_purged_pages != before->guest_taken_purged_pages)
		guest->content_used_usec = manager_now_usec(guest->manager);
	guest->content = *content;
	guest->has_content = true;
}

void guest_tables(struct guest *guest, const struct ebb_msg_tables *tables)
{
	guest->tables = *tables;
	guest->has_tables = true;
}

static bool is_mergeable(const struct guest *guest)
{
	const struct ebb_msg_merge_state *state = &guest->merge_state;

	return guest->has_merge_state && (ebb_get_le64(&state->marked_bytes) ||
					  ebb_get_le32(&state->flags) & EBB_MERGE_F_WHOLE);
}

void guest_merge_state(struct guest *guest, const struct ebb_msg_merge_state *state)
{
	uint32_t before = guest->has_merge_state ? ebb_get_le32(&guest->merge_state.flags) : 0;
	uint32_t flags = ebb_get_le32(&state->flags);

	if (!is_mergeable(guest) && guest->has_rollup) {
		guest->huge_before_bytes = guest->rollup.anon_huge_bytes;
		guest->has_huge_before = true;
	}
	guest->merge_state = *state;
	guest->has_merge_state = true;
	if (flags & ~before & EBB_MERGE_F_FULL)
		log_info("guest %s: no more memory areas for merging: some hints are not followed",
			 guest->name);
}

static int on_release_late(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct guest *guest = userdata;

	log_debug("guest %s: no answer to %s in time", guest->name,
		  guest->release.order == GUEST_ORDER_RELEASE ? "RELEASE"
		  : guest->release.order == GUEST_ORDER_PURGE ? "PURGE"
							      : "COLLECT");
	release_over(guest, CONTROL_RELEASE_LATE);
	return 0;
}

/* Does this answer the order that is under way? */
static bool is_answer(const struct guest *guest, enum guest_order order, uint64_t id)
{
	return guest->release.id && guest->release.order == order && guest->release.id == id;
}

/* An answer that nobody waits for any more is no fault: it was late. */
void guest_release_done(struct guest *guest, const struct ebb_msg_release_done *done)
{
	struct guest_release *release = &guest->release;

	if (!is_answer(guest, GUEST_ORDER_RELEASE, ebb_get_le64(&done->id))) {
		log_debug("guest %s: RELEASE_DONE with an id that is not under way", guest->name);
		return;
	}
	release->offered_bytes = ebb_get_le64(&done->offered_bytes);
	release->discarded_bytes = ebb_get_le64(&done->discarded_bytes);
	release->usec = ebb_get_le64(&done->usec);
	release->status = ebb_get_le32(&done->status);
	release->passes = ebb_get_le32(&done->passes);
	release->answered = true;
	release->answered_usec = clock_usec();
	log_debug("guest %s: release of %llu bytes: %s, %llu offered, %llu discarded, %llu us",
		  guest->name, (unsigned long long)release->asked_bytes,
		  release_status_word(release->status), (unsigned long long)release->offered_bytes,
		  (unsigned long long)release->discarded_bytes, (unsigned long long)release->usec);
	guest->rollup_next_usec = 0;
	release_over(guest, CONTROL_RELEASE_DONE);
}

void guest_purge_done(struct guest *guest, const struct ebb_msg_purge_done *done)
{
	struct guest_purge *purge = &guest->purge;

	if (!is_answer(guest, GUEST_ORDER_PURGE, ebb_get_le64(&done->id))) {
		log_debug("guest %s: PURGE_DONE with an id that is not under way", guest->name);
		return;
	}
	purge->purged_bytes = ebb_get_le64(&done->purged_bytes);
	purge->usec = ebb_get_le64(&done->usec);
	purge->status = ebb_get_le32(&done->status);
	purge->answered = true;
	log_debug("guest %s: purge of %llu bytes: %s, %llu purged, %llu us", guest->name,
		  (unsigned long long)purge->asked_bytes, purge_status_word(purge->status),
		  (unsigned long long)purge->purged_bytes, (unsigned long long)purge->usec);
	guest->rollup_next_usec = 0;
	release_over(guest, CONTROL_RELEASE_DONE);
}

void guest_collect_done(struct guest *guest, const struct ebb_msg_collect_done *done)
{
	struct guest_collect *collect = &guest->collect;

	if (!is_answer(guest, GUEST_ORDER_COLLECT, ebb_get_le64(&done->id))) {
		log_debug("guest %s: COLLECT_DONE with an id that is not under way", guest->name);
		return;
	}
	*collect = (struct guest_collect){
		.found_tables = ebb_get_le64(&done->found_tables),
		.asked_tables = ebb_get_le64(&done->asked_tables),
		.offered_tables = ebb_get_le64(&done->offered_tables),
		.freed_tables = ebb_get_le64(&done->freed_tables),
		.refused_tables = ebb_get_le64(&done->refused_tables),
		.usec = ebb_get_le64(&done->usec),
		.status = ebb_get_le32(&done->status),
		.answered = true,
	};
	log_debug("guest %s: collection: %s, %llu page tables found, %llu freed, %llu us",
		  guest->name, collect_status_word(collect->status),
		  (unsigned long long)collect->found_tables,
		  (unsigned long long)collect->freed_tables, (unsigned long long)collect->usec);
	release_over(guest, CONTROL_RELEASE_DONE);
}

/* An order whose id is the manager's next: one of a guest is under way at most. */
static int send_order(struct guest *guest, const void *message, size_t bytes,
		      struct control *waiter)
{
	struct guest_release *release = &guest->release;
	struct manager *manager = guest->manager;
	int r;

	r = sd_event_add_time_relative(manager->event, &release->late_source, CLOCK_MONOTONIC,
				       manager->conf.release_timeout_msec * 1000ull, 0,
				       on_release_late, guest);
	if (r < 0)
		return r;
	r = peer_send(guest->peer, message, bytes);
	if (r < 0) {
		release->late_source = sd_event_source_disable_unref(release->late_source);
		return r;
	}
	release->id = ++manager->last_release_id;
	release->waiter = waiter;
	return 0;
}

/* One is asked of a guest at a time; 0 bytes: all that it has. */
static int take_turn(const struct guest *guest, uint64_t *bytes)
{
	if (guest->release.id)
		return -EBUSY;
	if (*bytes == 0 && guest->sample_usec)
		*bytes = ebb_get_le64(&guest->sample.ram_bytes);
	return *bytes ? 0 : -ENODATA;
}

/*
 * Ask the guest for free memory; bytes 0: all. anew: also what it offered before.
 * -EOPNOTSUPP: the balloon front cannot be asked. -EBUSY: one is under way. -ENODATA:
 * nothing is known of the guest yet. -EAGAIN: its executor does not read. -ECANCELED: dry
 * run. After 0 control_release_over() will be called for the waiter, unless NULL.
 */
int guest_release(struct guest *guest, uint64_t bytes, bool anew, struct control *waiter)
{
	struct guest_release *release = &guest->release;
	struct manager *manager = guest->manager;
	struct ebb_msg_release message = { 0 };
	int r;

	if (guest->front != EBB_FRONT_EBB)
		return -EOPNOTSUPP;
	r = take_turn(guest, &bytes);
	if (r < 0)
		return r;
	if (manager->dry_run) {
		log_notice("dry run: RELEASE of %llu bytes%s would be sent to %s",
			   (unsigned long long)bytes, anew ? ", anew," : "", guest->name);
		return -ECANCELED;
	}
	ebb_put_le16(&message.hdr.type, EBB_MSG_RELEASE);
	ebb_put_le32(&message.hdr.length_bytes, sizeof(message));
	ebb_put_le64(&message.id, manager->last_release_id + 1);
	ebb_put_le64(&message.bytes, bytes);
	ebb_put_le32(&message.flags, anew ? VIRTIO_EBB_RELEASE_F_ANEW : 0);
	r = send_order(guest, &message, sizeof(message), waiter);
	if (r < 0)
		return r;
	release->order = GUEST_ORDER_RELEASE;
	release->asked_bytes = bytes;
	release->answered = false;
	release->to_weigh = false;
	return 0;
}

/*
 * Have the host's kernel take memory with content that the guest has marked volatile; bytes
 * 0: all. Errors as of guest_release(); -EOPNOTSUPP: its executor is older than that.
 */
int guest_purge(struct guest *guest, uint64_t bytes, struct control *waiter)
{
	struct guest_release *release = &guest->release;
	struct ebb_msg_purge message = { 0 };
	int r;

	if (guest->front != EBB_FRONT_EBB || guest->peer->version < 2)
		return -EOPNOTSUPP;
	r = take_turn(guest, &bytes);
	if (r < 0)
		return r;
	if (guest->manager->dry_run) {
		log_notice("dry run: PURGE of %llu bytes would be sent to %s",
			   (unsigned long long)bytes, guest->name);
		return -ECANCELED;
	}
	ebb_put_le16(&message.hdr.type, EBB_MSG_PURGE);
	ebb_put_le32(&message.hdr.length_bytes, sizeof(message));
	ebb_put_le64(&message.id, guest->manager->last_release_id + 1);
	ebb_put_le64(&message.bytes, bytes);
	r = send_order(guest, &message, sizeof(message), waiter);
	if (r < 0)
		return r;
	release->order = GUEST_ORDER_PURGE;
	guest->purge = (struct guest_purge){ .asked_bytes = bytes };
	return 0;
}

/*
 * Have the executor collect empty page tables, with the guest's help. Errors as of
 * guest_release(); -EOPNOTSUPP: its executor is older than that.
 */
int guest_collect(struct guest *guest, struct control *waiter)
{
	struct ebb_msg_collect message = { 0 };
	int r;

	if (guest->front != EBB_FRONT_EBB || guest->peer->version < 3)
		return -EOPNOTSUPP;
	if (guest->release.id)
		return -EBUSY;
	if (guest->manager->dry_run) {
		log_notice("dry run: COLLECT would be sent to %s", guest->name);
		return -ECANCELED;
	}
	ebb_put_le16(&message.hdr.type, EBB_MSG_COLLECT);
	ebb_put_le32(&message.hdr.length_bytes, sizeof(message));
	ebb_put_le64(&message.id, guest->manager->last_release_id + 1);
	r = send_order(guest, &message, sizeof(message), waiter);
	if (r < 0)
		return r;
	guest->release.order = GUEST_ORDER_COLLECT;
	return 0;
}
