# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule 6: what may be done depends on what is behind the memory. Rule 11: and on its region."""
import contextlib
import os
import pathlib
import re

import pytest

from harness import ebb
from harness.ebb import BLOCK, MIB, PAGE, EbbDevice
from harness.qtest import PciDevice
from harness.wait import wait_for

BASE = 64 * MIB
RAM_MIB = 256
DIMM_GPA = 4 << 30
DEVICE = f"virtio-ebb-pci,id=ebb,addr={ebb.SLOT},mode=lazy,agent="


def start(vm, backend=None, memory_mib=RAM_MIB, machine="q35,mem-merge=off", **options):
    extra = list(options.pop("extra", ()))
    if backend:
        extra += ["-object", f"{backend},id=ram0,size={memory_mib}M"]
        machine += ",memory-backend=ram0"
    guest = vm.start(qtest=True, memory_mib=memory_mib, machine=machine, devices=[DEVICE],
                     extra=extra, **options)
    dev = EbbDevice(guest)
    dev.up()
    return guest, dev


def stats(guest):
    return guest.qmp.get("/machine/peripheral/ebb", "ebb-stats")


def offer_middle(guest, dev, base=BASE):
    """Fill 16 MiB, offer the second quarter of them; returns the verdict. What was not offered
    must be whole."""
    guest.qtest.memset(base, 16 * MIB, 0xa5)
    verdict, = dev.free([(base + 4 * MIB, 4 * MIB)])
    assert guest.qtest.read(base, 4 * MIB) == b"\xa5" * (4 * MIB)
    assert guest.qtest.read(base + 8 * MIB, 8 * MIB) == b"\xa5" * (8 * MIB)
    return verdict


def assert_refused(guest, dev, base=BASE):
    verdict = offer_middle(guest, dev, base)
    assert (verdict.verdict, verdict.reason) == (ebb.NOT_MARKED, ebb.REASON_BACKING)
    assert verdict.bytes == 0
    assert guest.qtest.read(base + 4 * MIB, 4 * MIB) == b"\xa5" * (4 * MIB)
    assert stats(guest)["not-marked-backing-bytes"] == 4 * MIB
    assert stats(guest)["marked-bytes"] == stats(guest)["discarded-bytes"] == 0


def assert_discarded(guest, dev, base=BASE):
    """Not marked even in lazy mode, but given back by the VMM's own helper."""
    verdict = offer_middle(guest, dev, base)
    assert verdict == ebb.Verdict(ebb.DISCARDED, ebb.REASON_NONE, 4 * MIB)
    assert guest.qtest.read(base + 4 * MIB, 4 * MIB) == bytes(4 * MIB)
    assert stats(guest)["marked-bytes"] == 0


def test_ram_backend_is_marked(vm):
    guest, dev = start(vm, "memory-backend-ram,merge=off")
    assert offer_middle(guest, dev).verdict == ebb.MARKED
    assert stats(guest)["ram-bytes"] >= (RAM_MIB - 1) * MIB  # but the legacy hole
    assert stats(guest)["refused-ram-bytes"] == stats(guest)["skipped-ram-bytes"] == 0


def allocated_bytes(guest, prefix):
    """Of the one open file whose name begins so."""
    fds = pathlib.Path("/proc") / str(guest.pid) / "fd"
    fd, = (fd for fd in fds.iterdir() if os.readlink(fd).startswith(prefix))
    return os.stat(fd).st_blocks * 512


@pytest.mark.parametrize("share", ["on", "off"])
def test_memfd_backend(vm, share):
    """A memfd is this guest's alone however it is mapped: discarded by the helper."""
    guest, dev = start(vm, f"memory-backend-memfd,share={share},merge=off")
    assert_discarded(guest, dev)
    guest.qtest.memset(BASE, 16 * MIB, 0xa5)
    before = allocated_bytes(guest, "/memfd:")
    verdict, = dev.free([(BASE + 4 * MIB, 4 * MIB)])
    assert verdict.verdict == ebb.DISCARDED
    assert stats(guest)[f"skipped-{'shared' if share == 'on' else 'file'}-bytes"] >= \
        (RAM_MIB - 1) * MIB
    if share == "on":
        assert allocated_bytes(guest, "/memfd:") <= before - 4 * MIB


def test_private_file_is_refused_and_left_alone(vm, tmp_path):
    """The file may be the template of other guests: no hole may be punched into it."""
    path = tmp_path / "template"
    path.write_bytes(b"\x42" * (RAM_MIB * MIB))
    guest, dev = start(vm, f"memory-backend-file,mem-path={path},share=off,merge=off")
    assert_refused(guest, dev)
    assert stats(guest)["refused-ram-bytes"] >= (RAM_MIB - 1) * MIB
    assert stats(guest)["skipped-file-bytes"] >= (RAM_MIB - 1) * MIB
    assert stats(guest)["refused-why"]
    guest.quit()
    with open(path, "rb") as file:
        while data := file.read(16 * MIB):
            assert data == b"\x42" * len(data)


def test_shared_file(vm, tmp_path):
    """A file that is mapped shared: given back by the helper, or refused; never marked."""
    guest, dev = start(vm, f"memory-backend-file,mem-path={tmp_path / 'ram'},share=on,merge=off")
    verdict = offer_middle(guest, dev)
    assert verdict.verdict in (ebb.DISCARDED, ebb.NOT_MARKED)
    assert stats(guest)["marked-bytes"] == 0
    expect = 0 if verdict.verdict == ebb.DISCARDED else 0xa5
    assert guest.qtest.read(BASE + 4 * MIB, 4 * MIB) == bytes([expect]) * (4 * MIB)


def test_locked_memory_is_refused(vm):
    guest, dev = start(vm, extra=["-overcommit", "mem-lock=on"])
    assert_refused(guest, dev)
    assert stats(guest)["skipped-locked-bytes"] >= (RAM_MIB - 1) * MIB


@contextlib.contextmanager
def huge_pages(count):
    """Have that many 2 MiB pages free, and put the setting back."""
    pool = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    if not pool.is_dir():
        pytest.skip("this host's kernel has no hugetlb pages of 2 MiB")
    setting = pool / "nr_hugepages"
    before = int(setting.read_text())
    try:
        setting.write_text(str(before + count))
        free = int((pool / "free_hugepages").read_text())
        if free < count:
            pytest.skip(f"the host gives only {free} of {count} hugetlb pages")
        yield
    finally:
        setting.write_text(str(before))


def test_hugetlb(vm):
    """Whole pages of the backing only (rule 5), and discarded by the helper, never marked."""
    with huge_pages(RAM_MIB // 2):
        guest, dev = start(
            vm, "memory-backend-memfd,hugetlb=on,hugetlbsize=2M,share=on,merge=off")
        assert dev.read_config().page_bytes == BLOCK
        assert stats(guest)["skipped-hugetlb-bytes"] >= (RAM_MIB - 1) * MIB
        assert_discarded(guest, dev)
        guest.qtest.memset(BASE, 8 * MIB, 0x5a)
        verdict, = dev.free([(BASE + PAGE, 2 * BLOCK)])
        assert verdict.bytes == BLOCK
        assert guest.qtest.read(BASE, BLOCK) == b"\x5a" * BLOCK
        assert guest.qtest.read(BASE + BLOCK, BLOCK) == bytes(BLOCK)
        assert guest.qtest.read(BASE + 2 * BLOCK, 4 * MIB) == b"\x5a" * (4 * MIB)
        guest.quit()


def refused_or_broken(guest, dev, gpa):
    """An offer of what is no RAM to be offered: nothing is done, whatever the answer."""
    guest.qtest.memset(gpa, 4 * MIB, 0xa5)
    answer = dev.send(ebb.free_request([(gpa, 2 * MIB)]), 24)
    wait_for(lambda: dev.broken or dev.report.used_count() != dev.report.seen, "a reaction")
    if not dev.broken:
        _, (verdict,) = dev.read_answer(answer, 1)
        assert (verdict.verdict, verdict.reason) == (ebb.NOT_MARKED, ebb.REASON_BACKING)
    assert guest.qtest.read(gpa, 4 * MIB) == b"\xa5" * (4 * MIB)


def test_ivshmem_is_refused(vm):
    """A BAR that is RAM of others as well."""
    guest = vm.start(qtest=True, memory_mib=RAM_MIB, extra=[
        "-object", "memory-backend-ram,id=shm,size=16M,share=on,merge=off"],
        devices=[DEVICE, "ivshmem-plain,memdev=shm,addr=6"])
    dev = EbbDevice(guest)
    dev.up()
    bars = PciDevice(guest.qtest, 6).enable()
    refused_or_broken(guest, dev, bars[2])


def test_nvdimm_is_refused(vm):
    guest = vm.start(qtest=True, memory_mib=RAM_MIB, machine="q35,mem-merge=off,nvdimm=on", extra=[
        "-m", f"{RAM_MIB},slots=2,maxmem=2G",
        "-object", "memory-backend-ram,id=nv,size=64M,merge=off",
        "-device", "nvdimm,id=nvdimm0,memdev=nv"], devices=[DEVICE])
    dev = EbbDevice(guest)
    dev.up()
    refused_or_broken(guest, dev, DIMM_GPA)


# The registers of ACPI's memory hotplug, as the guest's firmware code uses them.
MEMHP_SELECT, MEMHP_CONTROL, MEMHP_EJECT = 0xa00, 0xa14, 8


def unplug_dimm(guest, name, slot=0):
    guest.qmp.command("device_del", id=name)
    guest.qtest.outl(MEMHP_SELECT, slot)
    guest.qtest.command(f"outb {MEMHP_CONTROL:#x} {MEMHP_EJECT:#x}")
    guest.qmp.wait_event("DEVICE_DELETED")


def plug_dimm(guest, number, backend="memory-backend-ram"):
    guest.qmp.command("object-add", qom_type=backend, id=f"mem{number}", size=128 * MIB,
                      merge=False)
    guest.qmp.command("device_add", driver="pc-dimm", id=f"dimm{number}", memdev=f"mem{number}")


def hotplug_machine(vm, **options):
    return start(vm, extra=["-m", f"{RAM_MIB},slots=4,maxmem=2G"], **options)


def test_hotplugged_memory(vm):
    """Rule 11: plug, offer, unplug, plug other memory at the same address, with offers in flight."""
    guest, dev = hotplug_machine(vm)
    for turn in range(6):
        plug_dimm(guest, turn)
        assert offer_middle(guest, dev, DIMM_GPA).verdict == ebb.MARKED
        guest.qtest.memset(DIMM_GPA, 128 * MIB, turn)
        dev.send(ebb.free_request([(DIMM_GPA + i * BLOCK, BLOCK) for i in range(32)]),
                 8 + 16 * 32)
        unplug_dimm(guest, f"dimm{turn}")
        guest.qmp.command("object-del", id=f"mem{turn}")
        # New memory at the old address: nothing of the old offer may reach it.
        plug_dimm(guest, f"{turn}b")
        guest.qtest.memset(DIMM_GPA, 128 * MIB, 0x77)
        _, verdicts = dev.read_answer(dev.last_answer, 32)
        assert {v.verdict for v in verdicts} <= {ebb.MARKED, ebb.NOT_MARKED}
        for at in range(0, 128, 8):
            assert guest.qtest.read(DIMM_GPA + at * MIB, MIB) == b"\x77" * MIB
        unplug_dimm(guest, f"dimm{turn}b")
        guest.qmp.command("object-del", id=f"mem{turn}b")
    # Without a region there, the address is not RAM.
    dev.send(ebb.free_request([(DIMM_GPA, BLOCK)]), 24)
    wait_for(lambda: dev.broken, "the device to refuse memory that is gone")


def test_memory_of_two_kinds(vm):
    """One request over private anonymous memory and a memfd: each as its own backing allows."""
    guest, dev = hotplug_machine(vm)
    guest.qmp.command("object-add", qom_type="memory-backend-memfd", id="mem0", size=128 * MIB,
                      merge=False, share=True)
    guest.qmp.command("device_add", driver="pc-dimm", id="dimm0", memdev="mem0")
    guest.qtest.memset(BASE, 8 * MIB, 0xa5)
    guest.qtest.memset(DIMM_GPA, 8 * MIB, 0xa5)
    verdicts = dev.free([(DIMM_GPA, 4 * MIB), (BASE, 4 * MIB)])
    assert [v.verdict for v in verdicts] == [ebb.DISCARDED, ebb.MARKED]
    assert [v.bytes for v in verdicts] == [4 * MIB] * 2
    assert guest.qtest.read(DIMM_GPA, 8 * MIB) == bytes(4 * MIB) + b"\xa5" * (4 * MIB)
    assert guest.qtest.read(BASE + 4 * MIB, 4 * MIB) == b"\xa5" * (4 * MIB)


def test_mergeable_dimm_beside_plain_ram(vm):
    """Rule 2 by region: what is plugged in later may be mergeable when the rest is not."""
    guest, dev = hotplug_machine(vm)
    guest.qmp.command("object-add", qom_type="memory-backend-ram", id="mem0", size=128 * MIB,
                      merge=True)
    guest.qmp.command("device_add", driver="pc-dimm", id="dimm0", memdev="mem0")
    assert offer_middle(guest, dev, DIMM_GPA).verdict == ebb.DISCARDED
    assert offer_middle(guest, dev, BASE).verdict == ebb.MARKED


def test_regions_are_described(vm, tmp_path):
    guest, dev = start(vm, f"memory-backend-file,mem-path={tmp_path / 'f'},share=off,merge=off")
    text = guest.qmp.get("/machine/peripheral/ebb", "ebb-regions")
    assert re.search(r"refused", text), text


def test_background_snapshot_inhibits(vm, tmp_path):
    """While QEMU takes a background snapshot, discards are forbidden."""
    guest, dev = start(vm)
    guest.qtest.memset(BASE, 64 * MIB, 0xa5)
    try:
        guest.qmp.command("migrate-set-capabilities", capabilities=[
            {"capability": "background-snapshot", "state": True}])
    except Exception as e:  # the host's kernel or QEMU cannot
        pytest.skip(f"no background snapshots here: {e}")
    guest.qmp.command("migrate-set-parameters", max_bandwidth=1)
    guest.qmp.command("migrate", uri=f"exec:cat >{tmp_path / 'snapshot'}")
    wait_for(lambda: guest.qmp.command("query-migrate").get("status") == "active" and
             guest.qmp.command("query-status")["running"], "the snapshot to be under way")
    verdict, = dev.free([(BASE, 4 * MIB)])
    assert (verdict.verdict, verdict.reason) == (ebb.NOT_MARKED, ebb.REASON_INHIBITED)
    assert guest.qtest.read(BASE, 4 * MIB) == b"\xa5" * (4 * MIB)
    assert stats(guest)["inhibited"] is True
    guest.qmp.command("migrate_cancel")
    wait_for(lambda: guest.qmp.command("query-migrate")["status"] in ("cancelled", "completed"),
             "the snapshot's end")
    verdict, = dev.free([(BASE, 4 * MIB)])
    assert verdict.verdict == ebb.MARKED
