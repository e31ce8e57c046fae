// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * manager - the round: sample, decide, tell
 *
 * Each sample_interval the host, all guests and their cgroups are read; the pure
 * functions of policy.c turn that into a stage for each domain and into releases; each
 * guest is told what changed. What happens between rounds (a guest comes, ebbctl sets a
 * mode) uses the stages of the last round.
 *
 * Owns:    all lists, the domains, the event sources of the sockets and the round.
 * Thread:  ebbd's only one. Of handlers that are due the reaper runs first, then who is
 *          due the longest: nobody starves, and the end of an executor's old connection is
 *          seen before the HELLO on its new one, so that it finds its name free.
 * Locks:   none.
 * Never:   waits.
 */
#include "manager.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "control.h"
#include "guest.h"
#include "listen.h"
#include "peer.h"
#include "words.h"

#define PRIORITY_REAP	  (SD_EVENT_PRIORITY_NORMAL - 10)
#define ACCEPT_PAUSE_USEC 1000000
/* What no release brings is asked for again after so long. */
#define KEPT_USEC 60000000

uint64_t manager_now_usec(const struct manager *manager)
{
	uint64_t usec = 0;

	sd_event_now(manager->event, CLOCK_MONOTONIC, &usec);
	return usec;
}

uint64_t clock_usec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void update_stage(struct manager *manager, struct domain *domain)
{
	struct policy_gauge gauge = policy_stage(&manager->conf.policy, &domain->gauge,
						 &domain->level, manager_now_usec(manager));

	if (gauge.stage != domain->gauge.stage)
		log_info("%s: %s, %llu of %llu MiB available",
			 domain->path ? domain->path : "the host", stage_word(gauge.stage),
			 (unsigned long long)domain->level.available_bytes >> 20,
			 (unsigned long long)domain->level.total_bytes >> 20);
	domain->gauge = gauge;
}

static void read_host(struct manager *manager)
{
	struct proc_host host;

	if (proc_read_host(manager->proc_dirfd, &host) < 0 || host.total_bytes == 0)
		return;
	manager->proc_host = host;
	manager->host.total_bytes = host.total_bytes;
	manager->host.available_bytes = host.available_bytes;
	manager->host.lists = host.lists;
}

/* The domain of this path, made if there is none. NULL: out of memory. */
static struct domain *domain_of(struct manager *manager, const char *path)
{
	struct domain *domain;

	LIST_FOREACH(domain, &manager->domains, link)
	if (strcmp(domain->path, path) == 0)
		return domain;
	domain = calloc(1, sizeof(*domain));
	if (!domain)
		return NULL;
	domain->path = strdup(path);
	if (!domain->path) {
		free(domain);
		return NULL;
	}
	domain->path_bytes = strlen(path);
	/* The root's name is its slash. */
	if (domain->path_bytes && path[domain->path_bytes - 1] == '/')
		domain->path_bytes--;
	LIST_INSERT_HEAD(&manager->domains, domain, link);
	return domain;
}

static void domain_free(struct domain *domain)
{
	LIST_REMOVE(domain, link);
	free(domain->path);
	free(domain);
}

/* Read a guest and note what its cgroup says; the stage of that comes after all are read. */
static void read_guest(struct manager *manager, struct guest *guest)
{
	guest_read_proc(guest);
	guest->domain = NULL;
	if (guest->level.path[0] == '\0')
		return;
	guest->domain = domain_of(manager, guest->level.path);
	if (!guest->domain)
		return;
	guest->domain->total_bytes = guest->level.limit_bytes;
	guest->domain->available_bytes = guest->level.available_bytes;
	guest->domain->lists = guest->level.lists;
	guest->domain->seen = true;
}

/* Does all that the guest has come from this domain? */
static bool is_within(const struct guest *guest, const struct domain *domain)
{
	const struct domain *own = guest->domain;

	if (!domain->path || own == domain)
		return true;
	return own && own->path_bytes > domain->path_bytes &&
	       own->path[domain->path_bytes] == '/' &&
	       memcmp(own->path, domain->path, domain->path_bytes) == 0;
}

/* Of a guest whose marks are not known all that is listed may be marked. */
static void find_level(const struct manager *manager, struct domain *domain)
{
	const struct guest *guest;
	uint64_t lazyfree_bytes = 0;

	TAILQ_FOREACH(guest, &manager->guests, link)
	{
		if (!is_within(guest, domain))
			continue;
		if (!guest->has_rollup)
			lazyfree_bytes = domain->lists.listed_bytes;
		else if (lazyfree_bytes < domain->lists.listed_bytes)
			lazyfree_bytes += guest->rollup.lazyfree_bytes;
	}
	domain->level =
		policy_level(domain->total_bytes, domain->available_bytes,
			     domain->lists.listed_bytes, domain->lists.cache_bytes, lazyfree_bytes);
}

static void tell_stage(struct guest *guest)
{
	uint32_t stage = guest->manager->host.gauge.stage;

	if (guest->domain && guest->domain->gauge.stage > stage)
		stage = guest->domain->gauge.stage;
	if (stage)
		guest->stage = stage;
	guest_push_policy(guest);
}

void manager_admit_groups(struct manager *manager)
{
	struct merge_member *members = calloc(manager->nr_guests + 1, sizeof(*members));
	const char *group;
	struct guest *guest;
	size_t nr = 0;

	/* Without memory nobody new is admitted. */
	TAILQ_FOREACH(guest, &manager->guests, link)
	if (members)
		members[nr++] = guest_merge_member(guest);
	else
		guest->merge_waits = true;
	if (!members)
		return;
	group = merge_group_choose(members, nr,
				   manager->merge_group[0] ? manager->merge_group : NULL);
	merge_group_admit(members, nr, group);
	if (strcmp(group ? group : "", manager->merge_group) != 0) {
		snprintf(manager->merge_group, sizeof(manager->merge_group), "%s",
			 group ? group : "");
		if (group)
			log_info("merging: it is the turn of group %s", group);
	}
	nr = 0;
	TAILQ_FOREACH(guest, &manager->guests, link)
	guest->merge_waits = !members[nr++].may;
	free(members);
}

/* A guest has come: it is told at once where it stands. */
void manager_guest_sampled(struct manager *manager, struct guest *guest)
{
	read_guest(manager, guest);
	if (guest->domain) {
		find_level(manager, guest->domain);
		if (guest->domain->gauge.stage == 0)
			update_stage(manager, guest->domain);
	}
	manager_admit_groups(manager);
	tell_stage(guest);
}

/* The configuration changed: every guest's mode anew. */
void manager_guest_modes(struct manager *manager)
{
	struct guest *guest, *next;

	TAILQ_FOREACH(guest, &manager->guests, link)
	guest_find_mode(guest);
	manager_admit_groups(manager);
	for (guest = TAILQ_FIRST(&manager->guests); guest; guest = next) {
		next = TAILQ_NEXT(guest, link);
		guest_push_policy(guest);
	}
}

/* What policy may know of a guest: is it worth and allowed to ask it? */
static struct policy_guest policy_view(const struct guest *guest, uint64_t now_usec)
{
	const struct ebb_msg_sample *sample = &guest->sample;
	uint32_t flags = ebb_get_le32(&sample->flags);
	struct policy_guest view = { 0 };

	if (guest->sample_usec == 0 || !guest->has_rollup)
		return view;
	view.askable = guest->front == EBB_FRONT_EBB && guest->release.id == 0 &&
		       ebb_get_le32(&sample->mode) == EBB_MODE_AUTO &&
		       (flags & EBB_SAMPLE_F_DRIVER) && (flags & EBB_SAMPLE_F_GUEST) &&
		       !(flags & (EBB_SAMPLE_F_BROKEN | EBB_SAMPLE_F_INHIBITED));
	view.total_bytes = ebb_get_le64(&sample->guest[VIRTIO_EBB_S_TOTAL]);
	view.free_bytes = ebb_get_le64(&sample->guest[VIRTIO_EBB_S_FREE]);
	view.resident_bytes = guest->rollup.rss_bytes;
	view.kept_bytes = guest->kept_bytes;
	view.weight = guest->weight;
	if (guest->has_content) {
		const struct ebb_msg_content *content = &guest->content;
		uint64_t volatile_bytes = ebb_get_le64(&content->guest_volatile_bytes);
		uint64_t block_bytes = ebb_get_le64(&content->block_bytes);

		view.purgeable =
			view.askable && !(ebb_get_le32(&content->flags) & EBB_CONTENT_F_HARDENED);
		view.volatile_bytes = volatile_bytes < block_bytes ? volatile_bytes : block_bytes;
		view.unused_usec = now_usec - guest->content_used_usec;
	}
	return view;
}

/*
 * What the last release brought, by what the process holds after it. What it did not bring is left
 * alone for a while, or until less is resident.
 */
static void weigh_release(struct guest *guest, uint64_t now_usec)
{
	struct guest_release *release = &guest->release;
	struct policy_guest view = policy_view(guest, now_usec);
	uint64_t excess_bytes = policy_excess_bytes(&view), kept_bytes;

	if (guest->kept_bytes > excess_bytes)
		guest->kept_bytes = excess_bytes;
	if (now_usec - guest->kept_usec > KEPT_USEC)
		guest->kept_bytes = 0;
	if (!release->to_weigh || !release->answered || guest->rollup_usec < release->answered_usec)
		return;
	release->to_weigh = false;
	if (release->status > VIRTIO_EBB_DONE_PARTIAL)
		return;
	kept_bytes =
		policy_kept_bytes(release->excess_bytes, excess_bytes, release->discarded_bytes);
	if (!kept_bytes)
		return;
	log_debug("guest %s: %llu MiB of what is resident are brought by no release", guest->name,
		  (unsigned long long)kept_bytes >> 20);
	guest->kept_bytes = kept_bytes;
	guest->kept_usec = now_usec;
}

/* What comes back is weighed against what there is now. */
static void ask_release(struct guest *guest, const struct policy_guest *view)
{
	if (guest_release(guest, view->want_bytes, guest_has_marks(guest), NULL) < 0)
		return;
	guest->release.excess_bytes = policy_excess_bytes(view);
	guest->release.to_weigh = true;
}

/* Ask the guests of a domain (NULL: the host, all guests) for what it misses. */
static void release_for(struct manager *manager, struct domain *domain)
{
	uint64_t now_usec = manager_now_usec(manager);
	const struct policy_conf *conf = &manager->conf.policy;
	struct guest *guest, *next;
	struct policy_guest *views;
	uint64_t deficit_bytes;
	size_t nr = 0, asked;

	deficit_bytes = policy_deficit(conf, &domain->gauge, &domain->level, now_usec);
	if (deficit_bytes == 0 || manager->nr_guests == 0)
		return;
	views = calloc(manager->nr_guests, sizeof(*views));
	if (!views)
		return;
	TAILQ_FOREACH(guest, &manager->guests, link)
	if (!domain->path || guest->domain == domain)
		views[nr++] = policy_view(guest, now_usec);
	asked = policy_release(conf, deficit_bytes, views, nr);
	asked += policy_purge(deficit_bytes, views, nr);
	if (asked) {
		log_debug("%s misses %llu MiB: %zu guests are asked",
			  domain->path ? domain->path : "the host",
			  (unsigned long long)deficit_bytes >> 20, asked);
		domain->gauge = policy_released(conf, &domain->gauge, now_usec);
	}
	nr = 0;
	for (guest = TAILQ_FIRST(&manager->guests); guest; guest = next) {
		next = TAILQ_NEXT(guest, link);
		if (domain->path && guest->domain != domain)
			continue;
		if (views[nr].want_bytes)
			ask_release(guest, &views[nr]);
		else if (views[nr].purge_bytes)
			guest_purge(guest, views[nr].purge_bytes, NULL);
		nr++;
	}
	free(views);
}

/* A guest whose executor takes nothing any more is let go; it may connect again. */
static void drop_stuck(struct manager *manager)
{
	uint64_t now_usec = manager_now_usec(manager);
	struct peer *peer;

	LIST_FOREACH(peer, &manager->peers, link)
	if (!peer->ended && peer->stuck_since_usec &&
	    now_usec - peer->stuck_since_usec > manager->conf.stuck_timeout_msec * 1000ull)
		peer_end(peer, true, "it has not read for %u ms", manager->conf.stuck_timeout_msec);
}

/* What KSM may merge of all guests that are connected, as their executors say. */
static uint64_t mergeable_bytes(const struct manager *manager)
{
	const struct guest *guest;
	uint64_t bytes = 0;
	bool whole;

	TAILQ_FOREACH(guest, &manager->guests, link)
	{
		if (guest->has_merge_state)
			whole = ebb_get_le32(&guest->merge_state.flags) & EBB_MERGE_F_WHOLE;
		else /* an older executor */
			whole = guest->sample_usec &&
				ebb_get_le32(&guest->sample.flags) & EBB_SAMPLE_F_MERGEABLE;
		if (whole)
			bytes += ebb_get_le64(&guest->sample.ram_bytes);
		else if (guest->has_merge_state)
			bytes += ebb_get_le64(&guest->merge_state.marked_bytes);
	}
	return bytes;
}

static void run_round(struct manager *manager)
{
	struct domain *domain, *next_domain;
	struct guest *guest, *next;

	read_host(manager);
	LIST_FOREACH(domain, &manager->domains, link)
	domain->seen = false;
	TAILQ_FOREACH(guest, &manager->guests, link)
	{
		read_guest(manager, guest);
		weigh_release(guest, manager_now_usec(manager));
	}
	find_level(manager, &manager->host);
	update_stage(manager, &manager->host);
	for (domain = LIST_FIRST(&manager->domains); domain; domain = next_domain) {
		next_domain = LIST_NEXT(domain, link);
		if (domain->seen) {
			find_level(manager, domain);
			update_stage(manager, domain);
		} else {
			domain_free(domain);
		}
	}
	manager_admit_groups(manager);
	for (guest = TAILQ_FIRST(&manager->guests); guest; guest = next) {
		next = TAILQ_NEXT(guest, link);
		tell_stage(guest);
	}
	if (manager->conf.release_when_short) {
		release_for(manager, &manager->host);
		LIST_FOREACH(domain, &manager->domains, link)
		release_for(manager, domain);
	}
	drop_stuck(manager);
	ksm_steer_step(&manager->ksm, &manager->conf.ksm, mergeable_bytes(manager),
		       manager_now_usec(manager));
	sd_notifyf(false, "STATUS=%u guests; host %s, %llu MiB available%s", manager->nr_guests,
		   manager->host.gauge.stage ? stage_word(manager->host.gauge.stage) : "unknown",
		   (unsigned long long)manager->host.level.available_bytes >> 20,
		   manager->dry_run ? "; dry run" : "");
}

static int on_tick(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct manager *manager = userdata;

	run_round(manager);
	/* From its end on: a round that takes long leaves as much time to everybody else. */
	sd_event_source_set_time(source,
				 clock_usec() + manager->conf.sample_interval_msec * 1000ull);
	return 0;
}

static int on_reap(sd_event_source *source, void *userdata)
{
	struct manager *manager = userdata;
	struct peer *peer, *next_peer;
	struct control *control, *next_control;

	for (peer = LIST_FIRST(&manager->peers); peer; peer = next_peer) {
		next_peer = LIST_NEXT(peer, link);
		if (peer->ended)
			peer_free(peer);
	}
	for (control = LIST_FIRST(&manager->controls); control; control = next_control) {
		next_control = LIST_NEXT(control, link);
		if (control->ended)
			control_free(control);
	}
	return 0;
}

void manager_reap_later(struct manager *manager)
{
	sd_event_source_set_enabled(manager->reap_source, SD_EVENT_ONESHOT);
}

static int on_pause_over(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct manager *manager = userdata;

	sd_event_source_set_enabled(manager->socket_source, SD_EVENT_ON);
	sd_event_source_set_enabled(manager->control_source, SD_EVENT_ON);
	return 0;
}

void manager_pause_accepting(struct manager *manager)
{
	log_warning("no descriptors or memory left for new connections: raise the limit of open "
		    "files (LimitNOFILE=) or lower max_connections");
	sd_event_source_set_enabled(manager->socket_source, SD_EVENT_OFF);
	sd_event_source_set_enabled(manager->control_source, SD_EVENT_OFF);
	sd_event_source_set_time_relative(manager->pause_source, ACCEPT_PAUSE_USEC);
	sd_event_source_set_enabled(manager->pause_source, SD_EVENT_ONESHOT);
}

static void complain_to_log(void *ctx, const char *line)
{
	log_error("%s", line);
}

/* What needs a restart keeps its old value and is said. */
static void keep_string(const char *key, char **old, char **new)
{
	char *swap;

	if (strcmp(*old, *new) != 0)
		log_warning("%s is now %s in the configuration: restart ebbd for that", key, *new);
	swap = *old;
	*old = *new;
	*new = swap;
}

void manager_reload(struct manager *manager)
{
	struct conf conf;

	sd_notify(false, "RELOADING=1");
	if (conf_load(&conf, manager->conf_path, manager->conf_may_miss, complain_to_log, NULL) <
	    0) {
		log_error("the configuration stays as it was");
	} else {
		keep_string("socket", &manager->conf.socket_path, &conf.socket_path);
		keep_string("control_socket", &manager->conf.control_path, &conf.control_path);
		keep_string("state_file", &manager->conf.state_path, &conf.state_path);
		conf_deinit(&manager->conf);
		manager->conf = conf;
		manager_guest_modes(manager);
		ksm_steer_reload(&manager->ksm, &conf.ksm);
		log_info("the configuration is read anew");
	}
	sd_notify(false, "READY=1");
}

static int add_sources(struct manager *manager)
{
	sd_event *event = manager->event;
	int r;

	r = sd_event_add_defer(event, &manager->reap_source, on_reap, manager);
	if (r >= 0)
		r = sd_event_source_set_enabled(manager->reap_source, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_source_set_priority(manager->reap_source, PRIORITY_REAP);
	if (r >= 0)
		r = sd_event_add_io(event, &manager->socket_source, manager->socket_fd, EPOLLIN,
				    peer_accept, manager);
	if (r >= 0)
		r = sd_event_add_io(event, &manager->control_source, manager->control_fd, EPOLLIN,
				    control_accept, manager);
	if (r >= 0)
		r = sd_event_add_time(event, &manager->pause_source, CLOCK_MONOTONIC, 0, 0,
				      on_pause_over, manager);
	if (r >= 0)
		r = sd_event_source_set_enabled(manager->pause_source, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_time_relative(event, &manager->tick_source, CLOCK_MONOTONIC,
					       manager->conf.sample_interval_msec * 1000ull, 0,
					       on_tick, manager);
	if (r >= 0)
		r = sd_event_source_set_enabled(manager->tick_source, SD_EVENT_ON);
	return r;
}

/* The configuration, the event loop and dry_run are there already. */
int manager_init(struct manager *manager)
{
	const char *ksm_dir, *proc_dir;
	int r;

	LIST_INIT(&manager->peers);
	LIST_INIT(&manager->controls);
	LIST_INIT(&manager->domains);
	TAILQ_INIT(&manager->guests);
	manager->socket_fd = manager->control_fd = -1;
	manager->mounts.v1.dirfd = manager->mounts.v2.dirfd = -1;
	manager->ksm.ksm_dirfd = manager->ksm.proc_dirfd = -1;
	manager->proc_dirfd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (manager->proc_dirfd < 0) {
		log_error("/proc: %s: mount it", strerror(errno));
		return -errno;
	}
	r = cgroup_mounts_open(manager->proc_dirfd, "self/mountinfo", &manager->mounts);
	if (r < 0) {
		log_error("cannot find the cgroups' mount points: %s", strerror(-r));
		return r;
	}
	ksm_dir = getenv("EBB_KSM_DIR");
	proc_dir = getenv("EBB_KSM_PROC_DIR");
	ksm_steer_init(&manager->ksm, ksm_dir ? ksm_dir : KSM_DIR, proc_dir ? proc_dir : "/proc",
		       manager->conf.state_path, manager->dry_run);
	r = state_load(&manager->state, manager->conf.state_path);
	if (r < 0)
		log_warning("%s: %s: what ebbctl had set is lost", manager->conf.state_path,
			    r == -EBADMSG ? "not written by ebbd" : strerror(-r));
	r = listen_open(manager);
	if (r < 0)
		return r;
	r = add_sources(manager);
	if (r < 0) {
		log_error("cannot set up the event loop: %s", strerror(-r));
		return r;
	}
	read_host(manager);
	find_level(manager, &manager->host);
	update_stage(manager, &manager->host);
	return 0;
}

void manager_deinit(struct manager *manager)
{
	struct control *control;
	struct domain *domain;
	struct peer *peer;

	while ((control = LIST_FIRST(&manager->controls))) {
		if (control->waits_for)
			control->waits_for->release.waiter = NULL;
		control_free(control);
	}
	while ((peer = LIST_FIRST(&manager->peers)))
		peer_free(peer);
	while ((domain = LIST_FIRST(&manager->domains)))
		domain_free(domain);
	sd_event_source_disable_unref(manager->tick_source);
	sd_event_source_disable_unref(manager->pause_source);
	sd_event_source_disable_unref(manager->socket_source);
	sd_event_source_disable_unref(manager->control_source);
	sd_event_source_disable_unref(manager->reap_source);
	listen_close(manager);
	ksm_steer_deinit(&manager->ksm);
	cgroup_mounts_close(&manager->mounts);
	state_deinit(&manager->state);
	if (manager->proc_dirfd >= 0)
		close(manager->proc_dirfd);
}
