# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtio-ebb-pci without a guest: what it does to memory, when, and what it says about it."""
import pytest

from harness import ebb
from harness.ebb import BLOCK, MIB, EbbDevice
from harness.proc import mappings_in
from harness.wait import wait_for

BASE = 64 * MIB  # of the memory that the tests offer; rings and requests are below


def start(vm, mode="lazy", memory_mib=256, agent="", **options):
    guest = vm.start(qtest=True, memory_mib=memory_mib,
                     devices=[f"virtio-ebb-pci,addr={ebb.SLOT},mode={mode},agent={agent}"], **options)
    dev = EbbDevice(guest)
    dev.up()
    return guest, dev


def fill(guest, gpa, size, value=0xa5):
    guest.qtest.memset(gpa, size, value)


def is_filled(guest, gpa, size, value=0xa5):
    return guest.qtest.holds(gpa, size, value)


def lazyfree_kib(guest):
    return guest.sample().lazyfree_kib


def test_configuration(vm):
    guest, dev = start(vm)
    config = dev.read_config()
    assert config.page_bytes == ebb.PAGE
    assert config.block_bytes == BLOCK
    assert 1 <= config.max_ranges <= 1024
    assert config.reporting == ebb.RUN
    assert dev.device_features() & 15 == 15


def test_lazy_marks_and_nothing_else(vm, memory_cgroup):
    """Marked memory stays until the kernel needs it; its neighbours stay for good (rule 1)."""
    group = memory_cgroup()
    guest, dev = start(vm, cgroup=group)
    fill(guest, BASE, 32 * MIB)
    before = guest.sample()
    verdict, = dev.free([(BASE + 8 * MIB, 16 * MIB)])
    assert verdict == ebb.Verdict(ebb.MARKED, ebb.REASON_NONE, 16 * MIB)
    wait_for(lambda: lazyfree_kib(guest) >= 8 * 1024,
             lambda: f"the kernel to show it as lazily freed: {guest.sample()}")
    # Discarded at once it would be 16 MiB less; some may go to the host's own reclaim.
    assert guest.sample().rss_kib > before.rss_kib - 12 * 1024
    # Half of it is used again before the pressure comes, so it is live.
    fill(guest, BASE + 8 * MIB, 8 * MIB, 0x5a)
    group.reclaim_all()
    wait_for(lambda: lazyfree_kib(guest) < 1024, lambda: f"the purge: {guest.sample()}")
    assert is_filled(guest, BASE, 8 * MIB)
    assert is_filled(guest, BASE + 8 * MIB, 8 * MIB, 0x5a)
    assert is_filled(guest, BASE + 16 * MIB, 8 * MIB, 0)
    assert is_filled(guest, BASE + 24 * MIB, 8 * MIB)


def test_eager_discards_before_the_answer(vm):
    """When the answer is there the memory is gone, so nothing can come after it (rule 1)."""
    guest, dev = start(vm, mode="eager")
    for _ in range(20):
        fill(guest, BASE, 16 * MIB)
        rss = guest.sample().rss_kib
        verdict, = dev.free([(BASE + 4 * MIB, 8 * MIB)])
        assert verdict == ebb.Verdict(ebb.DISCARDED, ebb.REASON_NONE, 8 * MIB)
        assert guest.sample().rss_kib <= rss - 7 * 1024
        # Written right after the answer: whatever came late would destroy it.
        fill(guest, BASE + 4 * MIB, 8 * MIB, 0x77)
        assert is_filled(guest, BASE, 4 * MIB)
        assert is_filled(guest, BASE + 4 * MIB, 8 * MIB, 0x77)
        assert is_filled(guest, BASE + 12 * MIB, 4 * MIB)


def test_off_does_nothing(vm):
    guest, dev = start(vm, mode="off")
    fill(guest, BASE, 8 * MIB)
    verdict, = dev.free([(BASE, 8 * MIB)])
    assert (verdict.verdict, verdict.reason) == (ebb.NOT_MARKED, ebb.REASON_OFF)
    assert verdict.bytes == 0
    assert lazyfree_kib(guest) == 0
    assert is_filled(guest, BASE, 8 * MIB)


def test_only_whole_blocks_are_marked(vm, memory_cgroup):
    """Rule 5: a range is rounded inward; a fragment is left as it is and said so."""
    group = memory_cgroup()
    guest, dev = start(vm, cgroup=group)
    fill(guest, BASE, 16 * MIB)
    verdicts = dev.free([(BASE + ebb.PAGE, 2 * BLOCK), (BASE + 8 * MIB, BLOCK - ebb.PAGE)])
    assert verdicts[0].verdict == ebb.MARKED
    assert verdicts[0].bytes == BLOCK
    assert verdicts[1] == ebb.Verdict(ebb.NOT_MARKED, ebb.REASON_FRAGMENT, 0)
    wait_for(lambda: lazyfree_kib(guest) > 1024, "the mark to show")
    group.reclaim_all()
    wait_for(lambda: lazyfree_kib(guest) < 256, lambda: f"the purge: {guest.sample()}")
    assert is_filled(guest, BASE, BLOCK)
    assert is_filled(guest, BASE + BLOCK, BLOCK, 0)
    assert is_filled(guest, BASE + 2 * BLOCK, 16 * MIB - 2 * BLOCK)


def test_many_ranges_in_any_order(vm, memory_cgroup):
    """Every second block, backwards: each verdict belongs to its range, and no block between."""
    group = memory_cgroup()
    guest, dev = start(vm, cgroup=group)
    count = 32
    fill(guest, BASE, 2 * count * BLOCK)
    gpas = [BASE + 2 * i * BLOCK for i in reversed(range(count))]
    verdicts = dev.free([(gpa, BLOCK) for gpa in gpas])
    assert verdicts == [ebb.Verdict(ebb.MARKED, ebb.REASON_NONE, BLOCK)] * count
    wait_for(lambda: lazyfree_kib(guest) > count * 1024, "the marks to show")
    group.reclaim_all()
    wait_for(lambda: lazyfree_kib(guest) < 1024, lambda: f"the purge: {guest.sample()}")
    for i in range(count):
        assert is_filled(guest, BASE + 2 * i * BLOCK, BLOCK, 0)
        assert is_filled(guest, BASE + (2 * i + 1) * BLOCK, BLOCK)


@pytest.mark.parametrize("front", ["virtio-ebb-pci", "virtio-ebb-balloon-pci"])
def test_never_free_where_ksm_may_be(vm, front):
    """Rule 2: RAM that QEMU has made mergeable is discarded, never marked."""
    guest = vm.start(qtest=True, memory_mib=256, machine="q35,mem-merge=on",
                     devices=[f"{front},addr={ebb.SLOT},mode=lazy,agent=,disable-legacy=on"])
    start = guest.host_address(0)
    ram = mappings_in(guest.pid, start, start + 256 * MIB)
    assert any("mg" in m.flags for m in ram), "this QEMU did not make its RAM mergeable"
    fill(guest, BASE, 16 * MIB)
    if front == "virtio-ebb-pci":
        dev = EbbDevice(guest)
        dev.up()
        verdict, = dev.free([(BASE, 8 * MIB)])
        assert verdict == ebb.Verdict(ebb.DISCARDED, ebb.REASON_NONE, 8 * MIB)
    else:
        balloon = ebb.BalloonDevice(guest)
        balloon.up()
        balloon.report_free([(BASE, 8 * MIB)])
    assert lazyfree_kib(guest) == 0
    assert is_filled(guest, BASE, 8 * MIB, 0)
    assert is_filled(guest, BASE + 8 * MIB, 8 * MIB)


MEMORY_MERGE = """#!/usr/bin/python3
import ctypes, os, sys
PR_SET_MEMORY_MERGE = 67
if ctypes.CDLL(None).prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0):
    print("no PR_SET_MEMORY_MERGE", file=sys.stderr)
os.execv({0!r}, [{0!r}] + sys.argv[1:])
"""


def test_inherited_memory_merge_is_seen(vm, tmp_path):
    """Rule 2: PR_SET_MEMORY_MERGE of a parent makes the RAM mergeable without QEMU's doing."""
    wrapper = tmp_path / "qemu"
    wrapper.write_text(MEMORY_MERGE.format(str(vm.build.qemu)))
    wrapper.chmod(0o755)
    guest = vm.start(binary=wrapper, qtest=True, memory_mib=256,
                     devices=[f"virtio-ebb-pci,addr={ebb.SLOT},mode=lazy,agent="])
    if "no PR_SET_MEMORY_MERGE" in guest.qemu_output():
        pytest.skip("this host's kernel has no PR_SET_MEMORY_MERGE")
    dev = EbbDevice(guest)
    dev.up()
    fill(guest, BASE, 8 * MIB)
    verdict, = dev.free([(BASE, 4 * MIB)])
    assert verdict.verdict == ebb.DISCARDED
    assert lazyfree_kib(guest) == 0
    assert is_filled(guest, BASE + 4 * MIB, 4 * MIB)


@pytest.mark.parametrize("poison, marked", [(None, True), (0, True), (0xaaaaaaaa, False)])
def test_poisoned_memory_is_left_alone(vm, poison, marked):
    """Rule 10: a guest whose free memory holds a pattern relies on it."""
    guest = vm.start(qtest=True, memory_mib=256, devices=[
        f"virtio-ebb-balloon-pci,id=ebb,addr={ebb.SLOT},mode=eager,agent=,disable-legacy=on"])
    balloon = ebb.BalloonDevice(guest)
    features = [ebb.BALLOON_F_REPORTING] + [ebb.BALLOON_F_POISON] * (poison is not None)
    assert balloon.up(features, poison) == set(features)
    fill(guest, BASE, 8 * MIB, 0xaa)
    balloon.report_free([(BASE, 4 * MIB)])
    assert is_filled(guest, BASE, 4 * MIB, 0 if marked else 0xaa)
    assert is_filled(guest, BASE + 4 * MIB, 4 * MIB, 0xaa)
    stats = guest.qmp.get("/machine/peripheral/ebb", "ebb-stats")
    assert stats["not-marked-poison-bytes"] == (0 if marked else 4 * MIB)
    # The pattern is gone with the driver that had it.
    balloon.up()
    balloon.report_free([(BASE, 4 * MIB)])
    assert is_filled(guest, BASE, 4 * MIB, 0)


def test_rings_and_requests_wait_for_nobody(vm):
    """Several requests at once: each is answered once, with its own verdicts."""
    guest, dev = start(vm)
    fill(guest, BASE, 64 * MIB)
    answers = []
    for i in range(16):
        answers.append(dev.send(ebb.free_request([(BASE + i * 4 * MIB, BLOCK)]), 24))
    for answer in answers:
        status, verdicts = dev.read_answer(answer, 1)
        assert (status, verdicts) == (ebb.RESP_OK, [ebb.Verdict(ebb.MARKED, 0, BLOCK)])
    assert dev.report.used_count() == 16


def test_reset_with_offers_in_flight(vm):
    """Rule 1: after a reset nothing of the old offers happens any more."""
    guest, dev = start(vm, mode="eager", memory_mib=512)
    for _ in range(6):
        fill(guest, BASE, 256 * MIB)
        ranges = [(BASE + i * BLOCK, BLOCK) for i in range(128)]
        dev.send(ebb.free_request(ranges), 8 + 16 * 128)
        dev.status = 0
        assert dev.status == 0
        # The driver has its pages back. What it writes now must stay.
        fill(guest, BASE, 256 * MIB, 0x3c)
        dev.memory.next = 1 << 20
        dev.up()
        dev.free([(BASE + 300 * MIB, BLOCK)])
        for at in range(0, 256, 16):
            assert is_filled(guest, BASE + at * MIB, MIB, 0x3c)


def test_stop_waits_for_what_runs(vm):
    """Rule 1: after QMP stop the memory does not change; after cont the device goes on."""
    guest, dev = start(vm, mode="eager", memory_mib=512)
    fill(guest, BASE, 256 * MIB)
    answer = dev.send(ebb.free_request([(BASE, 128 * MIB)]), 24)
    guest.qmp.command("stop")
    fill(guest, BASE, 128 * MIB, 0x11)
    offered = dev.send(ebb.free_request([(BASE + 128 * MIB, 4 * MIB)]), 24)
    assert is_filled(guest, BASE, 128 * MIB, 0x11)
    assert is_filled(guest, BASE + 128 * MIB, 4 * MIB)
    guest.qmp.command("cont")
    for at in (answer, offered):
        status, (verdict,) = dev.read_answer(at, 1)
        assert status == ebb.RESP_OK
    if verdict.verdict == ebb.DISCARDED:
        assert is_filled(guest, BASE + 128 * MIB, 4 * MIB, 0)
