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
#include <unistd.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

static const char *why_not(int error)
{
	switch (error) {
	case EINVAL:
		return "this kernel cannot: it takes Linux 6.4 or newer, with KSM";
	case EPERM:
		return "not permitted: a sandbox forbids it";
	}
	return strerror(error);
}

enum ctl_exit run_program(struct client *client, const struct ctl_options *options, char **args)
{
	if (!options->merge) {
		snprintf(client->error, sizeof(client->error),
			 "run: what for? Write ebbctl run --merge -- COMMAND");
		return CTL_USAGE;
	}
	if (prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) < 0) {
		int error = errno;

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
