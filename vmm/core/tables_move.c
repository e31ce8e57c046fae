// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * tables_move - free page tables by moving them out of the guest's RAM
 *
 * Before Linux 6.14 a page table goes with the area of memory that it is of, and not before.
 * mremap() with MREMAP_DONTUNMAP (Linux 5.7) moves all that is mapped in a range to another
 * address, and leaves the area itself where it is and as it is: its advice, its policy, its name,
 * its registration with userfaultfd, KVM's slot. Between two aligned addresses whole tables are
 * moved, and those go when they are unmapped there. To the guest it is a discard.
 *
 * A new mapping over the range (MAP_FIXED, or MREMAP_FIXED of one that was made ready) would free
 * the tables as well, but the kernel takes the old one away first. If it fails after that, for
 * lack of memory, there is a hole in the guest's RAM, into which the next mapping of any thread
 * may come: the guest would read and write that.
 *
 * mmap_lock is held for writing meanwhile, so that page faults of the guest wait (rule 12): never
 * under pressure, and in small pieces. Where KSM may work the kernel looks at each page.
 *
 * Owns:    nothing.
 * Thread:  any.
 * Locks:   none.
 * Never:   unmaps an address that the kernel has not just given to us.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tables.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* An address at which so many bytes were free a moment ago, aligned to a block; 0: none. */
static uintptr_t find_room(uint64_t bytes)
{
	uint64_t room_bytes = bytes + EBB_BLOCK_BYTES;
	void *room = mmap(NULL, room_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);

	if (room == MAP_FAILED)
		return 0;
	munmap(room, room_bytes);
	return ((uintptr_t)room + EBB_BLOCK_BYTES - 1) & ~(EBB_BLOCK_BYTES - 1);
}

int ebb_tables_move_out(uintptr_t host, uint64_t bytes)
{
	uintptr_t to = find_room(bytes);
	long at;

	if (!to)
		return -errno;
	/*
	 * Not MREMAP_FIXED, which would take away what came there meanwhile; without it the
	 * address is a wish. The libraries' mremap() does not hand it on.
	 */
	at = syscall(SYS_mremap, host, bytes, bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, to);
	if (at == -1)
		return -errno;
	munmap((void *)at, bytes);
	return (uintptr_t)at == to ? 0 : -EAGAIN;
}
