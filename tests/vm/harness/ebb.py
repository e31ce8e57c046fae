# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest's side of the ebb device, over qtest. The wire: proto/virtio_ebb.h."""
import dataclasses
import struct

from .qtest import le
from .virtio import Memory, VirtioPci

PCI_ID = 0x1040 + 59
F_REPORT, F_RELEASE, F_STATS, F_VOLATILE, F_HINT, F_COLLECT = range(6)
VQ_REPORT, VQ_COMMAND = 0, 1
REQ_FREE, REQ_DONE, REQ_STATS, REQ_VOLATILE, REQ_HINT = range(1, 6)
RESP_OK, RESP_UNSUPPORTED = 0, 1
MARKED, DISCARDED, NOT_MARKED = 1, 2, 3
(REASON_NONE, REASON_OFF, REASON_REST, REASON_FRAGMENT, REASON_INHIBITED, REASON_BACKING,
 REASON_POISON, REASON_FAILED, REASON_CANCELLED) = range(9)
CMD_RELEASE, CMD_STATS, CMD_PURGED, CMD_COLLECT = 1, 2, 3, 5
COLLECT_BYTES = 1024
RELEASE_F_ANEW = 1
PURGED_F_COMPLETE = 1
DONE_OK, DONE_PARTIAL, DONE_SHORT, DONE_UNSUPPORTED, DONE_CANCELLED = range(5)
REST, RUN = 0, 1
HINT_F_MERGE = 1

PAGE = 4096
MIB = 1 << 20
BLOCK = 2 * MIB
SLOT = 4


@dataclasses.dataclass
class Verdict:
    verdict: int
    reason: int
    bytes: int


@dataclasses.dataclass
class Config:
    page_bytes: int
    block_bytes: int
    max_ranges: int
    reporting: int
    reoffer_generation: int
    hinting: int
    hint_generation: int


@dataclasses.dataclass
class Command:
    id: int
    type: int
    flags: int
    bytes: int
    gpa: int


def free_request(ranges, command_id=0, count=None, req_type=REQ_FREE):
    """The bytes of a REQ_FREE. count: said in the header, if it is to be wrong."""
    head = le("HHLQ", req_type, 0, len(ranges) if count is None else count, command_id)
    return head + b"".join(le("QQ", gpa, size) for gpa, size in ranges)


def hint_request(hints, count=None):
    """The bytes of a REQ_HINT of (gpa, bytes, flags)."""
    head = le("HHLQ", REQ_HINT, 0, len(hints) if count is None else count, 0)
    return head + b"".join(le("QQLL", gpa, size, flags, 0) for gpa, size, flags in hints)


class EbbDevice(VirtioPci):
    """virtio-ebb-pci in slot 4 of a machine that only qtest drives."""

    def __init__(self, guest, memory=None, slot=SLOT):
        super().__init__(guest.qtest, slot, memory or Memory())
        assert self.pci.ids == (0x1af4, PCI_ID), f"slot {slot} has {self.pci.ids}"

    def up(self, features=(F_REPORT, F_RELEASE, F_STATS, F_VOLATILE, F_HINT)):
        got = self.start(features, [VQ_REPORT, VQ_COMMAND])
        self.report = self.queues[VQ_REPORT]
        self.command = self.queues[VQ_COMMAND]
        return got

    def read_config(self):
        return Config(*self.config_read("LLLLLLL"))

    def send(self, request, answer_bytes, parts=None):
        """Make a request available and notify; returns where the answer will be. parts: the
        chain in place of [request, answer]."""
        at = self.memory.take(len(request) or 1)
        self.qtest.write(at, request)
        answer = self.memory.take(max(answer_bytes, 1))
        self.qtest.memset(answer, max(answer_bytes, 1), 0xee)
        chain = parts(at, answer) if parts else [(at, len(request), False),
                                                 (answer, answer_bytes, True)]
        self.report.add(chain)
        self.report.kick()
        self.last_answer = answer
        return answer

    def read_answer(self, answer, count):
        """Wait for the answer; returns (status, verdicts)."""
        _, written = self.report.wait_used()
        status, verdicts = struct.unpack("<LL", self.qtest.read(answer, 8))
        if status != RESP_OK:
            return status, []
        assert verdicts == count and written == 8 + 16 * count
        raw = self.qtest.read(answer + 8, 16 * count)
        return status, [Verdict(v, r, b) for v, r, _, b in struct.iter_unpack("<HHLQ", raw)]

    def free(self, ranges, command_id=0):
        """Offer ranges (gpa, bytes) and return their verdicts."""
        answer = self.send(free_request(ranges, command_id), 8 + 16 * len(ranges))
        status, verdicts = self.read_answer(answer, len(ranges))
        assert status == RESP_OK
        return verdicts

    def volatile(self, ranges):
        """Offer ranges (gpa, bytes) with content and return their verdicts."""
        request = free_request(ranges, req_type=REQ_VOLATILE)
        status, verdicts = self.read_answer(self.send(request, 8 + 16 * len(ranges)), len(ranges))
        assert status == RESP_OK
        return verdicts

    def hint(self, ranges, merge=True):
        """Hint ranges (gpa, bytes), or withdraw them; returns the status."""
        request = hint_request([(gpa, size, HINT_F_MERGE * merge) for gpa, size in ranges])
        return self.read_answer(self.send(request, 8), 0)[0]

    def done(self, command_id, status=DONE_OK, passes=1, offered=0):
        request = le("HHLQ", REQ_DONE, 0, 1, command_id) + le("LLQ", status, passes, offered)
        return self.read_answer(self.send(request, 8), 0)[0]

    def give_command_buffer(self, size=32):
        at = self.memory.take(size)
        self.qtest.memset(at, size, 0)
        self.command.add([(at, size, True)])
        self.command.kick()
        return at

    def wait_command(self, at):
        _, written = self.command.wait_used()
        assert written == 32
        number, kind, flags, _, size, gpa = struct.unpack("<QHHLQQ", self.qtest.read(at, 32))
        return Command(number, kind, flags, size, gpa)

    def wait_collect(self, at):
        """The command that must be a COLLECT, and its ranges."""
        _, written = self.command.wait_used()
        number, kind, flags, count, size, gpa = struct.unpack("<QHHLQQ", self.qtest.read(at, 32))
        assert kind == CMD_COLLECT and written == 32 + 16 * count and number and not flags
        ranges = list(struct.iter_unpack("<QQ", self.qtest.read(at + 32, 16 * count)))
        assert size == sum(length for _, length in ranges) and gpa == 0
        return number, ranges


BALLOON_F_STATS, BALLOON_F_POISON, BALLOON_F_REPORTING = 1, 4, 5
BALLOON_VQ_REPORTING = 3


class BalloonDevice(VirtioPci):
    """The reporting queue of a virtio-balloon, ours or QEMU's own."""

    def __init__(self, guest, memory=None, slot=SLOT):
        super().__init__(guest.qtest, slot, memory or Memory(8 * MIB, 16 * MIB))
        assert self.pci.ids == (0x1af4, 0x1045), f"slot {slot} has {self.pci.ids}"

    def up(self, features=(BALLOON_F_REPORTING,), poison=None):
        self.reset()
        got = self.negotiate(features)
        if poison is not None:
            self.qtest.writel(self.config + 12, poison)
        for index in range(4):
            self.setup_queue(index)
        self.driver_ok()
        self.reporting = self.queues[BALLOON_VQ_REPORTING]
        return got

    def report_free(self, ranges):
        """Report ranges in one request and wait for the answer."""
        self.reporting.add([(gpa, size, True) for gpa, size in ranges])
        self.reporting.kick()
        return self.reporting.wait_used()
