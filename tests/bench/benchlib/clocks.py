# SPDX-License-Identifier: LGPL-2.1-or-later
"""CPU time of another process, finer than the kernel's tick.

All CPU time of a process is known to the nanosecond (its scheduler clock). How much of it was
spent in the kernel is not: most kernels guess that at each tick, every 4 ms, and a refill of huge
pages is over in ten of these. So the kernel's share is sampled with perf's cpu-clock event
20,000 times a second.
"""
import ctypes
import mmap
import os
import pathlib
import struct
import time

PERIOD_NSEC = 50_000
RING_PAGES = 1024  # 13 s of nothing but kernel
PAGE_BYTES = mmap.PAGESIZE
SYS_PERF_EVENT_OPEN = 298  # x86-64
SW_CPU_CLOCK = (1, 0)  # type and config
SAMPLE_TID = 1 << 1
FLAG_DISABLED = 1 << 0
FLAG_EXCLUDE_USER = 1 << 4
FLAG_EXCLUDE_IDLE = 1 << 7
IOC_ENABLE = 0x2400
IOC_DISABLE = 0x2401
CLOEXEC = 8
RECORD_LOST = 2
RECORD_THROTTLE = 5
RECORD_SAMPLE = 9
HEAD_OFFSET = 1024

libc = ctypes.CDLL(None, use_errno=True)


def cpu_nsec(pid):
    """All CPU time of the process: every thread, ended ones included, user and kernel."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def _stat(pid, field):
    """A field of /proc/PID/stat by its number in proc(5)."""
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[field - 3])


def minor_faults(pid):
    """Page faults that the host's kernel served for the process without reading a disk."""
    return _stat(pid, 10)


def system_nsec(pid):
    """The kernel's own guess of its share."""
    return _stat(pid, 15) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class SamplingRefused(RuntimeError):
    pass


class _CpuEvent:
    """Samples of one processor. One for each thread would be simpler, and wrong: such a timer
    starts anew at each context switch and finds the kernel too often."""

    def __init__(self, cpu):
        flags = FLAG_DISABLED | FLAG_EXCLUDE_USER | FLAG_EXCLUDE_IDLE
        attr = struct.pack("=IIQQQQQIIQ", SW_CPU_CLOCK[0], 64, SW_CPU_CLOCK[1], PERIOD_NSEC,
                           SAMPLE_TID, 0, flags, 0, 0, 0)
        self.fd = libc.syscall(SYS_PERF_EVENT_OPEN, attr, -1, cpu, -1, ctypes.c_ulong(CLOEXEC))
        if self.fd < 0:
            err = ctypes.get_errno()
            raise SamplingRefused(f"perf_event_open: {os.strerror(err)}: the bench samples the "
                                  "host's kernel time and needs root and a kernel with perf events")
        self.ring = mmap.mmap(self.fd, (1 + RING_PAGES) * PAGE_BYTES)

    def ioctl(self, request):
        if libc.ioctl(self.fd, ctypes.c_ulong(request), 0):
            raise OSError(ctypes.get_errno(), "ioctl of a perf event")

    def close(self):
        self.ring.close()
        os.close(self.fd)

    def count(self, pid):
        """(samples in the kernel for the process, samples that did not get through)"""
        head, = struct.unpack_from("=Q", self.ring, HEAD_OFFSET)
        at = seen = lost = 0
        while at < head:
            where = PAGE_BYTES + at % (RING_PAGES * PAGE_BYTES)
            kind, _, size, of = struct.unpack_from("=IHHI", self.ring, where)
            seen += kind == RECORD_SAMPLE and of == pid
            lost += kind in (RECORD_LOST, RECORD_THROTTLE)
            at += size
        return seen, lost


class KernelTime:
    """with KernelTime(pid) as t: ...; then t.kernel_nsec is what the host's kernel worked for the
    process meanwhile, t.cpu_nsec all its CPU time, t.faults its page faults. guess: where nobody
    may sample, take the kernel's guess, which will do for seconds."""

    def __init__(self, pid, guess=False):
        self.pid = pid
        self.guess = guess
        self.kernel_nsec = self.cpu_nsec = self.faults = self.lost = 0

    def __enter__(self):
        self.events = []
        try:
            for cpu in sorted(os.sched_getaffinity(0)):
                self.events.append(_CpuEvent(cpu))
        except SamplingRefused:
            self._close()
            if not self.guess:
                raise
            self.kernel_nsec = -system_nsec(self.pid)
        self.start = cpu_nsec(self.pid), minor_faults(self.pid)
        for event in self.events:
            event.ioctl(IOC_ENABLE)
        return self

    def __exit__(self, *error):
        for event in self.events:
            event.ioctl(IOC_DISABLE)
        self.cpu_nsec = cpu_nsec(self.pid) - self.start[0]
        self.faults = minor_faults(self.pid) - self.start[1]
        for event in self.events:
            seen, lost = event.count(self.pid)
            self.kernel_nsec += seen * PERIOD_NSEC
            self.lost += lost
        if not self.events:
            self.kernel_nsec += system_nsec(self.pid)
        self._close()

    def _close(self):
        for event in self.events:
            event.close()
        self.events = []
