# SPDX-License-Identifier: LGPL-2.1-or-later
"""One boot of the nested host: runs the cases given, and tells how each ended."""
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import time

import image
from harness.guest import KERNEL_TROUBLE, accelerator

MEMORY_MIB = 4096
OUT_MIB = 1024  # sparse
BOOT_LIMIT = 600
# no_timer_check: for the reason that the guests have it.
COMMAND_LINE = ("console=ttyS0 loglevel=5 panic=-1 quiet random.trust_cpu=on intel_iommu=on "
                "no_timer_check rcupdate.rcu_cpu_stall_timeout=300")
# QEMU 7.2's emulation of SVM clears a bit of the processor's pending interrupts without its lock,
# and with it now and then the word that the timer fired. The timer's interrupt stays pending, and
# any other one has it noticed: so one comes from outside all the time, by the second serial port.
NUDGE_INTERVAL = 0.2
# A device behind an IOMMU that the host itself has no use for: cases give it to a guest.
SPARE = ["-device", "intel-iommu,intremap=off",
         "-device", "virtio-rng-pci,disable-legacy=on,iommu_platform=on"]


def acceleration():
    """KVM where it nests, else TCG, which emulates a processor with SVM and nested paging."""
    for module in ("kvm_amd", "kvm_intel"):
        nested = pathlib.Path(f"/sys/module/{module}/parameters/nested")
        if accelerator() == "kvm" and nested.exists() and nested.read_text().strip() in "Y1":
            return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "max,-xsave,-avx,-avx2,-f16c,-fma,-pku"]


class Host:
    """words(): what the plugin in it says, until it has ended or said nothing for too long."""

    def __init__(self, emulator, kernel, disks, work, logs, cases, environment):
        self.work, self.logs = work, logs
        self.console_path = logs / "console.log"
        self.killed_for = None
        logs.mkdir(parents=True, exist_ok=True)
        request = work / "request"
        request.mkdir()
        (request / "request").write_text("".join(f"{case}\n" for case in cases))
        (request / "environment").write_text(
            "".join(f"{key}={value}\n" for key, value in environment.items()))
        self.out_disk = work / "out.img"
        image.make_disk(self.out_disk, OUT_MIB, request)
        shutil.rmtree(request)
        initrd = work / "initramfs.cpio"
        image.write_initramfs(kernel, initrd)
        self.socket, theirs = socket.socketpair()
        line = [*emulator.command, *acceleration(), "-smp", "1", "-m", str(MEMORY_MIB), "-M", "q35,mem-merge=off",
                "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", *SPARE,
                "-kernel", kernel.vmlinux, "-initrd", initrd, "-append", COMMAND_LINE,
                "-serial", f"file:{self.console_path}",
                "-chardev", f"socket,id=words,fd={theirs.fileno()}", "-serial", "chardev:words"]
        for number, (path, snapshot) in enumerate([*((d, "on") for d in disks),
                                                   (self.out_disk, "off")]):
            line += ["-drive", f"if=none,id=d{number},file={path},format=raw,snapshot={snapshot},"
                     "cache=unsafe", "-device", f"virtio-blk-pci,drive=d{number}"]
        with open(logs / "qemu.log", "wb") as log:
            # It dies with us, whatever ends us.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, line)], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, pass_fds=[theirs.fileno()],
                env={**os.environ, **emulator.environment, "TMPDIR": str(work)}, start_new_session=True)
        theirs.close()

    def words(self, limit):
        """limit: of silence, in seconds. Nothing is said while a case runs, so it is also the
        limit of one case."""
        buffer = b""
        end = time.monotonic() + max(limit, BOOT_LIMIT)
        while True:
            left = end - time.monotonic()
            if left <= 0:
                self.killed_for = f"nothing was heard for {limit:.0f} s"
                return
            if not select.select([self.socket], [], [], min(left, NUDGE_INTERVAL))[0]:
                self.nudge()
                continue
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return  # it was killed, with a nudge still to be read
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                try:
                    yield json.loads(line)
                except ValueError:
                    pass  # a line that the end of the host cut short, or that the firmware wrote
                end = time.monotonic() + limit

    def nudge(self):
        try:
            self.socket.send(b"\n", socket.MSG_DONTWAIT)
        except OSError:
            pass  # it does not listen yet, or not any more

    def finish(self):
        """End it and take its files to the logs."""
        if self.killed_for is None:
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.killed_for = "it did not go down"
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.socket.close()
        with open(self.logs / "disk.log", "wb") as log:
            for command in (["/sbin/e2fsck", "-fy", self.out_disk],
                            ["/sbin/debugfs", "-R", f"rdump / {self.logs}", self.out_disk]):
                subprocess.run(command, stdout=log, stderr=log, check=False)
        shutil.rmtree(self.logs / "lost+found", ignore_errors=True)
        self.out_disk.unlink()

    def console(self):
        if not self.console_path.exists():
            return ""
        return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self.console_path.read_text(errors="replace"))

    def trouble(self):
        """Lines of the whole console that tell of trouble; each case's own are in its report."""
        lines = self.console().splitlines()
        return "\n".join("\n".join(lines[i:i + 12]) for i, line in enumerate(lines)
                         if KERNEL_TROUBLE.search(line))
