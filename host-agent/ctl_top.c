// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ctl_top - the list, again and again
 *
 * On a terminal it takes the screen and gives it back at the end (q, Ctrl-C or the
 * count), and t changes between memory and page tables; elsewhere it prints plain lines, with
 * --json one object a line. Once it has run it outlives a restart of ebbd: it says that nobody
 * answers, and tries again.
 *
 * Owns:    the terminal's state.
 * Thread:  ebbctl's only one; signal handlers set a flag.
 * Locks:   none.
 * Never:   leaves the terminal changed.
 */
#include "ctl.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t ended;

struct screen {
	bool live;	/* standard output is a terminal and JSON is not wanted */
	bool has_input; /* standard input is a terminal: it can be q, or t */
	bool tables;	/* page tables in place of memory */
	struct termios saved;
};

static void on_end(int signal)
{
	ended = 1;
}

static void screen_open(struct screen *screen, bool json)
{
	struct sigaction action = { .sa_handler = on_end };
	struct termios raw;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	screen->live = !json && isatty(STDOUT_FILENO);
	if (!screen->live)
		return;
	if (isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &screen->saved) == 0) {
		raw = screen->saved;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		raw.c_cc[VMIN] = 0;
		raw.c_cc[VTIME] = 0;
		screen->has_input = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
	}
	fputs("\033[?1049h\033[?25l", stdout);
}

static void screen_close(struct screen *screen)
{
	if (screen->live) {
		fputs("\033[?25h\033[?1049l", stdout);
		fflush(stdout);
	}
	if (screen->has_input)
		tcsetattr(STDIN_FILENO, TCSANOW, &screen->saved);
}

/* As much of the text as fits, over what was there. */
static void screen_draw(const char *text)
{
	struct winsize size = { 0 };
	size_t length, width;
	unsigned int row;
	const char *end;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0 || size.ws_row == 0) {
		size.ws_col = 80;
		size.ws_row = 24;
	}
	fputs("\033[H", stdout);
	for (row = 0; *text && row + 1 < size.ws_row; row++) {
		end = strchrnul(text, '\n');
		length = (size_t)(end - text);
		width = length < size.ws_col ? length : size.ws_col;
		fprintf(stdout, "%.*s\033[K\n", (int)width, text);
		text = *end ? end + 1 : end;
	}
	fputs("\033[J", stdout);
}

static void head_line(FILE *file, struct json_object *list)
{
	time_t now = time(NULL);
	struct tm tm;
	char text[16];

	localtime_r(&now, &tm);
	strftime(text, sizeof(text), "%H:%M:%S", &tm);
	fprintf(file, "%s  ", text);
	format_host(file, list);
}

static void show(const struct screen *screen, const struct ctl_options *options,
		 struct json_object *list)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *file;

	if (options->json) {
		format_json(stdout, list, true);
	} else if (screen->live) {
		file = open_memstream(&text, &bytes);
		if (!file)
			return;
		head_line(file, list);
		fputc('\n', file);
		format_table(file, list, screen->tables);
		fclose(file);
		screen_draw(text);
		free(text);
	} else {
		head_line(stdout, list);
		format_table(stdout, list, screen->tables);
	}
	fflush(stdout);
}

/* Until the next round, q or a signal; t changes what is shown, at once. */
static void wait_round(struct screen *screen, const struct timespec *next)
{
	struct pollfd pollfd = { .fd = STDIN_FILENO, .events = POLLIN };
	struct timespec now;
	long msec;
	char key;

	while (!ended) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		msec = (next->tv_sec - now.tv_sec) * 1000 + (next->tv_nsec - now.tv_nsec) / 1000000;
		if (msec <= 0)
			return;
		if (poll(&pollfd, screen->has_input ? 1 : 0, (int)(msec < 1000 ? msec : 1000)) <= 0)
			continue;
		if (read(STDIN_FILENO, &key, 1) != 1 || key == 'q')
			ended = 1;
		if (!ended && key == 't') {
			screen->tables = !screen->tables;
			return;
		}
	}
}

static void advance(struct timespec *next, double sec)
{
	struct timespec now;
	long nsec;

	nsec = next->tv_nsec + (long)((sec - (double)(time_t)sec) * 1e9);
	next->tv_sec += (time_t)sec + nsec / 1000000000;
	next->tv_nsec = nsec % 1000000000;
	clock_gettime(CLOCK_MONOTONIC, &now);
	/* Rounds that were missed (a stopped process, a slow ebbd) are not made up for. */
	if (next->tv_sec < now.tv_sec)
		*next = now;
}

enum ctl_exit top_run(struct client *client, const struct ctl_options *options)
{
	struct screen screen = { .tables = options->tables };
	struct json_object *list;
	enum ctl_exit status;
	struct timespec next;
	unsigned long round = 0;

	/* Nothing there at the start is an error; later it is a restart. */
	status = client_list(client, &list);
	if (status != CTL_OK)
		return status;
	screen_open(&screen, options->json);
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (;;) {
		if (status == CTL_OK)
			show(&screen, options, list);
		else if (screen.live)
			screen_draw(client->error);
		else
			fprintf(stderr, "ebbctl: %s; trying again\n", client->error);
		fflush(stdout);
		json_object_put(list);
		list = NULL;
		if (++round == options->count || ended || ferror(stdout))
			break;
		advance(&next, options->interval_sec);
		wait_round(&screen, &next);
		if (ended)
			break;
		status = client_list(client, &list);
	}
	screen_close(&screen);
	return status;
}
