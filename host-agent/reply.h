/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* reply.h - what ebbctl is told, as JSON; see reply.c and ebbctl(1) */
#ifndef EBB_REPLY_H
#define EBB_REPLY_H

#include <json-c/json.h>

#include "guest.h"
#include "manager.h"

struct json_object *reply_ok(void);
__attribute__((format(printf, 2, 3))) struct json_object *reply_error(const char *code,
								      const char *format, ...);
struct json_object *reply_no_such_guest(struct manager *manager, const char *name);
struct json_object *reply_status(struct manager *manager);
struct json_object *reply_guest(const struct guest *guest);
struct json_object *reply_release(const struct guest *guest);
struct json_object *reply_purge(const struct guest *guest);
struct json_object *reply_collect(const struct guest *guest);

#endif /* EBB_REPLY_H */
