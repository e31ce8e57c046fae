// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * uring - one io_uring request at a time, without a library
 *
 * Owns:    the ring.
 * Thread:  one for each ring.
 * Locks:   none; the ring's indices are shared with the kernel.
 * Never:   has a second request under way.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "uring.h"

static unsigned char *ring_map(struct uring *ring, size_t bytes, off_t offset)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, offset);

	return at == MAP_FAILED ? NULL : at;
}

int uring_open(struct uring *ring)
{
	struct io_uring_params *p = &ring->params;

	memset(ring, 0, sizeof(*ring));
	ring->fd = (int)syscall(SYS_io_uring_setup, 1, p);
	if (ring->fd < 0)
		return -errno;
	ring->sq = ring_map(ring, p->sq_off.array + p->sq_entries * sizeof(uint32_t),
			    IORING_OFF_SQ_RING);
	ring->cq = ring_map(ring, p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe),
			    IORING_OFF_CQ_RING);
	ring->sqes = (void *)ring_map(ring, p->sq_entries * sizeof(struct io_uring_sqe),
				      IORING_OFF_SQES);
	return ring->sq && ring->cq && ring->sqes ? 0 : -ENOMEM;
}

static uint32_t *sq_word(struct uring *ring, uint32_t offset)
{
	return (uint32_t *)(ring->sq + offset);
}

static uint32_t *cq_word(struct uring *ring, uint32_t offset)
{
	return (uint32_t *)(ring->cq + offset);
}

int uring_start(struct uring *ring, int opcode, int fd, void *at, uint32_t bytes, uint64_t offset)
{
	uint32_t tail = *sq_word(ring, ring->params.sq_off.tail);
	uint32_t slot = tail & *sq_word(ring, ring->params.sq_off.ring_mask);

	ring->sqes[slot] = (struct io_uring_sqe){
		.opcode = (uint8_t)opcode,
		.fd = fd,
		.addr = (uintptr_t)at,
		.len = bytes,
		.off = offset,
	};
	sq_word(ring, ring->params.sq_off.array)[slot] = slot;
	__atomic_store_n(sq_word(ring, ring->params.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	return syscall(SYS_io_uring_enter, ring->fd, 1, 0, 0, NULL, 0) == 1 ? 0 : -errno;
}

int uring_wait(struct uring *ring)
{
	uint32_t *head = cq_word(ring, ring->params.cq_off.head);
	uint32_t *tail = cq_word(ring, ring->params.cq_off.tail);
	uint32_t mask = *cq_word(ring, ring->params.cq_off.ring_mask);
	struct io_uring_cqe *cqes = (void *)(ring->cq + ring->params.cq_off.cqes);
	int result;

	while (*head == __atomic_load_n(tail, __ATOMIC_ACQUIRE))
		if (syscall(SYS_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) <
			    0 &&
		    errno != EINTR)
			return -errno;
	result = cqes[*head & mask].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return result;
}

int uring_register(struct uring *ring, void *at, uint64_t bytes)
{
	struct iovec io = { .iov_base = at, .iov_len = bytes };

	return syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, &io, 1) ? -errno
											 : 0;
}
