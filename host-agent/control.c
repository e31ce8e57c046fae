// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * control - answer ebbctl
 *
 * One packet is one request, and has one packet as its answer: a JSON object with "ok".
 * If that is false, "code" says why for programs and "error" for people. A release is
 * answered when the guest has; the connection takes no other request until then, and
 * everybody else is served meanwhile.
 *
 * Owns:    the connections of ebbctl.
 * Thread:  ebbd's only one.
 * Locks:   none.
 * Never:   serves anybody but root and ebbd's own user, waits for a client to read.
 */
#include "control.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "listen.h"
#include "peer.h"
#include "reply.h"
#include "request.h"
#include "words.h"

#define MAX_CONTROLS 32
/* Guests in one answer to "list": 48 of them are well under the smallest socket buffer. */
#define LIST_PAGE_GUESTS 48

static void control_end(struct control *control)
{
	if (control->ended)
		return;
	control->ended = true;
	if (control->waits_for)
		control->waits_for->release.waiter = NULL;
	control->waits_for = NULL;
	sd_event_source_set_enabled(control->io_source, SD_EVENT_OFF);
	manager_reap_later(control->manager);
}

void control_free(struct control *control)
{
	sd_event_source_disable_unref(control->io_source);
	close(control->fd);
	LIST_REMOVE(control, link);
	control->manager->nr_controls--;
	free(control);
}

/* Takes the reply. A client that does not read its answers is let go. */
static void answer(struct control *control, struct json_object *reply)
{
	size_t bytes = 0;
	const char *text;

	text = json_object_to_json_string_length(reply, JSON_C_TO_STRING_PLAIN, &bytes);
	if (!control->ended &&
	    (!text || send(control->fd, text, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)) {
		log_warning("cannot answer ebbctl: %s", text ? strerror(errno) : "out of memory");
		control_end(control);
	}
	json_object_put(reply);
}

static struct guest *wanted_guest(struct control *control, const char *name)
{
	struct guest *guest = guest_find(control->manager, name);

	if (!guest)
		answer(control, reply_no_such_guest(control->manager, name));
	return guest;
}

static void do_list(struct control *control, const struct request *request)
{
	struct json_object *reply = reply_status(control->manager);
	struct json_object *guests = json_object_new_array();
	struct guest *guest;
	size_t nr = 0;

	TAILQ_FOREACH(guest, &control->manager->guests, link)
	{
		if (strcmp(guest->name, request->after) <= 0)
			continue;
		if (nr++ == LIST_PAGE_GUESTS) {
			json_object_object_add(reply, "more", json_object_new_boolean(true));
			break;
		}
		guest_read_proc(guest);
		json_object_array_add(guests, reply_guest(guest));
	}
	json_object_object_add(reply, "guests", guests);
	answer(control, reply);
}

static void do_show(struct control *control, const struct request *request)
{
	struct guest *guest = wanted_guest(control, request->guest);
	struct json_object *reply;

	if (!guest)
		return;
	guest_read_proc(guest);
	reply = reply_ok();
	json_object_object_add(reply, "guest", reply_guest(guest));
	answer(control, reply);
}

/* What was set (r: 0 or an error) stands at once, and on disk before "ok" is said. */
static void answer_set(struct control *control, struct guest *guest, const char *key,
		       const char *value, int r)
{
	struct manager *manager = control->manager;
	struct json_object *reply;

	if (r == 0 && !manager->dry_run)
		r = state_save(&manager->state, manager->conf.state_path);
	guest_find_mode(guest);
	manager_admit_groups(manager);
	guest_push_policy(guest);
	if (r < 0) {
		answer(control,
		       reply_error("state", "%s is set, but cannot be kept over a restart: %s: %s",
				   key, manager->conf.state_path, strerror(-r)));
		return;
	}
	log_info("guest %s: %s %s by ebbctl", guest->name, key, value);
	reply = reply_ok();
	json_object_object_add(reply, "name", json_object_new_string(guest->name));
	json_object_object_add(reply, "key", json_object_new_string(key));
	if (strcmp(key, "mode") == 0)
		json_object_object_add(reply, "value",
				       json_object_new_string(mode_word(guest->mode)));
	else if (strcmp(key, "page-tables") == 0)
		json_object_object_add(reply, "value",
				       json_object_new_string(tables_word(guest->tables_mode)));
	else if (strcmp(key, "merge") == 0)
		json_object_object_add(reply, "value",
				       json_object_new_string(merge_word(guest->merge)));
	else
		json_object_object_add(reply, "value", json_object_new_int((int)guest->weight));
	answer(control, reply);
}

static void set_mode(struct control *control, struct guest *guest, const char *value)
{
	struct state *state = &control->manager->state;
	uint32_t mode;
	int r = 0;

	if (strcmp(value, "default") == 0) {
		state_unset(state, guest->name);
	} else if (mode_from_word(value, &mode) == 0) {
		r = state_set(state, guest->name, mode);
	} else {
		answer(control,
		       reply_error("bad-value",
				   "mode \"%s\" is not known: write " EBB_MODE_WORDS ", or default",
				   value));
		return;
	}
	answer_set(control, guest, "mode", value, r);
}

static void set_merge(struct control *control, struct guest *guest, const char *value)
{
	struct state *state = &control->manager->state;
	uint32_t merge;
	int r = 0;

	if (strcmp(value, "default") == 0) {
		state_unset_merge(state, guest->name);
	} else if (merge_from_word(value, &merge) == 0) {
		r = state_set_merge(state, guest->name, merge);
	} else {
		answer(control, reply_error("bad-value",
					    "merge \"%s\" is not known: write " EBB_MERGE_WORDS
					    ", or default",
					    value));
		return;
	}
	answer_set(control, guest, "merge", value, r);
}

static void set_weight(struct control *control, struct guest *guest, const char *value)
{
	unsigned long weight = 0;
	char *end;

	if (strcmp(value, "default") != 0) {
		weight = strtoul(value, &end, 10);
		if (*value < '0' || *value > '9' || *end || weight < POLICY_WEIGHT_MIN ||
		    weight > POLICY_WEIGHT_MAX) {
			answer(control,
			       reply_error("bad-value",
					   "weight \"%s\": write a whole number from %d to %d, or "
					   "default",
					   value, POLICY_WEIGHT_MIN, POLICY_WEIGHT_MAX));
			return;
		}
	}
	answer_set(control, guest, "weight", value,
		   state_set_weight(&control->manager->state, guest->name, (unsigned int)weight));
}

static void set_tables(struct control *control, struct guest *guest, const char *value)
{
	struct state *state = &control->manager->state;
	uint32_t mode;
	int r = 0;

	if (strcmp(value, "default") == 0) {
		state_unset_tables(state, guest->name);
	} else if (tables_from_word(value, &mode) == 0) {
		r = state_set_tables(state, guest->name, mode);
	} else {
		answer(control,
		       reply_error("bad-value",
				   "page-tables \"%s\" is not known: write " EBB_TABLES_WORDS
				   ", or default",
				   value));
		return;
	}
	answer_set(control, guest, "page-tables", value, r);
}

static void do_set(struct control *control, const struct request *request)
{
	struct guest *guest = wanted_guest(control, request->guest);

	if (!guest)
		return;
	if (strcmp(request->key, "mode") == 0)
		set_mode(control, guest, request->value);
	else if (strcmp(request->key, "weight") == 0)
		set_weight(control, guest, request->value);
	else if (strcmp(request->key, "page-tables") == 0)
		set_tables(control, guest, request->value);
	else if (strcmp(request->key, "merge") == 0)
		set_merge(control, guest, request->value);
	else
		answer(control, reply_error("bad-key",
					    "key \"%s\" is not known: there are mode, weight, "
					    "page-tables and merge",
					    request->key));
}

static struct json_object *release_refused(const struct guest *guest, int error)
{
	switch (error) {
	case -EOPNOTSUPP:
		return reply_error(
			"unsupported",
			"%s is on the balloon front: it cannot be asked; load virtio_ebb "
			"in the guest and use virtio-ebb-pci",
			guest->name);
	case -EBUSY:
		return reply_error(
			"busy",
			"a release, purge or collection of %s is under way: try again when it is "
			"done",
			guest->name);
	case -ENODATA:
		return reply_error(
			"no-sample",
			"%s has not told the size of its RAM yet: try again in a second, "
			"or name a number of bytes",
			guest->name);
	case -EAGAIN:
		return reply_error("stuck", "%s: its VMM does not read what ebbd sends",
				   guest->name);
	case -ECANCELED:
		return reply_error("dry-run", "ebbd runs with --dry-run: nothing was sent to %s",
				   guest->name);
	}
	return reply_error("failed", "%s: %s", guest->name, strerror(-error));
}

static void wait_for_guest(struct control *control, struct guest *guest)
{
	control->waits_for = guest;
	sd_event_source_set_io_events(control->io_source, 0);
}

static void do_purge(struct control *control, const struct request *request)
{
	struct guest *guest = wanted_guest(control, request->guest);
	int r;

	if (!guest)
		return;
	r = guest_purge(guest, request->bytes, control);
	if (r == -EOPNOTSUPP)
		answer(control,
		       reply_error("unsupported",
				   "%s knows no memory with content: it is on the balloon front, "
				   "or its device is older than this ebbd",
				   guest->name));
	else if (r < 0)
		answer(control, release_refused(guest, r));
	else
		wait_for_guest(control, guest);
}

static void do_collect(struct control *control, const struct request *request)
{
	struct guest *guest = wanted_guest(control, request->guest);
	int r;

	if (!guest)
		return;
	r = guest_collect(guest, control);
	if (r == -EOPNOTSUPP)
		answer(control,
		       reply_error("unsupported",
				   "%s cannot be asked for page tables: it is on the balloon "
				   "front, or its device is older than this ebbd",
				   guest->name));
	else if (r < 0)
		answer(control, release_refused(guest, r));
	else
		wait_for_guest(control, guest);
}

static void do_release(struct control *control, const struct request *request)
{
	struct guest *guest = wanted_guest(control, request->guest);
	int r;

	if (!guest)
		return;
	guest_read_proc(guest);
	r = guest_release(guest, request->bytes, request->anew || guest_has_marks(guest), control);
	if (r < 0) {
		answer(control, release_refused(guest, r));
		return;
	}
	wait_for_guest(control, guest);
}

static struct json_object *reply_order(const struct guest *guest)
{
	switch (guest->release.order) {
	case GUEST_ORDER_RELEASE:
		return reply_release(guest);
	case GUEST_ORDER_PURGE:
		return reply_purge(guest);
	case GUEST_ORDER_COLLECT:
		return reply_collect(guest);
	}
	return reply_error("failed", "%s", guest->name);
}

/* Called by the guest that a release, purge or collection was asked of. */
void control_release_over(struct control *control, struct guest *guest,
			  enum control_release_end end)
{
	control->waits_for = NULL;
	if (control->ended)
		return;
	sd_event_source_set_io_events(control->io_source, EPOLLIN);
	switch (end) {
	case CONTROL_RELEASE_DONE:
		answer(control, reply_order(guest));
		break;
	case CONTROL_RELEASE_LATE:
		answer(control,
		       reply_error("timeout", "%s did not answer within %u ms: it may still do it",
				   guest->name, control->manager->conf.release_timeout_msec));
		break;
	case CONTROL_RELEASE_GONE:
		answer(control, reply_error("gone", "%s left before it answered", guest->name));
		break;
	}
}

static void do_request(struct control *control, const char *text, size_t bytes)
{
	char error[REQUEST_ERROR_BYTES] = "out of memory";
	struct request request;

	if (request_parse(&request, text, bytes, error) < 0) {
		answer(control, reply_error("bad-request", "%s", error));
		return;
	}
	switch (request.command) {
	case REQUEST_STATUS:
		answer(control, reply_status(control->manager));
		break;
	case REQUEST_LIST:
		do_list(control, &request);
		break;
	case REQUEST_SHOW:
		do_show(control, &request);
		break;
	case REQUEST_SET:
		do_set(control, &request);
		break;
	case REQUEST_RELEASE:
		do_release(control, &request);
		break;
	case REQUEST_PURGE:
		do_purge(control, &request);
		break;
	case REQUEST_COLLECT:
		do_collect(control, &request);
		break;
	}
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	char packet[REQUEST_MAX_BYTES + 1];
	struct control *control = userdata;
	ssize_t n;

	if (control->waits_for) {
		/* Nothing is read now: this is the client hanging up. */
		control_end(control);
		return 0;
	}
	n = recv(fd, packet, sizeof(packet), MSG_DONTWAIT);
	if (n > 0)
		do_request(control, packet, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		control_end(control);
	return 0;
}

/* Takes the reply. */
static void refuse(struct control *control, struct json_object *reply)
{
	answer(control, reply);
	socket_drain(control->fd);
	control_end(control);
}

static void control_new(struct manager *manager, int fd)
{
	struct control *control = calloc(1, sizeof(*control));
	struct ucred cred = { .uid = (uid_t)-1 };
	socklen_t bytes = sizeof(cred);

	if (!control) {
		close(fd);
		return;
	}
	control->manager = manager;
	control->fd = fd;
	LIST_INSERT_HEAD(&manager->controls, control, link);
	manager->nr_controls++;
	if (sd_event_add_io(manager->event, &control->io_source, fd, EPOLLIN, on_io, control) < 0) {
		control_free(control);
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &bytes) < 0 ||
	    (cred.uid != 0 && cred.uid != geteuid())) {
		log_warning("uid %u may not use the control socket", (unsigned int)cred.uid);
		refuse(control, reply_error("permission", "only root may use the control socket"));
	} else if (manager->nr_controls > MAX_CONTROLS) {
		refuse(control, reply_error("busy", "%u ebbctl are connected already: try again",
					    MAX_CONTROLS));
	}
}

int control_accept(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct manager *manager = userdata;
	int client_fd;

	client_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (client_fd >= 0)
		control_new(manager, client_fd);
	else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
		manager_pause_accepting(manager);
	return 0;
}
