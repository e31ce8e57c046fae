// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * listen - make ebbd's two listening sockets, or take them from systemd; hang up
 *
 * A socket file that a killed ebbd left behind refuses connections and is replaced; one
 * that answers belongs to a running ebbd and is left alone.
 *
 * Owns:    the listening descriptors and, if made here, their files.
 * Thread:  ebbd's only one.
 * Locks:   none.
 * Never:   accepts.
 */
#include "listen.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define BACKLOG 256

static int make_parent(const char *path)
{
	char *copy = strdup(path), *slash;
	int r = 0;

	if (!copy)
		return -ENOMEM;
	slash = strrchr(copy, '/');
	*slash = '\0';
	if (slash != copy && mkdir(copy, 0755) < 0 && errno != EEXIST)
		r = -errno;
	free(copy);
	return r;
}

/* Remove what a dead ebbd left. -EADDRINUSE: somebody answers there. */
static int remove_stale(const struct sockaddr_un *address)
{
	struct stat st;
	int fd, r = 0;

	if (lstat(address->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN)
		r = -EADDRINUSE;
	else if (errno != ECONNREFUSED)
		r = -errno;
	close(fd);
	if (r == 0 && unlink(address->sun_path) < 0)
		r = -errno;
	return r;
}

static int make_socket(const char *path, unsigned int mode, gid_t gid)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	mode_t umask_before;
	int fd, r;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	r = make_parent(path);
	if (r < 0)
		return r;
	r = remove_stale(&address);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	umask_before = umask(0177);
	r = bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
	umask(umask_before);
	if (r == 0 && ((gid != (gid_t)-1 && chown(path, (uid_t)-1, gid) < 0) ||
		       chmod(path, mode) < 0 || listen(fd, BACKLOG) < 0)) {
		r = -errno;
		unlink(path);
	}
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd;
}

static void explain(const char *path, int error)
{
	switch (error) {
	case -EADDRINUSE:
		log_error("%s: another ebbd answers there: stop it, or name another socket", path);
		break;
	case -EEXIST:
		log_error("%s: exists and is no socket: remove it, or name another path", path);
		break;
	case -EACCES:
	case -EPERM:
		log_error("%s: %s: run ebbd as root, or name a path that it may use", path,
			  strerror(-error));
		break;
	default:
		log_error("%s: cannot listen there: %s", path, strerror(-error));
		break;
	}
}

/* systemd's sockets are told apart by their paths. */
static int take_from_systemd(struct manager *manager)
{
	int i, nr = sd_listen_fds(1);

	for (i = SD_LISTEN_FDS_START; i < SD_LISTEN_FDS_START + nr; i++) {
		if (sd_is_socket_unix(i, SOCK_SEQPACKET, 1, manager->conf.socket_path, 0) > 0) {
			manager->socket_fd = i;
		} else if (sd_is_socket_unix(i, SOCK_SEQPACKET, 1, manager->conf.control_path, 0) >
			   0) {
			manager->control_fd = i;
		} else {
			log_error("descriptor %d from systemd is not a SOCK_SEQPACKET socket that "
				  "listens at %s or %s: let the socket unit and the configuration "
				  "agree",
				  i, manager->conf.socket_path, manager->conf.control_path);
			return -EINVAL;
		}
	}
	return nr < 0 ? nr : 0;
}

/*
 * To be called before close() of a connection on which something was said last: with unread
 * messages in it the other side would read an error in place of our words. Take no more, and
 * throw away what is there.
 */
void socket_drain(int fd)
{
	char rest[256];
	int i;

	shutdown(fd, SHUT_RD);
	for (i = 0; i < 4096; i++)
		if (recv(fd, rest, sizeof(rest), MSG_DONTWAIT) <= 0)
			break;
}

int listen_open(struct manager *manager)
{
	const struct conf *conf = &manager->conf;
	int r;

	r = take_from_systemd(manager);
	if (r < 0)
		return r;
	if (manager->socket_fd < 0) {
		r = make_socket(conf->socket_path, conf->socket_mode, conf->socket_gid);
		if (r < 0) {
			explain(conf->socket_path, r);
			return r;
		}
		manager->socket_fd = r;
		manager->socket_is_ours = true;
	}
	if (manager->control_fd < 0) {
		r = make_socket(conf->control_path, 0600, (gid_t)-1);
		if (r < 0) {
			explain(conf->control_path, r);
			return r;
		}
		manager->control_fd = r;
		manager->control_is_ours = true;
	}
	return 0;
}

void listen_close(struct manager *manager)
{
	if (manager->socket_is_ours)
		unlink(manager->conf.socket_path);
	if (manager->control_is_ours)
		unlink(manager->conf.control_path);
	if (manager->socket_fd >= 0)
		close(manager->socket_fd);
	if (manager->control_fd >= 0)
		close(manager->control_fd);
	manager->socket_fd = manager->control_fd = -1;
}
