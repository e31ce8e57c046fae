# SPDX-License-Identifier: LGPL-2.1-or-later
"""/dev/ebb in a guest: who else touches its memory, and the ways of a machine to rest."""
import contextlib
import os
import re

import pytest

from harness.volatile import MIB, Purger, counters, unload
from harness.wait import wait_for

PATH = "/machine/peripheral/ebb"


@pytest.fixture
def disk(tmp_path):
    """A disk on which a test can hold requests, and its content."""
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(4 * MIB))
    return path, ["-blockdev", f"driver=file,node-name=file,filename={path}",
                  "-blockdev", "driver=blkdebug,node-name=debug,image=file",
                  "-blockdev", "driver=raw,node-name=disk,file=debug"]


DISK = {"devices": ["virtio-blk-pci,drive=disk"], "modules": ["virtio_blk"]}


@pytest.mark.parametrize("device,huge", [("none", 1), ("ebb", 1), ("ebb", 0)],
                         ids=["none", "ebb", "ebb-small-pages"])
def test_whoever_touches(vm, programs, disk, device, huge):
    """Direct I/O, io_uring, futexes, threads, processes, core dumps: without a device, and with one
    that is offered at once all that is marked, in huge pages and in small ones."""
    devices = ["virtio-ebb-pci,id=ebb,mode=lazy"] if device == "ebb" else []
    guest = vm.boot(memory_mib=256, cpus=2, devices=[*devices, *DISK["devices"]], extra=disk[1],
                    modules=DISK["modules"])
    vm.insmod(guest, "virtio_ebb", f"age_msec=1 huge={huge}")
    status, output = guest.run("DISK=/dev/vda volio all")
    assert status == 0, output
    unload(guest)


class HeldDisk:
    """Requests of a kind stay under way while this holds them."""

    def __init__(self, guest, event):
        self.guest = guest
        self.event = event

    def __enter__(self):
        self.say(f"break {self.event} held")

    def __exit__(self, *unused):
        self.say("resume held")

    def say(self, text):
        said = self.guest.qmp.hmp(f'qemu-io disk "{text}"')
        assert not said.strip(), said


def test_direct_io_in_flight(serve, disk):
    """A page that a transfer holds when it is marked is not offered before that has ended, nor is
    the huge page that it is a part of."""
    served = serve(1024, extra=disk[1], env="DISK=/dev/vda", **DISK)
    guest = served.guest
    for page, what in enumerate(("read", "write", "uread", "uwrite"), 7):
        before = counters(guest)["left_out"]
        with HeldDisk(guest, what.lstrip("u") + "_aio"):
            served.ask(f"{what} {page}")
            wait_for(lambda: any(map(int, guest.check("cat /sys/block/vda/inflight").split())),
                     "the transfer to be under way")
            served.ask("mark")
            served.wait_offered(512)
            wait_for(lambda: counters(guest)["left_out"] > before, "the page to be left out")
            assert served.query()["offered"] == 512
            assert served.query(page, 1)["offered"] == 0
            served.purge()
        served.ask("landed")
        wait_for(lambda: served.query(page, 1)["offered"] == 1, "the page to be offered")
        assert served.unmark(page, 1) == 0
        assert served.unmark() > 0
    served.finish()


def test_direct_io_in_flight_to_small_pages(serve, disk):
    """Without huge pages only the page that a transfer holds is left out."""
    served = serve(1024, extra=disk[1], env="DISK=/dev/vda", options="age_msec=1 huge=0", **DISK)
    guest = served.guest
    for page, what in enumerate(("read", "write", "uread", "uwrite"), 7):
        before = counters(guest)["left_out"]
        with HeldDisk(guest, what.lstrip("u") + "_aio"):
            served.ask(f"{what} {page}")
            wait_for(lambda: any(map(int, guest.check("cat /sys/block/vda/inflight").split())),
                     "the transfer to be under way")
            served.ask("mark")
            wait_for(lambda: counters(guest)["left_out"] > before, "the page to be left out")
            assert served.query(page, 1)["offered"] == 0
        served.ask("landed")
        assert served.unmark(page, 1) == 0
        served.unmark()
    served.finish()


def test_reoffer(serve):
    """The host has lost its marks: everything is offered anew, as it is. Taken back it would be the
    guest's again until it is offered, all at the moment at which the host gets shorter."""
    served = serve(1024)
    guest = served.guest

    def generation():
        return guest.qmp.get(PATH, "ebb-stats")["reoffer-generation"]
    served.ask("mark")
    served.wait_offered()
    for _ in range(2):
        before, generation_before = counters(guest), generation()
        guest.qmp.command("stop")
        guest.qmp.command("cont")
        wait_for(lambda: counters(guest)["offered"] >= before["offered"] + 1024,
                 lambda: f"all to be offered anew: {counters(guest)}, before {before}")
        assert generation() != generation_before
        assert counters(guest)["whole"] == before["whole"]
        assert served.query()["offered"] == 1024
    served.purge()
    assert served.unmark() > 0
    served.finish()


def suspend_to_ram(guest):
    command = guest.spawn("echo mem >/sys/power/state")

    def asleep():
        return guest.qmp.command("query-status")["status"] == "suspended"
    # QEMU keeps the state that the first wakeup left: from then on it wakes up by itself at once.
    wait_for(lambda: asleep() or command.status is not None, "the guest to suspend")
    if command.status is None:
        guest.qmp.command("system_wakeup")
    assert command.wait() == 0, command.output


def snapshot_for_hibernation(guest, image_bytes=1 << 30):
    """Without swap this ends after the image was made in memory. What is more than image_bytes, the
    guest's kernel reclaims before; all that is volatile, perhaps."""
    guest.check(f"echo {image_bytes} >/sys/power/image_size")
    status, output = guest.run("echo disk >/sys/power/state")
    assert status, output
    assert "Cannot find swap device" in guest.check("dmesg")


@pytest.mark.parametrize("suspend", [suspend_to_ram, snapshot_for_hibernation])
def test_suspend(serve, suspend):
    """All is taken back before the guest sleeps or is copied. What was whole is whole, what went is
    told; the rest is offered anew."""
    served = serve(4096)
    guest = served.guest
    lost = 0
    served.ask("mark")
    served.wait_offered()
    for _ in range(2):
        lost = suspend_and_account(served, suspend, lost)
    assert lost < 4096 and served.unmark() == lost
    served.ask("mark")
    served.wait_offered()
    served.purge()
    known = served.query()["purged"]
    suspend(guest)
    assert served.query()["purged"] >= known
    assert served.unmark() >= known
    assert served.unmark() == 0
    served.finish()


def suspend_and_account(served, suspend, lost_before, **options):
    """What went is told, as many as the driver counts; all else is whole and offered anew.
    Returns how many pages are purged."""
    guest = served.guest
    before = counters(guest)
    suspend(guest, **options)

    def settled():
        told = served.query()
        return (told["offered"] + told["purged"] == served.pages and
                (told["offered"] == 0 or counters(guest)["offered"] > before["offered"]))
    wait_for(settled, lambda: f"all to be offered anew: {served.query()}, {counters(guest)}")
    lost = served.query()["purged"]
    assert counters(guest)["whole"] - before["whole"] >= served.pages - lost
    assert counters(guest)["own_purged"] - before["own_purged"] == lost - lost_before
    return lost


def test_an_image_that_needs_room(serve):
    """What hibernation reclaims of the guest's volatile memory is told, and zeros to read."""
    served = serve(4096)
    served.ask("mark")
    served.wait_offered()
    lost = suspend_and_account(served, snapshot_for_hibernation, 0, image_bytes=0)
    assert lost > 0
    assert served.unmark() == lost and served.unmark() == 0
    served.finish()


@pytest.mark.parametrize("host", [False, True], ids=["alone", "purging-host"])
def test_random_calls(vm, programs, request, host):
    """Each answer is held against a model: exactly where nobody else purges, and as far as it can
    be known where a host does. The guest's kernel checks what it frees, and ends at a warning."""
    seconds = request.config.getoption("--fuzz-seconds")
    seed = os.environ.get("EBB_FUZZ_SEED") or "0x" + os.urandom(6).hex()
    print("EBB_FUZZ_SEED =", seed)
    devices = ["virtio-ebb-pci,id=ebb,mode=lazy"] if host else []
    guest = vm.boot(memory_mib=384, cpus=2, devices=devices,
                    append="panic_on_warn=1 slub_debug=FZPU")
    vm.insmod(guest, "virtio_ebb", "age_msec=1")
    with Purger(guest) if host else contextlib.nullcontext():
        status, output = guest.run(f"volfuzz {'-h' if host else ''} -s {seed} -t {seconds} -p 2",
                                   300 + 10 * seconds)
    print(output, counters(guest))
    assert status == 0, output
    for line in output.splitlines():
        found = dict((k, int(v)) for k, v in re.findall(r"(\w+) (\d+)", line))
        assert all(found[k] for k in ("calls", "refused", "whole", "purged", "SIGBUS")), output
    assert counters(guest)["strange"] == 0
    unload(guest)
