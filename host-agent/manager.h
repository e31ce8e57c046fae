/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* manager.h - all that ebbd knows and runs; see manager.c */
#ifndef EBB_MANAGER_H
#define EBB_MANAGER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <systemd/sd-event.h>

#include "cgroup.h"
#include "conf.h"
#include "ksm_steer.h"
#include "log.h"
#include "policy.h"
#include "proc.h"
#include "state.h"

struct control;
struct guest;
struct peer;

/* Where memory comes from: the host (path ""), or a memory cgroup with a limit. */
struct domain {
	LIST_ENTRY(domain) link;
	char *path;
	size_t path_bytes; /* without a slash at its end */
	uint64_t total_bytes;
	uint64_t available_bytes; /* would be, if all that is listed could be taken */
	struct proc_lists lists;
	struct policy_level level; /* what follows from these, and from the guests */
	struct policy_gauge gauge;
	bool seen; /* by a guest in this round of samples */
};

LIST_HEAD(peer_list, peer);
LIST_HEAD(control_list, control);
LIST_HEAD(domain_list, domain);
TAILQ_HEAD(guest_list, guest);

struct manager {
	sd_event *event;
	struct conf conf;
	const char *conf_path;
	bool conf_may_miss;
	bool dry_run;
	struct state state;
	struct cgroup_mounts mounts;
	int proc_dirfd;

	int socket_fd;
	int control_fd;
	bool socket_is_ours; /* made here, so removed at the end; not given by systemd */
	bool control_is_ours;
	sd_event_source *socket_source;
	sd_event_source *control_source;
	sd_event_source *tick_source;
	sd_event_source *reap_source;
	sd_event_source *pause_source; /* accepting again after a shortage of descriptors */

	struct peer_list peers;
	unsigned int nr_peers;
	struct control_list controls;
	unsigned int nr_controls;
	struct guest_list guests; /* sorted by name */
	unsigned int nr_guests;
	struct domain host;
	struct proc_host proc_host;
	struct domain_list domains; /* all but the host */
	struct ksm_steer ksm;
	char merge_group[MERGE_GROUP_BYTES]; /* whose turn it is; "": nobody's */
	uint64_t last_release_id;

	uint64_t complaint_usec; /* the log budget for peers' faults, see peer.c */
	unsigned int complaints_dropped;
};

int manager_init(struct manager *manager);
void manager_deinit(struct manager *manager);
void manager_reload(struct manager *manager);
/* The moment that the running handler began, and the one right now. */
uint64_t manager_now_usec(const struct manager *manager);
uint64_t clock_usec(void);

/* Peers and controls that have ended are freed when no handler runs any more. */
void manager_reap_later(struct manager *manager);
/* Accept nobody for a second: there are no descriptors left. */
void manager_pause_accepting(struct manager *manager);

void manager_guest_sampled(struct manager *manager, struct guest *guest);
void manager_guest_modes(struct manager *manager);
/* Whose turn is it to be merged? Before guests are told what is wanted of them. */
void manager_admit_groups(struct manager *manager);

#endif /* EBB_MANAGER_H */
