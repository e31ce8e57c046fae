// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * region - the pins of ashmem on /dev/ebb
 *
 * Unpinned is volatile, pinned is not. A region without /dev/ebb is a memfd. Which of the two a
 * descriptor is, the descriptor itself says, so it may come from another process.
 *
 * Owns:    nothing: descriptors are the caller's.
 * Thread:  any.
 * Locks:   none.
 * Never:   maps or touches a region.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libebb.h"

struct region {
	uint64_t bytes;
	bool is_ebb;
};

static uint64_t page_bytes(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

static int fail(int err)
{
	errno = err;
	return -1;
}

static int region_of(int fd, struct region *region)
{
	struct ebb_query query = { .bytes = page_bytes() };
	struct stat st;

	if (!ioctl(fd, EBB_IOC_QUERY, &query)) {
		*region = (struct region){ .bytes = query.object_bytes, .is_ebb = true };
		return 0;
	}
	if (errno == EBADF)
		return -1;
	if (errno != ENOTTY || fstat(fd, &st) || fcntl(fd, F_GET_SEALS) < 0)
		return fail(EINVAL);
	*region = (struct region){ .bytes = (uint64_t)st.st_size };
	return 0;
}

/* The region, and bytes as they are meant. */
static int region_range(int fd, uint64_t offset, uint64_t *bytes, struct region *region)
{
	if (region_of(fd, region))
		return -1;
	if (offset > region->bytes)
		return fail(EINVAL);
	if (!*bytes)
		*bytes = region->bytes - offset;
	if (!*bytes || *bytes > region->bytes - offset || (offset | *bytes) % page_bytes())
		return fail(EINVAL);
	return 0;
}

int ebb_region_create(const char *name, size_t bytes)
{
	uint64_t page = page_bytes();
	struct ebb_create create = { .kind = EBB_KIND_EXPLICIT };
	int fd, err;

	if (!bytes || bytes > SIZE_MAX / 2)
		return fail(EINVAL);
	create.bytes = (bytes + page - 1) / page * page;
	fd = open("/dev/ebb", O_RDWR | O_CLOEXEC);
	if (fd >= 0) {
		if (!ioctl(fd, EBB_IOC_CREATE, &create))
			return fd;
	} else {
		if (errno != ENOENT && errno != ENXIO && errno != ENODEV && errno != EACCES &&
		    errno != EPERM)
			return -1;
		fd = memfd_create(name ? name : "ebb", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		if (fd < 0 || !ftruncate(fd, (off_t)create.bytes))
			return fd;
	}
	err = errno;
	close(fd);
	return fail(err);
}

int ebb_region_pin(int fd, size_t offset, size_t bytes)
{
	struct ebb_nonvolatile range = { .offset = offset, .bytes = bytes };
	struct region region;
	uint64_t length = bytes;
	int result;

	if (region_range(fd, offset, &length, &region))
		return -1;
	if (!region.is_ebb)
		return EBB_REGION_NOT_PURGED;
	range.bytes = length;
	result = ioctl(fd, EBB_IOC_NONVOLATILE, &range);
	if (result < 0)
		return -1;
	return result ? EBB_REGION_WAS_PURGED : EBB_REGION_NOT_PURGED;
}

int ebb_region_unpin(int fd, size_t offset, size_t bytes)
{
	struct ebb_range range = { .offset = offset };
	struct region region;
	uint64_t length = bytes;

	if (region_range(fd, offset, &length, &region))
		return -1;
	range.bytes = length;
	return region.is_ebb ? ioctl(fd, EBB_IOC_VOLATILE, &range) : 0;
}

int ebb_region_pin_status(int fd, size_t offset, size_t bytes)
{
	struct ebb_query query = { .offset = offset };
	struct region region;
	uint64_t length = bytes;

	if (region_range(fd, offset, &length, &region))
		return -1;
	if (!region.is_ebb)
		return EBB_REGION_IS_PINNED;
	query.bytes = length;
	if (ioctl(fd, EBB_IOC_QUERY, &query))
		return -1;
	return query.volatile_pages ? EBB_REGION_IS_UNPINNED : EBB_REGION_IS_PINNED;
}

int64_t ebb_region_size(int fd)
{
	struct region region;

	return region_of(fd, &region) ? -1 : (int64_t)region.bytes;
}
