/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* guest.h - what is known of a guest and asked of it; see guest.c */
#ifndef EBB_GUEST_H
#define EBB_GUEST_H

#include "agent_check.h"
#include "manager.h"

/* "NAME~PID.N" */
#define GUEST_NAME_BYTES (EBB_AGENT_NAME_BYTES + 32)

enum guest_order {
	GUEST_ORDER_RELEASE,
	GUEST_ORDER_PURGE,
	GUEST_ORDER_COLLECT,
};

/* An order under way, or the last RELEASE that was. */
struct guest_release {
	uint64_t id; /* 0: none is under way */
	enum guest_order order;
	uint64_t asked_bytes;
	uint64_t offered_bytes;
	uint64_t discarded_bytes;
	uint64_t usec;
	uint32_t status;
	uint32_t passes;
	bool answered;		/* the last five are filled */
	bool to_weigh;		/* what it brings is to be found out, once it is answered */
	uint64_t excess_bytes;	/* resident beyond what the guest used, before it */
	uint64_t answered_usec; /* by the clock */
	struct control *waiter; /* whom to tell, or NULL */
	sd_event_source *late_source;
};

/* The last PURGE that was answered. */
struct guest_purge {
	uint64_t asked_bytes;
	uint64_t purged_bytes;
	uint64_t usec;
	uint32_t status;
	bool answered;
};

/* The last COLLECT that was answered. */
struct guest_collect {
	uint64_t found_tables;
	uint64_t asked_tables;
	uint64_t offered_tables;
	uint64_t freed_tables;
	uint64_t refused_tables;
	uint64_t usec;
	uint32_t status;
	bool answered;
};

struct guest {
	TAILQ_ENTRY(guest) link;
	struct peer *peer;
	struct manager *manager;
	char name[GUEST_NAME_BYTES];	  /* what ebbctl calls it; no two are the same */
	char label[EBB_AGENT_NAME_BYTES]; /* what it calls itself */
	bool named_by_libvirt;
	uint32_t front; /* EBB_FRONT_* */

	uint32_t mode; /* wanted: EBB_MODE_* */
	unsigned int weight;
	uint32_t stage;
	uint32_t sent_mode;  /* the last POLICY */
	uint32_t sent_stage; /* 0: none yet */
	uint32_t merge;	     /* wanted: EBB_MERGE_* */
	char merge_group[MERGE_GROUP_BYTES];
	bool merge_waits;    /* not its group's turn: it is told OFF, and not what is wanted */
	uint32_t sent_merge; /* the last MERGE; KEEP before the first */

	uint32_t tables_mode;			  /* wanted: EBB_TABLES_* */
	struct ebb_msg_tables_policy sent_tables; /* the last; all zeros: none */

	struct ebb_msg_sample sample;	/* as it came, checked */
	uint64_t sample_usec;		/* when; 0: none yet */
	struct ebb_msg_content content; /* the same, from version 2 on */
	bool has_content;
	uint64_t content_used_usec;   /* it was last seen to mark or take back content */
	struct ebb_msg_tables tables; /* the same, from version 3 on */
	bool has_tables;
	struct ebb_msg_merge_state merge_state; /* the same, from version 3 on */
	bool has_merge_state;
	bool has_huge_before;
	uint64_t huge_before_bytes; /* huge pages of its VMM, before anything was marked last */

	struct proc_rollup rollup;
	struct proc_status status;
	struct proc_ksm ksm;
	bool has_rollup, has_status, has_ksm;
	bool has_kvm_tables;
	uint64_t kvm_table_bytes; /* SecPageTables of its cgroup */
	int rollup_error;	  /* negative errno that was logged */
	uint64_t rollup_usec;
	uint64_t rollup_next_usec; /* not read again before */
	struct cgroup_level level;
	struct domain *domain; /* that limits it, or NULL */

	uint64_t kept_bytes; /* resident beyond what it uses, and no release brings it */
	uint64_t kept_usec;  /* found then */

	struct guest_release release;
	struct guest_purge purge;
	struct guest_collect collect;
};

struct guest *guest_new(struct peer *peer, const struct ebb_msg_hello *hello);
void guest_gone(struct guest *guest);
void guest_free(struct guest *guest);
struct guest *guest_find(struct manager *manager, const char *name);

void guest_read_proc(struct guest *guest);
bool guest_has_marks(const struct guest *guest);
void guest_find_mode(struct guest *guest);
struct merge_member guest_merge_member(const struct guest *guest);
void guest_push_policy(struct guest *guest);
void guest_writable(struct guest *guest);
void guest_sample(struct guest *guest, const struct ebb_msg_sample *sample);
void guest_release_done(struct guest *guest, const struct ebb_msg_release_done *done);
void guest_content(struct guest *guest, const struct ebb_msg_content *content);
void guest_merge_state(struct guest *guest, const struct ebb_msg_merge_state *state);
void guest_purge_done(struct guest *guest, const struct ebb_msg_purge_done *done);
void guest_tables(struct guest *guest, const struct ebb_msg_tables *tables);
void guest_collect_done(struct guest *guest, const struct ebb_msg_collect_done *done);
int guest_collect(struct guest *guest, struct control *waiter);
int guest_purge(struct guest *guest, uint64_t bytes, struct control *waiter);
int guest_release(struct guest *guest, uint64_t bytes, bool anew, struct control *waiter);

#endif /* EBB_GUEST_H */
