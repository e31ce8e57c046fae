// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ebbctl - see and steer how ebbd treats the guests of this host
 *
 * This file is the command line: it checks it, makes one request of it and picks the
 * format of the answer. Errors go to standard error, with an exit status for each kind.
 *
 * Owns:    the options.
 * Thread:  ebbctl's only one.
 * Locks:   none.
 * Never:   talks to guests or VMMs: ebbd does.
 */
#include "ctl.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "words.h"

#define CONTROL_PATH "/run/ebb/control.sock"

static void usage(FILE *file)
{
	fprintf(file,
		"Usage: ebbctl [OPTION...] COMMAND\n"
		"\n"
		"  list                   all guests: what is resident, reclaimable and held\n"
		"  show GUEST             all that is known of one guest\n"
		"  top                    the list, again and again\n"
		"  set GUEST mode MODE    MODE: " EBB_MODE_WORDS ", or default\n"
		"  set GUEST page-tables MODE   MODE: " EBB_TABLES_WORDS ", or default\n"
		"  set GUEST weight N     its content when it is purged: 1 to 10000, or default\n"
		"  set GUEST merge WHAT   what KSM may merge of it: " EBB_MERGE_WORDS
		", or default\n"
		"  release GUEST BYTES    free memory of the guest, now; 512M, 1G, all\n"
		"  purge GUEST BYTES      its volatile content, oldest first; 512M, 1G, all\n"
		"  collect GUEST          empty page tables behind its free memory, now\n"
		"  status                 ebbd, the host, limits\n"
		"  metrics                all figures for Prometheus\n"
		"  run --merge -- COMMAND...  start a program whose memory KSM may merge\n"
		"\n"
		"  -j, --json             JSON; the keys are in ebbctl(1)\n"
		"  -i, --interval SEC     top: time between two rounds, 1 without this\n"
		"  -c, --count N          top: end after N rounds\n"
		"  -t, --tables           list, top: page tables in place of memory\n"
		"      --anew             release: also what the guest has offered before\n"
		"      --merge            run: all memory of it, Linux 6.7 and newer\n"
		"  -s, --socket PATH      ebbd's control socket, " CONTROL_PATH "\n"
		"                         or $EBB_CONTROL without this\n"
		"  -h, --help             show this text\n"
		"  -V, --version          show the version\n");
}

static struct json_object *request_of(const char *command, const char *guest)
{
	struct json_object *request = json_object_new_object();

	json_object_object_add(request, "command", json_object_new_string(command));
	if (guest)
		json_object_object_add(request, "guest", json_object_new_string(guest));
	return request;
}

static enum ctl_exit run_list(struct client *client, const struct ctl_options *options, char **args)
{
	struct json_object *list;
	enum ctl_exit status = client_list(client, &list);

	if (status != CTL_OK)
		return status;
	if (options->json)
		format_json(stdout, list, false);
	else
		format_table(stdout, list, options->tables);
	json_object_put(list);
	return CTL_OK;
}

static enum ctl_exit run_metrics(struct client *client, const struct ctl_options *options,
				 char **args)
{
	struct json_object *list;
	enum ctl_exit status = client_list(client, &list);

	if (status != CTL_OK)
		return status;
	metrics_put(stdout, list);
	json_object_put(list);
	return CTL_OK;
}

static enum ctl_exit run_show(struct client *client, const struct ctl_options *options, char **args)
{
	struct json_object *reply, *guest;
	enum ctl_exit status = client_call(client, request_of("show", args[0]), false, &reply);

	if (status == CTL_OK && json_object_object_get_ex(reply, "guest", &guest)) {
		if (options->json)
			format_json(stdout, guest, false);
		else
			format_guest(stdout, guest);
	}
	json_object_put(reply);
	return status;
}

static enum ctl_exit run_status(struct client *client, const struct ctl_options *options,
				char **args)
{
	struct json_object *reply;
	enum ctl_exit status = client_call(client, request_of("status", NULL), false, &reply);

	if (status == CTL_OK) {
		if (options->json)
			format_json(stdout, reply, false);
		else
			format_status(stdout, reply);
	}
	json_object_put(reply);
	return status;
}

static enum ctl_exit run_set(struct client *client, const struct ctl_options *options, char **args)
{
	struct json_object *request = request_of("set", args[0]), *reply;
	enum ctl_exit status;

	json_object_object_add(request, "key", json_object_new_string(args[1]));
	json_object_object_add(request, "value", json_object_new_string(args[2]));
	status = client_call(client, request, false, &reply);
	if (status == CTL_OK && options->json)
		format_json(stdout, reply, false);
	json_object_put(reply);
	return status;
}

/* The guest gave something or had nothing more to give. */
static bool went_well(struct json_object *reply, const char *key)
{
	struct json_object *order = NULL, *word = NULL;

	json_object_object_get_ex(reply, key, &order);
	json_object_object_get_ex(order, "status", &word);
	return word && (strcmp(json_object_get_string(word), "ok") == 0 ||
			strcmp(json_object_get_string(word), "partial") == 0);
}

/* An order: the guest's executor answers when it is done. */
static enum ctl_exit run_request(struct client *client, const struct ctl_options *options,
				 struct json_object *request, const char *command,
				 void (*format)(FILE *file, struct json_object *reply))
{
	struct json_object *reply;
	enum ctl_exit status = client_call(client, request, true, &reply);

	if (status == CTL_OK) {
		if (!went_well(reply, command)) {
			status = CTL_FAILED;
			client->error[0] = '\0';
		}
		if (options->json)
			format_json(stdout, reply, false);
		else
			format(status == CTL_OK ? stdout : stderr, reply);
	}
	json_object_put(reply);
	return status;
}

/* The same for so many bytes. */
static enum ctl_exit run_order(struct client *client, const struct ctl_options *options,
			       char **args, const char *command,
			       void (*format)(FILE *file, struct json_object *reply))
{
	struct json_object *request;
	uint64_t bytes = 0;

	if (strcmp(args[1], "all") != 0 && (bytes_from_text(args[1], &bytes) < 0 || bytes == 0)) {
		snprintf(client->error, sizeof(client->error),
			 "%s is no size: write bytes, with K, M, G or T if you like, or all",
			 args[1]);
		return CTL_USAGE;
	}
	request = request_of(command, args[0]);
	if (bytes)
		json_object_object_add(request, "bytes", json_object_new_uint64(bytes));
	if (options->anew)
		json_object_object_add(request, "anew", json_object_new_boolean(true));
	return run_request(client, options, request, command, format);
}

static enum ctl_exit run_release(struct client *client, const struct ctl_options *options,
				 char **args)
{
	return run_order(client, options, args, "release", format_release);
}

static enum ctl_exit run_purge(struct client *client, const struct ctl_options *options,
			       char **args)
{
	return run_order(client, options, args, "purge", format_purge);
}

static enum ctl_exit run_collect(struct client *client, const struct ctl_options *options,
				 char **args)
{
	return run_request(client, options, request_of("collect", args[0]), "collect",
			   format_collect);
}

static enum ctl_exit run_top(struct client *client, const struct ctl_options *options, char **args)
{
	return top_run(client, options);
}

#define AT_LEAST_ONE (-1)

static const struct {
	const char *word;
	int nr_args;
	const char *args;
	enum ctl_exit (*run)(struct client *client, const struct ctl_options *options, char **args);
} commands[] = {
	{ "list", 0, "", run_list },
	{ "show", 1, " GUEST", run_show },
	{ "top", 0, "", run_top },
	{ "set", 3, " GUEST mode|weight|page-tables|merge VALUE", run_set },
	{ "release", 2, " GUEST BYTES", run_release },
	{ "purge", 2, " GUEST BYTES", run_purge },
	{ "collect", 1, " GUEST", run_collect },
	{ "status", 0, "", run_status },
	{ "metrics", 0, "", run_metrics },
	{ "run", AT_LEAST_ONE, " --merge -- COMMAND [ARGUMENT...]", run_program },
};

static bool take_interval(const char *text, double *sec)
{
	char *end;

	*sec = strtod(text, &end);
	return end != text && !*end && *sec >= 0.05 && *sec <= 86400;
}

static bool take_count(const char *text, unsigned long *count)
{
	char *end;

	errno = 0;
	*count = strtoul(text, &end, 10);
	return !errno && end != text && !*end && *text != '-' && *count > 0;
}

/* Returns -1 to go on, else the exit status. */
static int parse_options(int argc, char **argv, struct ctl_options *options)
{
	static const struct option longs[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "interval", required_argument, NULL, 'i' },
		{ "count", required_argument, NULL, 'c' },
		{ "anew", no_argument, NULL, 'a' },
		{ "merge", no_argument, NULL, 'm' },
		{ "tables", no_argument, NULL, 't' },
		{ "socket", required_argument, NULL, 's' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "ji:c:s:thV", longs, NULL)) != -1) {
		switch (c) {
		case 'j':
			options->json = true;
			break;
		case 'i':
			if (take_interval(optarg, &options->interval_sec))
				break;
			fprintf(stderr, "ebbctl: --interval %s: write seconds, 0.05 to 86400\n",
				optarg);
			return CTL_USAGE;
		case 'c':
			if (take_count(optarg, &options->count))
				break;
			fprintf(stderr, "ebbctl: --count %s: write a whole number above 0\n",
				optarg);
			return CTL_USAGE;
		case 'a':
			options->anew = true;
			break;
		case 'm':
			options->merge = true;
			break;
		case 't':
			options->tables = true;
			break;
		case 's':
			options->socket_path = optarg;
			break;
		case 'h':
			usage(stdout);
			return CTL_OK;
		case 'V':
			printf("ebbctl %s\n", EBB_VERSION);
			return CTL_OK;
		case '?':
			fprintf(stderr, "Try ebbctl --help.\n");
			return CTL_USAGE;
		}
	}
	return -1;
}

int main(int argc, char **argv)
{
	const char *env = getenv("EBB_CONTROL");
	struct ctl_options options = { .socket_path = env && *env ? env : CONTROL_PATH,
				       .interval_sec = 1 };
	struct client client = { .fd = -1 };
	enum ctl_exit status;
	int r, nr_args;
	size_t i;

	if (run_is_probe(argc, argv))
		return run_probe();
	r = parse_options(argc, argv, &options);
	if (r >= 0)
		return r;
	if (optind == argc) {
		usage(stderr);
		return CTL_USAGE;
	}
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].word, argv[optind]) == 0)
			break;
	if (i == sizeof(commands) / sizeof(commands[0])) {
		fprintf(stderr, "ebbctl: command %s is not known. Try ebbctl --help.\n",
			argv[optind]);
		return CTL_USAGE;
	}
	nr_args = argc - optind - 1;
	if (commands[i].nr_args == AT_LEAST_ONE ? nr_args < 1 : nr_args != commands[i].nr_args) {
		fprintf(stderr, "Usage: ebbctl %s%s\n", commands[i].word, commands[i].args);
		return CTL_USAGE;
	}
	client.path = options.socket_path;
	status = commands[i].run(&client, &options, argv + optind + 1);
	if (status != CTL_OK && client.error[0])
		fprintf(stderr, "ebbctl: %s\n", client.error);
	client_close(&client);
	if (fflush(stdout) != 0 && status == CTL_OK) {
		fprintf(stderr, "ebbctl: cannot write: %s\n", strerror(errno));
		status = CTL_FAILED;
	}
	return (int)status;
}
