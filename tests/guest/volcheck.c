// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * volcheck - what /dev/ebb promises, checked one by one
 *
 * Each check is a function with a name: "volcheck NAME" runs one, "volcheck all" each in a child
 * of its own, so that none leaves anything to the next.
 *
 * Owns:    its objects.
 * Thread:  one, but where a check says otherwise.
 * Locks:   none.
 * Never:   goes on after what it relies on has failed.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

#include "object.h"

static void check_errors(void)
{
	struct ebb_create create_args = { .bytes = 4 * PAGE };
	struct ebb_range range = { .bytes = PAGE };
	struct object obj = create(8, EBB_KIND_EXPLICIT);
	uint64_t bits = 0;
	int fd = new_opener();
	struct ebb_join join = { .fd = fd };

	CHECK_ERRNO(mark(fd, 0, PAGE), EINVAL); /* no object yet */
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EINVAL);
	CHECK_ERRNO(ioctl(obj.fd, EBB_IOC_JOIN, &join), EINVAL);
	join.fd = STDIN_FILENO;
	CHECK_ERRNO(ioctl(fd, EBB_IOC_JOIN, &join), EINVAL);
	join.fd = 999;
	CHECK_ERRNO(ioctl(fd, EBB_IOC_JOIN, &join), EBADF);
	CHECK_ERRNO(ioctl(obj.fd, EBB_IOC_CREATE, &create_args), EBUSY);

	create_args.kind = 3;
	CHECK_ERRNO(ioctl(fd, EBB_IOC_CREATE, &create_args), EINVAL);
	create_args = (struct ebb_create){ .bytes = 0 };
	CHECK_ERRNO(ioctl(fd, EBB_IOC_CREATE, &create_args), EINVAL);
	create_args = (struct ebb_create){ .bytes = PAGE, .flags = 2 };
	CHECK_ERRNO(ioctl(fd, EBB_IOC_CREATE, &create_args), EINVAL);
	create_args = (struct ebb_create){ .bytes = PAGE, .reserved = { 0, 0, 1 } };
	CHECK_ERRNO(ioctl(fd, EBB_IOC_CREATE, &create_args), EINVAL);
	create_args = (struct ebb_create){ .bytes = PAGE, .unit = EBB_UNIT_WHOLE };
	CHECK_ERRNO(ioctl(fd, EBB_IOC_CREATE, &create_args), EINVAL);
	create_args = (struct ebb_create){ .bytes = PAGE, .unit_bytes = PAGE };
	CHECK_ERRNO(ioctl(fd, EBB_IOC_CREATE, &create_args), EINVAL);
	create_args = (struct ebb_create){ .bytes = ~0ull };
	CHECK_ERRNO(ioctl(fd, EBB_IOC_CREATE, &create_args), EDQUOT);

	CHECK_ERRNO(mark(obj.fd, 0, 9 * PAGE), EINVAL);
	CHECK_ERRNO(mark(obj.fd, 8 * PAGE, PAGE), EINVAL);
	CHECK_ERRNO(mark(obj.fd, ~0ull - PAGE, 2 * PAGE), EINVAL);
	CHECK_ERRNO(mark(obj.fd, 0, PAGE - 1), EINVAL);
	CHECK_ERRNO(unmark(obj.fd, 0, PAGE - 1), EINVAL);
	CHECK_ERRNO(purge(obj.fd, 0, 0), EINVAL);
	range.flags = 1;
	CHECK_ERRNO(ioctl(obj.fd, EBB_IOC_VOLATILE, &range), EINVAL);
	range = (struct ebb_range){ .bytes = PAGE, .reserved = 1 };
	CHECK_ERRNO(ioctl(obj.fd, EBB_IOC_VOLATILE, &range), EINVAL);
	CHECK_ERRNO(ioctl(obj.fd, EBB_IOC_VOLATILE, NULL), EFAULT);
	CHECK_ERRNO(ioctl(obj.fd, _IO('E', 0xff), NULL), ENOTTY);
	CHECK(mark(obj.fd, 0, 8 * PAGE) == 0);
	CHECK_ERRNO(unmark_which(obj.fd, 0, 8 * PAGE, (uint64_t *)8), EFAULT);
	CHECK(unmark_which(obj.fd, 0, 8 * PAGE, &bits) == 0 && !bits);

	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, obj.fd, 0) == MAP_FAILED && errno == EINVAL);
	CHECK(mmap(NULL, 9 * PAGE, PROT_READ, MAP_SHARED, obj.fd, 0) == MAP_FAILED &&
	      errno == EINVAL);
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, obj.fd, 8 * PAGE) == MAP_FAILED &&
	      errno == EINVAL);
}

static void check_ranges(void)
{
	struct object obj = create(8, EBB_KIND_EXPLICIT);
	uint64_t bits = 0;

	fill(&obj, 3);
	CHECK(mark(obj.fd, 100, 3 * PAGE) == 0); /* inward: pages 1 and 2 */
	CHECK(query(&obj).volatile_pages == 2);
	CHECK(mark(obj.fd, PAGE / 2, PAGE) == 0); /* no whole page: nothing */
	CHECK(query(&obj).volatile_pages == 2);
	CHECK(purge(obj.fd, 0, 8 * PAGE) == 0);
	CHECK(query(&obj).purged_pages == 2);
	CHECK(unmark_which(obj.fd, PAGE + 10, PAGE, &bits) == 1); /* outward: 1 and 2 */
	CHECK(bits == 3);
	CHECK(query(&obj).volatile_pages == 0);
	for (size_t page = 0; page < 8; page++)
		CHECK(page == 1 || page == 2 ? is_zero(&obj, page) : is_filled(&obj, page, 3));
	CHECK(unmark(obj.fd, 0, 8 * PAGE) == 0);
}

static void check_explicit(void)
{
	struct object obj = create(64, EBB_KIND_EXPLICIT);
	uint64_t bits = 0;

	fill(&obj, 1);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 0);
	for (size_t page = 0; page < 64; page++)
		CHECK(is_filled(&obj, page, 1));
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	CHECK(purge(obj.fd, 5 * PAGE, 2 * PAGE) == 0);
	CHECK(purge(obj.fd, 63 * PAGE, PAGE) == 0);
	CHECK(unmark_which(obj.fd, 0, obj.bytes, &bits) == 1);
	CHECK(bits == (3ull << 5 | 1ull << 63));
	CHECK(unmark_which(obj.fd, 0, obj.bytes, &bits) == 0 && !bits);
	for (size_t page = 0; page < 64; page++)
		CHECK(bits >> page & 1 || page == 5 || page == 6 || page == 63
			      ? is_zero(&obj, page)
			      : is_filled(&obj, page, 1));
	/* What was not volatile is not purged. */
	CHECK(purge(obj.fd, 0, obj.bytes) == 0);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 0 && is_filled(&obj, 0, 1));
}

static long faults(void)
{
	struct rusage usage;

	CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
	return usage.ru_minflt + usage.ru_majflt;
}

/* Faults of a touch of each page of a volatile range. */
static long faults_after_mark(struct object *obj, size_t pages)
{
	long before;

	CHECK(mark(obj->fd, 0, pages * PAGE) == 0);
	before = faults();
	for (size_t page = 0; page < pages; page++)
		(void)*(volatile unsigned char *)(obj->at + page * PAGE);
	before = faults() - before;
	CHECK(unmark(obj->fd, 0, pages * PAGE) == 0);
	return before;
}

/* Until a range has aged nothing happens to it. It may age under us, but not every time. */
static void check_mark_touches_nothing(void)
{
	static const size_t sizes[] = { 1, 64, 1024 };
	struct object obj = create(1024, EBB_KIND_EXPLICIT);
	int tries;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		fill(&obj, 1);
		for (tries = 0; faults_after_mark(&obj, sizes[i]); tries++)
			CHECK(tries < 20);
		CHECK(is_filled(&obj, sizes[i] - 1, 1));
	}
}

static void check_optimistic(void)
{
	struct object obj = create(8, EBB_KIND_OPTIMISTIC);
	int pipes[2];

	catch_bus();
	fill(&obj, 9);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	CHECK(is_filled(&obj, 7, 9));
	CHECK(purge(obj.fd, 2 * PAGE, PAGE) == 0);
	CHECK(read_gets_bus(obj.at + 2 * PAGE + 123));
	CHECK(bus_address == obj.at + 2 * PAGE + 123 || bus_address == obj.at + 2 * PAGE);
	CHECK(!read_gets_bus(obj.at + 3 * PAGE) && is_filled(&obj, 3, 9));

	/* A system call gets an error or a short count, never zeros. */
	CHECK(pipe(pipes) == 0);
	CHECK_ERRNO(write(pipes[1], obj.at + 2 * PAGE, 16), EFAULT);
	CHECK(write(pipes[1], obj.at + PAGE, 2 * PAGE) == (ssize_t)PAGE);
	CHECK_ERRNO(read(pipes[0], obj.at + 2 * PAGE, 16), EFAULT);

	CHECK(unmark(obj.fd, 2 * PAGE, PAGE) == 1);
	CHECK(is_zero(&obj, 2));
	obj.at[2 * PAGE] = 1;
	CHECK(unmark(obj.fd, 0, obj.bytes) == 0);
}

static void check_content_free(void)
{
	struct object obj = create(8, EBB_KIND_CONTENT_FREE);

	fill(&obj, 5);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	obj.at[3 * PAGE] = 77; /* touched: non-volatile from then on */
	CHECK(query(&obj).volatile_pages == 7);
	CHECK(purge(obj.fd, 0, obj.bytes) == 0);
	CHECK(obj.at[3 * PAGE] == 77 && obj.at[3 * PAGE + 1] != 0);
	CHECK(is_zero(&obj, 2));
	obj.at[2 * PAGE] = 5;
	CHECK(purge(obj.fd, 0, obj.bytes) == 0);
	CHECK(obj.at[2 * PAGE] == 5);
	CHECK(unmark(obj.fd, 2 * PAGE, 2 * PAGE) == 0);
}

static bool objects_are_huge(void)
{
	int fd = open("/sys/module/virtio_ebb/parameters/huge", O_RDONLY);
	char answer = 0;

	CHECK(fd >= 0 && read(fd, &answer, 1) == 1);
	close(fd);
	return answer == 'Y';
}

/* Huge pages of which a part is in use: each page is for itself. */
static void check_content_free_huge(void)
{
	struct object obj = create(1024, EBB_KIND_CONTENT_FREE);

	fill(&obj, 5);
	CHECK(!objects_are_huge() || kib_in("/proc/meminfo", "ShmemHugePages:") >= 4096);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	obj.at[3 * PAGE] = 77;
	CHECK(obj.at[700 * PAGE] == (((5 + 700) | 1) & 0xff));
	CHECK(query(&obj).volatile_pages == 1022);
	CHECK(purge(obj.fd, 0, obj.bytes) == 0);
	CHECK(query(&obj).purged_pages == 1022);
	for (size_t page = 0; page < 1024; page++)
		CHECK(page == 3	    ? obj.at[3 * PAGE] == 77 && obj.at[3 * PAGE + 1] == 9
		      : page == 700 ? is_filled(&obj, 700, 5)
				    : is_zero(&obj, page));

	/* Pages that were never marked stay as well, mapped or not. */
	fill(&obj, 6);
	CHECK(mark(obj.fd, PAGE, 600 * PAGE) == 0);
	CHECK(purge(obj.fd, PAGE, 100 * PAGE) == 0);
	CHECK(query(&obj).purged_pages == 100);
	for (size_t page = 0; page < 1024; page++)
		CHECK(page >= 1 && page <= 100 ? is_zero(&obj, page) : is_filled(&obj, page, 6));
}

/* Linux 6.12 maps no huge page where MADV_COLLAPSE is refused, and has no call to do it for it. */
static bool kernel_maps_huge_pages(void)
{
	struct utsname name;
	unsigned int major, minor;

	CHECK(uname(&name) == 0 && sscanf(name.release, "%u.%u", &major, &minor) == 2);
	return major * 100 + minor < 612 || major * 100 + minor >= 618;
}

/* Memory that is in use is mapped in huge pages where it is in huge pages. */
static void check_huge_mapping(void)
{
	bool huge = objects_are_huge() && kernel_maps_huge_pages();
	struct object obj = create(1024, EBB_KIND_EXPLICIT);

	fill(&obj, 3);
	CHECK(!huge || kib_in("/proc/meminfo", "ShmemPmdMapped:") >= 4096);
	CHECK(mark(obj.fd, 0, 3 * PAGE) == 0 && purge(obj.fd, 0, 3 * PAGE) == 0);
	CHECK(unmark(obj.fd, 0, 3 * PAGE) == 1 && is_zero(&obj, 2) && is_filled(&obj, 3, 3));
}

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* A program that maps pages without a touch: what is written then is seen all the same. */
static void check_content_free_collapse(void)
{
	struct object obj = create(1024, EBB_KIND_CONTENT_FREE);

	fill(&obj, 7);
	CHECK(madvise(obj.at, obj.bytes, MADV_COLLAPSE) == -1);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	CHECK(madvise(obj.at, obj.bytes, MADV_HUGEPAGE) == 0);
	madvise(obj.at, obj.bytes, MADV_COLLAPSE);
	memset(obj.at + 9 * PAGE, 33, PAGE);
	usleep(50000); /* offered meanwhile, or not */
	CHECK(purge(obj.fd, 0, obj.bytes) == 0);
	CHECK(obj.at[9 * PAGE] == 33 && obj.at[10 * PAGE - 1] == 33);
	for (size_t page = 0; page < 1024; page++)
		CHECK(page == 9 || is_zero(&obj, page) || is_filled(&obj, page, 7));
}

/* Nor does it bring back as zeros what was purged. */
static void check_collapse(void)
{
	struct object obj = create(1024, EBB_KIND_OPTIMISTIC);

	catch_bus();
	fill(&obj, 7);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	CHECK(purge(obj.fd, 20 * PAGE, 10 * PAGE) == 0);
	CHECK(purge(obj.fd, 512 * PAGE, 512 * PAGE) == 0);
	CHECK(read_gets_bus(obj.at + 20 * PAGE) && read_gets_bus(obj.at + 600 * PAGE));
	CHECK(is_filled(&obj, 19, 7));
	CHECK(madvise(obj.at, obj.bytes, MADV_COLLAPSE) == -1);
	CHECK(read_gets_bus(obj.at + 20 * PAGE) && read_gets_bus(obj.at + 600 * PAGE));
	CHECK(is_filled(&obj, 19, 7));
	CHECK(unmark(obj.fd, 0, obj.bytes) == 1);
	CHECK(is_zero(&obj, 20) && is_zero(&obj, 600) && is_filled(&obj, 30, 7));
}

static void check_events(void)
{
	struct object obj = create(16, EBB_KIND_EXPLICIT);
	struct pollfd look = { .fd = obj.fd, .events = POLLIN };
	struct ebb_event events[4];
	char little[8];

	CHECK(fcntl(obj.fd, F_SETFL, O_NONBLOCK) == 0);
	CHECK_ERRNO(read(obj.fd, events, sizeof(events)), EAGAIN);
	CHECK_ERRNO(read(obj.fd, little, sizeof(little)), EINVAL);
	fill(&obj, 1);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	CHECK(poll(&look, 1, 0) == 0);
	CHECK(purge(obj.fd, PAGE, 2 * PAGE) == 0);
	CHECK(purge(obj.fd, 3 * PAGE, PAGE) == 0); /* beside it: merged */
	CHECK(purge(obj.fd, 9 * PAGE, PAGE) == 0);
	CHECK(poll(&look, 1, 0) == 1 && look.revents == POLLIN);
	CHECK(read(obj.fd, events, sizeof(events)) == 2 * sizeof(events[0]));
	CHECK(events[0].object == query(&obj).object && events[0].object == events[1].object);
	CHECK(events[0].offset == PAGE && events[0].bytes == 3 * PAGE);
	CHECK(events[1].offset == 9 * PAGE && events[1].bytes == PAGE);
	CHECK(events[0].sequence == 2 && events[1].sequence == 3);
	CHECK(poll(&look, 1, 0) == 0);

	/* More than there is room for: none is lost, the last one grows. */
	CHECK(unmark(obj.fd, 0, obj.bytes) == 1);
	for (int i = 0; i < 100; i++) {
		obj.at[2 * (i % 8) * PAGE] = 1;
		CHECK(mark(obj.fd, 0, obj.bytes) == 0);
		CHECK(purge(obj.fd, 2 * (i % 8) * PAGE, PAGE) == 0);
		CHECK(unmark(obj.fd, 0, obj.bytes) == 1);
	}
	uint64_t sequence = 3;
	ssize_t got;
	while ((got = read(obj.fd, events, sizeof(events))) > 0)
		for (size_t i = 0; i < got / sizeof(events[0]); i++) {
			CHECK(events[i].sequence > sequence);
			sequence = events[i].sequence;
		}
	CHECK(errno == EAGAIN && sequence == 103);
}

/* Every opener must have marked a range, but of a GLOBAL object one is enough. */
static void check_join(void)
{
	struct object obj = create(4, EBB_KIND_EXPLICIT), other = { .bytes = 4 * PAGE };
	struct ebb_join join = { .fd = obj.fd };

	fill(&obj, 1);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0 && query(&obj).volatile_pages == 4);
	other.fd = new_opener();
	CHECK(ioctl(other.fd, EBB_IOC_JOIN, &join) == 0);
	other.at = map(other.fd, other.bytes);
	CHECK(query(&obj).volatile_pages == 0);
	CHECK(purge(obj.fd, 0, obj.bytes) == 0 && is_filled(&other, 0, 1));
	CHECK(mark(other.fd, PAGE, 2 * PAGE) == 0);
	CHECK(query(&obj).volatile_pages == 2 && query(&other).volatile_pages == 2);
	CHECK(purge(obj.fd, 0, obj.bytes) == 0);
	CHECK(unmark(other.fd, 0, other.bytes) == 1);
	CHECK(is_zero(&other, 1) && is_zero(&other, 2) && is_filled(&obj, 3, 1));
	/* An opener that is gone has no say any more; one that is mapped is not gone. */
	CHECK(close(other.fd) == 0);
	CHECK(query(&obj).volatile_pages == 0);
	CHECK(munmap(other.at, other.bytes) == 0);
	CHECK(query(&obj).volatile_pages == 4);

	obj = create_as(4, EBB_KIND_EXPLICIT, 0, EBB_CREATE_F_GLOBAL);
	fill(&obj, 1);
	CHECK(mark(obj.fd, 0, 2 * PAGE) == 0);
	other.fd = new_opener();
	join.fd = obj.fd;
	CHECK(ioctl(other.fd, EBB_IOC_JOIN, &join) == 0);
	CHECK(query(&other).volatile_pages == 2);
	CHECK(mark(other.fd, 2 * PAGE, 2 * PAGE) == 0);
	CHECK(query(&obj).volatile_pages == 4);
	CHECK(unmark(other.fd, 0, 2 * PAGE) == 0);
	CHECK(query(&obj).volatile_pages == 2);
}

/* Who asks first is told what was purged, and so are the others when they ask. */
static void check_told_to_each(void)
{
	struct object obj = create(8, EBB_KIND_OPTIMISTIC), other = { .bytes = 8 * PAGE };
	struct object late = other;
	struct ebb_join join = { .fd = obj.fd };
	uint64_t bits;

	catch_bus();
	fill(&obj, 1);
	other.fd = new_opener();
	CHECK(ioctl(other.fd, EBB_IOC_JOIN, &join) == 0);
	other.at = map(other.fd, other.bytes);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0 && mark(other.fd, 0, 4 * PAGE) == 0);
	CHECK(purge(obj.fd, 0, 2 * PAGE) == 0);
	CHECK(unmark_which(other.fd, 0, PAGE, &bits) == 1 && bits == 1);
	CHECK(unmark(other.fd, 0, PAGE) == 0);
	other.at[0] = 77;
	/* Not silently what the other has put there; who came later has lost nothing. */
	late.fd = new_opener();
	CHECK(ioctl(late.fd, EBB_IOC_JOIN, &join) == 0);
	late.at = map(late.fd, late.bytes);
	CHECK(read_gets_bus(obj.at) && read_gets_bus(obj.at + PAGE));
	CHECK(!read_gets_bus(late.at) && late.at[0] == 77);
	CHECK(query(&obj).purged_pages == 2 && query(&late).purged_pages == 1);
	CHECK(unmark(late.fd, 0, PAGE) == 0);
	CHECK(unmark_which(obj.fd, 0, obj.bytes, &bits) == 1 && bits == 3);
	CHECK(obj.at[0] == 77 && is_zero(&obj, 1) && is_filled(&obj, 2, 1));
	CHECK(unmark_which(other.fd, 0, other.bytes, &bits) == 1 && bits == 2);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 0 && unmark(other.fd, 0, other.bytes) == 0);
	CHECK(unmark(late.fd, 0, late.bytes) == 0);
}

static void send_fd(int socket, int fd)
{
	char space[CMSG_SPACE(sizeof(int))] = {}, byte = 0;
	struct iovec io = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &io,
		.msg_iovlen = 1,
		.msg_control = space,
		.msg_controllen = sizeof(space),
	};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);

	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(head), &fd, sizeof(int));
	CHECK(sendmsg(socket, &message, 0) == 1);
}

static int take_fd(int socket)
{
	char space[CMSG_SPACE(sizeof(int))], byte;
	struct iovec io = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &io,
		.msg_iovlen = 1,
		.msg_control = space,
		.msg_controllen = sizeof(space),
	};
	int fd;

	CHECK(recvmsg(socket, &message, 0) == 1 && CMSG_FIRSTHDR(&message));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	return fd;
}

/* A descriptor that is passed shares the opener: its marks are everybody's who has it. */
static void check_passing(void)
{
	struct object obj = create(4, EBB_KIND_EXPLICIT), passed = { .bytes = 4 * PAGE };
	int pair[2], status;
	pid_t child;

	fill(&obj, 1);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	child = fork();
	if (!child) {
		munmap(obj.at, obj.bytes);
		close(obj.fd);
		passed.fd = take_fd(pair[1]);
		passed.at = map(passed.fd, passed.bytes);
		CHECK(is_filled(&passed, 2, 1));
		CHECK(mark(passed.fd, 0, 2 * PAGE) == 0);
		_exit(0);
	}
	send_fd(pair[0], obj.fd);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(query(&obj).volatile_pages == 2);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 0 && is_filled(&obj, 0, 1));
}

/* Volatility belongs to the object: not to a descriptor, an address or a process. */
static void check_lives(void)
{
	struct object obj = create(8, EBB_KIND_OPTIMISTIC), moved = obj;
	unsigned char *was = obj.at;
	int status;
	pid_t child;

	catch_bus();
	fill(&obj, 4);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0 && purge(obj.fd, 0, 2 * PAGE) == 0);
	child = fork();
	if (!child) {
		CHECK(read_gets_bus(obj.at) && is_filled(&obj, 5, 4));
		CHECK(unmark(obj.fd, PAGE, PAGE) == 1 && is_zero(&obj, 1));
		obj.at[PAGE] = 8;
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(obj.at[PAGE] == 8 && read_gets_bus(obj.at));

	moved.at = mremap(obj.at, obj.bytes, obj.bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
			  mmap(NULL, obj.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	CHECK(moved.at != MAP_FAILED && moved.at != was);
	CHECK(read_gets_bus(moved.at) && is_filled(&moved, 6, 4));
	/* Something new at the old address is nothing of the object. */
	CHECK(mmap(was, obj.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		   -1, 0) == was);
	CHECK(!read_gets_bus(was) && *was == 0);
	/* Beyond its end there is nothing. */
	CHECK(mremap(moved.at, moved.bytes, 2 * moved.bytes, MREMAP_MAYMOVE) != MAP_FAILED);

	/* The mapping alone keeps it. */
	moved = create(8, EBB_KIND_OPTIMISTIC);
	fill(&moved, 6);
	CHECK(mark(moved.fd, 0, PAGE) == 0 && purge(moved.fd, 0, PAGE) == 0);
	CHECK(close(moved.fd) == 0);
	CHECK(read_gets_bus(moved.at) && is_filled(&moved, 1, 6));
	CHECK(munmap(moved.at, PAGE) == 0 && is_filled(&moved, 2, 6));
	CHECK(mprotect(moved.at + 3 * PAGE, PAGE, PROT_READ) == 0 && is_filled(&moved, 3, 6));
}

static void check_locked(void)
{
	struct object obj = create(4, EBB_KIND_OPTIMISTIC);

	fill(&obj, 1);
	CHECK(mlock(obj.at + PAGE, PAGE) == 0);
	CHECK_ERRNO(mark(obj.fd, 0, obj.bytes), EINVAL);
	CHECK(mark(obj.fd, 2 * PAGE, 2 * PAGE) == 0);
	CHECK(munlock(obj.at, obj.bytes) == 0);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	/* After the mark: a touch of all of it, which fails where it is purged. */
	CHECK(purge(obj.fd, 0, PAGE) == 0);
	CHECK(mlock(obj.at, obj.bytes) == -1 && (errno == ENOMEM || errno == EAGAIN));
	CHECK(munlock(obj.at, obj.bytes) == 0);
	CHECK(mlock(obj.at + PAGE, PAGE) == 0 && is_filled(&obj, 1, 1));
}

/* No lock is held while a result is copied: the buffer may be a purged page of the object. */
static void check_buffer_inside(void)
{
	struct object obj = create(4, EBB_KIND_OPTIMISTIC);
	uint64_t *inside = (uint64_t *)(obj.at + 2 * PAGE);
	struct ebb_nonvolatile *args = (struct ebb_nonvolatile *)(obj.at + 3 * PAGE);

	fill(&obj, 1);
	CHECK(mark(obj.fd, 0, 3 * PAGE) == 0 && purge(obj.fd, PAGE, 2 * PAGE) == 0);
	*args = (struct ebb_nonvolatile){
		.bytes = obj.bytes,
		.bitmap = (uintptr_t)inside,
		.bitmap_bytes = 8,
	};
	CHECK(ioctl(obj.fd, EBB_IOC_NONVOLATILE, args) == 1);
	CHECK(*inside == 6 && args->purged_pages == 2);
	/* A buffer in a page that stays purged takes nothing. */
	CHECK(mark(obj.fd, 0, 3 * PAGE) == 0 && purge(obj.fd, 0, 3 * PAGE) == 0);
	CHECK_ERRNO(unmark_which(obj.fd, 0, PAGE, inside), EFAULT);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 1);
}

/* Another process looks in: as if the program itself had touched the page. */
static void check_foreign_look(void)
{
	struct object obj = create(4, EBB_KIND_OPTIMISTIC);
	unsigned char copy[2 * PAGE];
	struct iovec ours = { copy, sizeof(copy) };
	struct iovec theirs = { obj.at, sizeof(copy) };
	int status;
	pid_t child;

	fill(&obj, 1);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0 && purge(obj.fd, PAGE, PAGE) == 0);
	child = fork();
	if (!child) {
		CHECK(process_vm_readv(getppid(), &ours, 1, &theirs, 1, 0) == (ssize_t)PAGE);
		theirs.iov_base = obj.at + PAGE;
		CHECK_ERRNO(process_vm_readv(getppid(), &ours, 1, &theirs, 1, 0), EFAULT);
		theirs.iov_base = obj.at + 2 * PAGE;
		CHECK(process_vm_readv(getppid(), &ours, 1, &theirs, 1, 0) == 2 * (ssize_t)PAGE);
		CHECK(copy[0] == ((1 + 2) | 1));
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* The program advises on the mapping itself. */
static void check_madvise(void)
{
	struct object obj = create(16, EBB_KIND_OPTIMISTIC);
	static const int advice[] = { MADV_DONTNEED, MADV_WILLNEED,  MADV_COLD,	    MADV_PAGEOUT,
				      MADV_DONTFORK, MADV_DOFORK,    MADV_DONTDUMP, MADV_DODUMP,
				      MADV_HUGEPAGE, MADV_NOHUGEPAGE };

	catch_bus();
	fill(&obj, 2);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0 && purge(obj.fd, 0, PAGE) == 0);
	for (size_t i = 0; i < sizeof(advice) / sizeof(*advice); i++) {
		madvise(obj.at, obj.bytes, advice[i]);
		CHECK(read_gets_bus(obj.at) && is_filled(&obj, 1, 2));
	}
	CHECK(madvise(obj.at, obj.bytes, MADV_REMOVE) == -1);
	CHECK(madvise(obj.at, obj.bytes, MADV_FREE) == -1);
	/* Mapping the same pages another way would go round the object. What was there is gone. */
	CHECK(remap_file_pages(obj.at, PAGE, 0, 2, 0) == -1);
	CHECK(is_filled(&obj, 2, 2));
}

static void check_whole_unit(void)
{
	struct object obj = create_as(10, EBB_KIND_EXPLICIT, 4, 0);

	CHECK(query(&obj).unit_bytes == 4 * PAGE);
	fill(&obj, 1);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0 && purge(obj.fd, PAGE, PAGE) == 0);
	CHECK(unmark(obj.fd, 4 * PAGE, 4 * PAGE) == 0 && is_filled(&obj, 4, 1));
	CHECK(unmark(obj.fd, 0, obj.bytes) == 1);
}

/*
 * What is volatile goes before anybody is killed, longest marked first: two objects and then more
 * ordinary memory than there is beside them.
 */
static int under_pressure(size_t volatile_mib, size_t ordinary_mib)
{
	struct object old = create(volatile_mib << 7, EBB_KIND_EXPLICIT);
	struct object young = create(volatile_mib << 7, EBB_KIND_EXPLICIT);
	size_t ordinary = ordinary_mib << 20;
	struct pollfd look = { .fd = old.fd, .events = POLLIN };
	unsigned char *more;
	uint64_t old_purged;

	fill(&old, 1);
	fill(&young, 2);
	CHECK(mark(old.fd, 0, old.bytes) == 0 && mark(young.fd, 0, young.bytes) == 0);
	more = mmap(NULL, ordinary, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(more != MAP_FAILED);
	memset(more, 1, ordinary);
	CHECK(poll(&look, 1, 0) == 1);
	old_purged = query(&old).purged_pages;
	printf("purged %llu of the old, %llu of the young\n", (unsigned long long)old_purged,
	       (unsigned long long)query(&young).purged_pages);
	CHECK(old_purged >= query(&young).purged_pages && old_purged > 0);
	munmap(more, ordinary);
	for (size_t page = 0; page < old.bytes / PAGE; page++) {
		CHECK(unmark(old.fd, page * PAGE, PAGE) ? is_zero(&old, page)
							: is_filled(&old, page, 1));
		CHECK(unmark(young.fd, page * PAGE, PAGE) ? is_zero(&young, page)
							  : is_filled(&young, page, 2));
	}
	return 0;
}

static uint64_t now_usec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Parts of huge pages are volatile: they go, and what is beside them stays. */
static int parts_under_pressure(size_t mib, size_t ordinary_mib, size_t part_pages)
{
	struct object obj = create(mib << 8, EBB_KIND_EXPLICIT);
	size_t ordinary = ordinary_mib << 20, pages = obj.bytes / PAGE;
	unsigned char *more;
	uint64_t began_usec;

	fill(&obj, 1);
	for (size_t page = 3; page + part_pages <= pages; page += 512)
		CHECK(mark(obj.fd, page * PAGE, part_pages * PAGE) == 0);
	more = mmap(NULL, ordinary, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(more != MAP_FAILED);
	began_usec = now_usec();
	memset(more, 1, ordinary);
	printf("purged %llu in %llu usec, %zu kB huge\n",
	       (unsigned long long)query(&obj).purged_pages,
	       (unsigned long long)(now_usec() - began_usec),
	       kib_in("/proc/meminfo", "ShmemHugePages:"));
	munmap(more, ordinary);
	for (size_t page = 0; page < pages; page++) {
		bool in_part = page % 512 >= 3 && page % 512 < 3 + part_pages;

		if (in_part && unmark(obj.fd, page * PAGE, PAGE))
			CHECK(is_zero(&obj, page));
		else
			CHECK(is_filled(&obj, page, 1));
	}
	return 0;
}

static const struct check checks[] = {
	{ "errors", check_errors },
	{ "ranges", check_ranges },
	{ "explicit", check_explicit },
	{ "mark-touches-nothing", check_mark_touches_nothing },
	{ "optimistic", check_optimistic },
	{ "content-free", check_content_free },
	{ "content-free-huge", check_content_free_huge },
	{ "content-free-collapse", check_content_free_collapse },
	{ "huge-mapping", check_huge_mapping },
	{ "collapse", check_collapse },
	{ "events", check_events },
	{ "join", check_join },
	{ "told-to-each", check_told_to_each },
	{ "passing", check_passing },
	{ "lives", check_lives },
	{ "locked", check_locked },
	{ "buffer-inside", check_buffer_inside },
	{ "foreign-look", check_foreign_look },
	{ "madvise", check_madvise },
	{ "whole-unit", check_whole_unit },
};

int main(int argc, char **argv)
{
	int status = -1;

	if (argc == 2)
		status = run_checks(checks, sizeof(checks) / sizeof(*checks), argv[1]);
	if (status >= 0)
		return status;
	if (argc == 4 && !strcmp(argv[1], "pressure"))
		return under_pressure(strtoul(argv[2], NULL, 0), strtoul(argv[3], NULL, 0));
	if (argc == 5 && !strcmp(argv[1], "parts"))
		return parts_under_pressure(strtoul(argv[2], NULL, 0), strtoul(argv[3], NULL, 0),
					    strtoul(argv[4], NULL, 0));
	fprintf(stderr, "usage: volcheck all|NAME|pressure VOLATILE_MIB ORDINARY_MIB|"
			"parts MIB ORDINARY_MIB PART_PAGES\n");
	return 2;
}
