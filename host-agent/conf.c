// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * conf - read ebbd.conf
 *
 * inih splits the lines, this file gives them meaning. It reads on after a fault, so
 * that one look shows all of them, each with file and line and what to write there.
 * The reader given to inih counts lines and refuses what inih would take silently in
 * another sense: lines that are too long (it would cut them in two) and indented ones
 * (it would take them for more of the value before).
 *
 * Owns:    nothing beyond the call.
 * Thread:  ebbd's only one.
 * Locks:   none.
 * Never:   takes part of a file: either all of it is good or none is used.
 */
#include "conf.h"

#include <errno.h>
#include <grp.h>
#include <ini.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "agent_check.h"
#include "words.h"

/* An executor sends so many with each sample, and some more when it is asked. */
#define SAMPLE_MESSAGES 4

struct parser {
	struct conf *conf;
	const char *path;
	FILE *file;
	int line;
	bool failed;	  /* something was wrong */
	bool line_failed; /* the reader has complained about this line already */
	conf_complain_fn complain;
	void *ctx;
};

__attribute__((format(printf, 2, 3))) static void complain(struct parser *parser,
							   const char *format, ...)
{
	char text[512], line[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (parser->line)
		snprintf(line, sizeof(line), "%s:%d: %s", parser->path, parser->line, text);
	else
		snprintf(line, sizeof(line), "%s: %s", parser->path, text);
	parser->complain(parser->ctx, line);
	parser->failed = true;
}

/* Keys that are whole numbers: what they mean, in which bounds. */
static const struct number_key {
	const char *section;
	const char *key;
	size_t offset;
	unsigned int min, max;
} number_keys[] = {
#define NUMBER(section, field, min, max)                                \
	{                                                               \
		section, #field, offsetof(struct conf, field), min, max \
	}
#define POLICY(field, min, max)                                                 \
	{                                                                       \
		"policy", #field, offsetof(struct conf, policy.field), min, max \
	}
#define KSM(field, min, max)                                                        \
	{                                                                           \
		"policy", "ksm_" #field, offsetof(struct conf, ksm.field), min, max \
	}
	NUMBER("ebbd", sample_interval_msec, EBB_AGENT_SAMPLE_INTERVAL_MIN_MSEC,
	       EBB_AGENT_SAMPLE_INTERVAL_MAX_MSEC),
	NUMBER("ebbd", hello_timeout_msec, 100, 600000),
	NUMBER("ebbd", release_timeout_msec, 100, 3600000),
	NUMBER("ebbd", stuck_timeout_msec, 100, 3600000),
	NUMBER("ebbd", max_connections, 1, 65536),
	NUMBER("ebbd", max_connections_per_uid, 1, 65536),
	NUMBER("ebbd", max_messages_per_sec, 1, 100000),
	NUMBER("policy", page_tables_delay_msec, EBB_TABLES_DELAY_MIN_MSEC,
	       EBB_TABLES_DELAY_MAX_MSEC),
	NUMBER("policy", page_tables_amount, 1, 1u << 30),
	NUMBER("policy", page_tables_least, 0, 1u << 30),
	NUMBER("policy", weight, POLICY_WEIGHT_MIN, POLICY_WEIGHT_MAX),
	POLICY(nearing_percent, 1, 90),
	POLICY(short_percent, 0, 90),
	POLICY(hysteresis_percent, 0, 50),
	POLICY(calm_msec, 0, 3600000),
	POLICY(answer_msec, 0, 600000),
	POLICY(settle_msec, 0, 3600000),
	KSM(cpu_percent, 1, 100),
	KSM(max_pages, 0, UINT_MAX),
	KSM(interval_msec, 100, 3600000),
#undef KSM
#undef NUMBER
#undef POLICY
};

static void take_unsigned(struct parser *parser, const char *key, const char *value,
			  unsigned int min, unsigned int max, unsigned int *to)
{
	unsigned long number;
	char *end;

	errno = 0;
	number = strtoul(value, &end, 10);
	if (errno || end == value || *end || *value == '-' || number < min || number > max)
		complain(parser, "%s = %s: write a whole number from %u to %u", key, value, min,
			 max);
	else
		*to = (unsigned int)number;
}

static void take_number(struct parser *parser, const struct number_key *key, const char *value)
{
	take_unsigned(parser, key->key, value, key->min, key->max,
		      (unsigned int *)((char *)parser->conf + key->offset));
}

static void take_path(struct parser *parser, const char *key, const char *value, char **to,
		      size_t max_bytes)
{
	char *copy;

	if (value[0] != '/' || strlen(value) >= max_bytes) {
		complain(parser, "%s = %s: write an absolute path shorter than %zu bytes", key,
			 value, max_bytes);
		return;
	}
	copy = strdup(value);
	if (!copy) {
		complain(parser, "%s: out of memory", key);
		return;
	}
	free(*to);
	*to = copy;
}

static void take_socket_mode(struct parser *parser, const char *value)
{
	unsigned long mode;
	char *end;

	mode = strtoul(value, &end, 8);
	if (end == value || *end || mode > 0777 || (mode & 0600) != 0600) {
		complain(parser,
			 "socket_mode = %s: write an octal mode such as 0666 or 0660 that lets the "
			 "owner read and write",
			 value);
		return;
	}
	parser->conf->socket_mode = (unsigned int)mode;
}

static void take_socket_group(struct parser *parser, const char *value)
{
	struct group *group = getgrnam(value);

	if (!group) {
		complain(parser,
			 "socket_group = %s: there is no such group: create it or name another",
			 value);
		return;
	}
	parser->conf->socket_gid = group->gr_gid;
}

static void take_mode(struct parser *parser, const char *value, uint32_t *mode)
{
	if (mode_from_word(value, mode) < 0)
		complain(parser, "mode = %s: write " EBB_MODE_WORDS, value);
}

static void take_tables(struct parser *parser, const char *value, uint32_t *mode)
{
	if (tables_from_word(value, mode) < 0)
		complain(parser, "page_tables = %s: write " EBB_TABLES_WORDS, value);
}

static void take_merge(struct parser *parser, const char *value, uint32_t *merge)
{
	if (merge_from_word(value, merge) < 0)
		complain(parser, "merge = %s: write " EBB_MERGE_WORDS, value);
}

static void take_merge_group(struct parser *parser, const char *value,
			     char group[EBB_AGENT_NAME_BYTES])
{
	char name[EBB_AGENT_NAME_BYTES] = "";

	if (strlen(value) < sizeof(name))
		memcpy(name, value, strlen(value));
	if (ebb_agent_check_text(name, sizeof(name), 1) != EBB_AGENT_FAULT_NONE) {
		complain(parser,
			 "merge_group = %s: write own, host, or a name of printable ASCII without "
			 "space and '/'",
			 value);
		return;
	}
	memcpy(group, name, sizeof(name));
}

static void take_ksm(struct parser *parser, const char *value, bool *steer)
{
	if (strcmp(value, "steer") == 0)
		*steer = true;
	else if (strcmp(value, "off") == 0)
		*steer = false;
	else
		complain(parser, "ksm = %s: write off or steer", value);
}

static void take_bool(struct parser *parser, const char *key, const char *value, bool *to)
{
	if (strcmp(value, "yes") == 0)
		*to = true;
	else if (strcmp(value, "no") == 0)
		*to = false;
	else
		complain(parser, "%s = %s: write yes or no", key, value);
}

static bool take_ebbd(struct parser *parser, const char *key, const char *value)
{
	struct conf *conf = parser->conf;
	const size_t socket_bytes = sizeof(((struct sockaddr_un *)NULL)->sun_path);

	if (strcmp(key, "socket") == 0)
		take_path(parser, key, value, &conf->socket_path, socket_bytes);
	else if (strcmp(key, "control_socket") == 0)
		take_path(parser, key, value, &conf->control_path, socket_bytes);
	else if (strcmp(key, "state_file") == 0)
		take_path(parser, key, value, &conf->state_path, PATH_MAX - 8);
	else if (strcmp(key, "socket_mode") == 0)
		take_socket_mode(parser, value);
	else if (strcmp(key, "socket_group") == 0)
		take_socket_group(parser, value);
	else
		return false;
	return true;
}

static bool take_policy(struct parser *parser, const char *key, const char *value)
{
	struct conf *conf = parser->conf;

	if (strcmp(key, "mode") == 0) {
		take_mode(parser, value, &conf->mode);
	} else if (strcmp(key, "page_tables") == 0) {
		take_tables(parser, value, &conf->tables);
	} else if (strcmp(key, "merge") == 0) {
		take_merge(parser, value, &conf->merge);
	} else if (strcmp(key, "merge_group") == 0) {
		take_merge_group(parser, value, conf->merge_group);
	} else if (strcmp(key, "ksm") == 0) {
		take_ksm(parser, value, &conf->ksm.steer);
	} else if (strcmp(key, "ksm_zero_pages") == 0) {
		take_bool(parser, key, value, &conf->ksm.zero_pages);
	} else if (strcmp(key, "release") == 0) {
		take_bool(parser, key, value, &conf->release_when_short);
	} else if (strcmp(key, "guest_floor") == 0) {
		if (bytes_from_text(value, &conf->policy.guest_floor_bytes) < 0)
			complain(parser, "%s = %s: write bytes, such as 64M", key, value);
	} else {
		return false;
	}
	return true;
}

/* guest "NAME": gives NAME, or complains. */
static bool guest_of_section(struct parser *parser, const char *section,
			     char name[EBB_AGENT_NAME_BYTES])
{
	const char *from = section + 5, *end;

	memset(name, 0, EBB_AGENT_NAME_BYTES);
	from += strspn(from, " ");
	end = *from == '"' ? strchr(from + 1, '"') : NULL;
	if (!end) {
		/* inih cuts a section's name off at 49 bytes. */
		complain(parser, "[%s]: write [guest \"NAME\"], with a name of at most 40 bytes",
			 section);
		return false;
	}
	if (end[1] == '\0' && end - from - 1 < EBB_AGENT_NAME_BYTES)
		memcpy(name, from + 1, (size_t)(end - from - 1));
	if (ebb_agent_check_text(name, EBB_AGENT_NAME_BYTES, 1) != EBB_AGENT_FAULT_NONE) {
		complain(parser, "[%s]: a guest's name is printable ASCII without space and '/'",
			 section);
		return false;
	}
	return true;
}

static struct conf_guest *find_guest(const struct conf *conf, const char *name)
{
	struct conf_guest *guest;

	for (guest = conf->guests; guest; guest = guest->next)
		if (strcmp(guest->name, name) == 0)
			return guest;
	return NULL;
}

static void take_guest(struct parser *parser, const char *section, const char *key,
		       const char *value)
{
	char name[EBB_AGENT_NAME_BYTES];
	struct conf_guest *guest;

	if (!guest_of_section(parser, section, name))
		return;
	if (strcmp(key, "mode") != 0 && strcmp(key, "weight") != 0 &&
	    strcmp(key, "page_tables") != 0 && strcmp(key, "merge") != 0 &&
	    strcmp(key, "merge_group") != 0) {
		complain(parser,
			 "%s is not a key of [%s]: it knows mode, weight, page_tables, merge and "
			 "merge_group",
			 key, section);
		return;
	}
	guest = find_guest(parser->conf, name);
	if (!guest) {
		guest = calloc(1, sizeof(*guest));
		if (!guest) {
			complain(parser, "out of memory");
			return;
		}
		memcpy(guest->name, name, sizeof(guest->name));
		guest->next = parser->conf->guests;
		parser->conf->guests = guest;
	}
	if (strcmp(key, "weight") == 0) {
		take_unsigned(parser, key, value, POLICY_WEIGHT_MIN, POLICY_WEIGHT_MAX,
			      &guest->weight);
		return;
	}
	if (strcmp(key, "page_tables") == 0) {
		take_tables(parser, value, &guest->tables);
		guest->has_tables = true;
		return;
	}
	if (strcmp(key, "merge") == 0) {
		take_merge(parser, value, &guest->merge);
		guest->has_merge = true;
		return;
	}
	if (strcmp(key, "merge_group") == 0) {
		take_merge_group(parser, value, guest->merge_group);
		return;
	}
	take_mode(parser, value, &guest->mode);
	guest->has_mode = true;
}

/* inih calls this for each key; the return value 1 is "taken": faults are ours to tell. */
static int take_line(void *user, const char *section, const char *key, const char *value)
{
	struct parser *parser = user;
	size_t i;

	if (parser->line_failed)
		return 1;
	for (i = 0; i < sizeof(number_keys) / sizeof(number_keys[0]); i++) {
		if (strcmp(section, number_keys[i].section) == 0 &&
		    strcmp(key, number_keys[i].key) == 0) {
			take_number(parser, &number_keys[i], value);
			return 1;
		}
	}
	if (strcmp(section, "ebbd") == 0) {
		if (take_ebbd(parser, key, value))
			return 1;
	} else if (strcmp(section, "policy") == 0) {
		if (take_policy(parser, key, value))
			return 1;
	} else if (strncmp(section, "guest", 5) == 0 && (section[5] == ' ' || section[5] == '"')) {
		take_guest(parser, section, key, value);
		return 1;
	} else {
		complain(parser,
			 "[%s] is no section: there are [ebbd], [policy] and [guest \"NAME\"]",
			 section);
		return 1;
	}
	complain(parser, "%s is not a key of [%s]: see ebbd.conf(5)", key, section);
	return 1;
}

/* What inih reads lines with: fgets() that counts, and looks at the line itself. */
static char *read_line(char *text, int text_bytes, void *user)
{
	struct parser *parser = user;
	const char *first;
	size_t used;
	int c;

	if (!fgets(text, text_bytes, parser->file))
		return NULL;
	parser->line++;
	parser->line_failed = false;
	used = strlen(text);
	if (used + 1 == (size_t)text_bytes && text[used - 1] != '\n') {
		complain(parser, "the line is longer than %d bytes: shorten it", text_bytes - 3);
		while ((c = fgetc(parser->file)) != EOF && c != '\n')
			;
		parser->line_failed = true;
	}
	first = text + strspn(text, " \t");
	if (first != text && *first && !strchr("\r\n;#", *first)) {
		complain(parser, "the line begins with a space: remove it");
		parser->line_failed = true;
	} else if (!strchr("\r\n;#[", *first) && !strpbrk(first, "=:")) {
		complain(parser, "write KEY = VALUE, [SECTION] or # COMMENT");
		parser->line_failed = true;
	} else if (*first == '[' && !strchr(first, ']')) {
		complain(parser, "the section's name misses its ']'");
		parser->line_failed = true;
	}
	if (parser->line_failed)
		snprintf(text, (size_t)text_bytes, "\n");
	return text;
}

/*
 * The defaults, with their reasons:
 * sample_interval 1 s: what is known is at most that old; reading /proc for each guest
 *   once a second is cheap (guest.c bounds what it takes).
 * socket_mode 0666: peers are not trusted in any case, so who may connect is no border.
 * 20 %, 10 %: guests need milliseconds to answer, but a host that starts programs or a
 *   guest that boots takes gigabytes a second; a fifth is the mark that operators of
 *   balloons use, and at a tenth the kernel itself is near to reclaiming.
 * hysteresis 5 %: a quarter of the mark, more than what one answer changes.
 * answer 3 s: one interval until the fall is seen, one until guests hear of it, one to
 *   offer everything.
 * page tables each 10 s, 4096 in a pass, 64 at least: a pass frees 16 MiB at most, behind 8 GiB of
 *   the guest's memory, and asks for nothing below 256 KiB.
 * settle 2 s: two samples after a release.
 * KSM 20 % of a processor, a step each 10 s: what an operator would not mind; a step is long
 *   against ksmd's clock ticks, and /proc is searched for ksmtuned once in each.
 */
static int set_defaults(struct conf *conf)
{
	*conf = (struct conf){
		.socket_path = strdup("/run/ebb/ebbd.sock"),
		.socket_mode = 0666,
		.socket_gid = (gid_t)-1,
		.control_path = strdup("/run/ebb/control.sock"),
		.state_path = strdup("/run/ebb/state"),
		.sample_interval_msec = 1000,
		.hello_timeout_msec = 5000,
		.release_timeout_msec = 30000,
		.stuck_timeout_msec = 30000,
		.max_connections = 512,
		.max_connections_per_uid = 384,
		.max_messages_per_sec = 50,
		.mode = EBB_MODE_KEEP,
		.merge = EBB_MERGE_KEEP,
		.merge_group = MERGE_GROUP_OWN,
		.weight = POLICY_WEIGHT_DEFAULT,
		.tables = EBB_TABLES_KEEP,
		.page_tables_delay_msec = 10000,
		.page_tables_amount = 4096,
		.page_tables_least = 64,
		.release_when_short = true,
		.ksm = { .cpu_percent = 20, .interval_msec = 10000 },
		.policy = {
			.nearing_percent = 20,
			.short_percent = 10,
			.hysteresis_percent = 5,
			.calm_msec = 5000,
			.answer_msec = 3000,
			.settle_msec = 2000,
			.guest_floor_bytes = 32ull << 20,
		},
	};
	return conf->socket_path && conf->control_path && conf->state_path ? 0 : -ENOMEM;
}

/* What only shows when all is read. */
static void check_together(struct parser *parser)
{
	const struct conf *conf = parser->conf;

	parser->line = 0;
	if (conf->policy.short_percent >= conf->policy.nearing_percent)
		complain(parser, "short_percent (%u) must be below nearing_percent (%u)",
			 conf->policy.short_percent, conf->policy.nearing_percent);
	if (conf->policy.nearing_percent + conf->policy.hysteresis_percent > 100)
		complain(parser, "nearing_percent and hysteresis_percent are over 100 together: no "
				 "guest would ever rest again");
	if (conf->max_messages_per_sec < 2 + SAMPLE_MESSAGES * 1000 / conf->sample_interval_msec)
		complain(parser,
			 "max_messages_per_sec (%u) is too low for sample_interval_msec (%u): "
			 "write at least %u",
			 conf->max_messages_per_sec, conf->sample_interval_msec,
			 2 + SAMPLE_MESSAGES * 1000 / conf->sample_interval_msec);
	if (strcmp(conf->socket_path, conf->control_path) == 0)
		complain(parser, "socket and control_socket are the same path: write two");
}

/*
 * 0, or -EINVAL after complaints. may_miss: without the file the defaults stand.
 * On failure *conf is empty.
 */
int conf_load(struct conf *conf, const char *path, bool may_miss, conf_complain_fn complain_fn,
	      void *ctx)
{
	struct parser parser = { .conf = conf, .path = path, .complain = complain_fn, .ctx = ctx };

	if (set_defaults(conf) < 0) {
		complain(&parser, "out of memory");
		conf_deinit(conf);
		return -ENOMEM;
	}
	parser.file = fopen(path, "re");
	if (parser.file) {
		if (ini_parse_stream(read_line, &parser, take_line, &parser) != 0 && !parser.failed)
			complain(&parser, "this is not a configuration file");
		fclose(parser.file);
		check_together(&parser);
	} else if (errno != ENOENT || !may_miss) {
		complain(&parser, "%s", strerror(errno));
	}
	if (parser.failed) {
		conf_deinit(conf);
		return -EINVAL;
	}
	return 0;
}

void conf_deinit(struct conf *conf)
{
	struct conf_guest *guest;

	free(conf->socket_path);
	free(conf->control_path);
	free(conf->state_path);
	while ((guest = conf->guests)) {
		conf->guests = guest->next;
		free(guest);
	}
	*conf = (struct conf){ 0 };
}

/* The mode that the file gives a guest of this name. */
uint32_t conf_guest_mode(const struct conf *conf, const char *name)
{
	const struct conf_guest *guest = find_guest(conf, name);

	return guest && guest->has_mode ? guest->mode : conf->mode;
}

/* What KSM may merge of it. */
uint32_t conf_guest_merge(const struct conf *conf, const char *name)
{
	const struct conf_guest *guest = find_guest(conf, name);

	return guest && guest->has_merge ? guest->merge : conf->merge;
}

/* With whom it may share: a group's name, or one that only this guest has. */
void conf_guest_merge_group(const struct conf *conf, const char *name,
			    char group[MERGE_GROUP_BYTES])
{
	const struct conf_guest *guest = find_guest(conf, name);
	const char *word = guest && guest->merge_group[0] ? guest->merge_group : conf->merge_group;

	/* No name that a file can give has a '/'. */
	if (strcmp(word, MERGE_GROUP_OWN) == 0)
		snprintf(group, MERGE_GROUP_BYTES, MERGE_GROUP_OWN "/%s", name);
	else
		snprintf(group, MERGE_GROUP_BYTES, "%s", word);
}

unsigned int conf_guest_weight(const struct conf *conf, const char *name)
{
	const struct conf_guest *guest = find_guest(conf, name);

	return guest && guest->weight ? guest->weight : conf->weight;
}

uint32_t conf_guest_tables(const struct conf *conf, const char *name)
{
	const struct conf_guest *guest = find_guest(conf, name);

	return guest && guest->has_tables ? guest->tables : conf->tables;
}
