# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hold one thread of a process still, as if its system call took that long.

With the executor's thread held, an offer of the guest stays in flight for as long as a test wants.
"""
import contextlib
import ctypes
import os
import pathlib

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


@contextlib.contextmanager
def held(pid, name):
    """Hold the only thread of that name. Must be entered and left by the same thread."""
    tids = threads(pid, name)
    if len(tids) != 1:
        raise AssertionError(f"process {pid} has {len(tids)} threads called {name}")
    tid = tids[0]
    _ptrace(PTRACE_SEIZE, tid)
    try:
        _ptrace(PTRACE_INTERRUPT, tid)
        os.waitpid(tid, WAIT_ALL)
        yield tid
    finally:
        try:
            _ptrace(PTRACE_DETACH, tid)
        except OSError:
            # The process is gone. Its parent sees that only when we have buried its thread.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(tid, WAIT_ALL)
