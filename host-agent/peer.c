// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * peer - one executor's connection: who it is, what it may send
 *
 * Nobody who connects is trusted. Who a peer is, the kernel says (SO_PEERCRED and a
 * pidfd), not the peer. A message that breaks the protocol, a flood, no HELLO in time or
 * a socket that stays full ends that one connection, with REFUSE where there is something
 * to say and with one line in the log, and those lines are bounded too.
 *
 * Life: accepted -> HELLO (a guest comes to be) -> SAMPLE, CONTENT, RELEASE_DONE ... ->
 * ended -> freed. peer_end() may be called from anywhere and frees nothing: the manager does, when
 * no handler runs any more.
 *
 * Owns:    the socket, the pidfd, the directory /proc/PID, and the guest.
 * Thread:  ebbd's only one.
 * Locks:   none.
 * Never:   waits for a peer, acts on an address of another process.
 */
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent_check.h"
#include "guest.h"
#include "listen.h"

/* Linux 6.5; older headers do not have it. */
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/* Bounds what the kernel keeps for a peer that does not read: some ten messages. */
#define PEER_SEND_BUFFER_BYTES (16 * 1024)
/* Of peers' faults: this many lines at once, then one each second. */
#define COMPLAINT_BURST 20

/* May another line about a peer be written? Counts those that may not. */
static bool may_complain(struct manager *manager)
{
	uint64_t now_usec = manager_now_usec(manager);

	if (manager->complaint_usec < now_usec)
		manager->complaint_usec = now_usec;
	if (manager->complaint_usec - now_usec > COMPLAINT_BURST * 1000000ull) {
		manager->complaints_dropped++;
		return false;
	}
	manager->complaint_usec += 1000000;
	if (manager->complaints_dropped) {
		log_warning("%u more lines about peers were left out", manager->complaints_dropped);
		manager->complaints_dropped = 0;
	}
	return true;
}

static void send_refuse(int fd, const char *text)
{
	struct ebb_msg_refuse refuse = { 0 };

	ebb_put_le16(&refuse.hdr.type, EBB_MSG_REFUSE);
	ebb_put_le32(&refuse.hdr.length_bytes, sizeof(refuse));
	snprintf(refuse.text, sizeof(refuse.text), "%s", text);
	if (send(fd, &refuse, sizeof(refuse), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
	socket_drain(fd);
}

/* End the connection. refuse: tell the peer why, and the log as a warning. */
void peer_end(struct peer *peer, bool refuse, const char *format, ...)
{
	char text[EBB_REFUSE_TEXT_BYTES];
	va_list args;

	if (peer->ended)
		return;
	peer->ended = true;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (refuse && may_complain(peer->manager))
		log_warning("%s (process %d, uid %u) is refused: %s",
			    peer->guest ? peer->guest->name : "a peer", (int)peer->pid,
			    (unsigned int)peer->uid, text);
	else if (!refuse && peer->guest)
		log_info("guest %s (process %d) left: %s", peer->guest->name, (int)peer->pid, text);
	if (refuse)
		send_refuse(peer->fd, text);
	sd_event_source_set_enabled(peer->io_source, SD_EVENT_OFF);
	if (peer->exit_source)
		sd_event_source_set_enabled(peer->exit_source, SD_EVENT_OFF);
	if (peer->hello_source)
		sd_event_source_set_enabled(peer->hello_source, SD_EVENT_OFF);
	if (peer->guest)
		guest_gone(peer->guest);
	manager_reap_later(peer->manager);
}

void peer_free(struct peer *peer)
{
	if (peer->guest)
		guest_free(peer->guest);
	sd_event_source_disable_unref(peer->io_source);
	sd_event_source_disable_unref(peer->exit_source);
	sd_event_source_disable_unref(peer->hello_source);
	if (peer->fd >= 0)
		close(peer->fd);
	if (peer->pidfd >= 0)
		close(peer->pidfd);
	if (peer->proc_dirfd >= 0)
		close(peer->proc_dirfd);
	LIST_REMOVE(peer, link);
	peer->manager->nr_peers--;
	free(peer);
}

/*
 * Send without waiting. -EAGAIN: the socket is full; guest_writable() is called when it
 * no longer is. Any other failure has ended the connection.
 */
int peer_send(struct peer *peer, const void *message, size_t bytes)
{
	int r;

	if (peer->ended)
		return -ECONNRESET;
	if (send(peer->fd, message, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
		peer->stuck_since_usec = 0;
		return 0;
	}
	r = -errno;
	if (r != -EAGAIN) {
		peer_end(peer, false, "cannot send to it: %s", strerror(-r));
		return r;
	}
	if (peer->stuck_since_usec == 0)
		peer->stuck_since_usec = manager_now_usec(peer->manager);
	sd_event_source_set_io_events(peer->io_source, EPOLLIN | EPOLLOUT);
	return r;
}

static void handle_hello(struct peer *peer, const struct ebb_msg_hello *hello)
{
	uint32_t min = ebb_get_le16(&hello->version_min);
	uint32_t max = ebb_get_le16(&hello->version_max);
	uint32_t version = max < EBB_AGENT_VERSION_MAX ? max : EBB_AGENT_VERSION_MAX;
	struct ebb_msg_welcome welcome = { 0 };

	if (peer->guest) {
		peer_end(peer, true, "a second HELLO on one connection");
		return;
	}
	if (version < min || version < EBB_AGENT_VERSION_MIN) {
		peer_end(peer, true, "it speaks protocol versions %u to %u, this ebbd %u to %u",
			 min, max, EBB_AGENT_VERSION_MIN, EBB_AGENT_VERSION_MAX);
		return;
	}
	peer->hello_source = sd_event_source_disable_unref(peer->hello_source);
	peer->guest = guest_new(peer, hello);
	if (!peer->guest) {
		peer_end(peer, true, "ebbd is out of memory");
		return;
	}
	peer->version = version;
	ebb_put_le16(&welcome.hdr.type, EBB_MSG_WELCOME);
	ebb_put_le32(&welcome.hdr.length_bytes, sizeof(welcome));
	ebb_put_le32(&welcome.version, version);
	ebb_put_le32(&welcome.sample_interval_msec, peer->manager->conf.sample_interval_msec);
	if (peer_send(peer, &welcome, sizeof(welcome)) == -EAGAIN)
		peer_end(peer, false, "its socket is full from the start");
	if (peer->ended)
		return;
	log_info("guest %s is here: process %d, uid %u, front %s, protocol version %u",
		 peer->guest->name, (int)peer->pid, (unsigned int)peer->uid,
		 peer->guest->front == EBB_FRONT_EBB ? "ebb" : "balloon", version);
	manager_guest_sampled(peer->manager, peer->guest);
}

static void handle_message(struct peer *peer, const void *packet, size_t bytes)
{
	enum ebb_agent_fault fault;
	uint16_t type = 0;

	fault = ebb_agent_check_from_executor(packet, bytes, peer->version, &type);
	if (fault) {
		peer_end(peer, true, "message of type %u and %zu bytes: %s", type, bytes,
			 ebb_agent_fault_text(fault));
		return;
	}
	if (type == EBB_MSG_HELLO) {
		handle_hello(peer, packet);
		return;
	}
	if (!peer->guest) {
		peer_end(peer, true, "message of type %u came before HELLO", type);
		return;
	}
	if (type == EBB_MSG_SAMPLE)
		guest_sample(peer->guest, packet);
	else if (type == EBB_MSG_CONTENT)
		guest_content(peer->guest, packet);
	else if (type == EBB_MSG_MERGE_STATE)
		guest_merge_state(peer->guest, packet);
	else if (type == EBB_MSG_PURGE_DONE)
		guest_purge_done(peer->guest, packet);
	else if (type == EBB_MSG_TABLES)
		guest_tables(peer->guest, packet);
	else if (type == EBB_MSG_COLLECT_DONE)
		guest_collect_done(peer->guest, packet);
	else
		guest_release_done(peer->guest, packet);
}

/* Each message costs its share of a second; a second may be owed. */
static bool within_rate(struct peer *peer)
{
	uint64_t now_usec = manager_now_usec(peer->manager);

	if (peer->budget_usec < now_usec)
		peer->budget_usec = now_usec;
	peer->budget_usec += 1000000 / peer->manager->conf.max_messages_per_sec;
	return peer->budget_usec - now_usec <= 1000000;
}

/* One message each time: peers take turns. */
static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	union {
		char bytes[EBB_AGENT_MAX_BYTES];
		__le64 align;
	} packet;
	struct peer *peer = userdata;
	ssize_t n;

	if (revents & EPOLLOUT) {
		sd_event_source_set_io_events(peer->io_source, EPOLLIN);
		peer->stuck_since_usec = 0;
		if (peer->guest)
			guest_writable(peer->guest);
		if (peer->ended || !(revents & ~(uint32_t)EPOLLOUT))
			return 0;
	}
	/* Without room for ancillary data descriptors that come along are closed by the kernel. */
	n = recv(fd, packet.bytes, sizeof(packet.bytes), MSG_DONTWAIT | MSG_TRUNC);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			peer_end(peer, false, "cannot receive from it: %s", strerror(errno));
		return 0;
	}
	if (n == 0) {
		peer_end(peer, false, "it closed the connection");
		return 0;
	}
	if (!within_rate(peer)) {
		peer_end(peer, true, "more than %u messages a second",
			 peer->manager->conf.max_messages_per_sec);
		return 0;
	}
	if ((size_t)n > sizeof(packet.bytes)) {
		peer_end(peer, true, "message of %zd bytes: none is longer than %u", n,
			 EBB_AGENT_MAX_BYTES);
		return 0;
	}
	handle_message(peer, packet.bytes, (size_t)n);
	return 0;
}

static int on_exit_of_process(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	peer_end(userdata, false, "its process ended");
	return 0;
}

static int on_hello_late(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct peer *peer = userdata;

	peer_end(peer, true, "no HELLO within %u ms", peer->manager->conf.hello_timeout_msec);
	return 0;
}

static bool is_alive(int pidfd)
{
	struct pollfd pollfd = { .fd = pidfd, .events = POLLIN };

	return poll(&pollfd, 1, 0) == 0;
}

/*
 * Hold on to the peer's process: a pidfd, and /proc/PID opened while it lived, so that a
 * later process with the same number is never taken for it. Kernels without
 * SO_PEERPIDFD leave a gap between connect() and pidfd_open() in which the number may
 * change hands; what could be gained is that figures of another process are shown.
 */
static int hold_process(struct peer *peer)
{
	socklen_t bytes = sizeof(peer->pidfd);
	char name[16];

	if (getsockopt(peer->fd, SOL_SOCKET, SO_PEERPIDFD, &peer->pidfd, &bytes) < 0) {
		peer->pidfd = -1;
		if (errno != ENOPROTOOPT)
			return -errno;
		peer->pidfd = pidfd_open(peer->pid, 0);
		if (peer->pidfd < 0)
			return -errno;
	}
	snprintf(name, sizeof(name), "%d", (int)peer->pid);
	peer->proc_dirfd =
		openat(peer->manager->proc_dirfd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (peer->proc_dirfd < 0)
		return -errno;
	return is_alive(peer->pidfd) ? 0 : -ESRCH;
}

static int identify(struct peer *peer)
{
	const struct conf *conf = &peer->manager->conf;
	struct ucred cred = { 0 };
	socklen_t bytes = sizeof(cred);
	const struct peer *other;
	unsigned int of_uid = 0;
	int r;

	if (getsockopt(peer->fd, SOL_SOCKET, SO_PEERCRED, &cred, &bytes) < 0)
		return -errno;
	peer->pid = cred.pid;
	peer->uid = cred.uid;
	if (peer->manager->nr_peers > conf->max_connections) {
		peer_end(peer, true, "there are %u connections already (max_connections)",
			 conf->max_connections);
		return 0;
	}
	LIST_FOREACH(other, &peer->manager->peers, link)
	of_uid += other->uid == peer->uid && !other->ended;
	if (of_uid > conf->max_connections_per_uid) {
		peer_end(peer, true, "uid %u has %u connections already (max_connections_per_uid)",
			 (unsigned int)peer->uid, conf->max_connections_per_uid);
		return 0;
	}
	if (cred.pid <= 0) {
		peer_end(peer, true, "its process cannot be seen from ebbd's PID namespace");
		return 0;
	}
	r = hold_process(peer);
	if (r < 0)
		peer_end(peer, true, "its process %d cannot be held: %s", (int)cred.pid,
			 strerror(-r));
	return 0;
}

static int watch(struct peer *peer)
{
	sd_event *event = peer->manager->event;
	int r;

	r = sd_event_add_io(event, &peer->exit_source, peer->pidfd, EPOLLIN, on_exit_of_process,
			    peer);
	if (r < 0)
		return r;
	return sd_event_add_time_relative(event, &peer->hello_source, CLOCK_MONOTONIC,
					  peer->manager->conf.hello_timeout_msec * 1000ull, 0,
					  on_hello_late, peer);
}

static void peer_new(struct manager *manager, int fd)
{
	const int buffer_bytes = PEER_SEND_BUFFER_BYTES;
	struct peer *peer = calloc(1, sizeof(*peer));
	int r;

	if (!peer) {
		close(fd);
		return;
	}
	peer->manager = manager;
	peer->fd = fd;
	peer->version = EBB_AGENT_VERSION_MIN;
	peer->pidfd = peer->proc_dirfd = -1;
	LIST_INSERT_HEAD(&manager->peers, peer, link);
	manager->nr_peers++;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof(buffer_bytes));
	r = sd_event_add_io(manager->event, &peer->io_source, fd, EPOLLIN, on_io, peer);
	if (r >= 0)
		r = identify(peer);
	if (r >= 0 && !peer->ended)
		r = watch(peer);
	if (r < 0) {
		log_error("cannot take a connection: %s", strerror(-r));
		if (peer->io_source)
			peer_end(peer, false, "ebbd could not take it");
		else
			peer_free(peer);
	}
}

int peer_accept(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct manager *manager = userdata;
	int peer_fd;

	peer_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (peer_fd >= 0)
		peer_new(manager, peer_fd);
	else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
		manager_pause_accepting(manager);
	return 0;
}
