// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ctl_metrics - ebbd's answer in Prometheus' text format, version 0.0.4
 *
 * For a collector that reads files (node_exporter's textfile directory) or runs programs.
 * What is not known is left out, never 0. The names are documented in ebbctl(1).
 *
 * Owns:    nothing.
 * Thread:  ebbctl's only one.
 * Locks:   none.
 * Never:   asks ebbd.
 */
#include "ctl.h"

#include <string.h>

enum kind { GAUGE, COUNTER };

struct metric {
	const char *name; /* after "ebb_host_" or "ebb_guest_" */
	const char *path; /* in ebbd's answer */
	enum kind kind;
	const char *help;
};

static const struct metric host_metrics[] = {
	{ "total_bytes", "host.total_bytes", GAUGE, "Memory of the host." },
	{ "available_bytes", "host.available_bytes", GAUGE, "Of this, available." },
	{ "kvm_page_table_bytes", "host.sec_page_table_bytes", GAUGE,
	  "Page tables of KVM, of all guests (SecPageTables)." },
	{ "guests", "nr_guests", GAUGE, "Guests that ebbd knows." },
};

static const struct metric guest_metrics[] = {
	{ "resident_bytes", "resident_bytes", GAUGE, "Of its VMM, in the host's memory (Rss)." },
	{ "reclaimable_bytes", "reclaimable_bytes", GAUGE, "Of resident, lazily freed." },
	{ "held_bytes", "held_bytes", GAUGE, "Resident less reclaimable." },
	{ "huge_bytes", "huge_bytes", GAUGE, "Of resident, in huge pages." },
	{ "page_table_bytes", "page_table_bytes", GAUGE, "Page tables of its VMM (VmPTE)." },
	{ "kvm_page_table_bytes", "kvm_page_table_bytes", GAUGE,
	  "Page tables of KVM, of the guest's cgroup (sec_pagetables)." },
	{ "marked_bytes_total", "device.marked_bytes", COUNTER, "Lazily freed." },
	{ "discarded_bytes_total", "device.discarded_bytes", COUNTER, "Given back at once." },
	{ "released_bytes_total", "device.released_bytes", COUNTER, "Of discarded, on release." },
	{ "purged_seen_bytes_total", "device.purged_seen_bytes", COUNTER,
	  "Marked, and seen to be taken by the host's kernel." },
	{ "violations_total", "device.violations", COUNTER, "Requests against the rules." },
	{ "content_volatile_bytes", "content.volatile_bytes", GAUGE,
	  "Volatile content, as the guest says." },
	{ "content_marked_bytes_total", "content.marked_bytes", COUNTER, "Volatile content." },
	{ "content_purged_bytes_total", "content.purged_bytes", COUNTER, "Of this, taken." },
	{ "merge_hinted_bytes", "merge.hinted_bytes", GAUGE, "Worth merging, as the guest says." },
	{ "merge_marked_bytes", "merge.marked_bytes", GAUGE, "Marked for KSM." },
	{ "merge_merged_bytes", "merge.merged_bytes", GAUGE, "Shared by KSM." },
	{ "tables_supported", "tables.supported", GAUGE,
	  "1: this host's kernel can find and free empty page tables." },
	{ "tables_collections_total", "tables.collections", COUNTER, "Collections that are over." },
	{ "tables_found_total", "tables.found", COUNTER, "Page tables found empty." },
	{ "tables_asked_total", "tables.asked", COUNTER, "Of these, asked of the guest." },
	{ "tables_offered_total", "tables.offered", COUNTER, "Of these, offered by it." },
	{ "tables_freed_total", "tables.freed", COUNTER, "Of these, freed." },
	{ "tables_refused_total", "tables.refused", COUNTER,
	  "Of those offered, not empty any more, and left." },
	{ "tables_failed_total", "tables.failed", COUNTER,
	  "Of those offered, not freed by the host's kernel." },
	{ "tables_unplugged_total", "tables.unplugged", COUNTER,
	  "Freed without asking, of memory that virtio-mem had taken back." },
};

#define NR(metrics) (sizeof(metrics) / sizeof((metrics)[0]))

static void put_head(FILE *file, const char *of, const char *name, enum kind kind, const char *help)
{
	fprintf(file, "# HELP ebb_%s_%s %s\n# TYPE ebb_%s_%s %s\n", of, name, help, of, name,
		kind == COUNTER ? "counter" : "gauge");
}

/* The value of a label: backslash, quote and line feed are escaped. */
static void put_label(FILE *file, const char *name, const char *text)
{
	fprintf(file, "%s=\"", name);
	for (; *text; text++) {
		if (*text == '\n')
			fputs("\\n", file);
		else if (*text == '\\' || *text == '"')
			fprintf(file, "\\%c", *text);
		else
			fputc(*text, file);
	}
	fputc('"', file);
}

static void put_value(FILE *file, struct json_object *value)
{
	if (json_object_is_type(value, json_type_boolean))
		fprintf(file, " %d\n", json_object_get_boolean(value));
	else
		fprintf(file, " %llu\n", (unsigned long long)json_object_get_uint64(value));
}

static void put_guest(FILE *file, struct json_object *guest, const struct metric *metric)
{
	struct json_object *value = format_at(guest, metric->path);

	if (!value)
		return;
	fprintf(file, "ebb_guest_%s{", metric->name);
	put_label(file, "guest", json_object_get_string(format_at(guest, "name")));
	fputc('}', file);
	put_value(file, value);
}

static void put_skipped(FILE *file, struct json_object *guest)
{
	struct json_object *reasons = format_at(guest, "tables.skipped_by_bytes");

	if (!reasons)
		return;
	json_object_object_foreach(reasons, reason, value)
	{
		fputs("ebb_guest_tables_skipped_bytes{", file);
		put_label(file, "guest", json_object_get_string(format_at(guest, "name")));
		fputc(',', file);
		put_label(file, "reason", reason);
		fputc('}', file);
		put_value(file, value);
	}
}

void metrics_put(FILE *file, struct json_object *list)
{
	struct json_object *guests = format_at(list, "guests"), *value;
	size_t i, m, nr = json_object_array_length(guests);

	for (m = 0; m < NR(host_metrics); m++) {
		value = format_at(list, host_metrics[m].path);
		if (!value)
			continue;
		put_head(file, "host", host_metrics[m].name, host_metrics[m].kind,
			 host_metrics[m].help);
		fprintf(file, "ebb_host_%s", host_metrics[m].name);
		put_value(file, value);
	}
	for (m = 0; m < NR(guest_metrics); m++) {
		put_head(file, "guest", guest_metrics[m].name, guest_metrics[m].kind,
			 guest_metrics[m].help);
		for (i = 0; i < nr; i++)
			put_guest(file, json_object_array_get_idx(guests, i), &guest_metrics[m]);
	}
	put_head(file, "guest", "tables_skipped_bytes", GAUGE,
		 "RAM whose page tables are left alone, by what is behind it.");
	for (i = 0; i < nr; i++)
		put_skipped(file, json_object_array_get_idx(guests, i));
}
