# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hold one thread of a process still, as if its system call took that long.

With the executor's thread held, an offer of the guest stays in flight for as long as a test wants.
Never elsewhere than in such a call: with a lock of the executor in its hand all of QEMU, and the
guest with it, would stand still.
"""
import contextlib
import ctypes
import os
import pathlib
import time

from harness.wait import wait_for

MADVISE, PPOLL = 28, 271  # x86-64: what the executor calls without a lock
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WAIT_ALL = 0x40000000  # __WALL


def _ptrace(request, tid):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, tid, None, None) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of thread {tid}")


def threads(pid, name):
    found = []
    for task in (pathlib.Path("/proc") / str(pid) / "task").iterdir():
        if (task / "comm").read_text().strip() == name:
            found.append(int(task.name))
    return found


def system_call(tid):
    """The number of the one that a stopped thread is in; -1: none."""
    return int(pathlib.Path(f"/proc/{tid}/syscall").read_text().split()[0])


def _let_go(tid):
    try:
        _ptrace(PTRACE_DETACH, tid)
    except OSError:
        # The process is gone. Its parent sees that only when we have buried its thread.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(tid, WAIT_ALL)


def _stop(tid):
    """True: it is held in a call without a lock."""
    _ptrace(PTRACE_SEIZE, tid)
    try:
        _ptrace(PTRACE_INTERRUPT, tid)
        os.waitpid(tid, WAIT_ALL)
        if system_call(tid) in (MADVISE, PPOLL):
            return True
    except BaseException:
        _let_go(tid)
        raise
    _let_go(tid)
    time.sleep(0.001)
    return False


@contextlib.contextmanager
def held(pid, name):
    """Hold the only thread of that name. Must be entered and left by the same thread."""
    tids = threads(pid, name)
    if len(tids) != 1:
        raise AssertionError(f"process {pid} has {len(tids)} threads called {name}")
    tid = tids[0]
    wait_for(lambda: _stop(tid), f"thread {tid} ({name}) to be in a system call", interval=0)
    try:
        yield tid
    finally:
        _let_go(tid)
