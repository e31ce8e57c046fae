// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * state - what ebbctl has set for each guest, kept over restarts
 *
 * A small JSON file, {"version":1,"guests":{"NAME":{"mode":"lazy","weight":200}}}, either
 * key may miss, replaced as a whole: whoever reads it sees the old one or the new one. An entry
 * stays when its guest goes, so that a guest which comes back is treated as before.
 *
 * Owns:    the entries.
 * Thread:  ebbd's only one.
 * Locks:   none.
 * Never:   leaves a half-written file under the file's own name.
 */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "policy.h"
#include "proc.h"
#include "words.h"

#define STATE_MAX_BYTES (1u << 20)

static struct state_entry *find(const struct state *state, const char *name)
{
	size_t i;

	for (i = 0; i < state->nr_entries; i++)
		if (strcmp(state->entries[i].name, name) == 0)
			return &state->entries[i];
	return NULL;
}

static int find_or_add(struct state *state, const char *name, struct state_entry **found)
{
	struct state_entry *entries;

	*found = find(state, name);
	if (*found)
		return 0;
	if (state->nr_entries >= STATE_MAX_GUESTS)
		return -ENOSPC;
	if (strlen(name) >= sizeof(entries->name))
		return -ENAMETOOLONG;
	entries = reallocarray(state->entries, state->nr_entries + 1, sizeof(*entries));
	if (!entries)
		return -ENOMEM;
	state->entries = entries;
	*found = &entries[state->nr_entries++];
	memset(*found, 0, sizeof(**found));
	memcpy((*found)->name, name, strlen(name));
	return 0;
}

static void drop_if_empty(struct state *state, struct state_entry *entry)
{
	if (!entry->has_mode && !entry->weight && !entry->has_tables && !entry->has_merge)
		*entry = state->entries[--state->nr_entries];
}

bool state_get(const struct state *state, const char *name, uint32_t *mode)
{
	const struct state_entry *entry = find(state, name);

	if (!entry || !entry->has_mode)
		return false;
	*mode = entry->mode;
	return true;
}

/* -ENOSPC: there are STATE_MAX_GUESTS already. */
int state_set(struct state *state, const char *name, uint32_t mode)
{
	struct state_entry *entry;
	int r = find_or_add(state, name, &entry);

	if (r < 0)
		return r;
	entry->has_mode = true;
	entry->mode = mode;
	return 0;
}

void state_unset(struct state *state, const char *name)
{
	struct state_entry *entry = find(state, name);

	if (entry) {
		entry->has_mode = false;
		drop_if_empty(state, entry);
	}
}

bool state_get_merge(const struct state *state, const char *name, uint32_t *merge)
{
	const struct state_entry *entry = find(state, name);

	if (!entry || !entry->has_merge)
		return false;
	*merge = entry->merge;
	return true;
}

/* Errors as of state_set(). */
int state_set_merge(struct state *state, const char *name, uint32_t merge)
{
	struct state_entry *entry;
	int r = find_or_add(state, name, &entry);

	if (r < 0)
		return r;
	entry->has_merge = true;
	entry->merge = merge;
	return 0;
}

void state_unset_merge(struct state *state, const char *name)
{
	struct state_entry *entry = find(state, name);

	if (entry) {
		entry->has_merge = false;
		drop_if_empty(state, entry);
	}
}

/* 0: none is set. */
unsigned int state_get_weight(const struct state *state, const char *name)
{
	const struct state_entry *entry = find(state, name);

	return entry ? entry->weight : 0;
}

/* 0: as the configuration says. Errors as of state_set(). */
int state_set_weight(struct state *state, const char *name, unsigned int weight)
{
	struct state_entry *entry;
	int r = find_or_add(state, name, &entry);

	if (r < 0)
		return r;
	entry->weight = weight;
	drop_if_empty(state, entry);
	return 0;
}

bool state_get_tables(const struct state *state, const char *name, uint32_t *mode)
{
	const struct state_entry *entry = find(state, name);

	if (!entry || !entry->has_tables)
		return false;
	*mode = entry->tables;
	return true;
}

/* Errors as of state_set(). */
int state_set_tables(struct state *state, const char *name, uint32_t mode)
{
	struct state_entry *entry;
	int r = find_or_add(state, name, &entry);

	if (r < 0)
		return r;
	entry->has_tables = true;
	entry->tables = mode;
	return 0;
}

void state_unset_tables(struct state *state, const char *name)
{
	struct state_entry *entry = find(state, name);

	if (entry) {
		entry->has_tables = false;
		drop_if_empty(state, entry);
	}
}

void state_deinit(struct state *state)
{
	free(state->entries);
	*state = (struct state){ 0 };
}

static int parse_guest(struct state *state, const char *name, struct json_object *entry)
{
	struct json_object *mode, *weight, *tables, *merge;
	bool has_tables = json_object_object_get_ex(entry, "page_tables", &tables);
	bool has_mode = json_object_object_get_ex(entry, "mode", &mode);
	bool has_weight = json_object_object_get_ex(entry, "weight", &weight);
	bool has_merge = json_object_object_get_ex(entry, "merge", &merge);
	uint32_t value;
	int64_t number;
	int r = 0;

	if (!has_mode && !has_weight && !has_tables && !has_merge)
		return -EBADMSG;
	if (has_mode) {
		if (!json_object_is_type(mode, json_type_string) ||
		    mode_from_word(json_object_get_string(mode), &value) < 0)
			return -EBADMSG;
		r = state_set(state, name, value);
	}
	if (has_merge && r == 0) {
		if (!json_object_is_type(merge, json_type_string) ||
		    merge_from_word(json_object_get_string(merge), &value) < 0)
			return -EBADMSG;
		r = state_set_merge(state, name, value);
	}
	if (has_weight && r == 0) {
		number = json_object_get_int64(weight);
		if (!json_object_is_type(weight, json_type_int) || number < POLICY_WEIGHT_MIN ||
		    number > POLICY_WEIGHT_MAX)
			return -EBADMSG;
		r = state_set_weight(state, name, (unsigned int)number);
	}
	if (has_tables && r == 0) {
		if (!json_object_is_type(tables, json_type_string) ||
		    tables_from_word(json_object_get_string(tables), &value) < 0)
			return -EBADMSG;
		r = state_set_tables(state, name, value);
	}
	return r;
}

static int parse_guests(struct state *state, struct json_object *guests)
{
	int r;

	json_object_object_foreach(guests, name, entry)
	{
		r = parse_guest(state, name, entry);
		if (r < 0)
			return r;
	}
	return 0;
}

/* No file is an empty state. -EBADMSG: the file is not what state_save() writes. */
int state_load(struct state *state, const char *path)
{
	struct json_object *root = NULL, *version, *guests;
	char *text;
	int r;

	*state = (struct state){ 0 };
	text = malloc(STATE_MAX_BYTES);
	if (!text)
		return -ENOMEM;
	r = proc_read_text(AT_FDCWD, path, text, STATE_MAX_BYTES);
	if (r == 0) {
		root = json_tokener_parse(text);
		if (json_object_object_get_ex(root, "version", &version) &&
		    json_object_get_int(version) == 1 &&
		    json_object_object_get_ex(root, "guests", &guests) &&
		    json_object_is_type(guests, json_type_object))
			r = parse_guests(state, guests);
		else
			r = -EBADMSG;
	}
	json_object_put(root);
	free(text);
	if (r < 0)
		state_deinit(state);
	return r == -ENOENT ? 0 : r;
}

static struct json_object *to_json(const struct state *state)
{
	struct json_object *root = json_object_new_object();
	struct json_object *guests = json_object_new_object();
	struct json_object *entry;
	size_t i;

	json_object_object_add(root, "version", json_object_new_int(1));
	for (i = 0; i < state->nr_entries; i++) {
		entry = json_object_new_object();
		if (state->entries[i].has_mode)
			json_object_object_add(
				entry, "mode",
				json_object_new_string(mode_word(state->entries[i].mode)));
		if (state->entries[i].has_merge)
			json_object_object_add(
				entry, "merge",
				json_object_new_string(merge_word(state->entries[i].merge)));
		if (state->entries[i].weight)
			json_object_object_add(entry, "weight",
					       json_object_new_int((int)state->entries[i].weight));
		if (state->entries[i].has_tables)
			json_object_object_add(
				entry, "page_tables",
				json_object_new_string(tables_word(state->entries[i].tables)));
		json_object_object_add(guests, state->entries[i].name, entry);
	}
	json_object_object_add(root, "guests", guests);
	return root;
}

static int write_all(int fd, const char *text, size_t bytes)
{
	ssize_t n;

	while (bytes) {
		n = write(fd, text, bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		bytes -= (size_t)n;
	}
	return 0;
}

int state_save(const struct state *state, const char *path)
{
	struct json_object *root;
	char *new_path;
	const char *text;
	int fd, r;

	if (asprintf(&new_path, "%s.new", path) < 0)
		return -ENOMEM;
	fd = open(new_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		r = -errno;
		free(new_path);
		return r;
	}
	root = to_json(state);
	text = json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY);
	r = text ? write_all(fd, text, strlen(text)) : -ENOMEM;
	json_object_put(root);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	close(fd);
	if (r == 0 && rename(new_path, path) < 0)
		r = -errno;
	if (r < 0)
		unlink(new_path);
	free(new_path);
	return r;
}
