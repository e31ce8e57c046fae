/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* peer.h - one executor's connection; see peer.c */
#ifndef EBB_PEER_H
#define EBB_PEER_H

#include "manager.h"

struct peer {
	LIST_ENTRY(peer) link;
	struct manager *manager;
	int fd;
	uint32_t version; /* of the protocol, agreed upon; before that, the lowest */
	int pidfd;
	int proc_dirfd; /* /proc/PID, opened while the pidfd was alive */
	pid_t pid;
	uid_t uid;
	sd_event_source *io_source;
	sd_event_source *exit_source;
	sd_event_source *hello_source; /* the deadline for HELLO */
	bool ended;		       /* waits to be freed; touch nothing of it */
	uint64_t budget_usec;	       /* messages are paid for up to here */
	uint64_t stuck_since_usec;     /* the socket is full since then; 0: it is not */
	struct guest *guest;	       /* after HELLO */
};

int peer_accept(sd_event_source *source, int fd, uint32_t revents, void *userdata);
int peer_send(struct peer *peer, const void *message, size_t bytes);
__attribute__((format(printf, 3, 4))) void peer_end(struct peer *peer, bool refuse,
						    const char *format, ...);
void peer_free(struct peer *peer);

#endif /* EBB_PEER_H */
