/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* state.h - what ebbctl has set for each guest, kept over restarts; see state.c */
#ifndef EBB_STATE_H
#define EBB_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent.h"

#define STATE_MAX_GUESTS 4096

struct state_entry {
	char name[EBB_AGENT_NAME_BYTES + 32];
	bool has_mode;
	uint32_t mode;
	unsigned int weight; /* 0: not set */
	bool has_tables;
	uint32_t tables; /* EBB_TABLES_* */
	bool has_merge;
	uint32_t merge;
};

struct state {
	struct state_entry *entries;
	size_t nr_entries;
};

int state_load(struct state *state, const char *path);
int state_save(const struct state *state, const char *path);
void state_deinit(struct state *state);

bool state_get(const struct state *state, const char *name, uint32_t *mode);
int state_set(struct state *state, const char *name, uint32_t mode);
void state_unset(struct state *state, const char *name);
bool state_get_merge(const struct state *state, const char *name, uint32_t *merge);
int state_set_merge(struct state *state, const char *name, uint32_t merge);
void state_unset_merge(struct state *state, const char *name);
unsigned int state_get_weight(const struct state *state, const char *name);
bool state_get_tables(const struct state *state, const char *name, uint32_t *mode);
int state_set_tables(struct state *state, const char *name, uint32_t mode);
void state_unset_tables(struct state *state, const char *name);
int state_set_weight(struct state *state, const char *name, unsigned int weight);

#endif /* EBB_STATE_H */
