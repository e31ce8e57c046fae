# SPDX-License-Identifier: LGPL-2.1-or-later
"""ebbd's side of the agent protocol, so that a test can say mode and stage itself, and send
what no ebbd would. The wire: proto/agent.h."""
import select
import socket
import struct

from .wait import wait_for

MSG_HELLO, MSG_WELCOME, MSG_SAMPLE, MSG_POLICY, MSG_RELEASE_DONE, MSG_RELEASE = range(1, 7)
MSG_PURGE_DONE, MSG_PURGE, MSG_CONTENT = 9, 10, 11  # from version 2 on
PURGE_OK, PURGE_PARTIAL, PURGE_BUSY, PURGE_OFF = range(4)
CONTENT_F_HARDENED, CONTENT_F_GUEST = 1, 2
MODE_KEEP, MODE_OFF, MODE_LAZY, MODE_EAGER, MODE_AUTO = range(5)
STAGE_PLENTY, STAGE_NEARING, STAGE_SHORT = 1, 2, 3
SAMPLE_F_DRIVER, SAMPLE_F_BROKEN, SAMPLE_F_INHIBITED, SAMPLE_F_MERGEABLE, SAMPLE_F_GUEST = (
    1, 2, 4, 8, 16)
SAMPLE_FIELDS = ("flags mode stage reserved ram_bytes refused_ram_bytes requests ranges violations "
                 "marked_bytes discarded_bytes purged_seen_bytes released_bytes").split()


CONTENT_FIELDS = ("flags reserved block_bytes marked_bytes purged_bytes notices "
                  "guest_volatile_bytes guest_taken_whole_pages guest_taken_purged_pages").split()


def message(kind, body):
    return struct.pack("<HHL", kind, 0, 8 + len(body)) + body


def parse_sample(data):
    values = struct.unpack_from("<LLLL9Q", data, 8)
    found = dict(zip(SAMPLE_FIELDS, values))
    rest = struct.unpack_from("<18Q", data, 8 + 16 + 72)
    found["not_marked_bytes"], found["guest"] = list(rest[:9]), list(rest[9:])
    return found


class FakeAgent:
    """Listens at path. accept() waits for the executor and welcomes it."""

    def __init__(self, path):
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.peer = None
        self.name = None

    def accept(self, interval_msec=100, limit=120, version=1):
        wait_for(lambda: select.select([self.listener], [], [], 0.1)[0],
                 "the executor to connect", limit)
        self.peer, _ = self.listener.accept()
        hello = self.receive(MSG_HELLO)
        _, _, self.front = struct.unpack_from("<HHL", hello, 8)
        self.name = hello[16:80].split(b"\0")[0].decode()
        self.peer.send(message(MSG_WELCOME, struct.pack("<LL", version, interval_msec)))
        return self

    def receive(self, kind, limit=120):
        """The next message of that kind; others are passed over."""
        while True:
            wait_for(lambda: select.select([self.peer], [], [], 0.1)[0],
                     f"message {kind} from the executor", limit)
            data = self.peer.recv(4096)
            if not data:
                raise EOFError("the executor closed the link")
            got, _, length = struct.unpack_from("<HHL", data)
            assert length == len(data)
            if got == kind:
                return data

    def sample(self, accept=lambda s: True, limit=120):
        """The next sample that accept() likes."""
        last = {}

        def look():
            last.update(parse_sample(self.receive(MSG_SAMPLE, limit)))
            return accept(last) and dict(last)
        return wait_for(look, lambda: f"a sample; the last was {last}", limit, 0)

    def policy(self, mode, stage=STAGE_NEARING):
        """Say it, and wait until a sample shows it in force."""
        self.peer.send(message(MSG_POLICY, struct.pack("<LL", mode, stage)))
        return self.sample(lambda s: s["stage"] == stage and mode in (MODE_KEEP, s["mode"]))

    def release(self, number, size, flags=0):
        self.peer.send(message(MSG_RELEASE, struct.pack("<QQLL", number, size, flags, 0)))

    def release_done(self):
        data = self.receive(MSG_RELEASE_DONE)
        fields = struct.unpack_from("<QQQQLL", data, 8)
        return dict(zip("id offered_bytes discarded_bytes usec status passes".split(), fields))

    def purge(self, number, size):
        self.peer.send(message(MSG_PURGE, struct.pack("<QQ", number, size)))

    def purge_done(self):
        fields = struct.unpack_from("<QQQL", self.receive(MSG_PURGE_DONE), 8)
        return dict(zip("id purged_bytes usec status".split(), fields))

    def content(self, accept=lambda c: True, limit=120):
        """The next figures of memory with content that accept() likes."""
        last = {}

        def look():
            data = self.receive(MSG_CONTENT, limit)
            last.update(zip(CONTENT_FIELDS, struct.unpack_from("<LL7Q", data, 8)))
            return accept(last) and dict(last)
        return wait_for(look, lambda: f"figures of content; the last were {last}", limit, 0)

    def hang_up(self):
        """As if ebbd had died: the link and the socket are gone."""
        if self.peer:
            self.peer.close()
        self.listener.close()
        self.path.unlink(missing_ok=True)
