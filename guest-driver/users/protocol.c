// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * protocol - memcached's text protocol
 *
 * Owns:    nothing.
 * Thread:  the only one.
 * Locks:   none.
 * Never:   believes a length before it is compared with a limit; goes on in what a client sends
 *          when it is not sure where the next command begins.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "store.h"

/* Clients look at the first number for what a server can: it is that of memcached. */
#define VERSION	    "1.4.8-ebb-" EBB_VERSION
#define MAX_LINE    ((size_t)64 << 10)
#define MAX_COMMAND ((size_t)2 << 10) /* but for "get" */
#define MAX_WORDS   8
/* An expiry time above is one since 1970, below it is one from now. */
#define MAX_RELATIVE (60 * 60 * 24 * 30)

struct command {
	char text[MAX_COMMAND + 1];
	char *words[MAX_WORDS];
	size_t nr_words;
};

bool reserve(struct buffer *buffer, size_t bytes)
{
	size_t room = buffer->room ? buffer->room : READ_BYTES;
	char *data;

	while (room - buffer->used < bytes)
		room *= 2;
	if (room == buffer->room)
		return true;
	data = realloc(buffer->data, room);
	if (!data)
		return false;
	buffer->data = data;
	buffer->room = room;
	return true;
}

static void put(struct client *client, const void *data, size_t bytes)
{
	if (!reserve(&client->out, bytes)) {
		client->is_failed = true;
		return;
	}
	memcpy(client->out.data + client->out.used, data, bytes);
	client->out.used += bytes;
}

__attribute__((format(printf, 2, 3))) static void reply(struct client *client, const char *format,
							...)
{
	char text[512];
	va_list args;
	int bytes;

	if (client->no_reply)
		return;
	va_start(args, format);
	bytes = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	put(client, text, (size_t)bytes);
	put(client, "\r\n", 2);
}

static bool is_key(const char *key, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if ((unsigned char)key[i] <= ' ' || key[i] == 0x7f)
			return false;
	return bytes && bytes <= STORE_MAX_KEY;
}

bool number(const char *word, uint64_t max, uint64_t *value)
{
	*value = 0;
	if (!*word)
		return false;
	for (; *word; word++) {
		if (*word < '0' || *word > '9' || *value > (max - (uint64_t)(*word - '0')) / 10)
			return false;
		*value = *value * 10 + (uint64_t)(*word - '0');
	}
	return true;
}

/* memcached's expiry times, as seconds since 1970; below zero: expired already. */
static bool expiry(const char *word, int64_t *expires)
{
	uint64_t value;

	if (!number(*word == '-' ? word + 1 : word, INT64_MAX / 2, &value))
		return false;
	if (*word == '-' && value)
		*expires = 1;
	else if (value && value <= MAX_RELATIVE)
		*expires = cache.now + (int64_t)value;
	else
		*expires = (int64_t)value;
	return true;
}

static struct item *find(const char *key)
{
	return store_find(key, strlen(key), cache.now);
}

/* "get" and "gets", one key */
static void get(struct client *client, const char *key, size_t key_bytes)
{
	struct item *item = store_find(key, key_bytes, cache.now);
	size_t before = client->out.used, bytes;
	char head[STORE_MAX_KEY + 80];
	int head_bytes;

	cache.gets++;
	if (!item) {
		cache.misses++;
		return;
	}
	bytes = item->bytes;
	head_bytes = snprintf(head, sizeof(head), "VALUE %.*s %u %zu", (int)key_bytes, key,
			      item->flags, bytes);
	put(client, head, (size_t)head_bytes);
	if (client->keys == GETS_KEYS) {
		head_bytes = snprintf(head, sizeof(head), " %" PRIu64, item->cas);
		put(client, head, (size_t)head_bytes);
	}
	put(client, "\r\n", 2);
	if (!reserve(&client->out, bytes + 2)) {
		client->is_failed = true;
		return;
	}
	if (!store_read(item, client->out.data + client->out.used)) {
		client->out.used = before;
		cache.misses++;
		cache.purged++;
		return;
	}
	client->out.used += bytes;
	put(client, "\r\n", 2);
	cache.hits++;
}

/* The next key of a "get" whose line is complete; returns what was used of it. */
static size_t get_next(struct client *client, const char *line)
{
	size_t start = strspn(line, " "), bytes = strcspn(line + start, " \r\n");
	const char *end = strchr(line, '\n');

	if (bytes && is_key(line + start, bytes)) {
		get(client, line + start, bytes);
		return start + bytes;
	}
	reply(client, bytes ? "CLIENT_ERROR bad key" : "END");
	client->keys = NO_KEYS;
	return (size_t)(end - line) + 1;
}

static void set(struct client *client, const char *key, const struct item *like, const char *value,
		size_t bytes)
{
	if (store_set(key, strlen(key), like->flags, like->expires, value, bytes))
		reply(client, "STORED");
	else
		reply(client, "SERVER_ERROR out of memory storing object");
}

/* "append" and "prepend" */
static void join(struct client *client, const char *key, struct item *old, const char *value,
		 size_t bytes, bool is_append)
{
	struct item like = *old;
	size_t all = like.bytes + bytes;
	char *both = all <= STORE_MAX_VALUE ? malloc(all + 1) : NULL;

	if (!both) {
		reply(client, "SERVER_ERROR object too large for cache");
		return;
	}
	if (store_read(old, both + (is_append ? 0 : bytes))) {
		memcpy(both + (is_append ? like.bytes : 0), value, bytes);
		set(client, key, &like, both, all);
	} else {
		reply(client, "NOT_STORED");
	}
	free(both);
}

/* A storage command with all of its value. */
static void store(struct client *client, const struct command *command, const struct item *like,
		  uint64_t cas, const char *value)
{
	const char *how = command->words[0], *key = command->words[1];
	struct item *old = find(key);

	cache.sets++;
	if (!strcmp(how, "cas") && !old)
		reply(client, "NOT_FOUND");
	else if (!strcmp(how, "cas") && old->cas != cas)
		reply(client, "EXISTS");
	else if (!strcmp(how, "set") || !strcmp(how, "cas"))
		set(client, key, like, value, like->bytes);
	else if (!strcmp(how, "add") == !!old)
		reply(client, "NOT_STORED");
	else if (!strcmp(how, "append") || !strcmp(how, "prepend"))
		join(client, key, old, value, like->bytes, !strcmp(how, "append"));
	else
		set(client, key, like, value, like->bytes);
}

/* Bytes of the command and its value; 0: they have not all come. rest: what follows its line. */
static size_t take_value(struct client *client, const struct command *command, const char *rest,
			 size_t rest_bytes)
{
	bool is_cas = !strcmp(command->words[0], "cas");
	uint64_t flags, bytes, cas = 0;
	struct item like = { 0 };

	if (command->nr_words != (is_cas ? 6 : 5) ||
	    !number(command->words[4], UINT32_MAX, &bytes)) {
		/* Nobody knows where the next command begins. */
		reply(client, "CLIENT_ERROR bad command line format");
		client->is_closing = true;
		return rest_bytes;
	}
	if (!is_key(command->words[1], strlen(command->words[1])) ||
	    !number(command->words[2], UINT32_MAX, &flags) ||
	    !expiry(command->words[3], &like.expires) ||
	    (is_cas && !number(command->words[5], UINT64_MAX, &cas))) {
		reply(client, "CLIENT_ERROR bad command line format");
		client->skip = bytes + 2;
		return 0;
	}
	if (bytes > STORE_MAX_VALUE) {
		struct item *old = find(command->words[1]);

		/* Better no value than the one before. */
		if (old)
			store_delete(old);
		reply(client, "SERVER_ERROR object too large for cache");
		client->skip = bytes + 2;
		return 0;
	}
	if (rest_bytes < bytes + 2)
		return 0;
	if (rest[bytes] != '\r' || rest[bytes + 1] != '\n') {
		reply(client, "CLIENT_ERROR bad data chunk");
		client->is_closing = true;
		return rest_bytes;
	}
	like.flags = (uint32_t)flags;
	like.bytes = (uint32_t)bytes;
	store(client, command, &like, cas, rest);
	return bytes + 2;
}

/* "incr" and "decr" */
static void count(struct client *client, struct command *command)
{
	struct item *item = find(command->words[1]), like;
	bool is_incr = command->words[0][0] == 'i';
	uint64_t value, delta;
	char text[32];

	if (!number(command->words[2], UINT64_MAX, &delta)) {
		reply(client, "CLIENT_ERROR invalid numeric delta argument");
		return;
	}
	if (!item) {
		reply(client, "NOT_FOUND");
		return;
	}
	like = *item;
	if (like.bytes > 20) {
		reply(client, "CLIENT_ERROR cannot increment or decrement non-numeric value");
		return;
	}
	if (!store_read(item, text)) {
		reply(client, "NOT_FOUND");
		return;
	}
	text[like.bytes] = 0;
	if (!number(text, UINT64_MAX, &value)) {
		reply(client, "CLIENT_ERROR cannot increment or decrement non-numeric value");
		return;
	}
	value = is_incr ? value + delta : value > delta ? value - delta : 0;
	snprintf(text, sizeof(text), "%" PRIu64, value);
	if (store_set(command->words[1], strlen(command->words[1]), like.flags, like.expires, text,
		      strlen(text)))
		reply(client, "%s", text);
	else
		reply(client, "SERVER_ERROR out of memory in incr");
}

static void delete_key(struct client *client, struct command *command)
{
	struct item *item = find(command->words[1]);

	if (item)
		store_delete(item);
	reply(client, item ? "DELETED" : "NOT_FOUND");
}

static void touch(struct client *client, struct command *command)
{
	struct item *item = find(command->words[1]);
	int64_t expires;

	if (!expiry(command->words[2], &expires)) {
		reply(client, "CLIENT_ERROR invalid exptime argument");
		return;
	}
	if (item)
		item->expires = expires;
	reply(client, item ? "TOUCHED" : "NOT_FOUND");
}

static void flush_all(struct client *client, struct command *command)
{
	uint64_t delay = 0;

	if (command->nr_words > 1 && !number(command->words[1], MAX_RELATIVE, &delay)) {
		reply(client, "CLIENT_ERROR bad command line format");
		return;
	}
	cache.flush_at = delay ? cache.now + (int64_t)delay : 0;
	if (!delay)
		store_flush();
	cache.flushes++;
	reply(client, "OK");
}

static void stats(struct client *client, struct command *command)
{
	const struct store_figures *s = &store_figures;
	const struct {
		const char *name;
		uint64_t value;
	} lines[] = {
		{ "pid", (uint64_t)getpid() },
		{ "uptime", (uint64_t)(cache.now - cache.started) },
		{ "time", (uint64_t)cache.now },
		{ "pointer_size", sizeof(void *) * 8 },
		{ "curr_connections", cache.clients },
		{ "total_connections", cache.connections },
		{ "cmd_get", cache.gets },
		{ "cmd_set", cache.sets },
		{ "cmd_flush", cache.flushes },
		{ "get_hits", cache.hits },
		{ "get_misses", cache.misses },
		{ "get_purged", cache.purged },
		{ "purged_items", s->purged },
		{ "failed_takebacks", s->failed },
		{ "volatile", store_event_fd() >= 0 },
		{ "bytes", s->bytes },
		{ "curr_items", s->items },
		{ "total_items", s->total_items },
		{ "evictions", s->evictions },
		{ "limit_maxbytes", cache.limit_bytes },
		{ "threads", 1 },
	};

	if (command->nr_words == 1) {
		reply(client, "STAT version %s", VERSION);
		for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
			reply(client, "STAT %s %" PRIu64, lines[i].name, lines[i].value);
	}
	reply(client, "END");
}

static void version(struct client *client, struct command *command)
{
	reply(client, "VERSION %s", VERSION);
}

static void verbosity(struct client *client, struct command *command)
{
	reply(client, "OK");
}

static void quit(struct client *client, struct command *command)
{
	client->is_closing = true;
}

static const struct {
	const char *name;
	size_t least_words, most_words; /* without "noreply" */
	bool has_noreply;
	void (*run)(struct client *client, struct command *command); /* NULL: with a value */
} commands[] = {
	{ "set", 1, 6, true, NULL },
	{ "add", 1, 6, true, NULL },
	{ "replace", 1, 6, true, NULL },
	{ "append", 1, 6, true, NULL },
	{ "prepend", 1, 6, true, NULL },
	{ "cas", 1, 7, true, NULL },
	{ "incr", 3, 3, true, count },
	{ "decr", 3, 3, true, count },
	{ "delete", 2, 3, true, delete_key },
	{ "touch", 3, 3, true, touch },
	{ "flush_all", 1, 2, true, flush_all },
	{ "verbosity", 2, 2, true, verbosity },
	{ "stats", 1, MAX_WORDS, false, stats },
	{ "version", 1, 1, false, version },
	{ "quit", 1, 1, false, quit },
};

static size_t refuse(struct client *client, size_t bytes)
{
	reply(client, "CLIENT_ERROR line too long, or not text");
	client->is_closing = true;
	return bytes;
}

/* The words of a line that ends with a newline, as many as any command has. */
static bool split(struct command *command, const char *line, size_t bytes)
{
	char *rest = command->text, *word;

	if (bytes > MAX_COMMAND || memchr(line, 0, bytes))
		return false;
	memcpy(command->text, line, bytes);
	command->text[bytes] = 0;
	command->nr_words = 0;
	while ((word = strtok_r(rest, " \r\n", &rest)) && command->nr_words < MAX_WORDS)
		command->words[command->nr_words++] = word;
	return true;
}

size_t consume(struct client *client, const char *in, size_t bytes)
{
	const char *end;
	struct command command;
	size_t line, used;
	bool wants_none;

	if (client->skip) {
		used = bytes < client->skip ? bytes : client->skip;
		client->skip -= used;
		return used;
	}
	if (client->keys != NO_KEYS)
		return get_next(client, in);
	client->no_reply = false;
	end = memchr(in, '\n', bytes);
	if (!end)
		return bytes > MAX_LINE ? refuse(client, bytes) : 0;
	line = (size_t)(end - in) + 1;
	if (!strncmp(in, "get ", 4) || !strncmp(in, "gets ", 5)) {
		if (line > MAX_LINE || memchr(in, 0, line))
			return refuse(client, bytes);
		client->keys = in[3] == ' ' ? GET_KEYS : GETS_KEYS;
		return client->keys == GET_KEYS ? 4 : 5;
	}
	if (!split(&command, in, line))
		return refuse(client, bytes);
	wants_none =
		command.nr_words > 1 && !strcmp(command.words[command.nr_words - 1], "noreply");
	command.nr_words -= wants_none;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (!command.nr_words || strcmp(command.words[0], commands[i].name))
			continue;
		client->no_reply = wants_none && commands[i].has_noreply;
		if (command.nr_words < commands[i].least_words ||
		    command.nr_words > commands[i].most_words || wants_none != client->no_reply)
			break;
		if (commands[i].run) {
			commands[i].run(client, &command);
			return line;
		}
		used = take_value(client, &command, in + line, bytes - line);
		return used || client->skip || client->is_closing ? line + used : 0;
	}
	reply(client, "ERROR");
	return line;
}
