# SPDX-License-Identifier: LGPL-2.1-or-later
"""Merging by hint: what is hinted is mergeable and nothing else, and rule 2 stands beside it."""
import random

import pytest

from harness import ebb, ksm
from harness.ebb import BLOCK, MIB, EbbDevice
from harness.guest import parse_totals
from harness.merging import (boot, set_merge, stats, wait_marked, wait_merged, wait_no_traces,
                             wait_scans)
from harness.proc import mappings, mappings_in
from harness.wait import wait_for
from test_backing import DIMM_GPA, plug_dimm, unplug_dimm

BASE = 64 * MIB
RAM = 256 * MIB
ALL = (MIB, RAM - MIB)  # below it there is a hole
MERGE = ebb.HINT_F_MERGE


def start(vm, merge="hinted", mode="lazy", machine="q35,mem-merge=off", **options):
    guest = vm.start(qtest=True, memory_mib=RAM // MIB, machine=machine, devices=[
        f"virtio-ebb-pci,id=ebb,addr={ebb.SLOT},mode={mode},merge={merge},agent="], **options)
    dev = EbbDevice(guest)
    dev.up()
    return guest, dev


def mergeable(guest):
    """The guest-physical ranges above the first MiB, of which not all is RAM, that the kernel says
    are mergeable, neighbours joined."""
    start = guest.host_address(0)
    found = []
    for m in mappings_in(guest.pid, start, start + RAM):
        if "mg" not in m.flags:
            continue
        low, high = max(m.start - start, MIB), min(m.end - start, RAM)
        if high <= low:
            continue
        if found and found[-1][1] == low:
            found[-1] = (found[-1][0], high)
        else:
            found.append((low, high))
    return found


def wait_mergeable(guest, want):
    wait_for(lambda: mergeable(guest) == want,
             lambda: f"mergeable ranges {want}: {mergeable(guest)}, {stats(guest)}")
    wait_for(lambda: not stats(guest)["merge-pending"], lambda: f"the end of it: {stats(guest)}")
    assert stats(guest)["merge-marked-bytes"] == sum(high - low for low, high in want)


def is_filled(guest, gpa, size, value):
    return guest.qtest.holds(gpa, size, value)


def test_hinted_blocks_become_mergeable(vm):
    """Whole blocks, neighbours joined, and back again; nothing is done to the content."""
    guest, dev = start(vm)
    assert mergeable(guest) == []
    config = dev.read_config()
    assert config.hinting == ebb.RUN and config.hint_generation == 1
    guest.qtest.memset(BASE, 32 * MIB, 0xa5)
    assert dev.hint([(BASE, 2 * BLOCK), (BASE + 2 * BLOCK, BLOCK),
                     (BASE + 8 * BLOCK + ebb.PAGE, 2 * BLOCK)]) == ebb.RESP_OK
    wait_mergeable(guest, [(BASE, BASE + 3 * BLOCK), (BASE + 9 * BLOCK, BASE + 10 * BLOCK)])
    # A part of a block that is withdrawn takes the block along.
    assert dev.hint([(BASE + BLOCK, ebb.PAGE)], merge=False) == ebb.RESP_OK
    wait_mergeable(guest, [(BASE, BASE + BLOCK), (BASE + 2 * BLOCK, BASE + 3 * BLOCK),
                           (BASE + 9 * BLOCK, BASE + 10 * BLOCK)])
    dev.hint([ALL], merge=False)
    wait_mergeable(guest, [])
    assert is_filled(guest, BASE, 32 * MIB, 0xa5)
    assert stats(guest)["violations"] == 0 and stats(guest)["merge-failures"] == 0


def test_areas_join_again(vm):
    """Marks that come and go leave no areas behind."""
    guest, dev = start(vm)
    ram = guest.host_address(0)
    before = len(mappings_in(guest.pid, ram, ram + RAM))
    rng = random.Random(1)
    for _ in range(4):
        blocks = sorted(rng.sample(range(1, 128), 40))
        dev.hint([(i * BLOCK, BLOCK) for i in blocks])
        wait_for(lambda: not stats(guest)["merge-pending"], "the marks")
        dev.hint([ALL], merge=False)
        wait_mergeable(guest, [])
    assert len(mappings_in(guest.pid, ram, ram + RAM)) == before


@pytest.mark.parametrize("merge", ["off", "hinted"])
def test_the_mark_on_all_ram_is_undone(vm, merge):
    """QEMU's default makes all RAM mergeable; where that is not wanted it is undone, and memory can
    be marked lazily again."""
    guest, dev = start(vm, merge=merge, machine="q35,mem-merge=on")
    wait_mergeable(guest, [])
    # QEMU's ROMs are RAM to the host, and mergeable as well.
    wait_for(lambda: not any("mg" in m.flags for m in mappings(guest.pid)),
             lambda: f"nothing mergeable: {[m for m in mappings(guest.pid) if 'mg' in m.flags]}")
    assert dev.read_config().hinting == (ebb.RUN if merge == "hinted" else ebb.REST)
    guest.qtest.memset(BASE, 8 * MIB, 0xa5)
    verdict, = dev.free([(BASE, 4 * MIB)])
    assert verdict == ebb.Verdict(ebb.MARKED, ebb.REASON_NONE, 4 * MIB)
    assert is_filled(guest, BASE + 4 * MIB, 4 * MIB, 0xa5)
    if merge == "off":
        dev.hint([(BASE, 4 * MIB)])
        wait_mergeable(guest, [])


def test_keep_leaves_all_as_it_is(vm):
    guest, dev = start(vm, merge="keep", machine="q35,mem-merge=on")
    assert mergeable(guest) and stats(guest)["merge-whole"]
    assert dev.read_config().hinting == ebb.REST
    dev.hint([(BASE, 4 * MIB)])
    guest.qtest.memset(BASE, 8 * MIB, 0xa5)
    verdict, = dev.free([(BASE, 4 * MIB)])
    assert verdict.verdict == ebb.DISCARDED
    assert stats(guest)["merge-marks"] == stats(guest)["merge-unmarks"] == 0


def test_modes_change_at_run_time(vm):
    guest, dev = start(vm, merge="all")
    wait_for(lambda: stats(guest)["merge-marked-bytes"] >= RAM - 4 * BLOCK,
             lambda: f"all RAM to be mergeable: {stats(guest)}")
    set_merge(guest, "hinted")
    wait_mergeable(guest, [])
    dev.hint([(BASE, 4 * MIB)])
    wait_mergeable(guest, [(BASE, BASE + 4 * MIB)])
    # What was hinted before does not count when merging by hint begins anew.
    generation = dev.read_config().hint_generation
    set_merge(guest, "off")
    wait_mergeable(guest, [])
    set_merge(guest, "hinted")
    wait_for(lambda: dev.read_config().hint_generation == generation + 1, "the new generation")
    wait_mergeable(guest, [])
    assert stats(guest)["merge-hinted-bytes"] == 0


def test_free_memory_beside_merged(vm):
    """Rule 2, block by block: hinted memory is discarded, its neighbour marked lazily, and once
    the hint is withdrawn it may be marked again."""
    guest, dev = start(vm)
    guest.qtest.memset(BASE, 16 * MIB, 0xa5)
    dev.hint([(BASE, 4 * MIB)])
    wait_mergeable(guest, [(BASE, BASE + 4 * MIB)])
    merged, plain = dev.free([(BASE, BLOCK), (BASE + 8 * MIB, BLOCK)])
    assert merged == ebb.Verdict(ebb.DISCARDED, ebb.REASON_NONE, BLOCK)
    assert plain == ebb.Verdict(ebb.MARKED, ebb.REASON_NONE, BLOCK)
    # Discarded, it is still mergeable: again.
    guest.qtest.memset(BASE, BLOCK, 0x11)
    verdict, = dev.free([(BASE, BLOCK)])
    assert verdict.verdict == ebb.DISCARDED
    content, = dev.volatile([(BASE + BLOCK, BLOCK)])
    assert (content.verdict, content.reason) == (ebb.NOT_MARKED, ebb.REASON_BACKING)
    assert is_filled(guest, BASE + BLOCK, BLOCK, 0xa5)
    dev.hint([(BASE, 4 * MIB)], merge=False)
    wait_mergeable(guest, [])
    verdict, = dev.free([(BASE, 4 * MIB)])
    assert verdict == ebb.Verdict(ebb.MARKED, ebb.REASON_NONE, 4 * MIB)
    assert is_filled(guest, BASE + 10 * MIB, 6 * MIB, 0xa5)


def test_the_vmms_own_switch_is_seen(vm):
    """Rule 2 and 'merge' of a memory backend, which may be set at any time: nothing is marked
    lazily from that moment on, and where it is not wanted it is undone."""
    guest, dev = start(vm, machine="q35,mem-merge=off")
    dev.hint([(BASE, 4 * MIB)])
    wait_mergeable(guest, [(BASE, BASE + 4 * MIB)])
    guest.qtest.memset(BASE, 32 * MIB, 0xa5)
    verdict, = dev.free([(BASE + 8 * MIB, BLOCK)])
    assert verdict.verdict == ebb.MARKED
    guest.qmp.set("/objects/pc.ram", "merge", True)
    verdict, = dev.free([(BASE + 16 * MIB, BLOCK)])
    assert verdict == ebb.Verdict(ebb.DISCARDED, ebb.REASON_NONE, BLOCK)
    wait_mergeable(guest, [(BASE, BASE + 4 * MIB)])
    assert guest.qmp.get("/objects/pc.ram", "merge") is False


def test_reset_forgets_the_hints(vm):
    guest, dev = start(vm)
    guest.qtest.memset(BASE, 8 * MIB, 0xa5)
    dev.hint([(BASE, 8 * MIB)])
    wait_mergeable(guest, [(BASE, BASE + 8 * MIB)])
    dev.memory.next = 1 << 20
    dev.up()
    wait_mergeable(guest, [])
    assert is_filled(guest, BASE, 8 * MIB, 0xa5)


def test_unplugged_memory_takes_its_marks_along(vm):
    """No mark, area or count of it is left, and what comes to its address is nobody's."""
    guest, dev = start(vm, extra=["-m", f"{RAM // MIB},slots=2,maxmem=2G"])
    dev.hint([(BASE, 2 * BLOCK)])
    for turn in range(2):
        plug_dimm(guest, turn)
        guest.qtest.memset(DIMM_GPA, 16 * MIB, 0xa5)
        verdict, = dev.free([(DIMM_GPA, BLOCK)])
        assert verdict.verdict == ebb.MARKED
        assert dev.hint([(DIMM_GPA + BLOCK, 4 * BLOCK), (DIMM_GPA + 8 * BLOCK, BLOCK)]) == ebb.RESP_OK
        wait_for(lambda: stats(guest)["merge-marked-bytes"] == 7 * BLOCK,
                 lambda: f"the marks: {stats(guest)}")
        assert stats(guest)["merge-areas"] == 6
        unplug_dimm(guest, f"dimm{turn}")
        guest.qmp.command("object-del", id=f"mem{turn}")
        found = stats(guest)
        assert found["merge-hinted-bytes"] == found["merge-marked-bytes"] == 2 * BLOCK
        assert found["merge-areas"] == 2 and found["violations"] == 0
    assert mergeable(guest) == [(BASE, BASE + 2 * BLOCK)]


def test_hints_do_not_migrate(vm, tmp_path):
    """What was hinted stays behind: the guest is asked for it anew."""
    source, dev = start(vm)
    source.qtest.memset(BASE, 8 * MIB, 0xa5)
    dev.hint([(BASE, 8 * MIB)])
    wait_mergeable(source, [(BASE, BASE + 8 * MIB)])
    generation = dev.read_config().hint_generation
    target = vm.start(qtest=True, memory_mib=RAM // MIB, extra=["-incoming", "defer"], devices=[
        f"virtio-ebb-pci,id=ebb,addr={ebb.SLOT},mode=lazy,merge=hinted,agent="])
    target.qmp.command("migrate-incoming", uri=f"unix:{tmp_path}/migration")
    source.qmp.command("migrate", uri=f"unix:{tmp_path}/migration")
    wait_for(lambda: source.qmp.command("query-migrate").get("status") == "completed",
             lambda: f"the migration: {source.qmp.command('query-migrate')}", 300)
    wait_for(lambda: target.qmp.command("query-status")["status"] == "running", "the target to run")
    there = EbbDevice(target)
    wait_for(lambda: there.read_config().hint_generation > generation,
             "the guest to be asked for its hints anew")
    assert there.read_config().hinting == ebb.RUN
    assert mergeable(target) == [] and stats(target)["merge-hinted-bytes"] == 0
    assert is_filled(target, BASE, 8 * MIB, 0xa5)


BAD_HINTS = {
    "not RAM": ([(8 << 30, BLOCK, MERGE)], None),
    "beyond RAM": ([(RAM - BLOCK, 2 * BLOCK, MERGE)], None),
    "empty": ([(BASE, 0, MERGE)], None),
    "misaligned": ([(BASE + 512, BLOCK, MERGE)], None),
    "wraps": ([(2**64 - BLOCK, 2 * BLOCK, MERGE)], None),
    "out of order": ([(BASE + BLOCK, BLOCK, MERGE), (BASE, BLOCK, MERGE)], None),
    "twice": ([(BASE, BLOCK, MERGE), (BASE, BLOCK, 0)], None),
    "unknown flags": ([(BASE, BLOCK, 2)], None),
    "count": ([(BASE, BLOCK, MERGE)], 2),
    "no entries": ([], None),
}


@pytest.mark.parametrize("what", BAD_HINTS)
def test_bad_hints_break_the_device(vm, what):
    """Rule 7. None of a bad request is taken, and a reset mends it."""
    guest, dev = start(vm)
    guest.qtest.memset(BASE, 8 * MIB, 0xa5)
    hints, count = BAD_HINTS[what]
    dev.send(ebb.hint_request([(0, BLOCK, MERGE)] + hints if count is None and hints else hints,
                              count), 8)
    wait_for(lambda: dev.broken, "the device to say that it is broken")
    assert stats(guest)["merge-hinted-bytes"] == 0 and stats(guest)["violations"] == 1
    assert mergeable(guest) == []
    dev.memory.next = 1 << 20
    dev.up()
    assert dev.hint([(BASE, BLOCK)]) == ebb.RESP_OK
    wait_mergeable(guest, [(BASE, BASE + BLOCK)])
    assert is_filled(guest, BASE, 8 * MIB, 0xa5)


def test_hints_without_the_feature(vm):
    guest, dev = start(vm)
    dev.memory.next = 1 << 20
    dev.up([ebb.F_REPORT])
    assert dev.hint([(BASE, BLOCK)]) == ebb.RESP_UNSUPPORTED
    assert not dev.broken and mergeable(guest) == []


CACHE_MIB = 96
ANON_MIB = 48


@pytest.fixture
def disk(tmp_path):
    """Of random content: no two pages are alike."""
    path = tmp_path / "image"
    path.write_bytes(random.Random(7).randbytes(CACHE_MIB * MIB))
    return path


@pytest.mark.skipif(not ksm.usable(), reason="KSM's settings cannot be written here")
def test_guests_share_their_page_cache_and_nothing_else(vm, disk):
    """Two guests that have read the same files share them; their anonymous memory, which is
    identical as well, they do not; nothing is lost, and what changes its use is withdrawn."""
    with ksm.running():
        guests = [boot(vm, disk, memory_mib=320) for _ in range(2)]
        # The same seed: identical anonymous memory. It comes first, and has its own blocks.
        works = [g.memwork(ANON_MIB, seed=5) for g in guests]
        for work in works:
            work.ask(f"fill {ANON_MIB}")
        for guest in guests:
            guest.check("cat /dev/vda >/dev/null")
        least = CACHE_MIB * MIB * 3 // 4
        wait_marked(least, *guests)
        wait_merged(least, *guests)
        wait_scans(3)
        # Of identical anonymous memory not a page was added.
        for guest in guests:
            assert ksm.merged_pages(guest.pid) <= (CACHE_MIB + 4) * MIB // ebb.PAGE
        for work in works:
            work.ask("verify")
        # Page cache that goes makes room for anonymous memory in what was merged.
        for guest in guests:
            guest.check("echo 1 >/proc/sys/vm/drop_caches")
        for work in works:
            work.ask("rounds 2")
        wait_for(lambda: all(stats(g)["merge-hinted-bytes"] < 16 * MIB for g in guests),
                 lambda: f"the hints to be withdrawn: {[stats(g) for g in guests]}")
        for work in works:
            work.write("quit\n")
            status = work.wait()
            checked, bad = parse_totals(work.output)
            assert bad == 0 and status == 0 and checked >= 3 * ANON_MIB * 256, work.output
        for guest in guests:
            set_merge(guest, "off")
        for guest in guests:
            wait_no_traces(guest)
        assert all(stats(g)["violations"] == 0 for g in guests)
