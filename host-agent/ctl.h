/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ctl.h - the parts of ebbctl */
#ifndef EBB_CTL_H
#define EBB_CTL_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Exit statuses; ebbctl(1) documents them. */
enum ctl_exit {
	CTL_OK = 0,
	CTL_FAILED = 1,	    /* ebbd or the guest said no */
	CTL_USAGE = 2,	    /* the command line is wrong */
	CTL_NO_DAEMON = 3,  /* ebbd cannot be reached */
	CTL_NO_GUEST = 4,   /* there is no such guest */
	CTL_PERMISSION = 5, /* not root */
};

struct ctl_options {
	const char *socket_path;
	bool json;
	bool anew;
	bool merge;
	bool tables;
	double interval_sec;
	unsigned long count; /* 0: for ever */
};

/* ctl_client.c */
struct client {
	const char *path;
	int fd;		  /* -1: not connected */
	char error[1024]; /* of the last call that did not give CTL_OK */
};

enum ctl_exit client_call(struct client *client, struct json_object *request, bool patient,
			  struct json_object **reply);
enum ctl_exit client_list(struct client *client, struct json_object **list);
void client_close(struct client *client);

/* ctl_format.c */
/* The value at "a.b", or NULL. */
struct json_object *format_at(struct json_object *object, const char *path);
void format_host(FILE *file, struct json_object *list);
/* tables: page tables in place of memory. */
void format_table(FILE *file, struct json_object *list, bool tables);
void format_guest(FILE *file, struct json_object *guest);
void format_status(FILE *file, struct json_object *status);
void format_release(FILE *file, struct json_object *reply);
void format_purge(FILE *file, struct json_object *reply);
void format_collect(FILE *file, struct json_object *reply);
void format_json(FILE *file, struct json_object *object, bool one_line);

/* ctl_metrics.c */
void metrics_put(FILE *file, struct json_object *list);

/* ctl_run.c: args end with NULL; returns only if the program was not started. It starts ebbctl as a
 * probe first. */
bool run_is_probe(int argc, char **argv);
int run_probe(void);
enum ctl_exit run_program(struct client *client, const struct ctl_options *options, char **args);

/* ctl_top.c */
enum ctl_exit top_run(struct client *client, const struct ctl_options *options);

#endif /* EBB_CTL_H */
