// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * log - lines for people, to the journal or to stderr
 *
 * The journal is used if stderr is already connected to it (JOURNAL_STREAM names
 * stderr's device and inode), so that a shell or a test sees plain lines.
 *
 * Owns:    where lines go.
 * Thread:  ebbd's only one.
 * Locks:   none.
 * Never:   fails: a line that cannot be written is lost.
 */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/stat.h>
#include <systemd/sd-journal.h>

static bool to_journal;
static int max_priority = LOG_INFO;

void log_open(bool debug)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	if (debug)
		max_priority = LOG_DEBUG;
	to_journal = stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 &&
		     fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

void log_line(int priority, const char *format, ...)
{
	char line[1024];
	va_list args;

	if (priority > max_priority)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (to_journal)
		sd_journal_print(priority, "%s", line);
	else
		fprintf(stderr, "ebbd: %s\n", line);
}
