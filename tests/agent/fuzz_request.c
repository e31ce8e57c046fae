// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * fuzz_request - any packet on the control socket is parsed or refused in words
 *
 * Owns:    nothing.
 * Thread:  libFuzzer's.
 * Locks:   none.
 * Never:   opens anything.
 */
#include <stdlib.h>
#include <string.h>

#include "request.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
	char error[REQUEST_ERROR_BYTES] = "";
	struct request request;
	int r = request_parse(&request, (const char *)data, bytes, error);

	/* Refused means said why; accepted means that the strings end. */
	if (r < 0 ? error[0] == '\0' || !memchr(error, '\0', sizeof(error))
		  : !memchr(request.guest, '\0', sizeof(request.guest)) ||
			    !memchr(request.after, '\0', sizeof(request.after)) ||
			    !memchr(request.key, '\0', sizeof(request.key)) ||
			    !memchr(request.value, '\0', sizeof(request.value)))
		abort();
	return 0;
}
