// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * reply - what ebbctl is told, as JSON
 *
 * The keys are documented in ebbctl(1). What is not known is null, never 0.
 *
 * Owns:    nothing.
 * Thread:  ebbd's only one.
 * Locks:   none.
 * Never:   changes what it describes.
 */
#include "reply.h"

#include <stdarg.h>
#include <stdio.h>

#include "peer.h"
#include "words.h"

/* Names in reply_no_such_guest(): enough to see what is there. */
#define NAMED_GUESTS 64

static void add_u64(struct json_object *object, const char *key, uint64_t value)
{
	json_object_object_add(object, key, json_object_new_uint64(value));
}

static void add_u64_if(struct json_object *object, const char *key, bool known, uint64_t value)
{
	json_object_object_add(object, key, known ? json_object_new_uint64(value) : NULL);
}

static void add_word(struct json_object *object, const char *key, const char *word)
{
	json_object_object_add(object, key, word ? json_object_new_string(word) : NULL);
}

static void add_bool(struct json_object *object, const char *key, bool value)
{
	json_object_object_add(object, key, json_object_new_boolean(value));
}

struct json_object *reply_ok(void)
{
	struct json_object *reply = json_object_new_object();

	add_bool(reply, "ok", true);
	return reply;
}

struct json_object *reply_error(const char *code, const char *format, ...)
{
	struct json_object *reply = json_object_new_object();
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	add_bool(reply, "ok", false);
	add_word(reply, "code", code);
	add_word(reply, "error", text);
	return reply;
}

struct json_object *reply_no_such_guest(struct manager *manager, const char *name)
{
	struct json_object *reply = reply_error("no-such-guest", "there is no guest \"%s\"", name);
	struct json_object *names = json_object_new_array();
	const struct guest *guest;
	int nr = 0;

	TAILQ_FOREACH(guest, &manager->guests, link)
	{
		if (nr++ == NAMED_GUESTS)
			break;
		json_object_array_add(names, json_object_new_string(guest->name));
	}
	json_object_object_add(reply, "guests", names);
	return reply;
}

static struct json_object *domain_object(const struct domain *domain)
{
	struct json_object *object = json_object_new_object();

	if (domain->path)
		add_word(object, "cgroup", domain->path);
	add_u64(object, domain->path ? "limit_bytes" : "total_bytes", domain->level.total_bytes);
	add_u64(object, "available_bytes", domain->level.available_bytes);
	add_word(object, "stage", stage_word(domain->gauge.stage));
	return object;
}

static struct json_object *host_object(const struct manager *manager)
{
	struct json_object *object = domain_object(&manager->host);

	add_u64_if(object, "sec_page_table_bytes", manager->proc_host.has_sec_page_tables,
		   manager->proc_host.sec_page_table_bytes);
	return object;
}

/* KSM on this host: its figures as of the last step, and who steers it. */
static struct json_object *ksm_object(const struct manager *manager)
{
	const struct ksm_steer *ksm = &manager->ksm;
	struct json_object *object = json_object_new_object();
	bool known = ksm->has_now;

	add_word(object, "steer", manager->conf.ksm.steer ? "steer" : "off");
	add_word(object, "owner", ksm_owner_word(ksm->owner));
	add_word(object, "why", ksm->owner == KSM_OWNER_EBBD ? ksm_why_word(ksm->plan.why) : NULL);
	add_u64_if(object, "run", known, ksm->now.run);
	add_u64_if(object, "pages_to_scan", known, ksm->now.pages_to_scan);
	add_u64_if(object, "sleep_msec", known, ksm->now.sleep_msec);
	add_u64_if(object, "use_zero_pages", known && ksm->now.has_zero_pages,
		   ksm->now.use_zero_pages);
	add_u64_if(object, "pages_shared", known, ksm->figures.pages_shared);
	add_u64_if(object, "pages_sharing", known, ksm->figures.pages_sharing);
	add_u64_if(object, "full_scans", known, ksm->figures.full_scans);
	json_object_object_add(object, "profit_bytes",
			       known && ksm->figures.has_profit
				       ? json_object_new_int64(ksm->figures.profit_bytes)
				       : NULL);
	add_u64_if(object, "ksmd_cpu_usec", ksm->has_cpu, ksm->plan.seen.cpu_usec);
	add_u64_if(object, "ksmd_cpu_percent", ksm->has_cpu, ksm->plan.cpu_percent);
	return object;
}

struct json_object *reply_status(struct manager *manager)
{
	struct json_object *reply = reply_ok();
	struct json_object *domains = json_object_new_array();
	const struct domain *domain;

	add_word(reply, "version", EBB_VERSION);
	add_bool(reply, "dry_run", manager->dry_run);
	add_u64(reply, "nr_guests", manager->nr_guests);
	json_object_object_add(reply, "host", host_object(manager));
	json_object_object_add(reply, "ksm", ksm_object(manager));
	LIST_FOREACH(domain, &manager->domains, link)
	json_object_array_add(domains, domain_object(domain));
	json_object_object_add(reply, "limits", domains);
	return reply;
}

static void add_memory(struct json_object *object, const struct guest *guest, uint64_t now_usec)
{
	const struct proc_rollup *rollup = &guest->rollup;
	uint64_t held_bytes = rollup->rss_bytes > rollup->lazyfree_bytes
				      ? rollup->rss_bytes - rollup->lazyfree_bytes
				      : 0;
	bool known = guest->has_rollup;

	add_u64_if(object, "resident_bytes", known, rollup->rss_bytes);
	add_u64_if(object, "reclaimable_bytes", known, rollup->lazyfree_bytes);
	add_u64_if(object, "held_bytes", known, held_bytes);
	add_u64_if(object, "huge_bytes", known, rollup->anon_huge_bytes);
	add_u64_if(object, "memory_age_msec", known,
		   now_usec > guest->rollup_usec ? (now_usec - guest->rollup_usec) / 1000 : 0);
	add_u64_if(object, "page_table_bytes", guest->has_status, guest->status.vm_pte_bytes);
	add_u64_if(object, "kvm_page_table_bytes", guest->has_kvm_tables, guest->kvm_table_bytes);
	add_u64_if(object, "ksm_merged_pages", guest->has_ksm, guest->ksm.merging_pages);
	add_u64_if(object, "ksm_zero_pages", guest->has_ksm, guest->ksm.zero_pages);
}

static void add_flags(struct json_object *object, const struct guest *guest)
{
	uint32_t flags = guest->sample_usec ? ebb_get_le32(&guest->sample.flags) : 0;
	struct json_object *set = json_object_new_object();

	add_bool(set, "driver", flags & EBB_SAMPLE_F_DRIVER);
	add_bool(set, "broken", flags & EBB_SAMPLE_F_BROKEN);
	add_bool(set, "inhibited", flags & EBB_SAMPLE_F_INHIBITED);
	add_bool(set, "mergeable", flags & EBB_SAMPLE_F_MERGEABLE);
	json_object_object_add(object, "flags", set);
}

static struct json_object *device_object(const struct ebb_msg_sample *sample)
{
	struct json_object *object = json_object_new_object();
	struct json_object *reasons = json_object_new_object();
	uint32_t i;

	add_u64(object, "ram_bytes", ebb_get_le64(&sample->ram_bytes));
	add_u64(object, "refused_ram_bytes", ebb_get_le64(&sample->refused_ram_bytes));
	add_u64(object, "requests", ebb_get_le64(&sample->requests));
	add_u64(object, "ranges", ebb_get_le64(&sample->ranges));
	add_u64(object, "violations", ebb_get_le64(&sample->violations));
	add_u64(object, "marked_bytes", ebb_get_le64(&sample->marked_bytes));
	add_u64(object, "discarded_bytes", ebb_get_le64(&sample->discarded_bytes));
	add_u64(object, "purged_seen_bytes", ebb_get_le64(&sample->purged_seen_bytes));
	add_u64(object, "released_bytes", ebb_get_le64(&sample->released_bytes));
	for (i = 0; i < VIRTIO_EBB_REASON_MAX; i++)
		add_u64(reasons, reason_word(i), ebb_get_le64(&sample->not_marked_bytes[i]));
	json_object_object_add(object, "not_marked_bytes", reasons);
	return object;
}

static struct json_object *inside_object(const struct ebb_msg_sample *sample)
{
	struct json_object *object = json_object_new_object();
	uint64_t flags = ebb_get_le64(&sample->guest[VIRTIO_EBB_S_FLAGS]);
	uint32_t i;

	for (i = 0; i < EBB_SAMPLE_TAGS; i++)
		if (stat_word(i))
			add_u64(object, stat_word(i), ebb_get_le64(&sample->guest[i]));
	add_bool(object, "no_reporting", flags & VIRTIO_EBB_S_FLAG_NO_REPORTING);
	add_bool(object, "poison", flags & VIRTIO_EBB_S_FLAG_POISON);
	return object;
}

/* Memory with content: what the executor says, and the guest. */
static struct json_object *content_object(const struct ebb_msg_content *content)
{
	bool inside = ebb_get_le32(&content->flags) & EBB_CONTENT_F_GUEST;
	struct json_object *object = json_object_new_object();

	add_bool(object, "hardened", ebb_get_le32(&content->flags) & EBB_CONTENT_F_HARDENED);
	add_u64(object, "block_bytes", ebb_get_le64(&content->block_bytes));
	add_u64(object, "marked_bytes", ebb_get_le64(&content->marked_bytes));
	add_u64(object, "purged_bytes", ebb_get_le64(&content->purged_bytes));
	add_u64(object, "notices", ebb_get_le64(&content->notices));
	add_u64_if(object, "volatile_bytes", inside, ebb_get_le64(&content->guest_volatile_bytes));
	add_u64_if(object, "taken_whole_pages", inside,
		   ebb_get_le64(&content->guest_taken_whole_pages));
	add_u64_if(object, "taken_purged_pages", inside,
		   ebb_get_le64(&content->guest_taken_purged_pages));
	return object;
}

/* Merging by KSM: what the executor says, and the guest. */
static struct json_object *merge_object(const struct guest *guest)
{
	const struct ebb_msg_merge_state *state = &guest->merge_state;
	uint32_t flags = ebb_get_le32(&state->flags);
	struct json_object *object = json_object_new_object();
	bool inside = flags & EBB_MERGE_F_GUEST;

	add_word(object, "mode", merge_word(ebb_get_le32(&state->mode)));
	add_bool(object, "whole", flags & EBB_MERGE_F_WHOLE);
	add_bool(object, "full", flags & EBB_MERGE_F_FULL);
	add_bool(object, "no_ksm", flags & EBB_MERGE_F_NO_KSM);
	add_bool(object, "pending", flags & EBB_MERGE_F_PENDING);
	add_u64(object, "hinted_bytes", ebb_get_le64(&state->hinted_bytes));
	add_u64(object, "marked_bytes", ebb_get_le64(&state->marked_bytes));
	add_u64_if(object, "merged_bytes", guest->has_ksm, guest->ksm.merging_pages * 4096);
	add_u64_if(object, "rmap_items", guest->has_ksm, guest->ksm.rmap_items);
	json_object_object_add(object, "profit_bytes",
			       guest->has_ksm && guest->ksm.has_profit
				       ? json_object_new_int64(guest->ksm.profit_bytes)
				       : NULL);
	add_u64_if(object, "huge_before_bytes", guest->has_huge_before, guest->huge_before_bytes);
	add_u64_if(object, "huge_bytes", guest->has_rollup, guest->rollup.anon_huge_bytes);
	add_u64(object, "areas", ebb_get_le64(&state->areas));
	add_u64(object, "marks", ebb_get_le64(&state->marks));
	add_u64(object, "unmarks", ebb_get_le64(&state->unmarks));
	add_u64(object, "failures", ebb_get_le64(&state->failures));
	add_u64(object, "usec", ebb_get_le64(&state->usec));
	add_u64(object, "longest_usec", ebb_get_le64(&state->longest_usec));
	add_u64_if(object, "guest_hinted_bytes", inside, ebb_get_le64(&state->guest_hinted_bytes));
	add_u64_if(object, "guest_cache_bytes", inside, ebb_get_le64(&state->guest_cache_bytes));
	add_u64_if(object, "guest_passes", inside, ebb_get_le64(&state->guest_passes));
	add_u64_if(object, "guest_usec", inside, ebb_get_le64(&state->guest_usec));
	return object;
}

static struct json_object *purge_object(const struct guest_purge *purge)
{
	struct json_object *object = json_object_new_object();

	add_word(object, "status", purge_status_word(purge->status));
	add_word(object, "text", purge_status_text(purge->status));
	add_u64(object, "asked_bytes", purge->asked_bytes);
	add_u64(object, "purged_bytes", purge->purged_bytes);
	add_u64(object, "usec", purge->usec);
	return object;
}

static struct json_object *release_object(const struct guest_release *release)
{
	struct json_object *object = json_object_new_object();

	add_word(object, "status", release_status_word(release->status));
	add_word(object, "text", release_status_text(release->status));
	add_u64(object, "asked_bytes", release->asked_bytes);
	add_u64(object, "offered_bytes", release->offered_bytes);
	add_u64(object, "discarded_bytes", release->discarded_bytes);
	add_u64(object, "usec", release->usec);
	add_u64(object, "passes", release->passes);
	return object;
}

/* Empty page tables: what the executor has done about them. */
static struct json_object *tables_object(const struct ebb_msg_tables *tables)
{
	struct json_object *object = json_object_new_object();
	struct json_object *skipped = json_object_new_object();
	uint32_t i;

	add_bool(object, "supported", ebb_get_le32(&tables->flags) & EBB_TABLES_F_CAN);
	add_bool(object, "moves", ebb_get_le32(&tables->flags) & EBB_TABLES_F_MOVES);
	add_word(object, "mode", tables_word(ebb_get_le32(&tables->mode)));
	add_u64(object, "collections", ebb_get_le64(&tables->collections));
	add_u64(object, "found", ebb_get_le64(&tables->found_tables));
	add_u64(object, "asked", ebb_get_le64(&tables->asked_tables));
	add_u64(object, "offered", ebb_get_le64(&tables->offered_tables));
	add_u64(object, "freed", ebb_get_le64(&tables->freed_tables));
	add_u64(object, "refused", ebb_get_le64(&tables->refused_tables));
	add_u64(object, "failed", ebb_get_le64(&tables->failed_tables));
	add_u64(object, "unplugged", ebb_get_le64(&tables->unplugged_tables));
	add_u64(object, "skipped_bytes", ebb_get_le64(&tables->skipped_bytes));
	for (i = 0; i < EBB_SKIPPED_MAX; i++)
		add_u64(skipped, skipped_word(i), ebb_get_le64(&tables->skipped_by_bytes[i]));
	json_object_object_add(object, "skipped_by_bytes", skipped);
	return object;
}

static struct json_object *collect_object(const struct guest_collect *collect)
{
	struct json_object *object = json_object_new_object();

	add_word(object, "status", collect_status_word(collect->status));
	add_word(object, "text", collect_status_text(collect->status));
	add_u64(object, "found", collect->found_tables);
	add_u64(object, "asked", collect->asked_tables);
	add_u64(object, "offered", collect->offered_tables);
	add_u64(object, "freed", collect->freed_tables);
	add_u64(object, "refused", collect->refused_tables);
	add_u64(object, "usec", collect->usec);
	return object;
}

static bool is_under_way(const struct guest *guest, enum guest_order order)
{
	return guest->release.id != 0 && guest->release.order == order;
}

struct json_object *reply_guest(const struct guest *guest)
{
	const struct ebb_msg_sample *sample = guest->sample_usec ? &guest->sample : NULL;
	uint64_t now_usec = manager_now_usec(guest->manager);
	bool inside = sample && (ebb_get_le32(&sample->flags) & EBB_SAMPLE_F_GUEST);
	struct json_object *object = json_object_new_object();

	add_word(object, "name", guest->name);
	add_word(object, "label", guest->label);
	add_u64(object, "pid", (uint64_t)guest->peer->pid);
	add_u64(object, "uid", guest->peer->uid);
	add_word(object, "front", front_word(guest->front));
	add_word(object, "mode", sample ? mode_word(ebb_get_le32(&sample->mode)) : NULL);
	add_word(object, "stage", sample ? stage_word(ebb_get_le32(&sample->stage)) : NULL);
	add_word(object, "mode_wanted", mode_word(guest->mode));
	add_u64(object, "weight", guest->weight);
	add_word(object, "page_tables_wanted", tables_word(guest->tables_mode));
	add_word(object, "stage_wanted", stage_word(guest->stage));
	add_u64_if(object, "sample_age_msec", sample,
		   sample ? (now_usec - guest->sample_usec) / 1000 : 0);
	add_memory(object, guest, now_usec);
	add_flags(object, guest);
	json_object_object_add(object, "device", sample ? device_object(sample) : NULL);
	json_object_object_add(object, "guest", inside ? inside_object(sample) : NULL);
	json_object_object_add(object, "content",
			       guest->has_content ? content_object(&guest->content) : NULL);
	json_object_object_add(object, "tables",
			       guest->has_tables ? tables_object(&guest->tables) : NULL);
	add_word(object, "merge_wanted", merge_word(guest->merge));
	add_word(object, "merge_group", guest->merge_group);
	add_bool(object, "merge_waits", guest->merge_waits && guest_merge_member(guest).wants);
	json_object_object_add(object, "merge",
			       guest->has_merge_state ? merge_object(guest) : NULL);
	json_object_object_add(object, "limit",
			       guest->domain ? domain_object(guest->domain) : NULL);
	add_bool(object, "release_under_way", is_under_way(guest, GUEST_ORDER_RELEASE));
	add_bool(object, "purge_under_way", is_under_way(guest, GUEST_ORDER_PURGE));
	add_bool(object, "collect_under_way", is_under_way(guest, GUEST_ORDER_COLLECT));
	json_object_object_add(object, "last_release",
			       guest->release.answered ? release_object(&guest->release) : NULL);
	json_object_object_add(object, "last_purge",
			       guest->purge.answered ? purge_object(&guest->purge) : NULL);
	json_object_object_add(object, "last_collect",
			       guest->collect.answered ? collect_object(&guest->collect) : NULL);
	return object;
}

/* The guest has answered. */
struct json_object *reply_release(const struct guest *guest)
{
	struct json_object *reply = reply_ok();

	add_word(reply, "name", guest->name);
	json_object_object_add(reply, "release", release_object(&guest->release));
	return reply;
}

struct json_object *reply_purge(const struct guest *guest)
{
	struct json_object *reply = reply_ok();

	add_word(reply, "name", guest->name);
	json_object_object_add(reply, "purge", purge_object(&guest->purge));
	return reply;
}

struct json_object *reply_collect(const struct guest *guest)
{
	struct json_object *reply = reply_ok();

	add_word(reply, "name", guest->name);
	json_object_object_add(reply, "collect", collect_object(&guest->collect));
	return reply;
}
