// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * agent - run the test host's commands inside the guest
 *
 * PID 1 of a test guest, after its init script. Speaks a line protocol over a serial port:
 *
 *	host to guest			guest to host
 *	~ebb RUN <id> <b64 command>	~ebb HELLO <random>		once for each boot
 *	~ebb IN <id> <b64 bytes>	~ebb OUT <id> <b64 bytes>	stdout and stderr
 *	~ebb EOF <id>			~ebb EXIT <id> <status>		128 + signal if killed
 *	~ebb KILL <id> <signal>		~ebb ERR <id> <b64 text>	the command was not run
 *
 * Each frame is one line; '~' is not in the base64 alphabet, so a reader that lost its place
 * (a reset in the middle of a line) finds the next frame.
 *
 * Owns:    the serial port and the commands' pipes.
 * Thread:  one.
 * Locks:   none; its memory is locked, so that it goes on when the guest is short of memory.
 * Never:   waits for a command; all of them run side by side.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define MAX_COMMANDS   64
#define LINE_MAX_BYTES (64 * 1024)
#define CHUNK_BYTES    1536

struct command {
	unsigned int id;
	pid_t pid;  /* 0: slot is free */
	int in_fd;  /* -1: closed */
	int out_fd; /* -1: closed */
	int status; /* -1: still running */
};

static struct command commands[MAX_COMMANDS];
static int tty_fd;
static char line[LINE_MAX_BYTES];
static size_t line_bytes;

static const char b64_chars[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void b64_encode(const unsigned char *in, size_t bytes, char *out)
{
	for (size_t i = 0; i < bytes; i += 3) {
		unsigned int v = in[i] << 16;

		if (i + 1 < bytes)
			v |= in[i + 1] << 8;
		if (i + 2 < bytes)
			v |= in[i + 2];
		*out++ = b64_chars[v >> 18];
		*out++ = b64_chars[(v >> 12) & 63];
		*out++ = i + 1 < bytes ? b64_chars[(v >> 6) & 63] : '=';
		*out++ = i + 2 < bytes ? b64_chars[v & 63] : '=';
	}
	*out = '\0';
}

/* Decodes in place; returns the number of bytes and ends them with a zero byte. */
static size_t b64_decode(char *s)
{
	unsigned int v = 0, bits = 0;
	size_t n = 0;

	for (const char *in = s; *in && *in != '='; in++) {
		const char *at = strchr(b64_chars, *in);

		if (!at)
			break;
		v = v << 6 | (unsigned int)(at - b64_chars);
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			s[n++] = (char)(v >> bits);
		}
	}
	s[n] = '\0';
	return n;
}

static void write_all(int fd, const char *data, size_t bytes)
{
	while (bytes) {
		ssize_t n = write(fd, data, bytes);

		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return;
		data += n;
		bytes -= (size_t)n;
	}
}

static void __attribute__((format(printf, 1, 2))) send_frame(const char *format, ...)
{
	char frame[CHUNK_BYTES * 2];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(frame, sizeof(frame), format, args);
	va_end(args);
	if (n > 0 && (size_t)n < sizeof(frame))
		write_all(tty_fd, frame, (size_t)n);
}

static void send_bytes(const char *kind, unsigned int id, const char *data, size_t bytes)
{
	char text[CHUNK_BYTES * 4 / 3 + 8];

	b64_encode((const unsigned char *)data, bytes, text);
	send_frame("~ebb %s %u %s\n", kind, id, text);
}

static void send_error(unsigned int id, const char *what)
{
	send_bytes("ERR", id, what, strlen(what));
}

static struct command *find_command(unsigned int id)
{
	for (int i = 0; i < MAX_COMMANDS; i++)
		if (commands[i].pid && commands[i].id == id)
			return &commands[i];
	return NULL;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void run_child(const char *text, int in_fd, int out_fd)
{
	setsid();
	dup2(in_fd, 0);
	dup2(out_fd, 1);
	dup2(out_fd, 2);
	signal(SIGPIPE, SIG_DFL);
	execl("/bin/sh", "sh", "-c", text, (char *)NULL);
	_exit(127);
}

static void run_command(unsigned int id, const char *text)
{
	struct command *c = NULL;
	int in[2], out[2];

	for (int i = 0; i < MAX_COMMANDS && !c; i++)
		if (!commands[i].pid)
			c = &commands[i];
	if (!c) {
		send_error(id, "agent: too many commands at once");
		return;
	}
	if (pipe2(in, O_CLOEXEC)) {
		send_error(id, "agent: no pipe");
		return;
	}
	if (pipe2(out, O_CLOEXEC)) {
		close(in[0]);
		close(in[1]);
		send_error(id, "agent: no pipe");
		return;
	}
	c->pid = fork();
	if (!c->pid)
		run_child(text, in[0], out[1]);
	close(in[0]);
	close(out[1]);
	if (c->pid < 0) {
		c->pid = 0;
		close(in[1]);
		close(out[0]);
		send_error(id, "agent: fork failed");
		return;
	}
	c->id = id;
	c->status = -1;
	c->in_fd = in[1];
	c->out_fd = out[0];
}

static void handle_line(char *text)
{
	char kind[8] = "", *frame = strstr(text, "~ebb ");
	struct command *c;
	unsigned int id;
	int used = 0;

	if (!frame || sscanf(frame, "~ebb %7s %u %n", kind, &id, &used) < 2 || !used)
		return;
	frame += used;
	if (!strcmp(kind, "RUN")) {
		b64_decode(frame);
		run_command(id, frame);
		return;
	}
	c = find_command(id);
	if (!c)
		return;
	if (!strcmp(kind, "IN") && c->in_fd >= 0) {
		size_t bytes = b64_decode(frame);

		write_all(c->in_fd, frame, bytes);
	} else if (!strcmp(kind, "EOF")) {
		close_fd(&c->in_fd);
	} else if (!strcmp(kind, "KILL")) {
		kill(-c->pid, atoi(frame));
	}
}

static void read_tty(void)
{
	ssize_t n = read(tty_fd, line + line_bytes, sizeof(line) - 1 - line_bytes);
	char *end;

	if (n <= 0)
		return;
	line_bytes += (size_t)n;
	line[line_bytes] = '\0';
	while ((end = memchr(line, '\n', line_bytes))) {
		size_t used = (size_t)(end + 1 - line);

		*end = '\0';
		handle_line(line);
		line_bytes -= used;
		memmove(line, end + 1, line_bytes + 1);
	}
	if (line_bytes == sizeof(line) - 1)
		line_bytes = 0; /* no frame is that long */
}

static void read_output(struct command *c)
{
	char data[CHUNK_BYTES];
	ssize_t n = read(c->out_fd, data, sizeof(data));

	if (n > 0)
		send_bytes("OUT", c->id, data, (size_t)n);
	else if (n == 0 || errno != EINTR)
		close_fd(&c->out_fd);
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (int i = 0; i < MAX_COMMANDS; i++)
			if (commands[i].pid == pid)
				commands[i].status = WIFEXITED(status) ? WEXITSTATUS(status)
								       : 128 + WTERMSIG(status);
}

/*
 * A command is over when it has exited and its output was read. What it left in the background
 * may hold the pipe open: then only what is there now is read.
 */
static void finish_commands(void)
{
	for (int i = 0; i < MAX_COMMANDS; i++) {
		struct command *c = &commands[i];
		struct pollfd p = { .fd = c->out_fd, .events = POLLIN };

		if (!c->pid || c->status < 0)
			continue;
		while (c->out_fd >= 0 && poll(&p, 1, 0) > 0) {
			read_output(c);
			p.fd = c->out_fd;
		}
		send_frame("~ebb EXIT %u %d\n", c->id, c->status);
		close_fd(&c->in_fd);
		close_fd(&c->out_fd);
		c->pid = 0;
	}
}

static void on_child(int signal_number)
{
}

static int open_tty(const char *path)
{
	struct termios t;
	int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 || tcgetattr(fd, &t))
		return -1;
	cfmakeraw(&t);
	t.c_cflag |= CLOCAL;
	t.c_cflag &= ~(tcflag_t)CRTSCTS;
	cfsetspeed(&t, B115200);
	return tcsetattr(fd, TCSANOW, &t) ? -1 : fd;
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_child };
	struct pollfd fds[MAX_COMMANDS + 1];
	struct command *of[MAX_COMMANDS + 1];
	unsigned long long boot = 0;
	sigset_t blocked, open_set;

	if (argc != 2 || (tty_fd = open_tty(argv[1])) < 0) {
		fprintf(stderr, "agent: cannot use the port: usage: agent /dev/ttyS1\n");
		return 1;
	}
	mlockall(MCL_CURRENT | MCL_FUTURE);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigprocmask(SIG_BLOCK, &blocked, &open_set);
	sigaction(SIGCHLD, &sa, NULL);
	if (getrandom(&boot, sizeof(boot), GRND_NONBLOCK) != sizeof(boot))
		boot = 0;
	send_frame("\n~ebb HELLO %llx\n", boot);

	for (;;) {
		nfds_t n = 1;

		fds[0] = (struct pollfd){ .fd = tty_fd, .events = POLLIN };
		for (int i = 0; i < MAX_COMMANDS; i++) {
			if (!commands[i].pid || commands[i].out_fd < 0)
				continue;
			of[n] = &commands[i];
			fds[n++] = (struct pollfd){ .fd = commands[i].out_fd, .events = POLLIN };
		}
		if (ppoll(fds, n, NULL, &open_set) > 0) {
			for (nfds_t i = 1; i < n; i++)
				if (fds[i].revents)
					read_output(of[i]);
			if (fds[0].revents)
				read_tty();
		}
		reap();
		finish_commands();
	}
}
