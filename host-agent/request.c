// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * request - parse what ebbctl asks
 *
 * One JSON object in one packet. Each command has its keys, all of them needed unless
 * said; a key that the command does not know is refused, so that a newer ebbctl learns
 * that this ebbd is older instead of being half obeyed.
 *
 *	{"command":"status"}
 *	{"command":"list"}			"after" may follow
 *	{"command":"show","guest":NAME}
 *	{"command":"set","guest":NAME,"key":KEY,"value":VALUE}
 *	{"command":"release","guest":NAME}	"bytes" (all without it), "anew" may follow
 *	{"command":"purge","guest":NAME}	"bytes" (all without it) may follow
 *	{"command":"collect","guest":NAME}
 *
 * Owns:    nothing.
 * Thread:  any.
 * Locks:   none.
 * Never:   trusts the packet: the peer is root, but may be wrong.
 */
#include "request.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define KEY_GUEST 0x01
#define KEY_AFTER 0x02
#define KEY_KEY	  0x04
#define KEY_VALUE 0x08
#define KEY_BYTES 0x10
#define KEY_ANEW  0x20

static const struct {
	const char *word;
	enum request_command command;
	unsigned int needs;
	unsigned int may;
} commands[] = {
	{ "status", REQUEST_STATUS, 0, 0 },
	{ "list", REQUEST_LIST, 0, KEY_AFTER },
	{ "show", REQUEST_SHOW, KEY_GUEST, 0 },
	{ "set", REQUEST_SET, KEY_GUEST | KEY_KEY | KEY_VALUE, 0 },
	{ "release", REQUEST_RELEASE, KEY_GUEST, KEY_BYTES | KEY_ANEW },
	{ "purge", REQUEST_PURGE, KEY_GUEST, KEY_BYTES },
	{ "collect", REQUEST_COLLECT, KEY_GUEST, 0 },
};

__attribute__((format(printf, 2, 3))) static int fail(char error[REQUEST_ERROR_BYTES],
						      const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error, REQUEST_ERROR_BYTES, format, args);
	va_end(args);
	return -EINVAL;
}

/* A string without a NUL in it that fits. */
static bool take_string(struct json_object *value, char *to, size_t to_bytes)
{
	size_t bytes;

	if (!json_object_is_type(value, json_type_string))
		return false;
	bytes = (size_t)json_object_get_string_len(value);
	if (bytes == 0 || bytes >= to_bytes || strlen(json_object_get_string(value)) != bytes)
		return false;
	memcpy(to, json_object_get_string(value), bytes + 1);
	return true;
}

/* A whole number above 0. json-c keeps one that is too large as the largest. */
static bool take_bytes(struct json_object *value, uint64_t *bytes)
{
	if (!json_object_is_type(value, json_type_int) || json_object_get_int64(value) <= 0)
		return false;
	*bytes = json_object_get_uint64(value);
	return true;
}

static int take_key(struct request *request, const char *key, struct json_object *value,
		    unsigned int *bit)
{
	bool ok;

	if (strcmp(key, "guest") == 0) {
		*bit = KEY_GUEST;
		ok = take_string(value, request->guest, sizeof(request->guest));
	} else if (strcmp(key, "after") == 0) {
		*bit = KEY_AFTER;
		ok = take_string(value, request->after, sizeof(request->after));
	} else if (strcmp(key, "key") == 0) {
		*bit = KEY_KEY;
		ok = take_string(value, request->key, sizeof(request->key));
	} else if (strcmp(key, "value") == 0) {
		*bit = KEY_VALUE;
		ok = take_string(value, request->value, sizeof(request->value));
	} else if (strcmp(key, "bytes") == 0) {
		*bit = KEY_BYTES;
		ok = take_bytes(value, &request->bytes);
	} else if (strcmp(key, "anew") == 0) {
		*bit = KEY_ANEW;
		ok = json_object_is_type(value, json_type_boolean);
		request->anew = ok && json_object_get_boolean(value);
	} else {
		return -ENOENT;
	}
	return ok ? 0 : -EINVAL;
}

static int parse_object(struct request *request, struct json_object *root,
			char error[REQUEST_ERROR_BYTES])
{
	char word[REQUEST_WORD_BYTES];
	struct json_object *value;
	unsigned int bit = 0, seen = 0;
	size_t i;
	int r;

	if (!json_object_is_type(root, json_type_object))
		return fail(error, "the request is not a JSON object");
	if (!json_object_object_get_ex(root, "command", &value) ||
	    !take_string(value, word, sizeof(word)))
		return fail(error, "the request has no \"command\"");
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].word, word) == 0)
			break;
	if (i == sizeof(commands) / sizeof(commands[0]))
		return fail(error,
			    "command \"%s\" is not known: status, list, show, set, release, "
			    "purge, collect",
			    word);
	request->command = commands[i].command;

	json_object_object_foreach(root, key, item)
	{
		if (strcmp(key, "command") == 0)
			continue;
		r = take_key(request, key, item, &bit);
		if (r == -ENOENT || (r == 0 && !(bit & (commands[i].needs | commands[i].may))))
			return fail(error, "command \"%s\" knows no key \"%.40s\"", word, key);
		if (r < 0)
			return fail(error,
				    "the value of \"%s\" is empty, too long or of a wrong type",
				    key);
		seen |= bit;
	}
	if ((seen & commands[i].needs) != commands[i].needs)
		return fail(error, "command \"%s\" misses a key", word);
	return 0;
}

int request_parse(struct request *request, const char *text, size_t text_bytes,
		  char error[REQUEST_ERROR_BYTES])
{
	struct json_tokener *tokener;
	struct json_object *root;
	int r;

	*request = (struct request){ 0 };
	if (text_bytes > REQUEST_MAX_BYTES)
		return fail(error, "the request is longer than %d bytes", REQUEST_MAX_BYTES);
	tokener = json_tokener_new_ex(4);
	if (!tokener)
		return -ENOMEM;
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	root = json_tokener_parse_ex(tokener, text, (int)text_bytes);
	if (json_tokener_get_error(tokener) != json_tokener_success ||
	    json_tokener_get_parse_end(tokener) != text_bytes)
		r = fail(error, "the request is not JSON");
	else
		r = parse_object(request, root, error);
	json_object_put(root);
	json_tokener_free(tokener);
	return r;
}
