# SPDX-License-Identifier: LGPL-2.1-or-later
"""The smallest agent: it tells each executor the stage that the bench wants, and asks for releases.

The bench stands in for ebbd so that a stage is what the measurement says, not what the memory of
this host happens to be. The wire: proto/agent.h.
"""
import select
import socket
import struct
import time

MSG_HELLO, MSG_WELCOME, MSG_SAMPLE, MSG_POLICY, MSG_RELEASE_DONE, MSG_RELEASE = range(1, 7)
VERSION = 1
MODE_AUTO = 4
STAGES = {"rest": 1, "lazy": 2, "eager": 3}  # plenty, nearing, short
SAMPLE_INTERVAL_MSEC = 3_600_000
RELEASE_OK = (0, 1)  # as asked; all that there is
RELEASE_ANEW = 1
LIMIT_SEC = 60


class Agent:
    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(self.path)
        self.socket.listen(8)

    def accept(self, name):
        """The executor of the guest that was just started. One that was not welcomed in time
        has hung up and called again."""
        self.socket.settimeout(LIMIT_SEC)
        while True:
            peer, _ = self.socket.accept()
            try:
                return Executor(peer, name)
            except BrokenPipeError:
                peer.close()

    def close(self):
        self.socket.close()


class Executor:
    def __init__(self, peer, name):
        self.peer = peer
        self.name = name
        self.releases = 0
        self._receive(MSG_HELLO)
        self._send(MSG_WELCOME, struct.pack("<II", VERSION, SAMPLE_INTERVAL_MSEC))

    def _send(self, kind, body):
        self.peer.send(struct.pack("<HHI", kind, 0, 8 + len(body)) + body)

    def _receive(self, wanted):
        end = time.monotonic() + LIMIT_SEC
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.peer], [], [], left)[0]:
                raise RuntimeError(f"{self.name}: no message {wanted} from the executor")
            message = self.peer.recv(1024)
            if not message:
                raise RuntimeError(f"{self.name}: the executor closed the connection")
            if struct.unpack_from("<H", message)[0] == wanted:
                return message[8:]

    def stage(self, name):
        self._send(MSG_POLICY, struct.pack("<II", MODE_AUTO, STAGES[name]))

    def release(self, size_bytes, anew=False):
        """Ask for so many bytes and wait for the answer. Returns (seconds, bytes, usec): until it
        came, and until the last of the bytes was the host's, as the executor says."""
        self.releases += 1
        start = time.monotonic()
        self._send(MSG_RELEASE, struct.pack("<QQII", self.releases, size_bytes,
                                            RELEASE_ANEW if anew else 0, 0))
        body = self._receive(MSG_RELEASE_DONE)
        seconds = time.monotonic() - start
        number, _, discarded, usec, status, _ = struct.unpack("<QQQQII", body)
        if number != self.releases or status not in RELEASE_OK:
            raise RuntimeError(f"{self.name}: release {number} ended with status {status}")
        return seconds, discarded, usec

    def close(self):
        self.peer.close()
