# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests, QEMU and ebbd end, in the middle of things, under real KVM."""
import os
import signal
import threading
import time

import pytest

from harness import initramfs
from harness.guest import COMMAND_LINE
from harness.hold import held
from harness.wait import wait_for
from test_agent import agent, boot as boot_named  # noqa: F401
from test_driver import EXECUTOR, Ebb, offers_in_flight
from test_guest_memory import FRONTS, boot, finish, stats, wait_lazyfree

MIB = 1 << 20
OURS = FRONTS[1]


def free_under(ebb, work):
    """With the executor held: free memory, and wait until the device has an offer of it."""
    work.ask("free 100")
    wait_for(lambda: offers_in_flight(ebb) > 0, "an offer of the guest", 300)


def churn(ebb, mib):
    """After all: the guest's memory is its own."""
    work = ebb.guest.memwork(mib)
    work.ask(f"fill {mib}")
    work.ask("free 50")
    work.ask("verify")
    work.ask("refill")
    work.ask("verify")
    ebb.finish(work)


def test_reset_with_offers_in_flight(vm, tmp_path):
    """The reset waits for the call that runs; nothing is discarded after it."""
    ebb = Ebb(vm, tmp_path, mode="eager")
    guest = ebb.guest
    for _ in range(2):
        work = guest.memwork(200)
        work.ask("fill 200")
        wait_for(lambda: offers_in_flight(ebb) == 0, "what is free to be reported")
        boots = guest.channel.boots
        with held(guest.pid, EXECUTOR):
            free_under(ebb, work)
            going = threading.Thread(target=guest.qmp.command, args=("system_reset",))
            going.start()
            # Its memory would be discarded under the new kernel.
            with pytest.raises(AssertionError):
                wait_for(lambda: guest.channel.boots > boots, "what must not come", 8)
        going.join()
        guest.wait_boot(boots + 1)
        ebb.load()
    churn(ebb, 200)


def archive(path, kernel, initrd, program):
    cpio = initramfs.Cpio()
    cpio.file("kernel", (kernel.root / "bzImage").read_bytes())
    cpio.file("initrd", initrd.read_bytes())
    cpio.file("kexec", program.read_bytes())
    data = cpio.bytes()
    path.write_bytes(data + bytes(-len(data) % 4096))


def test_kexec_with_offers_in_flight(vm, build, kernel, image, tmp_path):
    """The guest goes over to a new kernel in the same memory: what the old one had offered is
    not discarded under the new one."""
    disk = tmp_path / "kexec.cpio"
    archive(disk, kernel, image.path, build.need("tests/guest/kexec"))
    ebb = Ebb(vm, tmp_path, mode="eager", memory_mib=448, devices=["virtio-blk-pci,drive=disk"],
              extra=["-drive", f"if=none,id=disk,format=raw,readonly=on,file={disk}"])
    guest = ebb.guest
    for _ in range(2):
        vm.insmod(guest, "virtio_blk")
        guest.check("cd /tmp && busybox cpio -i </dev/vda && sync && rmmod virtio_blk")
        work = guest.memwork(160)
        work.ask("fill 160")
        wait_for(lambda: offers_in_flight(ebb) == 0, "what is free to be reported")
        boots = guest.channel.boots
        with held(guest.pid, EXECUTOR):
            free_under(ebb, work)
            guest.spawn(f"/tmp/kexec /tmp/kernel /tmp/initrd '{COMMAND_LINE}'")
            time.sleep(1)
        guest.wait_boot(boots + 1, 600)
        ebb.load()
    churn(ebb, 240)


def test_qemu_killed_with_offers_in_flight(vm, agent):  # noqa: F811
    """ebbd sees the end of one guest; another, and ebbd's own end, go on beside it."""
    agent.start()
    doomed = boot_named(vm, agent, "doomed", mode="lazy")
    other = boot_named(vm, agent, "other", mode="lazy")
    works = [guest.memwork(150, seed=number) for number, guest in enumerate((doomed, other), 1)]
    for work in works:
        work.ask("fill 150")
    with held(doomed.pid, EXECUTOR):
        works[0].ask("free 100")
        works[1].ask("free 70")
        wait_lazyfree(other, 40)
        os.kill(doomed.pid, signal.SIGKILL)
    doomed.process.wait()
    wait_for(lambda: agent.names() == ["other"], "ebbd to see one guest")
    agent.kill()
    works[1].ask("refill")
    works[1].ask("verify")
    agent.start()
    agent.wait_guest("other", "it again", lambda g: g["flags"]["driver"])
    assert agent.json("release", "other", "all")["release"]["status"] in ("ok", "partial")
    works[1].ask("verify")
    finish(works[1], 2 * 150 * 256)


def test_reload_while_the_host_reclaims(vm, memory_cgroup):
    """The driver comes and goes under a load, and the kernel takes what is marked."""
    group = memory_cgroup()
    guest = boot(vm, OURS, cgroup=group)
    work = guest.memwork(200, rounds=0)
    for _ in range(5):
        work.read_line(600)
        group.reclaim_all()
        guest.check(f"rmmod {OURS.module}")
        group.reclaim_all()
        vm.insmod(guest, OURS.module)
        wait_for(lambda: stats(guest)["driver"], "the device to see the driver")
    finish(work, 5 * 100 * 256)
    assert stats(guest)["violations"] == 0
