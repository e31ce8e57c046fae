/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * uring.h - one io_uring request at a time
 *
 * Numbers below 0 are negative errno, also where the kernel has no io_uring.
 */
#ifndef EBB_TEST_URING_H
#define EBB_TEST_URING_H

#include <linux/io_uring.h>
#include <stdint.h>

struct uring {
	int fd;
	struct io_uring_params params;
	unsigned char *sq, *cq;
	struct io_uring_sqe *sqes;
};

int uring_open(struct uring *ring);
/* IORING_OP_READ or _WRITE: handed over to the kernel, not waited for. */
int uring_start(struct uring *ring, int opcode, int fd, void *at, uint32_t bytes, uint64_t offset);
/* What the request that was started has come to. */
int uring_wait(struct uring *ring);
/* IORING_REGISTER_BUFFERS of one buffer. */
int uring_register(struct uring *ring, void *at, uint64_t bytes);

#endif /* EBB_TEST_URING_H */
