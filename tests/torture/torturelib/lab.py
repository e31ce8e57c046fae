# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything that a run starts; leaving it ends and removes all of it."""
import contextlib
import fcntl
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

from harness import initramfs
from harness import kernel as kernel_mod

from . import ebbd, host, subject

LOCK = pathlib.Path(tempfile.gettempdir(), "ebb-torture.lock")
# (front, is its memory mergeable as a whole at the start, the device's way of merging): what the
# guest hints, KSM that comes and goes, KSM always.
ROLES = [("ebb", False, "hinted"), ("ebb", True, "keep"), ("balloon", True, "keep")]
# What all guests read, as those of one image do.
IMAGE_MIB = 24


def say(text):
    print(text, file=sys.stderr, flush=True)


class CannotRun(Exception):
    """Something that a run needs is not here."""


class Lab:
    def __init__(self, args):
        self.build = pathlib.Path(args.build).resolve()
        self.seed = args.seed
        self.with_ebb = not args.without_ebb
        self.nr_guests = args.guests
        self.memory_mib = args.memory
        self.spoil = args.spoil
        self.keep = args.logs and pathlib.Path(args.logs).resolve()
        self.stack = contextlib.ExitStack()
        self.subjects = []
        self.ksm = host.Ksm()
        self.ebbd = None

    def __enter__(self):
        try:
            self._prepare()
        except BaseException:
            self.stack.close()
            raise
        return self

    def _prepare(self):
        # One at a time: KSM's settings are the host's.
        lock = self.stack.enter_context(open(LOCK, "w", encoding="ascii"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="ebb-torture-"))
        self.stack.callback(shutil.rmtree, self.work, ignore_errors=True)
        self.logs = self.keep or self.work
        if self.keep:
            for index in range(self.nr_guests):
                shutil.rmtree(self.logs / f"g{index}", ignore_errors=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        programs = [self.need(f"tests/guest/{name}") for name in ("agent", "torture", "volwork")]
        drivers = [self.need("guest-driver/virtio_ebb.ko")] if self.with_ebb else []
        self.kernel = kernel_mod.fetch()
        self.initrd = self.work / "initramfs.cpio"
        self.modules = initramfs.build(self.kernel, self.initrd, programs, drivers)
        self.common_seed = random.Random(f"{self.seed}/common").getrandbits(63)
        self.image = self.work / "image"
        subprocess.run([programs[1], "-S", str(self.common_seed), "-m", str(IMAGE_MIB),
                        "-I", self.image], check=True)
        self.stack.callback(self.ksm.restore)
        self.ksm.start()
        if self.with_ebb:
            self.need("host-agent/ebbctl")
            self.need("host-agent/ebbd")
            self.ebbd = ebbd.Ebbd(self.build, self.work)
            self.stack.callback(self.ebbd.close)
            self.ebbd.start("nearing")

    def __exit__(self, *error):
        self.stack.close()

    def boot_all(self):
        for index in range(self.nr_guests):
            front, merge, way = ROLES[index % len(ROLES)]
            one = subject.Subject(self, index, front if self.with_ebb else "none", merge, way)
            one.spoil = self.spoil and index == 0
            self.subjects.append(one)
            self.stack.callback(one.close)
            one.begin_boot()
        for one in self.subjects:
            one.booting.join()
            one.look()

    def need(self, relative):
        path = self.build / relative
        if not path.exists():
            raise CannotRun(f"{path} is missing: build first, with the device, the driver and the "
                            f"agent: meson setup {self.build} && ninja -C {self.build}")
        return path

    def qemu(self, front):
        if front == "none":
            return "qemu-system-x86_64"
        return self.need("vmm/qemu/qemu-system-x86_64-ebb")

    def order(self, name):
        return kernel_mod.load_order(self.modules, [name])
