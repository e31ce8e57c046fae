# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent protocol in raw bytes, after docs/agent-protocol.md. Nothing is shared with ebbd."""
import dataclasses
import socket
import struct

HELLO, WELCOME, SAMPLE, POLICY, RELEASE_DONE, RELEASE, REFUSE = 1, 2, 3, 4, 5, 6, 8
PURGE_DONE, PURGE, CONTENT = 9, 10, 11  # from version 2 on
TABLES_POLICY, COLLECT_DONE, COLLECT, TABLES = 16, 17, 18, 19  # from version 3 on
MERGE, MERGE_STATE = 12, 13  # likewise
FRONT_EBB, FRONT_BALLOON = 1, 2
KEEP, OFF, LAZY, EAGER, AUTO = range(5)
PLENTY, NEARING, SHORT = 1, 2, 3
F_DRIVER, F_BROKEN, F_INHIBITED, F_MERGEABLE, F_GUEST = 1, 2, 4, 8, 16
DONE_OK, DONE_PARTIAL, DONE_SHORT, DONE_UNSUPPORTED, DONE_CANCELLED = range(5)
NO_DRIVER, BUSY, RELEASE_OFF = 16, 17, 18
ANEW = 1
PURGE_OK, PURGE_PARTIAL, PURGE_BUSY, PURGE_OFF = range(4)
COLLECT_NO_KERNEL, COLLECT_HOST_SHORT = 19, 20
TABLES_CAN, TABLES_MOVES = 1, 2
SKIPPED = ("other", "locked", "hugetlb", "shared", "file")  # by EBB_SKIPPED_*
TABLES_KEEP, TABLES_OFF, TABLES_ON_DEMAND, TABLES_BACKGROUND = range(4)
CONTENT_HARDENED, CONTENT_GUEST = 1, 2
MERGE_KEEP, MERGE_OFF, MERGE_HINTED, MERGE_ALL = range(4)
MERGE_WHOLE, MERGE_FULL, MERGE_NO_KSM, MERGE_PENDING, MERGE_GUEST = 1, 2, 4, 8, 16
S_TOTAL, S_FREE, S_AVAILABLE, S_CACHED, S_REPORTED, S_REUSED, S_OOM, S_FLAGS = range(1, 9)
REASONS, STATS = 9, 9
MIB = 1 << 20


def message(kind, body, length=None, reserved=0):
    """A message with its header. length: said in the header, if it is to be wrong."""
    size = 8 + len(body)
    return struct.pack("<HHL", kind, reserved, size if length is None else length) + body


def hello(name=b"guest", low=1, high=1, front=FRONT_EBB, **header):
    return message(HELLO, struct.pack("<HHL64s", low, high, front, name), **header)


def sample(flags=F_DRIVER, mode=LAZY, stage=PLENTY, reserved=0, counters=(), guest=None, **header):
    """counters: ram, refused, requests, ranges, violations, marked, discarded, purged, released."""
    counters = list(counters) + [0] * (9 - len(counters))
    stats = [0] * STATS
    for tag, value in (guest or {}).items():
        stats[tag] = value
        flags |= F_GUEST
    return message(SAMPLE, struct.pack("<LLLL9Q9Q9Q", flags, mode, stage, reserved, *counters,
                                       *range(REASONS), *stats), **header)


def release_done(number, offered=0, discarded=0, usec=0, status=DONE_OK, passes=1, **header):
    return message(RELEASE_DONE, struct.pack("<QQQQLL", number, offered, discarded, usec, status,
                                             passes), **header)


def purge_done(number, purged=0, usec=0, status=PURGE_OK, reserved=0, **header):
    return message(PURGE_DONE, struct.pack("<QQQLL", number, purged, usec, status, reserved),
                   **header)


def content(flags=0, reserved=0, blocks=0, marked=0, purged=0, notices=0, guest=None, **header):
    """guest: volatile bytes, pages taken back whole, pages found purged."""
    if guest:
        flags |= CONTENT_GUEST
    return message(CONTENT, struct.pack("<LL7Q", flags, reserved, blocks, marked, purged, notices,
                                        *(guest or (0, 0, 0))), **header)


def collect_done(number, counts=(0, 0, 0, 0, 0), usec=0, status=DONE_OK, reserved=0, **header):
    """counts: found, asked, offered, freed, refused."""
    return message(COLLECT_DONE, struct.pack("<QQQQQQQLL", number, *counts, usec, status, reserved),
                   **header)


def tables(flags=TABLES_CAN, mode=TABLES_ON_DEMAND, collections=0, counts=(0, 0, 0, 0, 0), skipped=0,
           failed=0, unplugged=0, skipped_by=(0, 0, 0, 0, 0), **header):
    return message(TABLES, struct.pack("<LL14Q", flags, mode, collections, *counts, skipped, failed,
                                       unplugged, *skipped_by), **header)


def merge_state(mode=MERGE_HINTED, flags=0, counters=(), guest=None, **header):
    """counters: hinted, marked, areas, marks, unmarks, failures, usec, longest usec. guest:
    hinted bytes, cache bytes, passes, usec."""
    counters = list(counters) + [0] * (8 - len(counters))
    if guest:
        flags |= MERGE_GUEST
    return message(MERGE_STATE, struct.pack("<LL12Q", flags, mode, *counters,
                                            *(guest or (0, 0, 0, 0))), **header)


@dataclasses.dataclass
class Welcome:
    version: int
    sample_interval_msec: int


@dataclasses.dataclass
class Policy:
    mode: int
    stage: int


@dataclasses.dataclass
class Release:
    id: int
    bytes: int
    flags: int


@dataclasses.dataclass
class Purge:
    id: int
    bytes: int


@dataclasses.dataclass
class TablesPolicy:
    mode: int
    delay_msec: int
    amount: int
    least: int


@dataclasses.dataclass
class Collect:
    id: int


@dataclasses.dataclass
class Merge:
    mode: int


@dataclasses.dataclass
class Refuse:
    text: str


def decode(packet):
    kind, reserved, length = struct.unpack_from("<HHL", packet)
    body = packet[8:]
    assert reserved == 0 and length == len(packet)
    if kind == WELCOME:
        return Welcome(*struct.unpack("<LL", body))
    if kind == POLICY:
        return Policy(*struct.unpack("<LL", body))
    if kind == RELEASE:
        number, size, flags, zero = struct.unpack("<QQLL", body)
        assert zero == 0 and number != 0 and size != 0
        return Release(number, size, flags)
    if kind == PURGE:
        number, size = struct.unpack("<QQ", body)
        assert number != 0 and size != 0
        return Purge(number, size)
    if kind == TABLES_POLICY:
        return TablesPolicy(*struct.unpack("<LLQQ", body))
    if kind == COLLECT:
        number, = struct.unpack("<Q", body)
        assert number != 0
        return Collect(number)
    if kind == MERGE:
        mode, zero = struct.unpack("<LL", body)
        assert zero == 0
        return Merge(mode)
    assert kind == REFUSE
    text, = struct.unpack("<128s", body)
    text, _, rest = text.partition(b"\0")
    assert text and not rest.strip(b"\0")
    return Refuse(text.decode("ascii"))


class Executor:
    """One connection to ebbd, driven by the test."""

    def __init__(self, path=None, sock=None):
        self.sock = sock or socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(30)
        if path:
            self.sock.connect(str(path))

    def send(self, packet):
        self.sock.send(packet)

    def receive(self):
        """The next message, or None at the end of the connection."""
        packet = self.sock.recv(4096)
        return decode(packet) if packet else None

    def expect(self, kind):
        got = self.receive()
        assert isinstance(got, kind), got
        return got

    def expect_policy(self, mode=None, stage=None):
        """Skips policies until the wanted one; any other message is an error."""
        while True:
            got = self.expect(Policy)
            if (mode is None or got.mode == mode) and (stage is None or got.stage == stage):
                return got

    def expect_refused(self):
        """REFUSE and then the end; returns its text. Policies that were under way are skipped."""
        while True:
            got = self.receive()
            if not isinstance(got, (Policy, Welcome)):
                break
        assert isinstance(got, Refuse), got
        assert self.receive() is None
        return got.text

    def expect_end(self):
        while self.receive() is not None:
            pass

    def hello(self, name=b"guest", **keys):
        """HELLO, WELCOME and the first POLICY."""
        self.send(hello(name, **keys))
        self.welcome = self.expect(Welcome)
        self.policy = self.expect(Policy)
        if self.welcome.version >= 3:
            self.tables_policy = self.expect(TablesPolicy)
        return self

    def close(self):
        self.sock.close()
