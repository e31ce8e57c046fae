/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * link.h - the executor's connection to ebbd
 */
#ifndef EBB_LINK_H
#define EBB_LINK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

struct ebb_executor;

enum ebb_link_state {
	EBB_LINK_NONE,	/* no agent was configured */
	EBB_LINK_DOWN,	/* next_nsec: when to connect */
	EBB_LINK_HELLO, /* connected, HELLO sent; next_nsec: when to give up on WELCOME */
	EBB_LINK_UP,	/* next_nsec: when to send a SAMPLE */
};

/* What a collection came to, in page tables. */
struct ebb_link_tables {
	uint64_t found;
	uint64_t asked;
	uint64_t offered;
	uint64_t freed;
	uint64_t refused;
	uint64_t failed;
};

enum ebb_link_kind {
	EBB_LINK_RELEASE_DONE,
	EBB_LINK_PURGE_DONE,   /* discarded_bytes is what was purged */
	EBB_LINK_COLLECT_DONE, /* of the figures only tables counts */
};

/* An answer that waits to be sent. */
struct ebb_link_done {
	enum ebb_link_kind kind;
	uint64_t id;
	uint64_t offered_bytes;
	uint64_t discarded_bytes;
	uint64_t usec;
	uint32_t status;
	uint32_t passes;
	struct ebb_link_tables tables;
};

#define EBB_LINK_MAX_DONE 8

struct ebb_link {
	/* Executor thread. */
	enum ebb_link_state state;
	int fd;
	uint32_t version; /* agreed upon; before that, the lowest */
	struct sockaddr_un address;
	uint64_t next_nsec;
	uint64_t backoff_nsec;
	uint64_t interval_nsec; /* between SAMPLEs */
	uint64_t random;	/* state of the jitter */
	bool said_down;		/* the log knows that the agent is not there */

	/* Executor's lock. */
	struct ebb_link_done done[EBB_LINK_MAX_DONE];
	uint32_t nr_done;
	bool done_new;	/* one came since the last attempt to send */
	bool done_lost; /* ebbd asks and does not read: close */
};

/* 0 or -ENAMETOOLONG. path NULL: no agent. */
int ebb_link_init(struct ebb_link *link, const char *path);
void ebb_link_deinit(struct ebb_link *link);

/* Queue an answer; the executor's lock is held. */
void ebb_link_push_done(struct ebb_link *link, const struct ebb_link_done *done);

/* What to poll for: -1 if nothing. */
int ebb_link_poll_fd(const struct ebb_link *link);

/* When ebb_link_work() must run though nothing came; UINT64_MAX: never. */
uint64_t ebb_link_deadline_nsec(const struct ebb_link *link);

/* Connect, receive, send what is due; never blocks. readable: ppoll() says so. */
void ebb_link_work(struct ebb_executor *executor, bool readable);

#endif /* EBB_LINK_H */
