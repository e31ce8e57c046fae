# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the host does to a process from outside: advice, scheduling, KSM's settings."""
import ctypes
import os
import pathlib

MADV_COLD, MADV_PAGEOUT, MADV_COLLAPSE = 20, 21, 25
SYS_PROCESS_MADVISE = 440
MIB = 1 << 20

libc = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def process_madvise(pid, start, length, advice):
    """Advise another process's memory. Returns the errno, 0 if it went well."""
    fd = os.pidfd_open(pid)
    try:
        vec = Iovec(start, length)
        done = libc.syscall(ctypes.c_long(SYS_PROCESS_MADVISE), ctypes.c_long(fd),
                            ctypes.byref(vec), ctypes.c_ulong(1), ctypes.c_long(advice),
                            ctypes.c_ulong(0))
        return ctypes.get_errno() if done < 0 else 0
    finally:
        os.close(fd)


def cpus():
    return os.sched_getaffinity(0)


def thread_ids(pid):
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def thread_name(pid, tid):
    try:
        return pathlib.Path(f"/proc/{pid}/task/{tid}/comm").read_text().strip()
    except OSError:
        return ""


def starve_executor(pid, cpu):
    """The whole process on one processor, and its executor only when nobody else wants to run:
    what it puts off is put off for long."""
    for tid in thread_ids(pid):
        try:
            os.sched_setaffinity(tid, {cpu})
            if thread_name(pid, tid) == "ebb-executor":
                os.sched_setscheduler(tid, os.SCHED_IDLE, os.sched_param(0))
        except ProcessLookupError:
            pass


def feed_executor(pid):
    try:
        for tid in thread_ids(pid):
            os.sched_setaffinity(tid, cpus())
            if thread_name(pid, tid) == "ebb-executor":
                os.sched_setscheduler(tid, os.SCHED_OTHER, os.sched_param(0))
    except (ProcessLookupError, FileNotFoundError):
        pass


class Ksm:
    """KSM's settings: the host's own are put back at the end."""

    DIR = pathlib.Path("/sys/kernel/mm/ksm")
    # What is asked at the start; a kernel that does not have one is passed over.
    START = {"run": 0, "advisor_mode": "none", "smart_scan": 0, "use_zero_pages": 0,
             "sleep_millisecs": 20, "pages_to_scan": 3000}

    def __init__(self):
        self.saved = {}
        self.scans = 0
        self.turns = 25
        self.last_scans = int(self.read("full_scans") or 0)
        self.thread = self.nice = None
        self.usable = os.access(self.DIR / "run", os.W_OK)

    def read(self, name):
        try:
            text = (self.DIR / name).read_text()
        except OSError:
            return None
        # A choice is shown as "[none] scan-time".
        return text.partition("[")[2].partition("]")[0] if "[" in text else text.strip()

    def write(self, name, value):
        try:
            (self.DIR / name).write_text(str(value))
        except OSError:
            pass  # not in this kernel, or not while pages are merged

    def start(self):
        if not self.usable:
            return
        self.saved = {name: self.read(name) for name in self.START}
        for name, value in self.START.items():
            self.write(name, value)
        self.write("run", 1)
        # It has to keep up with guests that change all of their memory all the time.
        self.thread = find_process("ksmd")
        if self.thread:
            self.nice = os.getpriority(os.PRIO_PROCESS, self.thread)
            os.setpriority(os.PRIO_PROCESS, self.thread, -10)

    def pace(self, turns=None):
        """So many pages a turn that a full scan takes that many turns, however much others have mergeable."""
        self.turns = turns or self.turns
        known = sum(int(self.read(name) or 0) for name in
                    ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile"))
        self.write("pages_to_scan", max(2000, known // self.turns))

    def count_scans(self):
        """Full scans so far; the kernel counts anew after everything was unmerged."""
        if not self.usable:
            return 0
        now = int(self.read("full_scans") or 0)
        self.scans += now - self.last_scans if now >= self.last_scans else now
        self.last_scans = now
        return self.scans

    def restore(self):
        # The advisor may refuse values that it sets itself: it comes first, run comes last.
        for name in sorted(self.saved, key=lambda n: (n == "run", n)):
            if self.saved[name] is not None:
                self.write(name, self.saved[name])
        if self.thread:
            os.setpriority(os.PRIO_PROCESS, self.thread, self.nice)
        self.saved, self.thread = {}, None

    @staticmethod
    def merged_pages(pid):
        try:
            return int(pathlib.Path(f"/proc/{pid}/ksm_merging_pages").read_text())
        except (OSError, ValueError):
            return 0


def find_process(name):
    for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == name:
                return int(path.parent.name)
        except OSError:
            pass
    return None
