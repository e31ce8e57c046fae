/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* conf.h - ebbd's configuration; see conf.c and ebbd.conf(5) */
#ifndef EBB_CONF_H
#define EBB_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "ksm_policy.h"
#include "merge_group.h"
#include "policy.h"

#define CONF_PATH "/etc/ebb/ebbd.conf"

struct conf_guest {
	char name[EBB_AGENT_NAME_BYTES];
	bool has_mode;
	uint32_t mode;
	unsigned int weight; /* 0: as all others */
	bool has_tables;
	uint32_t tables; /* EBB_TABLES_* */
	bool has_merge;
	uint32_t merge;
	char merge_group[EBB_AGENT_NAME_BYTES]; /* "": as all others */
	struct conf_guest *next;
};

struct conf {
	char *socket_path;
	unsigned int socket_mode;
	gid_t socket_gid; /* (gid_t)-1: as it comes */
	char *control_path;
	char *state_path;
	unsigned int sample_interval_msec;
	unsigned int hello_timeout_msec;
	unsigned int release_timeout_msec;
	unsigned int stuck_timeout_msec;
	unsigned int max_connections;
	unsigned int max_connections_per_uid;
	unsigned int max_messages_per_sec;
	uint32_t mode;				/* of guests without a section of their own */
	unsigned int weight;			/* likewise */
	uint32_t merge;				/* likewise */
	char merge_group[EBB_AGENT_NAME_BYTES]; /* likewise; MERGE_GROUP_OWN: each its own */
	bool release_when_short;
	struct policy_conf policy;
	uint32_t tables; /* EBB_TABLES_*, of guests without a word of their own */
	unsigned int page_tables_delay_msec;
	unsigned int page_tables_amount; /* tables in a pass */
	unsigned int page_tables_least;
	struct ksm_conf ksm;
	struct conf_guest *guests;
};

/* Called once for each thing wrong, with a whole sentence. */
typedef void (*conf_complain_fn)(void *ctx, const char *line);

int conf_load(struct conf *conf, const char *path, bool may_miss, conf_complain_fn complain,
	      void *ctx);
void conf_deinit(struct conf *conf);
uint32_t conf_guest_tables(const struct conf *conf, const char *name);
uint32_t conf_guest_mode(const struct conf *conf, const char *name);
uint32_t conf_guest_merge(const struct conf *conf, const char *name);
void conf_guest_merge_group(const struct conf *conf, const char *name,
			    char group[MERGE_GROUP_BYTES]);
unsigned int conf_guest_weight(const struct conf *conf, const char *name);

#endif /* EBB_CONF_H */
