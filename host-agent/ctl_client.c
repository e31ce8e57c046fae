// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ctl_client - ask ebbd
 *
 * One connection is kept for all calls; after a failure the next call connects anew, so
 * that `top` goes on when ebbd is restarted.
 *
 * Owns:    the connection.
 * Thread:  ebbctl's only one.
 * Locks:   none.
 * Never:   prints: the caller decides what becomes of an error.
 */
#include "ctl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ebbd answers at once, but for a release. */
#define REPLY_TIMEOUT_SEC 10

__attribute__((format(printf, 3, 4))) static enum ctl_exit
fail(struct client *client, enum ctl_exit status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(client->error, sizeof(client->error), format, args);
	va_end(args);
	client_close(client);
	return status;
}

void client_close(struct client *client)
{
	if (client->fd >= 0)
		close(client->fd);
	client->fd = -1;
}

static enum ctl_exit client_connect(struct client *client)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (client->fd >= 0)
		return CTL_OK;
	if (strlen(client->path) >= sizeof(address.sun_path))
		return fail(client, CTL_USAGE, "%s: the path is too long for a socket",
			    client->path);
	strcpy(address.sun_path, client->path);
	client->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (client->fd < 0)
		return fail(client, CTL_FAILED, "cannot make a socket: %s", strerror(errno));
	if (connect(client->fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
		return CTL_OK;
	if (errno == EACCES || errno == EPERM)
		return fail(client, CTL_PERMISSION, "%s: permission denied: run ebbctl as root",
			    client->path);
	if (errno == ENOENT || errno == ECONNREFUSED)
		return fail(
			client, CTL_NO_DAEMON,
			"%s: no ebbd answers there: start it (systemctl start ebbd, or ebbd), or "
			"name its control socket with --socket",
			client->path);
	return fail(client, CTL_NO_DAEMON, "%s: %s", client->path, strerror(errno));
}

/* One packet of any length, as a string. NULL: errno says why; 0: ebbd closed. */
static char *receive(int fd)
{
	ssize_t bytes;
	char *text;

	bytes = recv(fd, NULL, 0, MSG_PEEK | MSG_TRUNC);
	if (bytes <= 0) {
		if (bytes == 0)
			errno = 0;
		return NULL;
	}
	text = malloc((size_t)bytes + 1);
	if (!text)
		return NULL;
	bytes = recv(fd, text, (size_t)bytes, 0);
	if (bytes < 0) {
		free(text);
		return NULL;
	}
	text[bytes] = '\0';
	return text;
}

static enum ctl_exit lost(struct client *client)
{
	if (errno == EAGAIN)
		return fail(client, CTL_NO_DAEMON, "ebbd did not answer within %d s",
			    REPLY_TIMEOUT_SEC);
	return fail(client, CTL_NO_DAEMON, "ebbd closed the connection%s%s: look into its log",
		    errno ? ": " : "", errno ? strerror(errno) : "");
}

/* "error" in words, with the guests that there are. */
static enum ctl_exit refused(struct client *client, struct json_object *reply)
{
	struct json_object *code = NULL, *error = NULL, *guests = NULL;
	enum ctl_exit status = CTL_FAILED;
	const char *word;
	size_t i, used;

	json_object_object_get_ex(reply, "code", &code);
	json_object_object_get_ex(reply, "error", &error);
	json_object_object_get_ex(reply, "guests", &guests);
	word = code ? json_object_get_string(code) : "";
	if (strcmp(word, "no-such-guest") == 0)
		status = CTL_NO_GUEST;
	else if (strcmp(word, "permission") == 0)
		status = CTL_PERMISSION;
	snprintf(client->error, sizeof(client->error), "%s",
		 error ? json_object_get_string(error) : "ebbd refused without a reason");
	if (!guests)
		return status;
	for (i = 0; i < json_object_array_length(guests); i++) {
		used = strlen(client->error);
		snprintf(client->error + used, sizeof(client->error) - used, "%s%s",
			 i ? ", " : "; there are: ",
			 json_object_get_string(json_object_array_get_idx(guests, i)));
	}
	if (i == 0)
		strncat(client->error, "; there is none at the moment",
			sizeof(client->error) - strlen(client->error) - 1);
	return status;
}

/*
 * Takes the request. CTL_OK: *reply is the caller's. Else client->error says why;
 * *reply is set as well if ebbd gave one. patient: wait as long as it takes.
 */
enum ctl_exit client_call(struct client *client, struct json_object *request, bool patient,
			  struct json_object **reply)
{
	struct timeval timeout = { .tv_sec = patient ? 0 : REPLY_TIMEOUT_SEC };
	struct json_object *ok;
	enum ctl_exit status;
	const char *text;
	size_t bytes = 0;
	char *answer;

	*reply = NULL;
	status = client_connect(client);
	if (status == CTL_OK) {
		setsockopt(client->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
		text = json_object_to_json_string_length(request, JSON_C_TO_STRING_PLAIN, &bytes);
		/* When ebbd has hung up already, what it said before is still there to read. */
		if (text && send(client->fd, text, bytes, MSG_NOSIGNAL) < 0 && errno != EPIPE)
			status = lost(client);
	}
	json_object_put(request);
	if (status != CTL_OK)
		return status;
	answer = receive(client->fd);
	if (!answer)
		return lost(client);
	*reply = json_tokener_parse(answer);
	free(answer);
	if (!json_object_object_get_ex(*reply, "ok", &ok))
		return fail(client, CTL_FAILED,
			    "ebbd's answer is not understood: ebbctl and ebbd "
			    "are of different versions");
	return json_object_get_boolean(ok) ? CTL_OK : refused(client, *reply);
}

static void append_guests(struct json_object *to, struct json_object *from)
{
	size_t i;

	for (i = 0; i < json_object_array_length(from); i++)
		json_object_array_add(to, json_object_get(json_object_array_get_idx(from, i)));
}

/* All guests, page after page; the host's figures are those of the last page. */
enum ctl_exit client_list(struct client *client, struct json_object **list)
{
	struct json_object *all = json_object_new_array();
	struct json_object *request, *page, *guests, *last;
	const char *after = NULL;
	enum ctl_exit status;

	*list = NULL;
	for (;;) {
		request = json_object_new_object();
		json_object_object_add(request, "command", json_object_new_string("list"));
		if (after)
			json_object_object_add(request, "after", json_object_new_string(after));
		status = client_call(client, request, false, &page);
		if (status != CTL_OK || !json_object_object_get_ex(page, "guests", &guests)) {
			json_object_put(page);
			json_object_put(all);
			return status != CTL_OK
				       ? status
				       : fail(client, CTL_FAILED, "ebbd's list misses guests");
		}
		append_guests(all, guests);
		if (!json_object_object_get_ex(page, "more", &last))
			break;
		last = json_object_array_get_idx(all, json_object_array_length(all) - 1);
		json_object_object_get_ex(last, "name", &last);
		after = json_object_get_string(last);
		json_object_put(page);
	}
	json_object_object_del(page, "ok");
	json_object_object_add(page, "guests", all);
	*list = page;
	return CTL_OK;
}
