// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * words - the protocol's numbers in words, for JSON, logs and the configuration
 *
 * A number without a word gives NULL: of stat_word() that is a tag which is not
 * shown as a size; elsewhere the wire checks let none through.
 *
 * Owns:    nothing.
 * Thread:  any.
 * Locks:   none.
 * Never:   touches anything but its arguments.
 */
#include "words.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

#define WORD(table, index) ((index) < sizeof(table) / sizeof((table)[0]) ? (table)[index] : NULL)

static const char *const mode_words[EBB_MODE_MAX] = {
	[EBB_MODE_KEEP] = "keep",   [EBB_MODE_OFF] = "off",   [EBB_MODE_LAZY] = "lazy",
	[EBB_MODE_EAGER] = "eager", [EBB_MODE_AUTO] = "auto",
};

static const char *const tables_words[EBB_TABLES_MAX] = {
	[EBB_TABLES_KEEP] = "keep",
	[EBB_TABLES_OFF] = "off",
	[EBB_TABLES_ON_DEMAND] = "on-demand",
	[EBB_TABLES_BACKGROUND] = "background",
};

static const char *const skipped_words[EBB_SKIPPED_MAX] = {
	[EBB_SKIPPED_OTHER] = "other",	   [EBB_SKIPPED_LOCKED] = "locked",
	[EBB_SKIPPED_HUGETLB] = "hugetlb", [EBB_SKIPPED_SHARED] = "shared",
	[EBB_SKIPPED_FILE] = "file",
};

static const char *const merge_words[EBB_MERGE_MAX] = {
	[EBB_MERGE_KEEP] = "keep",
	[EBB_MERGE_OFF] = "off",
	[EBB_MERGE_HINTED] = "hinted",
	[EBB_MERGE_ALL] = "all",
};

static const char *const stage_words[EBB_STAGE_MAX] = {
	[EBB_STAGE_PLENTY] = "plenty",
	[EBB_STAGE_NEARING] = "nearing",
	[EBB_STAGE_SHORT] = "short",
};

static const char *const front_words[] = {
	[EBB_FRONT_EBB] = "ebb",
	[EBB_FRONT_BALLOON] = "balloon",
};

static const char *const reason_words[VIRTIO_EBB_REASON_MAX] = {
	[VIRTIO_EBB_REASON_NONE] = "other",	     [VIRTIO_EBB_REASON_OFF] = "off",
	[VIRTIO_EBB_REASON_REST] = "rest",	     [VIRTIO_EBB_REASON_FRAGMENT] = "fragment",
	[VIRTIO_EBB_REASON_INHIBITED] = "inhibited", [VIRTIO_EBB_REASON_BACKING] = "backing",
	[VIRTIO_EBB_REASON_POISON] = "poison",	     [VIRTIO_EBB_REASON_FAILED] = "failed",
	[VIRTIO_EBB_REASON_CANCELLED] = "cancelled",
};

static const char *const stat_words[EBB_SAMPLE_TAGS] = {
	[VIRTIO_EBB_S_TOTAL] = "total_bytes",	      [VIRTIO_EBB_S_FREE] = "free_bytes",
	[VIRTIO_EBB_S_AVAILABLE] = "available_bytes", [VIRTIO_EBB_S_CACHED] = "cached_bytes",
	[VIRTIO_EBB_S_REPORTED] = "reported_bytes",   [VIRTIO_EBB_S_REUSED] = "reused_bytes",
	[VIRTIO_EBB_S_OOM_EVENTS] = "oom_events",
};

static const char *const release_words[EBB_RELEASE_MAX] = {
	[VIRTIO_EBB_DONE_OK] = "ok",
	[VIRTIO_EBB_DONE_PARTIAL] = "partial",
	[VIRTIO_EBB_DONE_SHORT] = "guest-short",
	[VIRTIO_EBB_DONE_UNSUPPORTED] = "unsupported",
	[VIRTIO_EBB_DONE_CANCELLED] = "cancelled",
	[EBB_RELEASE_NO_DRIVER] = "no-driver",
	[EBB_RELEASE_BUSY] = "busy",
	[EBB_RELEASE_OFF] = "off",
};

static const char *const release_texts[EBB_RELEASE_MAX] = {
	[VIRTIO_EBB_DONE_OK] = "as much as asked was given",
	[VIRTIO_EBB_DONE_PARTIAL] = "all that is free was given; it is less than asked",
	[VIRTIO_EBB_DONE_SHORT] = "the guest is short of memory itself and stopped",
	[VIRTIO_EBB_DONE_UNSUPPORTED] = "the guest's driver cannot do it: another driver holds "
					"free page reporting, or the guest poisons free pages",
	[VIRTIO_EBB_DONE_CANCELLED] = "suspend, shutdown, reset or unload of the driver came first",
	[EBB_RELEASE_NO_DRIVER] = "no virtio_ebb driver runs in the guest: load it there",
	[EBB_RELEASE_BUSY] = "a release is under way already: try again when it is done",
	[EBB_RELEASE_OFF] = "the guest's mode is off, or its VMM forbids discards at the moment",
};

static const char *const purge_words[EBB_PURGE_MAX] = {
	[EBB_PURGE_OK] = "ok",
	[EBB_PURGE_PARTIAL] = "partial",
	[EBB_PURGE_BUSY] = "busy",
	[EBB_PURGE_OFF] = "off",
};

static const char *const purge_texts[EBB_PURGE_MAX] = {
	[EBB_PURGE_OK] = "as much as asked is gone",
	[EBB_PURGE_PARTIAL] = "all that could go is gone; it is less than asked",
	[EBB_PURGE_BUSY] = "a purge is under way already: try again when it is done",
	[EBB_PURGE_OFF] = "mode is off, the guest stands still or is copied, or its VMM forbids it",
};

static const char *const collect_words[EBB_COLLECT_MAX] = {
	[VIRTIO_EBB_DONE_OK] = "ok",
	[VIRTIO_EBB_DONE_PARTIAL] = "partial",
	[VIRTIO_EBB_DONE_SHORT] = "guest-short",
	[VIRTIO_EBB_DONE_UNSUPPORTED] = "unsupported",
	[VIRTIO_EBB_DONE_CANCELLED] = "cancelled",
	[EBB_RELEASE_NO_DRIVER] = "no-driver",
	[EBB_RELEASE_BUSY] = "busy",
	[EBB_RELEASE_OFF] = "off",
	[EBB_COLLECT_NO_KERNEL] = "no-kernel",
	[EBB_COLLECT_HOST_SHORT] = "host-short",
};

static const char *const collect_texts[EBB_COLLECT_MAX] = {
	[VIRTIO_EBB_DONE_OK] = "all was looked at; what is not free in the guest stays",
	[VIRTIO_EBB_DONE_PARTIAL] = "so much as is done at a time",
	[VIRTIO_EBB_DONE_SHORT] = "the guest is short of memory itself and stopped",
	[VIRTIO_EBB_DONE_UNSUPPORTED] = "the guest's driver cannot do it: another driver holds "
					"free page reporting, or the guest poisons free pages",
	[VIRTIO_EBB_DONE_CANCELLED] = "suspend, shutdown, reset or unload of the driver came first",
	[EBB_RELEASE_NO_DRIVER] = "no virtio_ebb driver that knows it runs in the guest",
	[EBB_RELEASE_BUSY] = "a collection is under way already: try again when it is done",
	[EBB_RELEASE_OFF] = "the guest's mode or its page-tables is off, or its VMM forbids "
			    "discards at the moment",
	[EBB_COLLECT_NO_KERNEL] = "this host's kernel cannot find or free empty page tables",
	[EBB_COLLECT_HOST_SHORT] =
		"the host is short of memory, and its kernel (before Linux 6.14) "
		"can free page tables only in a way that would stall the guest",
};

static int from_word(const char *const *words, size_t nr, const char *word, uint32_t *value)
{
	uint32_t i;

	for (i = 0; i < nr; i++) {
		if (words[i] && strcmp(word, words[i]) == 0) {
			*value = i;
			return 0;
		}
	}
	return -EINVAL;
}

#define FROM_WORD(words, word, value) \
	from_word(words, sizeof(words) / sizeof((words)[0]), word, value)

const char *mode_word(uint32_t mode)
{
	return WORD(mode_words, mode);
}

int mode_from_word(const char *word, uint32_t *mode)
{
	return FROM_WORD(mode_words, word, mode);
}

const char *tables_word(uint32_t mode)
{
	return WORD(tables_words, mode);
}

const char *skipped_word(uint32_t reason)
{
	return WORD(skipped_words, reason);
}

int tables_from_word(const char *word, uint32_t *mode)
{
	return FROM_WORD(tables_words, word, mode);
}

const char *merge_word(uint32_t merge)
{
	return WORD(merge_words, merge);
}

int merge_from_word(const char *word, uint32_t *merge)
{
	return FROM_WORD(merge_words, word, merge);
}

const char *stage_word(uint32_t stage)
{
	return WORD(stage_words, stage);
}

const char *front_word(uint32_t front)
{
	return WORD(front_words, front);
}

const char *reason_word(uint32_t reason)
{
	return WORD(reason_words, reason);
}

const char *stat_word(uint32_t tag)
{
	return WORD(stat_words, tag);
}

const char *release_status_word(uint32_t status)
{
	return WORD(release_words, status);
}

const char *release_status_text(uint32_t status)
{
	return WORD(release_texts, status);
}

const char *purge_status_word(uint32_t status)
{
	return WORD(purge_words, status);
}

const char *purge_status_text(uint32_t status)
{
	return WORD(purge_texts, status);
}

const char *collect_status_word(uint32_t status)
{
	return WORD(collect_words, status);
}

const char *collect_status_text(uint32_t status)
{
	return WORD(collect_texts, status);
}

/* "4096", "512M", "1G": a whole number and one of K, M, G, T, powers of 1024. */
int bytes_from_text(const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	const char *unit;
	char *end;
	unsigned long long value;
	unsigned int shift = 0;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end) {
		unit = strchr(units, toupper((unsigned char)*end));
		if (!unit || end[1])
			return -EINVAL;
		shift = 10 * (unsigned int)(unit - units + 1);
	}
	if (value > UINT64_MAX >> shift)
		return -ERANGE;
	*bytes = value << shift;
	return 0;
}
