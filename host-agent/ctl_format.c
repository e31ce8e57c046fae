// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ctl_format - ebbd's answers for people
 *
 * What is not known is shown as "-". Sizes are powers of 1024: 512.0M, 1.50G.
 *
 * Owns:    nothing.
 * Thread:  ebbctl's only one.
 * Locks:   none.
 * Never:   asks ebbd.
 */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>

#define SIZE_TEXT_BYTES	 16
#define NOTES_TEXT_BYTES 160
/* Silent for so long is worth a note, and so are figures of that age. */
#define SILENT_MSEC 5000
/* Refused RAM is, too; every PC has some hundred KiB of read-only RAM for its firmware. */
#define REFUSED_BYTES (2u << 20)

struct json_object *format_at(struct json_object *object, const char *path)
{
	char key[64];
	const char *dot;

	while (object && (dot = strchr(path, '.'))) {
		snprintf(key, sizeof(key), "%.*s", (int)(dot - path), path);
		if (!json_object_object_get_ex(object, key, &object))
			return NULL;
		path = dot + 1;
	}
	if (!object || !json_object_object_get_ex(object, path, &object))
		return NULL;
	return object;
}

static bool flag(struct json_object *object, const char *path)
{
	return json_object_get_boolean(format_at(object, path));
}

static uint64_t number(struct json_object *object, const char *path)
{
	return json_object_get_uint64(format_at(object, path));
}

static const char *word(struct json_object *object, const char *path)
{
	struct json_object *value = format_at(object, path);

	return value ? json_object_get_string(value) : "-";
}

static const char *size_text(uint64_t bytes, char text[SIZE_TEXT_BYTES])
{
	static const char units[] = "BKMGTPE";
	double value = (double)bytes;
	int unit = 0;

	while (value >= 1000 && units[unit + 1]) {
		value /= 1024;
		unit++;
	}
	if (unit == 0)
		snprintf(text, SIZE_TEXT_BYTES, "%lluB", (unsigned long long)bytes);
	else
		snprintf(text, SIZE_TEXT_BYTES, value < 10 ? "%.2f%c" : "%.1f%c", value,
			 units[unit]);
	return text;
}

static const char *size_at(struct json_object *object, const char *path, char text[SIZE_TEXT_BYTES])
{
	struct json_object *value = format_at(object, path);

	return value ? size_text(json_object_get_uint64(value), text) : "-";
}

static void add_note(char text[NOTES_TEXT_BYTES], const char *note)
{
	size_t used = strlen(text);

	snprintf(text + used, NOTES_TEXT_BYTES - used, "%s%s", used ? ", " : "", note);
}

/* What is unusual about a guest, in words. */
static void notes_of(struct json_object *guest, char text[NOTES_TEXT_BYTES])
{
	bool known = format_at(guest, "sample_age_msec");
	char silent[48], old[48];

	text[0] = '\0';
	if (!known)
		add_note(text, "nothing heard yet");
	else if (number(guest, "sample_age_msec") > SILENT_MSEC) {
		snprintf(silent, sizeof(silent), "silent for %llu s",
			 (unsigned long long)number(guest, "sample_age_msec") / 1000);
		add_note(text, silent);
	}
	if (number(guest, "memory_age_msec") > SILENT_MSEC) {
		snprintf(old, sizeof(old), "resident is %llu s old",
			 (unsigned long long)number(guest, "memory_age_msec") / 1000);
		add_note(text, old);
	}
	if (known && !flag(guest, "flags.driver"))
		add_note(text, "no driver");
	if (flag(guest, "flags.broken"))
		add_note(text, "broken: broke the device's rules, needs a reset");
	if (flag(guest, "flags.inhibited"))
		add_note(text, "inhibited: its VMM forbids discards");
	if (flag(guest, "flags.mergeable"))
		add_note(text, "mergeable: discarded, never marked");
	if (number(guest, "device.refused_ram_bytes") >= REFUSED_BYTES)
		add_note(text, "some RAM refused");
	if (flag(guest, "guest.no_reporting"))
		add_note(text, "another driver holds free page reporting");
	if (flag(guest, "guest.poison"))
		add_note(text, "poisons free pages");
}

void format_host(FILE *file, struct json_object *list)
{
	char available[SIZE_TEXT_BYTES], total[SIZE_TEXT_BYTES];

	fprintf(file, "host: %s, %s of %s available", word(list, "host.stage"),
		size_at(list, "host.available_bytes", available),
		size_at(list, "host.total_bytes", total));
	if (format_at(list, "host.sec_page_table_bytes"))
		fprintf(file, "; page tables of KVM %s",
			size_at(list, "host.sec_page_table_bytes", total));
	fprintf(file, "; %llu guests%s\n", (unsigned long long)number(list, "nr_guests"),
		flag(list, "dry_run") ? "; dry run" : "");
}

/* Columns of sizes; those with a total are summed. */
static const struct {
	const char *title;
	const char *path;
} columns[] = {
	{ "RESIDENT", "resident_bytes" },
	{ "RECLAIMABLE", "reclaimable_bytes" },
	{ "HELD", "held_bytes" },
	{ "TABLES", "page_table_bytes" },
	{ "MARKED", "device.marked_bytes" },
	{ "DISCARDED", "device.discarded_bytes" },
	{ "PURGED", "device.purged_seen_bytes" },
};
#define NR_COLUMNS (sizeof(columns) / sizeof(columns[0]))

static int name_width(struct json_object *guests)
{
	size_t i, length, width = 8;

	for (i = 0; i < json_object_array_length(guests); i++) {
		length = strlen(word(json_object_array_get_idx(guests, i), "name"));
		width = length > width ? length : width;
	}
	return (int)width;
}

static void format_memory_table(FILE *file, struct json_object *list)
{
	struct json_object *guests = format_at(list, "guests"), *guest;
	uint64_t sums[NR_COLUMNS] = { 0 };
	char text[SIZE_TEXT_BYTES], notes[NOTES_TEXT_BYTES];
	size_t i, c, nr = json_object_array_length(guests);
	int width = name_width(guests);

	fprintf(file, "%-*s %-5s %-7s", width, "GUEST", "MODE", "STAGE");
	for (c = 0; c < NR_COLUMNS; c++)
		fprintf(file, " %*s", c == 1 ? 11 : 9, columns[c].title);
	fprintf(file, "  NOTES\n");
	for (i = 0; i < nr; i++) {
		guest = json_object_array_get_idx(guests, i);
		fprintf(file, "%-*s %-5s %-7s", width, word(guest, "name"), word(guest, "mode"),
			word(guest, "stage"));
		for (c = 0; c < NR_COLUMNS; c++) {
			fprintf(file, " %*s", c == 1 ? 11 : 9,
				size_at(guest, columns[c].path, text));
			sums[c] += number(guest, columns[c].path);
		}
		notes_of(guest, notes);
		fprintf(file, "%s%s\n", *notes ? "  " : "", notes);
	}
	if (nr < 2)
		return;
	fprintf(file, "%-*s %-5s %-7s", width, "all", "", "");
	for (c = 0; c < NR_COLUMNS; c++)
		fprintf(file, " %*s", c == 1 ? 11 : 9, size_text(sums[c], text));
	fprintf(file, "\n");
}

/* Of "tables": counts. */
static const struct {
	const char *title;
	const char *path;
} table_columns[] = {
	{ "FOUND", "tables.found" },	     { "ASKED", "tables.asked" },
	{ "OFFERED", "tables.offered" },     { "FREED", "tables.freed" },
	{ "REFUSED", "tables.refused" },     { "FAILED", "tables.failed" },
	{ "UNPLUGGED", "tables.unplugged" },
};
#define NR_TABLE_COLUMNS (sizeof(table_columns) / sizeof(table_columns[0]))

static void tables_row(FILE *file, struct json_object *guest)
{
	char text[SIZE_TEXT_BYTES];
	size_t c;

	fprintf(file, " %-10s %9s", word(guest, "tables.mode"),
		size_at(guest, "page_table_bytes", text));
	fprintf(file, " %9s", size_at(guest, "kvm_page_table_bytes", text));
	for (c = 0; c < NR_TABLE_COLUMNS; c++)
		fprintf(file, " %9s", word(guest, table_columns[c].path));
	fprintf(file, " %9s%s\n", size_at(guest, "tables.skipped_bytes", text),
		format_at(guest, "tables") && !flag(guest, "tables.supported")
			? "  this host's kernel cannot free them"
			: "");
}

static void format_tables_table(FILE *file, struct json_object *list)
{
	struct json_object *guests = format_at(list, "guests");
	size_t i, c, nr = json_object_array_length(guests);
	int width = name_width(guests);

	fprintf(file, "%-*s %-10s %9s %9s", width, "GUEST", "COLLECTED", "TABLES", "KVM");
	for (c = 0; c < NR_TABLE_COLUMNS; c++)
		fprintf(file, " %9s", table_columns[c].title);
	fprintf(file, " %9s  NOTES\n", "SKIPPED");
	for (i = 0; i < nr; i++) {
		fprintf(file, "%-*s", width, word(json_object_array_get_idx(guests, i), "name"));
		tables_row(file, json_object_array_get_idx(guests, i));
	}
}

void format_table(FILE *file, struct json_object *list, bool tables)
{
	if (tables)
		format_tables_table(file, list);
	else
		format_memory_table(file, list);
}

static void line_size(FILE *file, const char *title, struct json_object *object, const char *path,
		      const char *meaning)
{
	char text[SIZE_TEXT_BYTES];

	fprintf(file, "  %-12s %9s  %s\n", title, size_at(object, path, text), meaning);
}

static void format_device(FILE *file, struct json_object *guest)
{
	struct json_object *reasons = format_at(guest, "device.not_marked_bytes");
	char text[SIZE_TEXT_BYTES];

	fprintf(file, "device\n");
	line_size(file, "RAM", guest, "device.ram_bytes", "of the guest");
	line_size(file, "refused", guest, "device.refused_ram_bytes",
		  "of this, whose backing allows neither mark nor discard");
	line_size(file, "marked", guest, "device.marked_bytes", "lazily freed, in all");
	line_size(file, "discarded", guest, "device.discarded_bytes", "given back at once, in all");
	line_size(file, "released", guest, "device.released_bytes", "of this, on release");
	line_size(file, "purged", guest, "device.purged_seen_bytes",
		  "marked, and seen to be taken by the host's kernel");
	fprintf(file, "  %-12s %9llu  with %llu ranges; %llu against the rules\n", "requests",
		(unsigned long long)number(guest, "device.requests"),
		(unsigned long long)number(guest, "device.ranges"),
		(unsigned long long)number(guest, "device.violations"));
	if (!reasons)
		return;
	json_object_object_foreach(reasons, reason, bytes)
	{
		if (json_object_get_uint64(bytes))
			fprintf(file, "  %-12s %9s  offered and left alone: %s\n", "not marked",
				size_text(json_object_get_uint64(bytes), text), reason);
	}
}

static void format_inside(FILE *file, struct json_object *guest)
{
	if (!format_at(guest, "guest"))
		return;
	fprintf(file, "inside\n");
	line_size(file, "total", guest, "guest.total_bytes", "that the guest's kernel manages");
	line_size(file, "free", guest, "guest.free_bytes", "of this, used for nothing");
	line_size(file, "available", guest, "guest.available_bytes",
		  "for its programs without swapping");
	line_size(file, "cached", guest, "guest.cached_bytes", "page cache");
	line_size(file, "reported", guest, "guest.reported_bytes", "and not touched since");
	line_size(file, "reused", guest, "guest.reused_bytes", "after it was reported, in all");
	fprintf(file, "  %-12s %9llu\n", "OOM events",
		(unsigned long long)number(guest, "guest.oom_events"));
}

/* Memory with content; nothing where none was ever offered. */
static void format_content(FILE *file, struct json_object *guest)
{
	if (!number(guest, "content.marked_bytes"))
		return;
	fprintf(file, "volatile content%s\n",
		number(guest, "content.hardened") ? ", made permanent for now" : "");
	line_size(file, "volatile", guest, "content.volatile_bytes", "now, as the guest says");
	line_size(file, "marked", guest, "content.marked_bytes", "lazily freed, in all");
	line_size(file, "purged", guest, "content.purged_bytes",
		  "of this, seen to be taken by the host's kernel");
	fprintf(file, "  %-12s %9llu  pages whole, %llu purged; %llu notices\n", "taken back",
		(unsigned long long)number(guest, "content.taken_whole_pages"),
		(unsigned long long)number(guest, "content.taken_purged_pages"),
		(unsigned long long)number(guest, "content.notices"));
}

/* RAM whose page tables are left alone, by reason. */
static void format_skipped(FILE *file, struct json_object *guest)
{
	struct json_object *reasons = format_at(guest, "tables.skipped_by_bytes");
	char text[SIZE_TEXT_BYTES];

	if (number(guest, "tables.skipped_bytes") < REFUSED_BYTES || !reasons)
		return;
	json_object_object_foreach(reasons, reason, bytes)
	{
		if (json_object_get_uint64(bytes))
			fprintf(file, "  %-12s %9s  of RAM whose tables are left alone: %s\n",
				"skipped", size_text(json_object_get_uint64(bytes), text), reason);
	}
}

/* Page tables; nothing where none was ever looked for, and all may be. */
static void format_tables(FILE *file, struct json_object *guest)
{
	if (!number(guest, "tables.collections") &&
	    number(guest, "tables.skipped_bytes") < REFUSED_BYTES)
		return;
	fprintf(file, "empty page tables: %s%s\n", word(guest, "tables.mode"),
		flag(guest, "tables.supported") ? "" : ", which this host's kernel cannot free");
	fprintf(file, "  %-12s %9llu  in %llu collections\n", "found",
		(unsigned long long)number(guest, "tables.found"),
		(unsigned long long)number(guest, "tables.collections"));
	fprintf(file, "  %-12s %9llu  of the guest, which offered %llu\n", "asked",
		(unsigned long long)number(guest, "tables.asked"),
		(unsigned long long)number(guest, "tables.offered"));
	fprintf(file, "  %-12s %9llu  and %llu not empty any more when they came\n", "freed",
		(unsigned long long)number(guest, "tables.freed"),
		(unsigned long long)number(guest, "tables.refused"));
	if (number(guest, "tables.unplugged"))
		fprintf(file, "  %-12s %9llu  more, of memory that virtio-mem had taken back\n",
			"unplugged", (unsigned long long)number(guest, "tables.unplugged"));
	if (number(guest, "tables.failed"))
		fprintf(file, "  %-12s %9llu  offered, but not freed by this host's kernel\n",
			"failed", (unsigned long long)number(guest, "tables.failed"));
	format_skipped(file, guest);
}

static void format_last_collect(FILE *file, struct json_object *collect)
{
	fprintf(file,
		"%s: %llu page tables found, %llu asked, %llu offered, %llu freed in %.1f ms "
		"(%s)\n",
		word(collect, "status"), (unsigned long long)number(collect, "found"),
		(unsigned long long)number(collect, "asked"),
		(unsigned long long)number(collect, "offered"),
		(unsigned long long)number(collect, "freed"),
		(double)number(collect, "usec") / 1000, word(collect, "text"));
}

/* Nothing where no block was ever hinted or marked. */
static void format_merge(FILE *file, struct json_object *guest)
{
	if (!number(guest, "merge.hinted_bytes") && !number(guest, "merge.marks") &&
	    !flag(guest, "merge_waits"))
		return;
	fprintf(file, "merging: %s (wanted: %s, group %s)%s%s%s%s\n", word(guest, "merge.mode"),
		word(guest, "merge_wanted"), word(guest, "merge_group"),
		flag(guest, "merge_waits") ? ", it is another group's turn" : "",
		flag(guest, "merge.full") ? ", no more areas: not every hint is followed" : "",
		flag(guest, "merge.no_ksm") ? ", the host's kernel has no KSM" : "",
		flag(guest, "merge.pending") ? ", under way" : "");
	line_size(file, "hinted", guest, "merge.hinted_bytes", "worth merging, as the guest says");
	line_size(file, "mergeable", guest, "merge.marked_bytes", "marked for KSM");
	line_size(file, "merged", guest, "merge.merged_bytes", "shared by KSM");
	line_size(file, "file pages", guest, "merge.guest_cache_bytes",
		  "in what is hinted, clean, as the guest says");
	fprintf(file,
		"  %-12s %9llu  marked, %llu taken back, %llu failed; %.1f ms in all, %.1f ms at "
		"most\n",
		"calls", (unsigned long long)number(guest, "merge.marks"),
		(unsigned long long)number(guest, "merge.unmarks"),
		(unsigned long long)number(guest, "merge.failures"),
		(double)number(guest, "merge.usec") / 1000,
		(double)number(guest, "merge.longest_usec") / 1000);
	fprintf(file, "  %-12s %9llu  of all memory in the guest, %.1f ms of its time\n", "looks",
		(unsigned long long)number(guest, "merge.guest_passes"),
		(double)number(guest, "merge.guest_usec") / 1000);
}

static void format_last_purge(FILE *file, struct json_object *purge)
{
	char asked[SIZE_TEXT_BYTES], purged[SIZE_TEXT_BYTES];

	fprintf(file, "%s: %s asked, %s purged in %.1f ms (%s)\n", word(purge, "status"),
		size_at(purge, "asked_bytes", asked), size_at(purge, "purged_bytes", purged),
		(double)number(purge, "usec") / 1000, word(purge, "text"));
}

static void format_last_release(FILE *file, struct json_object *release)
{
	char asked[SIZE_TEXT_BYTES], offered[SIZE_TEXT_BYTES], discarded[SIZE_TEXT_BYTES];

	fprintf(file, "%s: %s asked, %s offered, %s given back in %.1f ms (%s)\n",
		word(release, "status"), size_at(release, "asked_bytes", asked),
		size_at(release, "offered_bytes", offered),
		size_at(release, "discarded_bytes", discarded),
		(double)number(release, "usec") / 1000, word(release, "text"));
}

void format_guest(FILE *file, struct json_object *guest)
{
	char available[SIZE_TEXT_BYTES], limit[SIZE_TEXT_BYTES], notes[NOTES_TEXT_BYTES];

	notes_of(guest, notes);
	fprintf(file, "guest %s: process %llu, uid %llu, front %s, calls itself %s\n",
		word(guest, "name"), (unsigned long long)number(guest, "pid"),
		(unsigned long long)number(guest, "uid"), word(guest, "front"),
		word(guest, "label"));
	fprintf(file, "mode %s (wanted: %s), stage %s (wanted: %s), weight %llu\n",
		word(guest, "mode"), word(guest, "mode_wanted"), word(guest, "stage"),
		word(guest, "stage_wanted"), (unsigned long long)number(guest, "weight"));
	if (*notes)
		fprintf(file, "note: %s\n", notes);
	fprintf(file, "memory of its process\n");
	line_size(file, "resident", guest, "resident_bytes", "in the host's memory");
	line_size(file, "reclaimable", guest, "reclaimable_bytes",
		  "of this, lazily freed: the host's kernel may take it at any time");
	line_size(file, "held", guest, "held_bytes", "resident without reclaimable");
	line_size(file, "huge", guest, "huge_bytes", "of resident, in huge pages");
	line_size(file, "page tables", guest, "page_table_bytes", "on top of resident");
	if (format_at(guest, "kvm_page_table_bytes"))
		line_size(file, "KVM's tables", guest, "kvm_page_table_bytes",
			  "of its cgroup, on top of that");
	if (format_at(guest, "ksm_merged_pages"))
		fprintf(file, "  %-12s %9llu  pages shared by KSM\n", "merged",
			(unsigned long long)number(guest, "ksm_merged_pages"));
	if (format_at(guest, "limit"))
		fprintf(file, "limit: %s of %s available in cgroup %s: %s\n",
			size_at(guest, "limit.available_bytes", available),
			size_at(guest, "limit.limit_bytes", limit), word(guest, "limit.cgroup"),
			word(guest, "limit.stage"));
	if (format_at(guest, "device"))
		format_device(file, guest);
	format_content(file, guest);
	format_tables(file, guest);
	format_merge(file, guest);
	format_inside(file, guest);
	if (format_at(guest, "last_release")) {
		fprintf(file, "last release: ");
		format_last_release(file, format_at(guest, "last_release"));
	}
	if (format_at(guest, "last_purge")) {
		fprintf(file, "last purge: ");
		format_last_purge(file, format_at(guest, "last_purge"));
	}
	if (format_at(guest, "last_collect")) {
		fprintf(file, "last collection: ");
		format_last_collect(file, format_at(guest, "last_collect"));
	}
}

static void format_ksm(FILE *file, struct json_object *ksm)
{
	fprintf(file, "KSM: run %s, ksmd %s %% of a processor, pages_sharing %s", word(ksm, "run"),
		word(ksm, "ksmd_cpu_percent"), word(ksm, "pages_sharing"));
	if (strcmp(word(ksm, "steer"), "steer") != 0)
		fprintf(file, "; not steered by ebbd\n");
	else if (format_at(ksm, "why"))
		fprintf(file, "; steered by ebbd: %s\n", word(ksm, "why"));
	else
		fprintf(file, "; to be steered by ebbd, owner: %s\n", word(ksm, "owner"));
}

void format_status(FILE *file, struct json_object *status)
{
	struct json_object *limits = format_at(status, "limits"), *limit;
	char available[SIZE_TEXT_BYTES], total[SIZE_TEXT_BYTES];
	size_t i;

	fprintf(file, "ebbd %s\n", word(status, "version"));
	format_host(file, status);
	if (format_at(status, "ksm"))
		format_ksm(file, format_at(status, "ksm"));
	for (i = 0; limits && i < json_object_array_length(limits); i++) {
		limit = json_object_array_get_idx(limits, i);
		fprintf(file, "cgroup %s: %s, %s of %s available\n", word(limit, "cgroup"),
			word(limit, "stage"), size_at(limit, "available_bytes", available),
			size_at(limit, "limit_bytes", total));
	}
}

void format_release(FILE *file, struct json_object *reply)
{
	fprintf(file, "%s: ", word(reply, "name"));
	format_last_release(file, format_at(reply, "release"));
}

void format_purge(FILE *file, struct json_object *reply)
{
	fprintf(file, "%s: ", word(reply, "name"));
	format_last_purge(file, format_at(reply, "purge"));
}

void format_collect(FILE *file, struct json_object *reply)
{
	fprintf(file, "%s: ", word(reply, "name"));
	format_last_collect(file, format_at(reply, "collect"));
}

void format_json(FILE *file, struct json_object *object, bool one_line)
{
	json_object_object_del(object, "ok");
	fprintf(file, "%s\n",
		json_object_to_json_string_ext(object, one_line ? JSON_C_TO_STRING_PLAIN
								: JSON_C_TO_STRING_PRETTY |
									  JSON_C_TO_STRING_SPACED));
}
