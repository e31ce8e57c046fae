# SPDX-License-Identifier: LGPL-2.1-or-later
"""Have the host's kernel page out another process's memory: what is lazily freed there goes."""
import ctypes
import os

SYS_PROCESS_MADVISE = 440
PAGEOUT, COLLAPSE = 21, 25


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_size_t), ("bytes", ctypes.c_size_t)]


def advise(pid, start, size, advice):
    """process_madvise() in pieces of 32 MiB."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    fd = os.pidfd_open(pid)
    try:
        end = start + size
        while start < end:
            piece = min(end - start, 32 << 20)
            iovec = _Iovec(start, piece)
            done = libc.syscall(SYS_PROCESS_MADVISE, fd, ctypes.byref(iovec), ctypes.c_size_t(1),
                                advice, 0)
            if done != piece:
                raise OSError(ctypes.get_errno(),
                              f"advice {advice} on {piece} bytes at {start:#x}: {done}")
            start += piece
    finally:
        os.close(fd)


def pageout(pid, start, size):
    advise(pid, start, size, PAGEOUT)


def pageout_ram(guest, gpa, size):
    """Of a guest's RAM, which must be one piece there."""
    pageout(guest.pid, guest.host_address(gpa), size)
