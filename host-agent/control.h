/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* control.h - one connection of ebbctl; see control.c */
#ifndef EBB_CONTROL_H
#define EBB_CONTROL_H

#include "guest.h"
#include "manager.h"

enum control_release_end {
	CONTROL_RELEASE_DONE, /* the executor has answered */
	CONTROL_RELEASE_LATE, /* it did not in time */
	CONTROL_RELEASE_GONE, /* its connection ended */
};

struct control {
	LIST_ENTRY(control) link;
	struct manager *manager;
	int fd;
	sd_event_source *io_source;
	struct guest *waits_for; /* a release or purge; no request is read meanwhile */
	bool ended;
};

int control_accept(sd_event_source *source, int fd, uint32_t revents, void *userdata);
void control_release_over(struct control *control, struct guest *guest,
			  enum control_release_end end);
void control_free(struct control *control);

#endif /* EBB_CONTROL_H */
