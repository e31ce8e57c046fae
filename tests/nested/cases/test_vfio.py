# SPDX-License-Identifier: LGPL-2.1-or-later
"""A device of the host is given to the guest: all of the guest's memory is pinned for its DMA, and
what would be discarded then would be lost to the device (rule 6)."""
import pathlib
import re

import pytest

from harness.qmp import QmpError
from harness.wait import wait_for
from test_guest_memory import MIB, boot, finish, front, stats, wait_lazyfree  # noqa: F401

# A virtio-rng, which the nested host itself has no use for.
SPARE = ("0x1af4", "0x1044")
PCI = pathlib.Path("/sys/bus/pci")
UNSAFE = pathlib.Path("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts")
PORT = ["-device", "pcie-root-port,id=port0,chassis=1"]
MEMORY_MIB = 320


def find_spare():
    for device in (PCI / "devices").iterdir():
        if tuple((device / part).read_text().strip() for part in ("vendor", "device")) == SPARE:
            if (device / "iommu_group").exists():
                return device
    return None


@pytest.fixture
def spare():
    """The address of a device of the host that vfio-pci has."""
    device = find_spare()
    if not device:
        pytest.skip("this host has no virtio-rng behind an IOMMU to give away")
    # Interrupts are not remapped here; nothing is given to anybody but our own guest.
    UNSAFE.write_text("Y")
    (device / "driver_override").write_text("vfio-pci")
    if (device / "driver").exists():
        (device / "driver/unbind").write_text(device.name)
    (PCI / "drivers_probe").write_text(device.name)
    return device.name


def plug(guest, address):
    """Forbidding discards fails while one runs: then QEMU refuses the device, and one tries again."""
    def done():
        try:
            guest.qmp.command("device_add", driver="vfio-pci", id="given", host=address,
                              bus="port0")
        except QmpError as e:
            assert "discarding of RAM" in e.desc, e
            return False
        return True
    wait_for(done, "QEMU to take the device", 300)


def unplug(guest):
    guest.qmp.command("device_del", id="given")
    guest.qmp.wait_event("DEVICE_DELETED", 300)


def check_dma(vm, guest):
    """What the device writes is what the guest reads."""
    vm.insmod(guest, "virtio_rng")
    for _ in range(4):
        text = guest.check("dd if=/dev/hwrng bs=512 count=1 2>/dev/null | hexdump -v -e '1/1 \"%02x \"'")
        found = re.findall(r"\b[0-9a-f]{2}\b", text)
        assert len(found) == 512 and found.count("00") < 64, text
    guest.check("rmmod virtio_rng")


def refused(guest):
    return stats(guest)["not-marked-inhibited-bytes"]


def test_nothing_is_discarded_while_a_device_is_given(vm, front, spare):
    """Plugged while the guest frees and uses memory; when it is gone again all is as before."""
    guest = boot(vm, front, mode="eager", memory_mib=MEMORY_MIB, extra=PORT)
    kept = guest.memwork(60, seed=1)
    kept.ask("fill 60")
    busy = guest.memwork(140, seed=2, rounds=0)
    busy.read_line(600)
    for _ in range(2):
        before = stats(guest)["discarded-bytes"]
        wait_for(lambda: stats(guest)["discarded-bytes"] > before, "discards", 300)
        plug(guest, spare)
        discarded, had = stats(guest)["discarded-bytes"], refused(guest)
        # Pinned is all of it.
        assert guest.sample().rss_kib > (MEMORY_MIB - 4) * 1024
        wait_for(lambda: refused(guest) > had, lambda: f"an offer to be refused: {stats(guest)}",
                 300)
        check_dma(vm, guest)
        busy.read_line(600)
        found = stats(guest)
        assert found["discarded-bytes"] == discarded and found["inhibited"] is True
        unplug(guest)
        wait_for(lambda: stats(guest)["discarded-bytes"] > discarded,
                 "discards to be allowed again", 300)
    kept.ask("verify")
    finish(kept, 2 * 60 * 256)
    finish(busy, 4 * 100 * 256)
    assert stats(guest)["violations"] == 0


def test_what_was_marked_before_is_the_devices_too(vm, front, spare, memory_cgroup):
    """Memory that is marked when it is pinned: the guest and the device go on seeing the same."""
    group = memory_cgroup()
    guest = boot(vm, front, memory_mib=MEMORY_MIB, extra=PORT, cgroup=group)
    work = guest.memwork(200)
    work.ask("fill 200")
    work.ask("free 70")
    wait_lazyfree(guest, 60)
    plug(guest, spare)
    group.reclaim_all()
    check_dma(vm, guest)
    marked = stats(guest)["marked-bytes"]
    work.ask("refill")
    work.ask("free 50")
    work.ask("refill")
    check_dma(vm, guest)
    work.ask("verify")
    assert stats(guest)["marked-bytes"] == marked
    unplug(guest)
    work.ask("free 70")
    wait_for(lambda: stats(guest)["marked-bytes"] > marked, "marks to be allowed again", 300)
    finish(work, 2 * 200 * 256)
    assert stats(guest)["violations"] == 0


def test_given_from_the_start(vm, front, spare):
    """With the device there before the guest: all offers are refused, the guest works as ever."""
    guest = boot(vm, front, mode="eager", memory_mib=MEMORY_MIB,
                 extra=[*PORT, "-device", f"vfio-pci,id=given,host={spare},bus=port0"])
    work = guest.memwork(180)
    work.ask("rounds 1")
    # Page reporting leaves a guest alone that has little free, as with all of this filled.
    work.ask("free 120")
    wait_for(lambda: refused(guest) > 0, lambda: f"an offer to be refused: {stats(guest)}", 300)
    check_dma(vm, guest)
    work.ask("refill")
    work.ask("rounds 1")
    assert stats(guest)["discarded-bytes"] == 0
    finish(work, 2 * 180 * 256)
