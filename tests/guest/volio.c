// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * volio - whoever else touches the memory of /dev/ebb: direct I/O, io_uring, futexes, threads,
 * another process, a core dump
 *
 * Each check has a name: "volio NAME" runs one, "volio all" each in a child of its own. Those of
 * direct I/O want a block device, which the environment names (DISK). None depends on whether the
 * background has armed what is marked.
 *
 * Owns:    its objects; the first MiB of the disk; /tmp/volio.*.
 * Thread:  one, but where a check says otherwise.
 * Locks:   none.
 * Never:   goes on after what it relies on has failed.
 */
#include <elf.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "object.h"
#include "uring.h"

static struct object create_filled(size_t pages, uint32_t kind, int seed)
{
	struct object obj = create(pages, kind);

	fill(&obj, seed);
	return obj;
}

/* Purged now, also if the background or a touch got in between. */
static void purge_surely(const struct object *obj, size_t page, size_t pages)
{
	struct ebb_query args;

	do {
		CHECK(mark(obj->fd, page * PAGE, pages * PAGE) == 0);
		CHECK(purge(obj->fd, page * PAGE, pages * PAGE) == 0);
		args = (struct ebb_query){ .offset = page * PAGE, .bytes = pages * PAGE };
		CHECK(ioctl(obj->fd, EBB_IOC_QUERY, &args) == 0);
	} while (args.purged_pages != pages);
}

/* ---- files ---- */

static int open_disk(void)
{
	const char *path = getenv("DISK");
	int fd = path ? open(path, O_RDWR | O_DIRECT) : -1;

	CHECK(fd >= 0);
	return fd;
}

static int open_plain(void)
{
	int fd = open("/tmp/volio.file", O_RDWR | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0 && ftruncate(fd, 64 * PAGE) == 0);
	return fd;
}

typedef int (*transfer_fn)(int fd, bool out, void *at, size_t bytes, off_t offset);

/* As the system call would, but a failure is negative errno. */
static int by_call(int fd, bool out, void *at, size_t bytes, off_t offset)
{
	ssize_t got = out ? pwrite(fd, at, bytes, offset) : pread(fd, at, bytes, offset);

	return got < 0 ? -errno : (int)got;
}

static int by_ring(int fd, bool out, void *at, size_t bytes, off_t offset)
{
	static struct uring ring;

	if (!ring.sq)
		CHECK(uring_open(&ring) == 0);
	CHECK(uring_start(&ring, out ? IORING_OP_WRITE : IORING_OP_READ, fd, at, (uint32_t)bytes,
			  offset) == 0);
	return uring_wait(&ring);
}

/*
 * Out of and into an object: not volatile, volatile and whole, purged. A transfer of purged memory
 * fails, or ends before it; there are never zeros in the file.
 */
static void check_transfer(transfer_fn transfer, int fd)
{
	struct object obj = create_filled(16, EBB_KIND_OPTIMISTIC, 1);
	struct object copy = create_filled(16, EBB_KIND_OPTIMISTIC, 101);
	int size = (int)obj.bytes, got;
	size_t page;

	CHECK(transfer(fd, true, obj.at, obj.bytes, 0) == size);
	CHECK(transfer(fd, false, copy.at, copy.bytes, 0) == size);
	for (page = 0; page < 16; page++)
		CHECK(is_filled(&copy, page, 1));

	/* Volatile and whole. */
	fill(&copy, 50);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0 && mark(copy.fd, 0, copy.bytes) == 0);
	CHECK(transfer(fd, true, obj.at, obj.bytes, 0) == size);
	CHECK(transfer(fd, false, copy.at, copy.bytes, 0) == size);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 0 && unmark(copy.fd, 0, copy.bytes) == 0);
	for (page = 0; page < 16; page++)
		CHECK(is_filled(&obj, page, 1) && is_filled(&copy, page, 1));

	/* Page 4 of each is gone. */
	purge_surely(&obj, 4, 1);
	purge_surely(&copy, 4, 1);
	CHECK(transfer(fd, true, obj.at + 4 * PAGE, PAGE, 0) == -EFAULT);
	CHECK(transfer(fd, false, copy.at + 4 * PAGE, PAGE, 0) == -EFAULT);
	got = transfer(fd, true, obj.at, obj.bytes, obj.bytes);
	CHECK(got == -EFAULT || got == 4 * (int)PAGE);
	got = transfer(fd, false, copy.at, copy.bytes, 0);
	CHECK(got == -EFAULT || got == 4 * (int)PAGE);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 1 && unmark(copy.fd, 0, copy.bytes) == 1);
	CHECK(is_zero(&obj, 4) && is_zero(&copy, 4) && is_filled(&obj, 5, 1));
	/* The file is as it was, and the page is good again. */
	CHECK(transfer(fd, false, copy.at, copy.bytes, 0) == size);
	for (page = 0; page < 16; page++)
		CHECK(is_filled(&copy, page, 1));
	close(fd);
}

static void check_direct(void)
{
	check_transfer(by_call, open_disk());
}

static void check_direct_uring(void)
{
	check_transfer(by_ring, open_disk());
}

static void check_plain(void)
{
	check_transfer(by_call, open_plain());
}

static void check_plain_uring(void)
{
	check_transfer(by_ring, open_plain());
}

/* Content-free memory: a read into it makes it non-volatile, a write from it never fails. */
static void check_transfer_content_free(void)
{
	struct object obj = create_filled(4, EBB_KIND_CONTENT_FREE, 7);
	struct object copy = create(4, EBB_KIND_EXPLICIT);
	int fd = open_disk();

	purge_surely(&obj, 0, 2);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	CHECK(by_call(fd, true, obj.at, obj.bytes, 0) == (int)obj.bytes);
	CHECK(by_call(fd, false, copy.at, copy.bytes, 0) == (int)obj.bytes);
	for (size_t page = 0; page < 4; page++)
		CHECK(page < 2 ? is_zero(&copy, page) : is_filled(&copy, page, 7));
	CHECK(query(&obj).volatile_pages == 0);
	fill(&copy, 9);
	CHECK(by_call(fd, true, copy.at, copy.bytes, 0) == (int)obj.bytes);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	CHECK(by_call(fd, false, obj.at, obj.bytes, 0) == (int)obj.bytes);
	CHECK(purge(obj.fd, 0, obj.bytes) == 0 && unmark(obj.fd, 0, obj.bytes) == 0);
	for (size_t page = 0; page < 4; page++)
		CHECK(is_filled(&obj, page, 9));
}

/* Pages that are registered would be held for ever. */
static void check_registered_buffers(void)
{
	struct object obj = create_filled(4, EBB_KIND_OPTIMISTIC, 1);
	struct uring ring;
	int status;

	CHECK(uring_open(&ring) == 0);
	status = uring_register(&ring, obj.at, obj.bytes);
	CHECK(status == 0 || status == -EOPNOTSUPP);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0 && unmark(obj.fd, 0, obj.bytes) == 0);
	CHECK(is_filled(&obj, 3, 1));
	purge_surely(&obj, 0, 1);
	if (status == -EOPNOTSUPP)
		CHECK(uring_register(&ring, obj.at, PAGE) < 0);
}

/* ---- futexes, shared by processes ---- */

static long futex(uint32_t *word, int what, uint32_t value)
{
	return syscall(SYS_futex, word, what, value, NULL, NULL, 0);
}

/* A child that waits on the word while it is 1, and ends with 0 when woken. */
static pid_t start_waiter(uint32_t *word)
{
	pid_t child = fork();

	if (!child) {
		while (futex(word, FUTEX_WAIT, 1) && errno == EINTR)
			;
		_exit(errno == EAGAIN ? 3 : 0);
	}
	CHECK(child > 0);
	return child;
}

/* Woken by exactly one of these calls: until then nobody waits there yet. */
static void wake(uint32_t *word, pid_t child)
{
	int status;
	long woken;

	while (!(woken = futex(word, FUTEX_WAKE, 8)))
		usleep(1000);
	CHECK(woken == 1);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void wait_until_it_sleeps(pid_t child)
{
	char path[64], text[256], state = 0;
	int fd;
	ssize_t got;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)child);
	while (state != 'S') {
		usleep(1000);
		fd = open(path, O_RDONLY);
		got = read(fd, text, sizeof(text) - 1);
		close(fd);
		CHECK(got > 0);
		text[got] = 0;
		state = strrchr(text, ')')[2];
	}
}

static void check_futex(void)
{
	struct object obj = create_filled(4, EBB_KIND_OPTIMISTIC, 1);
	uint32_t *word = (uint32_t *)(obj.at + 2 * PAGE + 64);
	pid_t child;

	*word = 1;
	wake(word, start_waiter(word)); /* never marked */

	/* Marked, and taken back, while somebody sleeps on it. */
	child = start_waiter(word);
	wait_until_it_sleeps(child);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	usleep(20000);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 0 && *word == 1);
	wake(word, child);

	/* Woken while it is volatile: the wake is a touch. */
	child = start_waiter(word);
	wait_until_it_sleeps(child);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	usleep(20000);
	wake(word, child);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 0 && *word == 1);

	/* The page is gone: an error, not a sleep. After NONVOLATILE the sleeper is found again. */
	child = start_waiter(word);
	wait_until_it_sleeps(child);
	purge_surely(&obj, 2, 1);
	CHECK_ERRNO(futex(word, FUTEX_WAKE, 1), EFAULT);
	CHECK_ERRNO(futex(word, FUTEX_WAIT, 0), EFAULT);
	CHECK(unmark(obj.fd, 2 * PAGE, PAGE) == 1 && *word == 0);
	wake(word, child);
	CHECK_ERRNO(futex(word, FUTEX_WAIT, 1), EAGAIN);
}

/* ---- threads ---- */

#define THREADS 4
#define ROUNDS	50

static struct object touched;
static volatile unsigned int buses[THREADS], wrong_thread;
static volatile unsigned int put_back[THREADS]; /* odd: content is put back by another just now */
static volatile bool enough;
static _Thread_local size_t my_page = ~0ul;
static _Thread_local unsigned int my_turn; /* put_back before the touch */

/* NONVOLATILE in the handler: the touch that got the signal then reads zeros. */
static void on_own_bus(int number, siginfo_t *info, void *context)
{
	size_t page = (size_t)((unsigned char *)info->si_addr - touched.at) / PAGE;

	if (page != my_page || info->si_code != BUS_ADRERR) {
		wrong_thread++;
		_exit(1);
	}
	if (unmark(touched.fd, page * PAGE, PAGE) != 1 && my_turn % 2 == 0 &&
	    put_back[page] == my_turn)
		_exit(1);
	buses[page]++;
}

static void *touch_one_page(void *page)
{
	volatile uint64_t *word;

	my_page = (size_t)page;
	word = (uint64_t *)(touched.at + my_page * PAGE);
	while (!enough) {
		unsigned int before = buses[my_page];
		uint64_t seen;

		my_turn = put_back[my_page];
		seen = *word;
		if (seen == my_page + 1)
			continue;
		/* Zeros are never silent, but where another has made them usable. */
		CHECK(seen == 0);
		if (buses[my_page] == before) {
			CHECK(my_turn % 2 || put_back[my_page] != my_turn);
			continue;
		}
		*word = my_page + 1;
	}
	return NULL;
}

static void check_threads(void)
{
	struct sigaction action = { .sa_sigaction = on_own_bus, .sa_flags = SA_SIGINFO };
	pthread_t threads[THREADS];

	touched = create(THREADS, EBB_KIND_OPTIMISTIC);
	CHECK(sigaction(SIGBUS, &action, NULL) == 0);
	for (size_t i = 0; i < THREADS; i++)
		*(uint64_t *)(touched.at + i * PAGE) = i + 1;
	for (size_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, touch_one_page, (void *)i) == 0);
	for (size_t round = 0; round < ROUNDS; round++) {
		size_t page = round % THREADS;

		unsigned int before = buses[page];

		while (buses[page] == before) {
			CHECK(mark(touched.fd, page * PAGE, PAGE) == 0);
			CHECK(purge(touched.fd, page * PAGE, PAGE) == 0);
			usleep(100);
		}
		/* What was marked after the touch goes back. */
		put_back[page]++;
		if (unmark(touched.fd, page * PAGE, PAGE))
			*(volatile uint64_t *)(touched.at + page * PAGE) = page + 1;
		put_back[page]++;
	}
	enough = true;
	for (size_t i = 0; i < THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(!wrong_thread);
}

/* Of all processors (/proc/interrupts). */
static uint64_t shootdowns(void)
{
	FILE *file = fopen("/proc/interrupts", "r");
	char line[512], *at = NULL, *next;
	uint64_t sum = 0;

	CHECK(file);
	while (!at && fgets(line, sizeof(line), file))
		at = strstr(line, "TLB:");
	fclose(file);
	CHECK(at);
	for (at += strlen("TLB:");; at = next) {
		uint64_t count = strtoul(at, &next, 10);

		if (next == at)
			return sum;
		sum += count;
	}
}

static void *spin(void *unused)
{
	run_on(1);
	while (!enough)
		;
	return unused;
}

/* Who purges much does not tell the other processors of each page. */
static void check_purge_interrupts(void)
{
	struct object obj = create_filled(511, EBB_KIND_EXPLICIT, 1); /* none of it a huge page */
	pthread_t thread;
	uint64_t before;

	enough = false;
	run_on(0);
	CHECK(pthread_create(&thread, NULL, spin, NULL) == 0);
	usleep(10000);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	before = shootdowns();
	purge_surely(&obj, 0, 511);
	before = shootdowns() - before;
	enough = true;
	CHECK(pthread_join(thread, NULL) == 0);
	printf("%llu interrupts for 511 pages\n", (unsigned long long)before);
	CHECK(before <= 511 / 8);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 1 && is_zero(&obj, 0) && is_zero(&obj, 510));
}

/* ---- another process ---- */

static void check_foreign_write(void)
{
	struct object obj = create_filled(4, EBB_KIND_OPTIMISTIC, 1);
	unsigned char data[2 * PAGE];
	struct iovec ours = { data, sizeof(data) };
	struct iovec theirs = { obj.at, sizeof(data) };
	int status;
	pid_t child;

	memset(data, 0xee, sizeof(data));
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	purge_surely(&obj, 1, 1);
	child = fork();
	if (!child) {
		munmap(obj.at, obj.bytes);
		CHECK(process_vm_writev(getppid(), &ours, 1, &theirs, 1, 0) == (ssize_t)PAGE);
		theirs.iov_base = obj.at + PAGE;
		CHECK_ERRNO(process_vm_writev(getppid(), &ours, 1, &theirs, 1, 0), EFAULT);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 1);
	CHECK(!memcmp(obj.at, data, PAGE) && is_zero(&obj, 1) && is_filled(&obj, 2, 1));
}

static void check_ptrace(void)
{
	struct object obj = create_filled(4, EBB_KIND_OPTIMISTIC, 1);
	uint64_t content;
	int status;
	pid_t child;

	memcpy(&content, obj.at, sizeof(content));
	CHECK(mark(obj.fd, 0, obj.bytes) == 0);
	purge_surely(&obj, 1, 1);
	child = fork();
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
	errno = 0;
	CHECK(ptrace(PTRACE_PEEKDATA, child, obj.at, 0) == (long)content && !errno);
	CHECK(ptrace(PTRACE_POKEDATA, child, obj.at + 8, 4711) == 0);
	CHECK_ERRNO(ptrace(PTRACE_PEEKDATA, child, obj.at + PAGE, 0), EIO);
	CHECK_ERRNO(ptrace(PTRACE_POKEDATA, child, obj.at + PAGE, 4711), EIO);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 1);
	CHECK(*(uint64_t *)(obj.at + 8) == 4711 && is_zero(&obj, 1) && is_filled(&obj, 3, 1));
}

/* ---- a core dump ---- */

static unsigned char *read_file(const char *path)
{
	int fd = open(path, O_RDONLY);
	off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	void *at = size > 0 ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;

	CHECK(at != MAP_FAILED);
	close(fd);
	return at;
}

/* What a core has at an address of the program. */
static const unsigned char *in_core(const unsigned char *core, const void *at)
{
	const Elf64_Ehdr *head = (const void *)core;
	const Elf64_Phdr *part = (const void *)(core + head->e_phoff);
	uint64_t where = (uintptr_t)at;

	for (int i = 0; i < head->e_phnum; i++)
		if (part[i].p_type == PT_LOAD && where >= part[i].p_vaddr &&
		    where < part[i].p_vaddr + part[i].p_filesz)
			return core + part[i].p_offset + (where - part[i].p_vaddr);
	return NULL;
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

/* What is whole is in it, what was purged is a hole. */
static void check_core_dump(void)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	struct object obj = create_filled(8, EBB_KIND_OPTIMISTIC, 1), dumped = obj;
	const unsigned char *core;
	int status;
	pid_t child;

	write_text("/proc/sys/kernel/core_pattern", "/tmp/volio.core");
	CHECK(mark(obj.fd, 0, 6 * PAGE) == 0);
	purge_surely(&obj, 1, 2);
	child = fork();
	if (!child) {
		setrlimit(RLIMIT_CORE, &all);
		signal(SIGABRT, SIG_DFL);
		abort();
	}
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WCOREDUMP(status));
	core = read_file("/tmp/volio.core");
	CHECK(unlink("/tmp/volio.core") == 0);
	dumped.at = (unsigned char *)in_core(core, obj.at);
	CHECK(dumped.at && in_core(core, obj.at + obj.bytes - 1) == dumped.at + obj.bytes - 1);
	for (size_t page = 0; page < 8; page++)
		CHECK(page == 1 || page == 2 ? is_zero(&dumped, page)
					     : is_filled(&dumped, page, 1));
	CHECK(unmark(obj.fd, 0, obj.bytes) == 1);
	for (size_t page = 0; page < 8; page++)
		CHECK(page == 1 || page == 2 ? is_zero(&obj, page) : is_filled(&obj, page, 1));
}

/* ---- mappings ---- */

/* Of two mappings each sees what the other does; a mark is the object's, whichever goes. */
static void check_two_mappings(void)
{
	struct object obj = create_filled(8, EBB_KIND_OPTIMISTIC, 1), second = obj;
	int status;
	pid_t child;

	catch_bus();
	second.at = map(obj.fd, obj.bytes);
	CHECK(is_filled(&second, 7, 1));
	purge_surely(&obj, 3, 1);
	CHECK(read_gets_bus(obj.at + 3 * PAGE) && read_gets_bus(second.at + 3 * PAGE));
	CHECK(munmap(obj.at, obj.bytes) == 0);
	CHECK(read_gets_bus(second.at + 3 * PAGE) && is_filled(&second, 4, 1));
	CHECK(unmark(obj.fd, 3 * PAGE, PAGE) == 1);
	second.at[3 * PAGE] = 5;

	/* A child's mapping moves, and ends with it: neither changes a mark. */
	CHECK(mark(obj.fd, 0, 4 * PAGE) == 0);
	child = fork();
	if (!child) {
		second.at = mremap(second.at, second.bytes, 4 * PAGE, MREMAP_MAYMOVE);
		CHECK(second.at != MAP_FAILED);
		CHECK(munmap(second.at, PAGE) == 0 && is_filled(&second, 2, 1));
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 0 && second.at[3 * PAGE] == 5);
	/* Without any mapping at all. */
	CHECK(munmap(second.at, second.bytes) == 0);
	CHECK(mark(obj.fd, 0, obj.bytes) == 0 && purge(obj.fd, 5 * PAGE, PAGE) == 0);
	CHECK(unmark(obj.fd, 0, obj.bytes) == 1);
	obj.at = map(obj.fd, obj.bytes);
	CHECK(is_zero(&obj, 5) && is_filled(&obj, 6, 1));
}

/* NONVOLATILE's buffer: every page of the object in turn, each purged or whole. */
static void check_bitmap_inside(void)
{
	struct object obj = create(130, EBB_KIND_OPTIMISTIC);
	struct ebb_nonvolatile args = { .bytes = obj.bytes, .bitmap_bytes = 24 };

	for (size_t page = 0; page < 130; page += 13) {
		uint64_t *inside = (uint64_t *)(obj.at + page * PAGE + PAGE - 16);

		fill(&obj, 1);
		purge_surely(&obj, page / 2, 1);
		CHECK(mark(obj.fd, 0, obj.bytes) == 0);
		purge_surely(&obj, page, 1);
		/* It lies across the border to the next page, which is whole. */
		args.bitmap = (uintptr_t)inside;
		CHECK(ioctl(obj.fd, EBB_IOC_NONVOLATILE, &args) == 1);
		CHECK(args.purged_pages == (page ? 2 : 1));
		for (size_t i = 0; i < 130; i++)
			CHECK((inside[i / 64] >> (i % 64) & 1) == (i == page || i == page / 2));
	}
}

static const struct check checks[] = {
	{ "direct", check_direct },
	{ "direct-uring", check_direct_uring },
	{ "plain", check_plain },
	{ "plain-uring", check_plain_uring },
	{ "transfer-content-free", check_transfer_content_free },
	{ "registered-buffers", check_registered_buffers },
	{ "futex", check_futex },
	{ "threads", check_threads },
	{ "purge-interrupts", check_purge_interrupts },
	{ "foreign-write", check_foreign_write },
	{ "ptrace", check_ptrace },
	{ "core-dump", check_core_dump },
	{ "two-mappings", check_two_mappings },
	{ "bitmap-inside", check_bitmap_inside },
};

int main(int argc, char **argv)
{
	int status = -1;

	if (argc == 2)
		status = run_checks(checks, sizeof(checks) / sizeof(*checks), argv[1]);
	if (status < 0)
		fprintf(stderr, "usage: DISK=/dev/... volio all|NAME\n");
	return status < 0 ? 2 : status;
}
