# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keeps the memory that a guest gave up within this host until the guest wants it again.

A host that is itself a guest may report its own free memory to its hypervisor; what was free for
two seconds then costs ten times as much to touch, which is none of the business of the bench and
would make everything that discards look worse than it is. So what a guest gives up is taken at
once, and freed again a little ahead of the guest's next use: on the processor where the guest runs,
since each processor keeps what was freed on it.
"""
import contextlib
import mmap
import os
import pathlib
import threading

from .lab import MIB, rss_bytes

CHUNK_BYTES = 16 * MIB
AHEAD_BYTES = 128 * MIB
POLL_SEC = 0.002
MADV_HUGEPAGE = 14
MADV_POPULATE_WRITE = 23


class Reserve:
    def __init__(self):
        self.chunks = []

    def take(self, size_bytes):
        """Hold at least so much in all."""
        while len(self.chunks) * CHUNK_BYTES < size_bytes:
            chunk = mmap.mmap(-1, CHUNK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            chunk.madvise(MADV_HUGEPAGE)
            chunk.madvise(MADV_POPULATE_WRITE)
            self.chunks.append(chunk)

    def drop(self, size_bytes):
        """Free so much of it, if there is so much."""
        while self.chunks and size_bytes > 0:
            self.chunks.pop().close()
            size_bytes -= CHUNK_BYTES

    def feed(self, guest):
        """What the guest touches inside of this was freed just before."""
        return _Feed(self, guest)


class _Feed:
    def __init__(self, reserve, guest):
        self.reserve = reserve
        self.pid = guest.pid
        self.vcpu = guest.qmp.command("query-cpus-fast")[0]["thread-id"]
        self.end = threading.Event()
        self.dropped = 0

    def __enter__(self):
        self.start = rss_bytes(self.pid)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _vcpu_runs_on(self):
        text = pathlib.Path(f"/proc/{self.pid}/task/{self.vcpu}/stat").read_text()
        return int(text.rpartition(")")[2].split()[36])

    @contextlib.contextmanager
    def _beside_vcpu(self):
        everywhere = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._vcpu_runs_on()})
        try:
            yield
        finally:
            os.sched_setaffinity(0, everywhere)

    def _run(self):
        while self.reserve.chunks:
            ahead = rss_bytes(self.pid) - self.start + AHEAD_BYTES - self.dropped
            if ahead >= CHUNK_BYTES:
                with self._beside_vcpu():
                    self.reserve.drop(ahead)
                self.dropped += -(-ahead // CHUNK_BYTES) * CHUNK_BYTES
            if self.end.wait(POLL_SEC):
                return

    def __exit__(self, *error):
        self.end.set()
        self.thread.join()
        self.reserve.drop(len(self.reserve.chunks) * CHUNK_BYTES)
