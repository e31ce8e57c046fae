// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ebb-cache - a cache that speaks memcached's text protocol, its values in volatile memory
 *
 * Nothing is taken from a client that has too much to read still, so that what one client makes us
 * hold is bounded.
 *
 * Owns:    the clients.
 * Thread:  one.
 * Locks:   none.
 * Never:   waits for a client.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "store.h"

/* More than this to be read by a client, and it is not listened to. */
#define MAX_UNREAD ((size_t)4 << 20)

struct cache cache;

static unsigned int max_clients = 1000;
static int poller, listener;

/* What is empty is small again. */
static void drop(struct buffer *buffer)
{
	if (buffer->used || buffer->room <= READ_BYTES * 4)
		return;
	free(buffer->data);
	*buffer = (struct buffer){ 0 };
}

/* True if it stopped since the client has too much to read. */
static bool process(struct client *client)
{
	struct buffer *in = &client->in;
	size_t at = 0, used = 1;

	while (at < in->used && used && !client->is_closing && !client->is_failed &&
	       client->out.used - client->sent < MAX_UNREAD) {
		used = consume(client, in->data + at, in->used - at);
		at += used;
	}
	in->used -= at;
	memmove(in->data, in->data + at, in->used);
	if (client->is_closing)
		in->used = 0;
	in->data[in->used] = 0;
	return in->used && used;
}

static void flush(struct client *client)
{
	struct buffer *out = &client->out;
	ssize_t sent;

	while (client->sent < out->used) {
		sent = send(client->fd, out->data + client->sent, out->used - client->sent,
			    MSG_NOSIGNAL);
		if (sent < 0) {
			client->is_failed |= errno != EAGAIN && errno != EINTR;
			return;
		}
		client->sent += (size_t)sent;
	}
	out->used = client->sent = 0;
	drop(out);
}

static void end(struct client *client)
{
	close(client->fd);
	free(client->in.data);
	free(client->out.data);
	free(client);
	cache.clients--;
}

static void serve(struct client *client, uint32_t events)
{
	struct epoll_event wanted = { .data.ptr = client };
	struct buffer *in = &client->in;
	ssize_t got = 1;
	bool is_full;

	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		if (!reserve(in, READ_BYTES)) {
			end(client);
			return;
		}
		got = recv(client->fd, in->data + in->used, in->room - in->used - 1, 0);
		if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
			end(client);
			return;
		}
		in->used += got > 0 ? (size_t)got : 0;
	}
	is_full = in->data && process(client);
	flush(client);
	if (client->is_failed || (client->is_closing && !client->out.used)) {
		end(client);
		return;
	}
	drop(in);
	wanted.events = client->out.used || is_full ? EPOLLOUT : EPOLLIN;
	epoll_ctl(poller, EPOLL_CTL_MOD, client->fd, &wanted);
}

static void greet(void)
{
	struct client *client = calloc(1, sizeof(*client));
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct epoll_event wanted = { .events = EPOLLIN, .data.ptr = client };

	if (!client || fd < 0 || cache.clients >= max_clients ||
	    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted)) {
		free(client);
		if (fd >= 0)
			close(fd);
		return;
	}
	client->fd = fd;
	cache.clients++;
	cache.connections++;
}

static void run(void)
{
	struct epoll_event events[64];
	int nr;

	for (;;) {
		nr = epoll_wait(poller, events, 64, cache.flush_at ? 1000 : -1);
		cache.now = time(NULL);
		if (cache.flush_at && cache.flush_at <= cache.now) {
			store_flush();
			cache.flush_at = 0;
		}
		for (int i = 0; i < nr; i++) {
			if (events[i].data.ptr == &listener)
				greet();
			else if (events[i].data.ptr == &cache)
				store_hear_of_purges();
			else
				serve(events[i].data.ptr, events[i].events);
		}
	}
}

static int listen_at(const char *address, uint16_t port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	socklen_t bytes = sizeof(at);
	int yes = 1;

	if (inet_pton(AF_INET, address, &at.sin_addr) != 1) {
		errno = EINVAL;
		return -1;
	}
	listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) ||
	    bind(listener, (struct sockaddr *)&at, sizeof(at)) || listen(listener, 128) ||
	    getsockname(listener, (struct sockaddr *)&at, &bytes))
		return -1;
	printf("ebb-cache: %s:%u, values in %s memory\n", address, ntohs(at.sin_port),
	       store_event_fd() >= 0 ? "volatile" : "ordinary");
	return fflush(stdout);
}

static int usage(void)
{
	fprintf(stderr, "usage: ebb-cache [-l IPV4-ADDRESS] [-p PORT] [-m MIB] [--plain]\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "plain", no_argument, NULL, 'P' }, { 0 } };
	struct epoll_event wanted = { .events = EPOLLIN, .data.ptr = &listener };
	uint64_t port = 11211, mib = 64;
	const char *address = "127.0.0.1";
	struct rlimit files;
	bool is_plain = false;
	int opt;

	while ((opt = getopt_long(argc, argv, "l:p:m:", options, NULL)) != -1) {
		if (opt == 'l')
			address = optarg;
		else if (opt == 'P')
			is_plain = true;
		else if ((opt != 'p' || !number(optarg, UINT16_MAX, &port)) &&
			 (opt != 'm' || !number(optarg, 1 << 20, &mib) || !mib))
			return usage();
	}
	if (optind < argc)
		return usage();
	/* One more than we serve can always be taken, to be turned away. */
	if (!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur < max_clients + 16)
		max_clients = files.rlim_cur > 32 ? (unsigned int)files.rlim_cur - 16 : 16;
	cache.now = cache.started = time(NULL);
	cache.limit_bytes = mib << 20;
	if (store_init(cache.limit_bytes, is_plain)) {
		fprintf(stderr, "ebb-cache: no memory of %" PRIu64 " MiB for values: %s\n", mib,
			strerror(errno));
		return 1;
	}
	poller = epoll_create1(EPOLL_CLOEXEC);
	if (poller < 0 || listen_at(address, (uint16_t)port) ||
	    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &wanted)) {
		fprintf(stderr, "ebb-cache: cannot listen at %s port %" PRIu64 ": %s\n", address,
			port, strerror(errno));
		return 1;
	}
	wanted.data.ptr = &cache;
	if (store_event_fd() >= 0 && epoll_ctl(poller, EPOLL_CTL_ADD, store_event_fd(), &wanted))
		return 1;
	run();
}
