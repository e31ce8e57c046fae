// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * test_link - the executor against an ebbd that is played by the test
 *
 * Orders, samples, and an ebbd that lies, dies, floods or does not read.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent_check.h"
#include "fake_vmm.h"

static char dir[] = "/tmp/ebb-test-link-XXXXXX";
static char path[64];
static int listener = -1;
static int peer = -1;
static struct fake_vmm vmm;
static struct guest_ram ram;
static struct offer offer;

static uint32_t version = 1; /* that WELCOME says */

static void listen_at_path(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	unlink(path);
	strcpy(address.sun_path, path);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_true(listener >= 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 4), 0);
}

static void agent_dies(void)
{
	if (peer >= 0)
		close(peer);
	if (listener >= 0)
		close(listener);
	peer = listener = -1;
	unlink(path);
}

static bool readable(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };

	return poll(&pollfd, 1, 60000) == 1;
}

/* The next packet of this type, others are passed over; its length or 0 at the end. */
static size_t receive(uint16_t type, void *packet, size_t bytes)
{
	char buffer[EBB_AGENT_MAX_BYTES];
	uint16_t got = 0;
	ssize_t n;

	for (;;) {
		assert_true(readable(peer));
		n = recv(peer, buffer, sizeof(buffer), 0);
		if (n <= 0)
			return 0;
		assert_int_equal(ebb_agent_check_from_executor(buffer, (uint64_t)n, version, &got),
				 EBB_AGENT_FAULT_NONE);
		if (got != type)
			continue;
		assert_int_equal(n, bytes);
		memcpy(packet, buffer, bytes);
		return bytes;
	}
}

/* The executor has closed the connection, whatever it sent before. */
static void expect_closed(void)
{
	char buffer[EBB_AGENT_MAX_BYTES];

	do {
		assert_true(readable(peer));
	} while (recv(peer, buffer, sizeof(buffer), 0) > 0);
	close(peer);
	peer = -1;
}

static void put_hdr(struct ebb_msg_hdr *hdr, uint16_t type)
{
	ebb_put_le16(&hdr->type, type);
	ebb_put_le32(&hdr->length_bytes, ebb_agent_msg_bytes(type));
}

static void send_bytes(const void *packet, size_t bytes)
{
	assert_int_equal(send(peer, packet, bytes, MSG_NOSIGNAL), bytes);
}

static void accept_executor(void)
{
	struct ebb_msg_hello hello;

	assert_true(readable(listener));
	peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(peer >= 0);
	assert_int_equal(receive(EBB_MSG_HELLO, &hello, sizeof(hello)), sizeof(hello));
	assert_string_equal(hello.name, "test");
	assert_int_equal(ebb_get_le32(&hello.front), EBB_FRONT_EBB);
}

static void send_welcome(uint32_t interval_msec)
{
	struct ebb_msg_welcome msg = { 0 };

	put_hdr(&msg.hdr, EBB_MSG_WELCOME);
	ebb_put_le32(&msg.version, version);
	ebb_put_le32(&msg.sample_interval_msec, interval_msec);
	send_bytes(&msg, sizeof(msg));
}

static void send_policy(uint32_t mode, uint32_t stage)
{
	struct ebb_msg_policy msg = { 0 };

	put_hdr(&msg.hdr, EBB_MSG_POLICY);
	ebb_put_le32(&msg.mode, mode);
	ebb_put_le32(&msg.stage, stage);
	send_bytes(&msg, sizeof(msg));
}

static void send_release(uint64_t id, uint64_t bytes)
{
	struct ebb_msg_release msg = { 0 };

	put_hdr(&msg.hdr, EBB_MSG_RELEASE);
	ebb_put_le64(&msg.id, id);
	ebb_put_le64(&msg.bytes, bytes);
	send_bytes(&msg, sizeof(msg));
}

static void send_purge(uint64_t id, uint64_t bytes)
{
	struct ebb_msg_purge msg = { 0 };

	put_hdr(&msg.hdr, EBB_MSG_PURGE);
	ebb_put_le64(&msg.id, id);
	ebb_put_le64(&msg.bytes, bytes);
	send_bytes(&msg, sizeof(msg));
}

static void connected(uint32_t interval_msec)
{
	struct ebb_status status;

	accept_executor();
	send_welcome(interval_msec);
	fake_vmm_wait_status(&vmm, &status, status.connected);
}

static void begin(uint32_t mode)
{
	listen_at_path();
	guest_ram_init(&ram, 16 * MIB, 0, false);
	fake_vmm_init(&vmm, mode, EBB_FRONT_EBB, path);
	fake_vmm_add_ram(&vmm, &ram, 0);
}

static void end(void)
{
	fake_vmm_deinit(&vmm);
	guest_ram_deinit(&ram);
	agent_dies();
}

static void run(uint64_t command_id, uint64_t gpa, uint64_t bytes)
{
	offer_run_one(&vmm, &offer, &ram, 0, command_id, gpa, bytes);
}

static void policy_is_obeyed(void **state)
{
	struct ebb_status status;

	begin(EBB_MODE_AUTO);
	connected(3600000);
	send_policy(EBB_MODE_KEEP, EBB_STAGE_PLENTY);
	fake_vmm_wait(&vmm, vmm.nr_guide == 1);
	assert_int_equal(vmm.guidance.reporting, VIRTIO_EBB_REPORTING_REST);
	run(0, 0, 2 * MIB);
	assert_int_equal(offer.ranges[0].reason, VIRTIO_EBB_REASON_REST);
	send_policy(EBB_MODE_KEEP, EBB_STAGE_NEARING);
	fake_vmm_wait(&vmm, vmm.nr_guide == 2);
	assert_int_equal(vmm.guidance.reporting, VIRTIO_EBB_REPORTING_RUN);
	assert_int_equal(vmm.guidance.reoffer_generation, 1);
	run(0, 0, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	send_policy(EBB_MODE_KEEP, EBB_STAGE_SHORT);
	fake_vmm_wait(&vmm, vmm.guidance.reoffer_generation == 2);
	run(0, 0, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_DISCARDED);
	/* ebbd's mode goes before the operator's, until it says KEEP. */
	send_policy(EBB_MODE_LAZY, EBB_STAGE_SHORT);
	fake_vmm_wait_status(&vmm, &status, status.mode == EBB_MODE_LAZY);
	run(0, 0, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	send_policy(EBB_MODE_KEEP, EBB_STAGE_SHORT);
	fake_vmm_wait_status(&vmm, &status, status.mode == EBB_MODE_AUTO);
	end();
}

static void samples_tell(void **state)
{
	struct ebb_guest_stats stats = { { 0 } };
	struct ebb_msg_sample sample;

	begin(EBB_MODE_LAZY);
	ebb_executor_set_driver(vmm.executor, true);
	run(0, 0, 5 * MIB);
	ebb_executor_violation(vmm.executor);
	stats.value[VIRTIO_EBB_S_AVAILABLE] = 77;
	accept_executor();
	send_welcome(100);
	receive(EBB_MSG_SAMPLE, &sample, sizeof(sample));
	assert_int_equal(ebb_get_le32(&sample.flags) & ~EBB_SAMPLE_F_MERGEABLE,
			 EBB_SAMPLE_F_DRIVER | EBB_SAMPLE_F_BROKEN);
	assert_int_equal(ebb_get_le32(&sample.mode), EBB_MODE_LAZY);
	assert_int_equal(ebb_get_le32(&sample.stage), EBB_STAGE_NEARING);
	assert_int_equal(ebb_get_le64(&sample.ram_bytes), 16 * MIB);
	assert_int_equal(ebb_get_le64(&sample.requests), 1);
	assert_int_equal(ebb_get_le64(&sample.ranges), 1);
	assert_int_equal(ebb_get_le64(&sample.violations), 1);
	assert_int_equal(ebb_get_le64(&sample.marked_bytes), 4 * MIB);
	assert_int_equal(ebb_get_le64(&sample.not_marked_bytes[VIRTIO_EBB_REASON_FRAGMENT]), MIB);
	assert_int_equal(ebb_get_le64(&sample.guest[VIRTIO_EBB_S_AVAILABLE]), 0);
	/* Each sample asks the guest, whose answer goes into a later one. */
	fake_vmm_wait(&vmm, vmm.nr_stats >= 1);
	ebb_executor_guest_stats(vmm.executor, &stats);
	do {
		assert_int_not_equal(receive(EBB_MSG_SAMPLE, &sample, sizeof(sample)), 0);
	} while (!(ebb_get_le32(&sample.flags) & EBB_SAMPLE_F_GUEST));
	assert_int_equal(ebb_get_le64(&sample.guest[VIRTIO_EBB_S_AVAILABLE]), 77);
	end();
}

static void expect_done(uint64_t id, uint32_t status, struct ebb_msg_release_done *done)
{
	assert_int_not_equal(receive(EBB_MSG_RELEASE_DONE, done, sizeof(*done)), 0);
	assert_int_equal(ebb_get_le64(&done->id), id);
	assert_int_equal(ebb_get_le32(&done->status), status);
}

static void releases_are_answered(void **state)
{
	struct ebb_msg_release_done done;

	begin(EBB_MODE_LAZY);
	connected(3600000);
	send_release(41, MIB);
	expect_done(41, EBB_RELEASE_NO_DRIVER, &done);
	ebb_executor_set_driver(vmm.executor, true);
	send_release(42, 8 * MIB);
	fake_vmm_wait(&vmm, vmm.nr_release == 1);
	assert_int_equal(vmm.release_bytes, 8 * MIB);
	send_release(43, MIB);
	expect_done(43, EBB_RELEASE_BUSY, &done);
	run(vmm.release_id, 0, 6 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_DISCARDED);
	ebb_executor_release_done(vmm.executor, vmm.release_id, VIRTIO_EBB_DONE_PARTIAL, 3,
				  6 * MIB);
	expect_done(42, VIRTIO_EBB_DONE_PARTIAL, &done);
	assert_int_equal(ebb_get_le64(&done.offered_bytes), 6 * MIB);
	assert_int_equal(ebb_get_le64(&done.discarded_bytes), 6 * MIB);
	assert_int_equal(ebb_get_le32(&done.passes), 3);
	assert_int_not_equal(ebb_get_le64(&done.usec), 0);
	/* A reset in the middle is told as well. */
	send_release(44, MIB);
	fake_vmm_wait(&vmm, vmm.nr_release == 2);
	ebb_executor_reset(vmm.executor);
	expect_done(44, VIRTIO_EBB_DONE_CANCELLED, &done);
	ebb_executor_set_mode(vmm.executor, EBB_MODE_OFF);
	send_release(45, MIB);
	expect_done(45, EBB_RELEASE_OFF, &done);
	end();
}

static void agent_dies_and_returns(void **state)
{
	struct ebb_status status;

	begin(EBB_MODE_AUTO);
	connected(3600000);
	send_policy(EBB_MODE_EAGER, EBB_STAGE_SHORT);
	fake_vmm_wait_status(&vmm, &status, status.mode == EBB_MODE_EAGER);
	agent_dies();
	fake_vmm_wait_status(&vmm, &status, !status.connected);
	/* The last word stays in force. */
	assert_int_equal(status.mode, EBB_MODE_EAGER);
	assert_int_equal(status.stage, EBB_STAGE_SHORT);
	run(0, 0, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_DISCARDED);
	listen_at_path();
	connected(3600000);
	send_policy(EBB_MODE_KEEP, EBB_STAGE_PLENTY);
	fake_vmm_wait_status(&vmm, &status, status.stage == EBB_STAGE_PLENTY);
	end();
}

static void agent_comes_late(void **state)
{
	begin(EBB_MODE_AUTO);
	agent_dies();
	run(0, 0, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	listen_at_path();
	connected(3600000);
	end();
}

/* A release whose ebbd has died ends as ever, and nobody else is told of it. */
static void agent_dies_during_a_release(void **state)
{
	struct ebb_msg_release_done done;
	struct ebb_status status;

	begin(EBB_MODE_LAZY);
	ebb_executor_set_driver(vmm.executor, true);
	connected(3600000);
	send_release(7, MIB);
	fake_vmm_wait(&vmm, vmm.nr_release == 1);
	agent_dies();
	fake_vmm_wait_status(&vmm, &status, !status.connected);
	listen_at_path();
	connected(3600000);
	ebb_executor_release_done(vmm.executor, vmm.release_id, VIRTIO_EBB_DONE_OK, 1, 0);
	send_release(7, MIB);
	fake_vmm_wait(&vmm, vmm.nr_release == 2);
	ebb_executor_release_done(vmm.executor, vmm.release_id, VIRTIO_EBB_DONE_SHORT, 9, 0);
	expect_done(7, VIRTIO_EBB_DONE_SHORT, &done);
	assert_int_equal(ebb_get_le32(&done.passes), 9);
	end();
}

static void bad_packets_end_the_connection(void **state)
{
	union {
		struct ebb_msg_hdr hdr;
		struct ebb_msg_welcome welcome;
		struct ebb_msg_policy policy;
		struct ebb_msg_release release;
		struct ebb_msg_sample sample;
		char bytes[EBB_AGENT_MAX_BYTES + 100];
	} packet;
	struct ebb_status status;

	begin(EBB_MODE_LAZY);
#define BAD(bytes_, change)                                                   \
	do {                                                                  \
		connected(3600000);                                           \
		memset(&packet, 0, sizeof(packet));                           \
		change;                                                       \
		send_bytes(&packet, bytes_);                                  \
		expect_closed();                                              \
		ebb_executor_status(vmm.executor, &status);                   \
		assert_int_equal(status.mode, EBB_MODE_LAZY);                 \
		assert_int_equal(status.stage, EBB_STAGE_NEARING);            \
		run(0, 0, 2 * MIB);                                           \
		assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED); \
	} while (0)
	BAD(1, (void)0);
	BAD(sizeof(packet.hdr), put_hdr(&packet.hdr, 99));
	BAD(sizeof(packet.bytes), put_hdr(&packet.hdr, EBB_MSG_POLICY));
	BAD(sizeof(packet.policy), put_hdr(&packet.hdr, EBB_MSG_POLICY)); /* no stage */
	BAD(sizeof(packet.policy),
	    (put_hdr(&packet.hdr, EBB_MSG_POLICY), ebb_put_le32(&packet.policy.mode, EBB_MODE_MAX),
	     ebb_put_le32(&packet.policy.stage, EBB_STAGE_SHORT)));
	BAD(sizeof(packet.policy) - 4, put_hdr(&packet.hdr, EBB_MSG_POLICY));
	BAD(sizeof(packet.release), put_hdr(&packet.hdr, EBB_MSG_RELEASE)); /* no id */
	BAD(sizeof(packet.sample), put_hdr(&packet.hdr, EBB_MSG_SAMPLE));   /* wrong direction */
	/* out of turn */
	BAD(sizeof(packet.welcome),
	    (put_hdr(&packet.hdr, EBB_MSG_WELCOME), ebb_put_le32(&packet.welcome.version, 1),
	     ebb_put_le32(&packet.welcome.sample_interval_msec, 1000)));
#undef BAD
	accept_executor();
	send_policy(EBB_MODE_OFF, EBB_STAGE_SHORT);
	expect_closed();
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(status.mode, EBB_MODE_LAZY);
	end();
}

static void a_refusal_is_said(void **state)
{
	struct ebb_msg_refuse msg = { .text = "no room for you" };
	unsigned int i;
	bool said = false;

	begin(EBB_MODE_LAZY);
	accept_executor();
	put_hdr(&msg.hdr, EBB_MSG_REFUSE);
	send_bytes(&msg, sizeof(msg));
	expect_closed();
	pthread_mutex_lock(&vmm.lock);
	for (i = 0; i < vmm.nr_log; i++)
		said |= strstr(vmm.log[i], "no room for you") != NULL;
	pthread_mutex_unlock(&vmm.lock);
	assert_true(said);
	end();
}

/* ebbd connects and then neither reads nor writes: batches go on, nothing blocks. */
static void a_deaf_agent(void **state)
{
	unsigned int i;

	begin(EBB_MODE_LAZY);
	ebb_executor_set_driver(vmm.executor, true);
	connected(100);
	/* More BUSY answers than fit into any queue, unread: the link ends, nothing else. */
	send_release(1, MIB);
	fake_vmm_wait(&vmm, vmm.nr_release == 1);
	for (i = 2; i < 100000; i++) {
		struct ebb_msg_release msg = { 0 };

		put_hdr(&msg.hdr, EBB_MSG_RELEASE);
		ebb_put_le64(&msg.id, i);
		ebb_put_le64(&msg.bytes, MIB);
		if (send(peer, &msg, sizeof(msg), MSG_NOSIGNAL) < 0)
			break;
	}
	assert_true(i < 100000);
	run(0, 0, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_MARKED);
	close(peer);
	connected(3600000);
	end();
}

/* Orders without end: batches still get their turn. */
static void a_flooding_agent(void **state)
{
	unsigned int i, j;

	begin(EBB_MODE_LAZY);
	connected(3600000);
	for (i = 0; i < 50; i++) {
		for (j = 0; j < 100; j++)
			send_policy(j % 2 ? EBB_MODE_LAZY : EBB_MODE_EAGER, 1 + j % 3);
		run(0, 0, 2 * MIB);
		assert_int_not_equal(offer.ranges[0].verdict, VIRTIO_EBB_NOT_MARKED);
	}
	end();
}

/* The thread is woken for each answer, whatever it is about to do at that moment. */
static void no_answer_is_forgotten(void **state)
{
	struct ebb_msg_release_done done;
	unsigned int i, spin;

	begin(EBB_MODE_LAZY);
	ebb_executor_set_driver(vmm.executor, true);
	connected(3600000);
	for (i = 1; i <= 1000; i++) {
		send_release(i, MIB);
		fake_vmm_wait(&vmm, vmm.nr_release == i);
		for (spin = 0; spin < i * 20; spin++)
			__asm__ volatile("");
		ebb_executor_release_done(vmm.executor, fake_vmm_release_id(&vmm),
					  VIRTIO_EBB_DONE_OK, 1, MIB);
		expect_done(i, VIRTIO_EBB_DONE_OK, &done);
	}
	end();
}

/* What ebbd asks for is given even while the guest is told to rest. */
static void a_release_at_plenty(void **state)
{
	struct ebb_msg_release_done done;

	begin(EBB_MODE_AUTO);
	ebb_executor_set_driver(vmm.executor, true);
	connected(3600000);
	send_policy(EBB_MODE_KEEP, EBB_STAGE_PLENTY);
	send_release(5, MIB);
	fake_vmm_wait(&vmm, vmm.nr_release == 1);
	run(vmm.release_id, 0, 2 * MIB);
	assert_int_equal(offer.ranges[0].verdict, VIRTIO_EBB_DISCARDED);
	run(0, 4 * MIB, 2 * MIB);
	assert_int_equal(offer.ranges[0].reason, VIRTIO_EBB_REASON_REST);
	ebb_executor_release_done(vmm.executor, vmm.release_id, VIRTIO_EBB_DONE_OK, 1, 2 * MIB);
	expect_done(5, VIRTIO_EBB_DONE_OK, &done);
	assert_int_equal(ebb_get_le64(&done.discarded_bytes), 2 * MIB);
	end();
}

#define MAX_FDS 256

/* A VMM may run programs: no descriptor of ours goes along. */
static void nothing_is_inherited(void **state)
{
	bool before[MAX_FDS];
	unsigned int nr = 0;
	int fd;

	for (fd = 0; fd < MAX_FDS; fd++)
		before[fd] = fcntl(fd, F_GETFD) >= 0;
	begin(EBB_MODE_LAZY);
	connected(3600000);
	for (fd = 0; fd < MAX_FDS; fd++) {
		int flags = fcntl(fd, F_GETFD);

		if (flags < 0 || before[fd])
			continue;
		nr++;
		assert_true(flags & FD_CLOEXEC);
	}
	/* at least our two ends, the listener and the eventfd */
	assert_true(nr >= 4);
	end();
}

static void expect_purge_done(uint64_t id, uint32_t status, uint64_t *purged_bytes)
{
	struct ebb_msg_purge_done done;

	assert_int_equal(receive(EBB_MSG_PURGE_DONE, &done, sizeof(done)), sizeof(done));
	assert_int_equal(ebb_get_le64(&done.id), id);
	assert_int_equal(ebb_get_le32(&done.status), status);
	*purged_bytes = ebb_get_le64(&done.purged_bytes);
}

static void content_is_purged_and_told_of(void **state)
{
	struct ebb_guest_stats stats = { .value = { [VIRTIO_EBB_S_VOLATILE] = 5,
						    [VIRTIO_EBB_S_TAKEN_WHOLE] = 6,
						    [VIRTIO_EBB_S_TAKEN_PURGED] = 7 } };
	struct ebb_msg_content content;
	uint64_t purged_bytes;

	version = 2;
	begin(EBB_MODE_LAZY);
	guest_ram_fill(&ram, 0, ram.bytes, 3);
	connected(100);
	ebb_executor_guest_stats(vmm.executor, &stats);
	offer_init(&offer, &ram, 0);
	offer.batch.offer = EBB_OFFER_CONTENT;
	offer_add(&offer, 0, 8 * MIB);
	offer_run(&vmm, &offer);
	send_purge(77, 2 * MIB);
	expect_purge_done(77, EBB_PURGE_OK, &purged_bytes);
	assert_in_range(purged_bytes, 2 * MIB, 8 * MIB);
	send_purge(78, 64 * MIB);
	expect_purge_done(78, EBB_PURGE_PARTIAL, &purged_bytes);
	do {
		assert_int_equal(receive(EBB_MSG_CONTENT, &content, sizeof(content)),
				 sizeof(content));
	} while (ebb_get_le64(&content.purged_bytes) == 0);
	assert_int_equal(ebb_get_le64(&content.marked_bytes), 8 * MIB);
	assert_int_equal(ebb_get_le32(&content.flags), EBB_CONTENT_F_GUEST);
	assert_int_equal(ebb_get_le64(&content.guest_volatile_bytes), 5);
	assert_int_equal(ebb_get_le64(&content.guest_taken_whole_pages), 6);
	assert_int_equal(ebb_get_le64(&content.guest_taken_purged_pages), 7);
	assert_int_equal(ebb_executor_harden(vmm.executor), 0);
	send_purge(79, MIB);
	expect_purge_done(79, EBB_PURGE_OFF, &purged_bytes);
	assert_int_equal(purged_bytes, 0);
	end();
	version = 1;
}

/* RAM whose page tables nobody frees; where it is does not matter here. */
static void add_skipped(enum ebb_backing backing, uint32_t skipped, uint64_t bytes)
{
	struct ebb_region_desc desc = {
		.start_gpa = (1ull << 40) + skipped * EBB_BLOCK_BYTES,
		.size_bytes = bytes,
		.host = ram.host,
		.page_bytes = PAGE,
		.backing = backing,
		.why = backing == EBB_BACKING_REFUSED ? "the test says so" : NULL,
		.skipped = skipped,
	};

	assert_int_equal(ebb_executor_region_add(vmm.executor, &desc), 0);
}

static void collections_are_answered(void **state)
{
	struct ebb_msg_collect collect = { 0 };
	struct ebb_msg_collect_done done;
	struct ebb_msg_tables tables;
	struct ebb_status status;

	version = 3;
	begin(EBB_MODE_EAGER);
	add_skipped(EBB_BACKING_HELPER, EBB_SKIPPED_HUGETLB, 2 * MIB);
	add_skipped(EBB_BACKING_REFUSED, EBB_SKIPPED_FILE, MIB);
	connected(100);
	ebb_executor_status(vmm.executor, &status);
	assert_int_equal(receive(EBB_MSG_TABLES, &tables, sizeof(tables)), sizeof(tables));
	assert_int_equal(ebb_get_le32(&tables.flags),
			 (status.can_collect ? EBB_TABLES_F_CAN : 0) |
				 (status.moves_tables ? EBB_TABLES_F_MOVES : 0));
	assert_int_equal(ebb_get_le64(&tables.skipped_bytes), 3 * MIB);
	assert_int_equal(ebb_get_le64(&tables.skipped_by_bytes[EBB_SKIPPED_HUGETLB]), 2 * MIB);
	assert_int_equal(ebb_get_le64(&tables.skipped_by_bytes[EBB_SKIPPED_FILE]), MIB);
	assert_int_equal(ebb_get_le64(&tables.skipped_by_bytes[EBB_SKIPPED_OTHER]), 0);
	put_hdr(&collect.hdr, EBB_MSG_COLLECT);
	ebb_put_le64(&collect.id, 77);
	send_bytes(&collect, sizeof(collect));
	assert_int_equal(receive(EBB_MSG_COLLECT_DONE, &done, sizeof(done)), sizeof(done));
	assert_int_equal(ebb_get_le64(&done.id), 77);
	assert_int_equal(ebb_get_le32(&done.status),
			 status.can_collect ? EBB_RELEASE_NO_DRIVER : EBB_COLLECT_NO_KERNEL);
	if (status.can_collect) {
		ebb_executor_set_driver(vmm.executor, true);
		/* a part of a block leaves its table */
		guest_ram_fill(&ram, 0, PAGE, 1);
		run(0, 0, PAGE);
		ebb_put_le64(&collect.id, 78);
		send_bytes(&collect, sizeof(collect));
		fake_vmm_wait(&vmm, vmm.nr_collect == 1);
		run(vmm.collect_id, 0, 2 * MIB);
		ebb_executor_release_done(vmm.executor, vmm.collect_id, VIRTIO_EBB_DONE_PARTIAL, 1,
					  2 * MIB);
		assert_int_equal(receive(EBB_MSG_COLLECT_DONE, &done, sizeof(done)), sizeof(done));
		assert_int_equal(ebb_get_le64(&done.id), 78);
		assert_int_equal(ebb_get_le32(&done.status), VIRTIO_EBB_DONE_OK);
		assert_int_equal(ebb_get_le64(&done.found_tables), 1);
		assert_int_equal(ebb_get_le64(&done.asked_tables), 1);
		assert_int_equal(ebb_get_le64(&done.offered_tables), 1);
		assert_int_equal(ebb_get_le64(&done.freed_tables), 1);
		do {
			assert_int_equal(receive(EBB_MSG_TABLES, &tables, sizeof(tables)),
					 sizeof(tables));
		} while (ebb_get_le64(&tables.collections) == 0);
		assert_int_equal(ebb_get_le64(&tables.freed_tables), 1);
	}
	end();
	version = 1;
}

/* receive() refuses CONTENT from an executor that agreed upon version 1. */
static void version_1_knows_no_content(void **state)
{
	struct ebb_msg_sample sample;
	unsigned int i;

	begin(EBB_MODE_LAZY);
	connected(100);
	for (i = 0; i < 3; i++)
		assert_int_equal(receive(EBB_MSG_SAMPLE, &sample, sizeof(sample)), sizeof(sample));
	send_purge(1, MIB);
	expect_closed();
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(policy_is_obeyed),
		cmocka_unit_test(samples_tell),
		cmocka_unit_test(releases_are_answered),
		cmocka_unit_test(agent_dies_and_returns),
		cmocka_unit_test(agent_comes_late),
		cmocka_unit_test(agent_dies_during_a_release),
		cmocka_unit_test(bad_packets_end_the_connection),
		cmocka_unit_test(a_refusal_is_said),
		cmocka_unit_test(a_deaf_agent),
		cmocka_unit_test(a_flooding_agent),
		cmocka_unit_test(no_answer_is_forgotten),
		cmocka_unit_test(a_release_at_plenty),
		cmocka_unit_test(nothing_is_inherited),
		cmocka_unit_test(content_is_purged_and_told_of),
		cmocka_unit_test(collections_are_answered),
		cmocka_unit_test(version_1_knows_no_content),
	};
	int ret;

	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/ebbd", dir);
	ret = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	rmdir(dir);
	return ret;
}
