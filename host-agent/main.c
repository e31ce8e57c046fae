// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ebbd - says how much of its guests' memory a host takes, and shows what they hold
 *
 * This file reads the command line and the configuration, sets up the manager, and runs
 * the loop: SIGTERM and SIGINT end it, SIGHUP reads the configuration anew. When ebbd
 * ends or dies the guests go on with its last word and come back when it does.
 *
 * Owns:    the event loop and the configuration.
 * Thread:  ebbd's only one.
 * Locks:   none.
 * Never:   daemonizes: that is the service manager's work, or the shell's.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>

#include "manager.h"

/* Socket, pidfd and /proc/PID of each peer, and what else is open. */
#define FDS_PER_PEER 3
#define FDS_OTHERS   128

static void usage(void)
{
	printf("Usage: ebbd [OPTION...]\n"
	       "Tell the guests of this host how to treat free memory, and keep their figures.\n"
	       "\n"
	       "  -c, --config FILE   read FILE; without this " CONF_PATH ", if it is there\n"
	       "  -n, --dry-run       say what would be sent to guests, send nothing but WELCOME\n"
	       "  -d, --debug         log more\n"
	       "  -h, --help          show this text\n"
	       "  -V, --version       show the version\n"
	       "\n"
	       "SIGHUP reads the configuration anew, SIGTERM ends. See ebbd(8), ebbctl(1).\n");
}

/* Returns -1 to go on, else the exit status. */
static int parse_options(int argc, char **argv, struct manager *manager)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' }, { "dry-run", no_argument, NULL, 'n' },
		{ "debug", no_argument, NULL, 'd' },	    { "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },	    { 0 },
	};
	bool debug = false;
	int c;

	manager->conf_path = CONF_PATH;
	manager->conf_may_miss = true;
	while ((c = getopt_long(argc, argv, "c:ndhV", options, NULL)) != -1) {
		switch (c) {
		case 'c':
			manager->conf_path = optarg;
			manager->conf_may_miss = false;
			break;
		case 'n':
			manager->dry_run = true;
			break;
		case 'd':
			debug = true;
			break;
		case 'h':
			usage();
			return EXIT_SUCCESS;
		case 'V':
			printf("ebbd %s, agent protocol %u to %u\n", EBB_VERSION,
			       EBB_AGENT_VERSION_MIN, EBB_AGENT_VERSION_MAX);
			return EXIT_SUCCESS;
		case '?':
			fprintf(stderr, "Try ebbd --help.\n");
			return EXIT_FAILURE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "ebbd: argument %s is not understood. Try ebbd --help.\n",
			argv[optind]);
		return EXIT_FAILURE;
	}
	log_open(debug);
	return -1;
}

static void complain_to_log(void *ctx, const char *line)
{
	log_error("%s", line);
}

static void raise_file_limit(const struct conf *conf)
{
	rlim_t wanted = (rlim_t)conf->max_connections * FDS_PER_PEER + FDS_OTHERS;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= wanted)
		return;
	limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < wanted)
		log_warning("only %llu files may be open, max_connections = %u needs %llu: raise "
			    "LimitNOFILE= of the service",
			    (unsigned long long)limit.rlim_cur, conf->max_connections,
			    (unsigned long long)wanted);
}

static int on_end(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
	struct manager *manager = userdata;

	log_info("%s: ending; %u guests go on as they are", strsignal((int)info->ssi_signo),
		 manager->nr_guests);
	sd_notify(false, "STOPPING=1");
	return sd_event_exit(manager->event, EXIT_SUCCESS);
}

static int on_reload(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
	manager_reload(userdata);
	return 0;
}

static int run(struct manager *manager)
{
	sigset_t signals;
	int r;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	r = sd_event_default(&manager->event);
	if (r >= 0)
		r = sd_event_add_signal(manager->event, NULL, SIGTERM, on_end, manager);
	if (r >= 0)
		r = sd_event_add_signal(manager->event, NULL, SIGINT, on_end, manager);
	if (r >= 0)
		r = sd_event_add_signal(manager->event, NULL, SIGHUP, on_reload, manager);
	if (r >= 0)
		r = sd_event_set_watchdog(manager->event, true);
	if (r < 0) {
		log_error("cannot set up the event loop: %s", strerror(-r));
		return r;
	}
	raise_file_limit(&manager->conf);
	r = manager_init(manager);
	if (r < 0)
		return r;
	log_info("ready: executors at %s, ebbctl at %s%s", manager->conf.socket_path,
		 manager->conf.control_path, manager->dry_run ? "; dry run" : "");
	sd_notify(false, "READY=1");
	return sd_event_loop(manager->event);
}

int main(int argc, char **argv)
{
	struct manager manager = { 0 };
	int r;

	r = parse_options(argc, argv, &manager);
	if (r >= 0)
		return r;
	if (conf_load(&manager.conf, manager.conf_path, manager.conf_may_miss, complain_to_log,
		      NULL) < 0)
		return EXIT_FAILURE;
	r = run(&manager);
	manager_deinit(&manager);
	sd_event_unref(manager.event);
	conf_deinit(&manager.conf);
	return r < 0 ? EXIT_FAILURE : r;
}
