/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* request.h - what ebbctl asks, as JSON; see request.c */
#ifndef EBB_REQUEST_H
#define EBB_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REQUEST_MAX_BYTES  4096
#define REQUEST_NAME_BYTES 128
#define REQUEST_WORD_BYTES 64

enum request_command {
	REQUEST_STATUS,
	REQUEST_LIST,
	REQUEST_SHOW,
	REQUEST_SET,
	REQUEST_RELEASE,
	REQUEST_PURGE,
	REQUEST_COLLECT,
};

struct request {
	enum request_command command;
	char guest[REQUEST_NAME_BYTES]; /* SHOW, SET, RELEASE, PURGE, COLLECT */
	char after[REQUEST_NAME_BYTES]; /* LIST: only guests behind this name */
	char key[REQUEST_WORD_BYTES];	/* SET */
	char value[REQUEST_WORD_BYTES]; /* SET */
	uint64_t bytes;			/* RELEASE, PURGE; 0: all */
	bool anew;			/* RELEASE: also what was offered before */
};

#define REQUEST_ERROR_BYTES 192

int request_parse(struct request *request, const char *text, size_t text_bytes,
		  char error[REQUEST_ERROR_BYTES]);

#endif /* EBB_REQUEST_H */
