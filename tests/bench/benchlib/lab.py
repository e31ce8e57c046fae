# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests of the bench: boot them, with huge pages on the host or without, and end them."""
import contextlib
import ctypes
import functools
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

from harness import guest as guest_mod
from harness import initramfs
from harness import kernel as kernel_mod
from harness import wait

from . import agent

PR_SET_THP_DISABLE = 41
MIB = 1 << 20
PAGE_BYTES = 4096
# Emulated, one `rep stosb` of 4 KiB costs as much as eight of the `rep stosq` that the guest's
# kernel takes without these two: zeroing would hide everything else.
TCG_CPU = ["-cpu", "max,-erms,-fsrm"]

libc = ctypes.CDLL(None, use_errno=True)


def say(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def host_pages(kind):
    """What is started inside gets huge pages (thp: QEMU asks for them itself) or none (4k)."""
    libc.prctl(PR_SET_THP_DISABLE, int(kind == "4k"), 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)


def rss_bytes(pid):
    """Of the process, without a walk over its page tables."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def host_facts():
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.splitlines()[0]
    thp = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    return {"kernel": platform.release(), "cpus": os.cpu_count(), "qemu": qemu,
            "accel": guest_mod.accelerator(), "thp": thp[thp.index("[") + 1:thp.index("]")]}


class Lab:
    """Everything that the bench starts; leaving it ends and removes all of it."""

    def __init__(self, build, programs=("agent", "memwork"), dynamic=()):
        """programs: static ones of tests/guest. dynamic: paths below the build directory, or others,
        of programs and libraries that come along with what they need."""
        self.programs = programs
        self.dynamic = dynamic
        self.build = pathlib.Path(build).resolve()
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="ebb-bench-"))
        self.stack.callback(shutil.rmtree, self.work, ignore_errors=True)
        self.kernel = kernel_mod.fetch()
        programs = [self.need(f"tests/guest/{name}") for name in self.programs]
        driver = self.need("guest-driver/virtio_ebb.ko")
        self.initrd = self.work / "initramfs.cpio"
        self.modules = initramfs.build(self.kernel, self.initrd, programs, [driver],
                                       [self.need(name) for name in self.dynamic])
        return self

    def __exit__(self, *error):
        self.stack.close()

    @functools.cached_property
    def agent(self):
        found = agent.Agent(self.work / "agent.sock")
        self.stack.callback(found.close)
        return found

    def need(self, relative):
        path = self.build / relative
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: build first, with the device, the driver "
                                    f"and the agent: meson setup {self.build} && "
                                    f"ninja -C {self.build}")
        return path

    @contextlib.contextmanager
    def boot(self, name, pages, memory_mib, *, ebb=False, modules=(), parameters="",
             extra=(), quick_zeroing=True, **options):
        """A guest that has come up; ended when the with block is left. quick_zeroing: on an
        emulated processor without what is slow there; else as QEMU emulates it."""
        binary = self.need("vmm/qemu/qemu-system-x86_64-ebb") if ebb else "qemu-system-x86_64"
        cpu = TCG_CPU if quick_zeroing and guest_mod.accelerator() == "tcg" else []
        with host_pages(pages):
            guest = guest_mod.Guest(binary=binary, kernel=self.kernel, initrd=self.initrd,
                                    log_dir=self.work / name, memory_mib=memory_mib,
                                    extra=[*cpu, *extra], **options)
        try:
            guest.wait_boot()
            for module in modules:
                guest.insmod(kernel_mod.load_order(self.modules, [module]), parameters)
            yield guest
            trouble = guest.kernel_trouble()
            if trouble:
                raise RuntimeError(f"{name}: the guest's kernel complained:\n{trouble}")
        finally:
            guest.kill()


class Toucher:
    """memwork in a guest: maps, touches and frees memory on command."""

    def __init__(self, guest, mib):
        self.guest = guest
        self.pages = mib * MIB // PAGE_BYTES
        self.command = guest.spawn(f"memwork -m {mib} -c")

    def close(self):
        self.command.close_input()
        self.command.wait()

    def touch(self):
        """Use every page once and free all. Returns nanoseconds, as the guest saw it."""
        words = self.command.ask("touch").split()
        if words[:2] != ["ok", "touched"] or int(words[2]) != self.pages:
            raise RuntimeError(f"memwork did not touch {self.pages} pages: {' '.join(words)}")
        self.command.read_line()  # its account
        return int(words[5])


def wait_until(condition, what, limit, interval, guest):
    wait.wait_for(condition, what, limit, interval, guest.check_alive)
