// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * link - the executor's connection to ebbd
 *
 * Owns:    the socket, back-off, what waits to be sent.
 * Thread:  the executor thread; ebb_link_push_done() any, with the executor's lock.
 * Locks:   the executor's, for what is shared.
 * Never:   blocks; trusts ebbd: a packet that fails its check ends the connection,
 *          and the last policy stays in force. Lets a full socket delay anything: a
 *          SAMPLE that does not fit is dropped.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <syslog.h>
#include <unistd.h>

#include "agent_check.h"
#include "executor.h"

#define BACKOFF_MIN_NSEC     (100 * NSEC_PER_MSEC)
#define BACKOFF_MAX_NSEC     (5 * NSEC_PER_SEC)
#define BACKOFF_REFUSED_NSEC (30 * NSEC_PER_SEC)
#define WELCOME_TIMEOUT_NSEC (10 * NSEC_PER_SEC)
/* Packets received before batches get their turn again. */
#define MAX_RECEIVE 16

int ebb_link_init(struct ebb_link *link, const char *path)
{
	*link = (struct ebb_link){ .state = EBB_LINK_NONE, .fd = -1 };
	if (!path)
		return 0;
	if (strlen(path) >= sizeof(link->address.sun_path))
		return -ENAMETOOLONG;
	link->address.sun_family = AF_UNIX;
	strcpy(link->address.sun_path, path);
	link->state = EBB_LINK_DOWN;
	link->backoff_nsec = BACKOFF_MIN_NSEC;
	link->random = ebb_now_nsec() ^ ((uint64_t)getpid() << 32) ^ (uintptr_t)link;
	return 0;
}

void ebb_link_deinit(struct ebb_link *link)
{
	if (link->fd >= 0)
		close(link->fd);
	link->fd = -1;
}

int ebb_link_poll_fd(const struct ebb_link *link)
{
	return link->fd;
}

uint64_t ebb_link_deadline_nsec(const struct ebb_link *link)
{
	switch (link->state) {
	case EBB_LINK_NONE:
		return UINT64_MAX;
	case EBB_LINK_DOWN:
	case EBB_LINK_HELLO:
	case EBB_LINK_UP:
		return link->next_nsec;
	}
	return UINT64_MAX;
}

void ebb_link_push_done(struct ebb_link *link, const struct ebb_link_done *done)
{
	link->done_new = true;
	if (link->nr_done == EBB_LINK_MAX_DONE) {
		link->done_lost = true;
		return;
	}
	link->done[link->nr_done++] = *done;
}

static void set_connected(struct ebb_executor *executor, bool connected)
{
	pthread_mutex_lock(&executor->lock);
	executor->status.connected = connected;
	if (!connected) {
		/* Another ebbd does not know these orders. */
		executor->link.nr_done = 0;
		executor->link.done_new = false;
		executor->link.done_lost = false;
		executor->release.agent_id = 0;
		executor->purge.agent_id = 0;
		executor->collect.agent_id = 0;
	}
	pthread_mutex_unlock(&executor->lock);
}

/* From three quarters to five quarters, so that guests do not come all at once. */
static uint64_t jitter(struct ebb_link *link, uint64_t nsec)
{
	link->random = link->random * 6364136223846793005ull + 1442695040888963407ull;
	return nsec - nsec / 4 + (link->random >> 33) % (nsec / 2 + 1);
}

static void close_link(struct ebb_executor *executor, uint64_t least_nsec)
{
	struct ebb_link *link = &executor->link;

	if (link->fd >= 0)
		close(link->fd);
	link->fd = -1;
	if (link->backoff_nsec < least_nsec)
		link->backoff_nsec = least_nsec;
	link->next_nsec = ebb_now_nsec() + jitter(link, link->backoff_nsec);
	link->backoff_nsec *= 2;
	if (link->backoff_nsec > BACKOFF_MAX_NSEC)
		link->backoff_nsec = BACKOFF_MAX_NSEC;
	link->state = EBB_LINK_DOWN;
	set_connected(executor, false);
}

static void put_hdr(struct ebb_msg_hdr *hdr, uint16_t type)
{
	ebb_put_le16(&hdr->type, type);
	ebb_put_le32(&hdr->length_bytes, ebb_agent_msg_bytes(type));
}

/* 0, -EAGAIN if the socket is full, or what went wrong with it. */
static int send_packet(struct ebb_link *link, const void *packet, size_t bytes)
{
	ssize_t n;

	do {
		n = send(link->fd, packet, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EWOULDBLOCK || errno == ENOBUFS ? -EAGAIN : -errno;
	return 0;
}

static void send_hello(struct ebb_executor *executor)
{
	struct ebb_link *link = &executor->link;
	struct ebb_msg_hello msg = { 0 };

	put_hdr(&msg.hdr, EBB_MSG_HELLO);
	ebb_put_le16(&msg.version_min, EBB_AGENT_VERSION_MIN);
	ebb_put_le16(&msg.version_max, EBB_AGENT_VERSION_MAX);
	ebb_put_le32(&msg.front, executor->policy.front);
	memcpy(msg.name, executor->name, sizeof(msg.name));
	if (send_packet(link, &msg, sizeof(msg))) {
		close_link(executor, 0);
		return;
	}
	link->state = EBB_LINK_HELLO;
	link->version = EBB_AGENT_VERSION_MIN;
	link->next_nsec = ebb_now_nsec() + WELCOME_TIMEOUT_NSEC;
}

static void try_connect(struct ebb_executor *executor)
{
	struct ebb_link *link = &executor->link;
	int error;

	link->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (link->fd >= 0 &&
	    connect(link->fd, (struct sockaddr *)&link->address, sizeof(link->address)) == 0) {
		send_hello(executor);
		return;
	}
	error = errno;
	if (!link->said_down)
		ebb_log(executor, LOG_NOTICE,
			"cannot reach ebbd at %s: %s; trying again, the policy stays as it is",
			link->address.sun_path, strerror(error));
	link->said_down = true;
	close_link(executor, 0);
}

static uint32_t sample_flags(const struct ebb_status *status)
{
	return (status->driver ? EBB_SAMPLE_F_DRIVER : 0) |
	       (status->broken ? EBB_SAMPLE_F_BROKEN : 0) |
	       (status->inhibited ? EBB_SAMPLE_F_INHIBITED : 0) |
	       (status->mergeable ? EBB_SAMPLE_F_MERGEABLE : 0) |
	       (status->guest_valid ? EBB_SAMPLE_F_GUEST : 0);
}

static int send_sample(struct ebb_executor *executor)
{
	struct ebb_msg_sample msg = { 0 };
	struct ebb_status status;
	uint32_t i;

	ebb_executor_status(executor, &status);
	put_hdr(&msg.hdr, EBB_MSG_SAMPLE);
	ebb_put_le32(&msg.flags, sample_flags(&status));
	ebb_put_le32(&msg.mode, status.mode);
	ebb_put_le32(&msg.stage, status.stage);
	ebb_put_le64(&msg.ram_bytes, status.ram_bytes);
	ebb_put_le64(&msg.refused_ram_bytes, status.refused_ram_bytes);
	ebb_put_le64(&msg.requests, status.counters.requests);
	ebb_put_le64(&msg.ranges, status.counters.ranges);
	ebb_put_le64(&msg.violations, status.counters.violations);
	ebb_put_le64(&msg.marked_bytes, status.counters.marked_bytes);
	ebb_put_le64(&msg.discarded_bytes, status.counters.discarded_bytes);
	ebb_put_le64(&msg.purged_seen_bytes, status.counters.purged_seen_bytes);
	ebb_put_le64(&msg.released_bytes, status.counters.released_bytes);
	for (i = 0; i < VIRTIO_EBB_REASON_MAX; i++)
		ebb_put_le64(&msg.not_marked_bytes[i], status.counters.not_marked_bytes[i]);
	for (i = 0; status.guest_valid && i < EBB_SAMPLE_TAGS; i++)
		ebb_put_le64(&msg.guest[i], status.guest.value[i]);
	return send_packet(&executor->link, &msg, sizeof(msg));
}

static int send_content(struct ebb_executor *executor)
{
	struct ebb_msg_content msg = { 0 };
	struct ebb_status status;

	ebb_executor_status(executor, &status);
	put_hdr(&msg.hdr, EBB_MSG_CONTENT);
	ebb_put_le32(&msg.flags, (status.hardened ? EBB_CONTENT_F_HARDENED : 0) |
					 (status.guest_valid ? EBB_CONTENT_F_GUEST : 0));
	ebb_put_le64(&msg.block_bytes, status.content_block_bytes);
	ebb_put_le64(&msg.marked_bytes, status.counters.content_marked_bytes);
	ebb_put_le64(&msg.purged_bytes, status.counters.content_purged_bytes);
	ebb_put_le64(&msg.notices, status.counters.notices);
	if (status.guest_valid) {
		const uint64_t *value = status.guest.value;

		ebb_put_le64(&msg.guest_volatile_bytes, value[VIRTIO_EBB_S_VOLATILE]);
		ebb_put_le64(&msg.guest_taken_whole_pages, value[VIRTIO_EBB_S_TAKEN_WHOLE]);
		ebb_put_le64(&msg.guest_taken_purged_pages, value[VIRTIO_EBB_S_TAKEN_PURGED]);
	}
	return send_packet(&executor->link, &msg, sizeof(msg));
}

static int send_tables(struct ebb_executor *executor)
{
	struct ebb_msg_tables msg = { 0 };
	struct ebb_status status;
	uint32_t i;

	ebb_executor_status(executor, &status);
	put_hdr(&msg.hdr, EBB_MSG_TABLES);
	ebb_put_le32(&msg.flags, (status.can_collect ? EBB_TABLES_F_CAN : 0) |
					 (status.moves_tables ? EBB_TABLES_F_MOVES : 0));
	ebb_put_le32(&msg.mode, status.tables_mode);
	ebb_put_le64(&msg.collections, status.counters.collections);
	ebb_put_le64(&msg.found_tables, status.counters.tables_found);
	ebb_put_le64(&msg.asked_tables, status.counters.tables_asked);
	ebb_put_le64(&msg.offered_tables, status.counters.tables_offered);
	ebb_put_le64(&msg.freed_tables, status.counters.tables_freed);
	ebb_put_le64(&msg.refused_tables, status.counters.tables_refused);
	ebb_put_le64(&msg.skipped_bytes, status.skipped_ram_bytes);
	ebb_put_le64(&msg.failed_tables, status.counters.tables_failed);
	ebb_put_le64(&msg.unplugged_tables, status.counters.tables_unplugged);
	for (i = 0; i < EBB_SKIPPED_MAX; i++)
		ebb_put_le64(&msg.skipped_by_bytes[i], status.skipped_by_bytes[i]);
	return send_packet(&executor->link, &msg, sizeof(msg));
}

static int send_collect_done(struct ebb_link *link, const struct ebb_link_done *done)
{
	struct ebb_msg_collect_done msg = { 0 };

	put_hdr(&msg.hdr, EBB_MSG_COLLECT_DONE);
	ebb_put_le64(&msg.id, done->id);
	ebb_put_le64(&msg.found_tables, done->tables.found);
	ebb_put_le64(&msg.asked_tables, done->tables.asked);
	ebb_put_le64(&msg.offered_tables, done->tables.offered);
	ebb_put_le64(&msg.freed_tables, done->tables.freed);
	ebb_put_le64(&msg.refused_tables, done->tables.refused);
	ebb_put_le64(&msg.usec, done->usec);
	ebb_put_le32(&msg.status, done->status);
	return send_packet(link, &msg, sizeof(msg));
}

static int send_merge_state(struct ebb_executor *executor)
{
	struct ebb_msg_merge_state msg = { 0 };
	struct ebb_status status;
	const struct ebb_merge_status *merge = &status.merge;

	ebb_executor_status(executor, &status);
	put_hdr(&msg.hdr, EBB_MSG_MERGE_STATE);
	ebb_put_le32(&msg.flags, (merge->whole ? EBB_MERGE_F_WHOLE : 0) |
					 (merge->full ? EBB_MERGE_F_FULL : 0) |
					 (merge->no_ksm ? EBB_MERGE_F_NO_KSM : 0) |
					 (merge->pending ? EBB_MERGE_F_PENDING : 0) |
					 (status.guest_valid ? EBB_MERGE_F_GUEST : 0));
	ebb_put_le32(&msg.mode, merge->mode);
	ebb_put_le64(&msg.hinted_bytes, merge->hinted_bytes);
	ebb_put_le64(&msg.marked_bytes, merge->marked_bytes);
	ebb_put_le64(&msg.areas, merge->areas);
	ebb_put_le64(&msg.marks, merge->marks);
	ebb_put_le64(&msg.unmarks, merge->unmarks);
	ebb_put_le64(&msg.failures, merge->failures);
	ebb_put_le64(&msg.usec, merge->nsec / NSEC_PER_USEC);
	ebb_put_le64(&msg.longest_usec, merge->longest_nsec / NSEC_PER_USEC);
	if (status.guest_valid) {
		const uint64_t *value = status.guest.value;

		ebb_put_le64(&msg.guest_hinted_bytes, value[VIRTIO_EBB_S_HINTED]);
		ebb_put_le64(&msg.guest_cache_bytes, value[VIRTIO_EBB_S_HINT_CACHE]);
		ebb_put_le64(&msg.guest_passes, value[VIRTIO_EBB_S_HINT_PASSES]);
		ebb_put_le64(&msg.guest_usec, value[VIRTIO_EBB_S_HINT_USEC]);
	}
	return send_packet(&executor->link, &msg, sizeof(msg));
}

static int send_purge_done(struct ebb_link *link, const struct ebb_link_done *done)
{
	struct ebb_msg_purge_done msg = { 0 };

	put_hdr(&msg.hdr, EBB_MSG_PURGE_DONE);
	ebb_put_le64(&msg.id, done->id);
	ebb_put_le64(&msg.purged_bytes, done->discarded_bytes);
	ebb_put_le64(&msg.usec, done->usec);
	ebb_put_le32(&msg.status, done->status);
	return send_packet(link, &msg, sizeof(msg));
}

static int send_release_done(struct ebb_link *link, const struct ebb_link_done *done)
{
	struct ebb_msg_release_done msg = { 0 };

	put_hdr(&msg.hdr, EBB_MSG_RELEASE_DONE);
	ebb_put_le64(&msg.id, done->id);
	ebb_put_le64(&msg.offered_bytes, done->offered_bytes);
	ebb_put_le64(&msg.discarded_bytes, done->discarded_bytes);
	ebb_put_le64(&msg.usec, done->usec);
	ebb_put_le32(&msg.status, done->status);
	ebb_put_le32(&msg.passes, done->passes);
	return send_packet(link, &msg, sizeof(msg));
}

static int send_done(struct ebb_link *link, const struct ebb_link_done *done)
{
	switch (done->kind) {
	case EBB_LINK_RELEASE_DONE:
		return send_release_done(link, done);
	case EBB_LINK_PURGE_DONE:
		return send_purge_done(link, done);
	case EBB_LINK_COLLECT_DONE:
		return send_collect_done(link, done);
	}
	return -EINVAL;
}

/* Send the answers that wait; one that does not fit waits for the next SAMPLE's time. */
static int flush_done(struct ebb_executor *executor)
{
	struct ebb_link *link = &executor->link;
	struct ebb_link_done done;
	bool lost;
	int ret;

	for (;;) {
		pthread_mutex_lock(&executor->lock);
		link->done_new = false;
		lost = link->done_lost;
		if (!link->nr_done || lost) {
			pthread_mutex_unlock(&executor->lock);
			return lost ? -EPROTO : 0;
		}
		done = link->done[0];
		pthread_mutex_unlock(&executor->lock);
		ret = send_done(link, &done);
		if (ret)
			return ret == -EAGAIN ? 0 : ret;
		pthread_mutex_lock(&executor->lock);
		link->nr_done--;
		memmove(&link->done[0], &link->done[1], link->nr_done * sizeof(link->done[0]));
		pthread_mutex_unlock(&executor->lock);
	}
}

static void handle_policy(struct ebb_executor *executor, const struct ebb_msg_policy *msg)
{
	struct ebb_policy old;

	pthread_mutex_lock(&executor->lock);
	old = executor->policy;
	executor->policy.agent_mode = ebb_get_le32(&msg->mode);
	executor->policy.stage = ebb_get_le32(&msg->stage);
	executor->merge.agent_heard = true;
	ebb_executor_policy_changed(executor, &old);
	pthread_mutex_unlock(&executor->lock);
}

static void handle_merge(struct ebb_executor *executor, const struct ebb_msg_merge *msg)
{
	uint32_t old;

	pthread_mutex_lock(&executor->lock);
	old = ebb_merge_mode(&executor->merge);
	executor->merge.agent_mode = ebb_get_le32(&msg->mode);
	ebb_merge_mode_changed(executor, old);
	pthread_mutex_unlock(&executor->lock);
}

static void handle_release(struct ebb_executor *executor, const struct ebb_msg_release *msg)
{
	uint64_t id = ebb_get_le64(&msg->id);
	struct ebb_link_done done = { .id = id };
	int ret;

	pthread_mutex_lock(&executor->lock);
	ret = ebb_release_start(executor, id, ebb_get_le64(&msg->bytes), ebb_get_le32(&msg->flags));
	if (ret) {
		done.status = ret == -EBUSY   ? EBB_RELEASE_BUSY
			      : ret == -EPERM ? EBB_RELEASE_OFF
					      : EBB_RELEASE_NO_DRIVER;
		ebb_link_push_done(&executor->link, &done);
	}
	pthread_mutex_unlock(&executor->lock);
}

static void handle_purge(struct ebb_executor *executor, const struct ebb_msg_purge *msg)
{
	uint64_t id = ebb_get_le64(&msg->id);
	struct ebb_link_done done = { .kind = EBB_LINK_PURGE_DONE, .id = id };
	int ret;

	pthread_mutex_lock(&executor->lock);
	ret = ebb_purge_start(executor, id, ebb_get_le64(&msg->bytes));
	if (ret) {
		done.status = ret == -EBUSY ? EBB_PURGE_BUSY : EBB_PURGE_OFF;
		ebb_link_push_done(&executor->link, &done);
	}
	pthread_mutex_unlock(&executor->lock);
}

static uint32_t collect_status(int error)
{
	switch (error) {
	case -EBUSY:
		return EBB_RELEASE_BUSY;
	case -EPERM:
		return EBB_RELEASE_OFF;
	case -ENOSYS:
		return EBB_COLLECT_NO_KERNEL;
	case -EAGAIN:
		return EBB_COLLECT_HOST_SHORT;
	}
	return EBB_RELEASE_NO_DRIVER;
}

static void handle_tables_policy(struct ebb_executor *executor,
				 const struct ebb_msg_tables_policy *msg)
{
	struct ebb_tables_policy *policy = &executor->tables_policy;

	pthread_mutex_lock(&executor->lock);
	policy->agent_mode = ebb_get_le32(&msg->mode);
	policy->delay_msec = ebb_get_le32(&msg->delay_msec);
	policy->amount_tables = ebb_get_le64(&msg->amount_tables);
	policy->least_tables = ebb_get_le64(&msg->least_tables);
	pthread_mutex_unlock(&executor->lock);
}

static void handle_collect(struct ebb_executor *executor, const struct ebb_msg_collect *msg)
{
	uint64_t id = ebb_get_le64(&msg->id);
	struct ebb_link_done done = { .kind = EBB_LINK_COLLECT_DONE, .id = id };
	int ret;

	pthread_mutex_lock(&executor->lock);
	ret = ebb_collect_start(executor, id);
	if (ret) {
		done.status = collect_status(ret);
		ebb_link_push_done(&executor->link, &done);
	}
	pthread_mutex_unlock(&executor->lock);
}

static void handle_welcome(struct ebb_executor *executor, const struct ebb_msg_welcome *msg)
{
	struct ebb_link *link = &executor->link;

	link->state = EBB_LINK_UP;
	link->version = ebb_get_le32(&msg->version);
	link->interval_nsec = ebb_get_le32(&msg->sample_interval_msec) * NSEC_PER_MSEC;
	link->next_nsec = ebb_now_nsec();
	link->backoff_nsec = BACKOFF_MIN_NSEC;
	link->said_down = false;
	set_connected(executor, true);
	ebb_log(executor, LOG_INFO, "connected to ebbd at %s", link->address.sun_path);
}

/* A packet that passed its check. 0, or -EPROTO if it does not belong here. */
static int handle_packet(struct ebb_executor *executor, uint16_t type, const void *packet)
{
	bool up = executor->link.state == EBB_LINK_UP;
	const struct ebb_msg_refuse *refuse = packet;

	if (type == EBB_MSG_REFUSE) {
		ebb_log(executor, LOG_WARNING, "ebbd refuses this guest: %s", refuse->text);
		executor->link.said_down = true;
		return -ECONNREFUSED;
	}
	if ((type == EBB_MSG_WELCOME) == up)
		return -EPROTO;
	if (type == EBB_MSG_WELCOME)
		handle_welcome(executor, packet);
	else if (type == EBB_MSG_POLICY)
		handle_policy(executor, packet);
	else if (type == EBB_MSG_PURGE)
		handle_purge(executor, packet);
	else if (type == EBB_MSG_TABLES_POLICY)
		handle_tables_policy(executor, packet);
	else if (type == EBB_MSG_COLLECT)
		handle_collect(executor, packet);
	else if (type == EBB_MSG_MERGE)
		handle_merge(executor, packet);
	else
		handle_release(executor, packet);
	return 0;
}

/* Receive one packet: 1, or 0 if there is none, or why the connection ends. */
static int receive(struct ebb_executor *executor)
{
	/* The largest member aligns it; one byte more shows what is too long. */
	union {
		struct ebb_msg_sample align;
		char bytes[EBB_AGENT_MAX_BYTES + 1];
	} packet;
	enum ebb_agent_fault fault;
	uint16_t type = 0;
	ssize_t n;
	int ret;

	n = recv(executor->link.fd, packet.bytes, sizeof(packet.bytes), MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ECONNRESET;
	fault = ebb_agent_check_from_agent(packet.bytes, (uint64_t)n, executor->link.version,
					   &type);
	if (fault) {
		ebb_log(executor, LOG_WARNING, "ebbd sent a bad packet (type %u): %s; closing",
			type, ebb_agent_fault_text(fault));
		return -EPROTO;
	}
	ret = handle_packet(executor, type, packet.bytes);
	if (ret == -EPROTO)
		ebb_log(executor, LOG_WARNING, "ebbd sent a packet (type %u) out of turn; closing",
			type);
	return ret ? ret : 1;
}

static void end_connection(struct ebb_executor *executor, int error)
{
	struct ebb_link *link = &executor->link;

	if (!link->said_down)
		ebb_log(executor, LOG_NOTICE,
			"lost ebbd at %s: %s; trying again, the policy stays as it is",
			link->address.sun_path, strerror(-error));
	link->said_down = true;
	close_link(executor, error == -ECONNREFUSED ? BACKOFF_REFUSED_NSEC : 0);
}

static int receive_some(struct ebb_executor *executor)
{
	int i, ret = 1;

	for (i = 0; i < MAX_RECEIVE && ret > 0; i++)
		ret = receive(executor);
	return ret < 0 ? ret : 0;
}

static int sample_if_due(struct ebb_executor *executor)
{
	struct ebb_link *link = &executor->link;
	uint64_t now = ebb_now_nsec();
	int ret;

	if (link->state != EBB_LINK_UP || now < link->next_nsec)
		return 0;
	link->next_nsec = now + link->interval_nsec;
	ret = send_sample(executor);
	if (!ret && link->version >= 2)
		ret = send_content(executor);
	if (!ret && link->version >= 3)
		ret = send_tables(executor);
	if (!ret && link->version >= 3)
		ret = send_merge_state(executor);
	/* The guest's answer to this goes into the next sample. */
	executor->ops->want_stats(executor->vmm);
	return ret == -EAGAIN ? 0 : ret;
}

void ebb_link_work(struct ebb_executor *executor, bool readable)
{
	struct ebb_link *link = &executor->link;
	int ret = 0;

	switch (link->state) {
	case EBB_LINK_NONE:
		return;
	case EBB_LINK_DOWN:
		if (ebb_now_nsec() >= link->next_nsec)
			try_connect(executor);
		return;
	case EBB_LINK_HELLO:
		if (readable)
			ret = receive_some(executor);
		else if (ebb_now_nsec() >= link->next_nsec)
			ret = -ETIMEDOUT;
		break;
	case EBB_LINK_UP:
		if (readable)
			ret = receive_some(executor);
		break;
	}
	if (!ret)
		ret = flush_done(executor);
	if (!ret)
		ret = sample_if_due(executor);
	if (ret)
		end_connection(executor, ret);
}
