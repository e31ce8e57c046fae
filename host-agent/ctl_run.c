// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ctl_run - start a program all of whose memory KSM may merge
 *
 * For VMMs without the device, and for any other program: the kernel is asked for it
 * before the program takes this process's place, which keeps that, and so do its children.
 *
 * Owns:    nothing.
 * Thread:  ebbctl's only one.
 * Locks:   none.
 * Never:   starts the program if its memory would not be mergeable; talks to ebbd.
 */
#include "ctl.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

/* ebbctl in place of a program: says how it was started. */
#define PROBE "--is-merged"

static const char *why_not(int error)
{
	switch (error) {
	case EINVAL:
		return "this kernel cannot: it takes Linux 6.7 or newer, with KSM";
	case EPERM:
		return "not permitted: a sandbox forbids it";
	}
	return strerror(error);
}

bool run_is_probe(int argc, char **argv)
{
	return argc == 2 && strcmp(argv[1], PROBE) == 0;
}

int run_probe(void)
{
	return prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1 ? 0 : 1;
}

/* Linux 6.4 to 6.6 forget it when a program takes the place of another: so one is started to see.
 */
static bool is_kept_by_exec(void)
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		execl("/proc/self/exe", "ebbctl", PROBE, NULL);
		_exit(1);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

enum ctl_exit run_program(struct client *client, const struct ctl_options *options, char **args)
{
	int error = 0;

	if (!options->merge) {
		snprintf(client->error, sizeof(client->error),
			 "run: what for? Write ebbctl run --merge -- COMMAND");
		return CTL_USAGE;
	}
	if (prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) < 0)
		error = errno;
	else if (!is_kept_by_exec())
		error = EINVAL;
	if (error) {
		snprintf(client->error, sizeof(client->error),
			 "%s is not started, its memory would not be mergeable: %s", args[0],
			 why_not(error));
		return error == EPERM ? CTL_PERMISSION : CTL_FAILED;
	}
	execvp(args[0], args);
	snprintf(client->error, sizeof(client->error), "%s cannot be started: %s", args[0],
		 strerror(errno));
	return CTL_FAILED;
}
