# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables are collected while the host's kernel and QEMU do something else to the same memory: KSM,
huge pages made of it, a log of what is written, memory that came later. Nothing in use is lost."""
import contextlib
import fcntl
import pathlib

import pytest

from harness import ksm
from harness.pageout import COLLAPSE, advise, pageout
from harness.volatile import Again
from harness.wait import wait_for
from test_memory_devices import DIMM, regions
from test_tables import (BLOCK_KIB, MIB, boot, collect, end, finish, purge_what_was_freed,
                         rounds_and_collections, stats)

SMALL_MIB = 256
ALIKE_MIB, LOAD_MIB, BUSY_MIB = 12, 80, 48
DIMM_MIB = 256  # as DIMM says
DIMM_GPA = 4 << 30
BLOCK = BLOCK_KIB * 1024
KHUGEPAGED = pathlib.Path("/sys/kernel/mm/transparent_hugepage/khugepaged")


@pytest.mark.skipif(not ksm.usable(), reason="KSM's settings cannot be written here")
def test_ksm_meanwhile(vm, kernel_like):
    """Tables that a purge left go while all memory is mergeable and ksmd looks at it (rule 2)."""
    guest = boot(vm, kernel_like, memory_mib=SMALL_MIB)
    alike = [guest.memwork(ALIKE_MIB, seed=3) for _ in range(2)]
    for work in alike:
        work.ask(f"fill {ALIKE_MIB}")
    load = guest.memwork(LOAD_MIB, seed=4)
    load.ask(f"fill {LOAD_MIB}")
    purge_what_was_freed(guest, load, 70, LOAD_MIB)
    busy = guest.memwork(BUSY_MIB, seed=5, rounds=0)
    with ksm.running():
        guest.qmp.set("/machine/peripheral/ebb", "merge", "all")
        wait_for(lambda: ksm.merged_pages(guest.pid) >= ALIKE_MIB * 256,
                 lambda: f"the merge: {ksm.of_process(guest.pid)}, {stats(guest)}", 300)
        busy.read_line(600)
        did = collect(guest)
        assert did["tables-freed"] > LOAD_MIB * 1024 // BLOCK_KIB * 30 // 100, did
        load.ask("refill")
        for work in alike:
            work.ask("verify")
        busy.read_line(600)
        collect(guest)
        guest.qmp.set("/machine/peripheral/ebb", "merge", "off")
        wait_for(lambda: not stats(guest)["merge-pending"] and not ksm.merged_pages(guest.pid),
                 lambda: f"the end of the merge: {stats(guest)}", 300)
    end(busy)
    for work in alike:
        work.ask("verify")
        end(work)
    finish(guest, load, 2 * 20 * 256)


@contextlib.contextmanager
def khugepaged_at_work():
    """It looks at everything again and again; one for all who test here, as KSM is."""
    wanted = {"scan_sleep_millisecs": "10", "alloc_sleep_millisecs": "10", "pages_to_scan": "16384"}
    with open(ksm.LOCK, "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        saved = {name: (KHUGEPAGED / name).read_text() for name in wanted}
        try:
            for name, value in wanted.items():
                (KHUGEPAGED / name).write_text(value)
            yield
        except PermissionError:
            pytest.skip("khugepaged's settings cannot be written here")
        finally:
            for name, value in saved.items():
                (KHUGEPAGED / name).write_text(value)


def collapse_every_other_block(pid, start):
    """What is in it, be it nothing, becomes one huge page. The kernel refuses some."""
    for at in range(start, start + SMALL_MIB * MIB, 2 * BLOCK):
        with contextlib.suppress(OSError):
            advise(pid, at, BLOCK, COLLAPSE)


def test_huge_pages_meanwhile(vm, kernel_like):
    """khugepaged, and COLLAPSE of half of all blocks, the empty ones as well."""
    guest = boot(vm, kernel_like, memory_mib=SMALL_MIB)
    start = guest.host_address(0)
    busy = guest.memwork(BUSY_MIB, rounds=0)
    with khugepaged_at_work(), Again(lambda: collapse_every_other_block(guest.pid, start), 0.1,
                                     rest=1) as again:
        freed = rounds_and_collections(guest, busy, 3)
        wait_for(lambda: again.rounds, "a collapse")
    assert freed and guest.sample().anon_huge_kib > 0
    end(busy)
    assert stats(guest)["violations"] == 0


def test_dirty_logging_meanwhile(vm, kernel_like):
    """The guest works on while it is copied; QEMU reads what is free as well."""
    guest = boot(vm, kernel_like, memory_mib=SMALL_MIB)
    kept = guest.memwork(ALIKE_MIB, seed=3)
    kept.ask(f"fill {ALIKE_MIB}")
    busy = guest.memwork(BUSY_MIB, rounds=0)

    def status():
        return guest.qmp.command("query-migrate").get("status")
    guest.qmp.command("migrate-set-parameters", max_bandwidth=4 * MIB, downtime_limit=1)
    guest.qmp.command("migrate", uri="exec:cat >/dev/null")
    wait_for(lambda: status() == "active", "the migration to begin")
    freed = rounds_and_collections(guest, busy, 3)
    assert freed and status() == "active"
    guest.qmp.command("migrate_cancel")
    wait_for(lambda: status() == "cancelled", lambda: f"the migration's end: {status()}")
    end(busy)
    finish(guest, kept, ALIKE_MIB * 256)


def test_tables_of_a_dimm(vm, kernel_like):
    """Memory that came later is collected as the rest, and goes again."""
    guest = vm.boot(memory_mib="192,slots=2,maxmem=1G", modules=["virtio_ebb"],
                    devices=[f"virtio-ebb-pci,id=ebb,mode=lazy,agent={kernel_like}"],
                    append="memhp_default_state=online_movable")
    if not stats(guest)["can-collect"]:
        pytest.skip("this host's kernel cannot free empty page tables")
    total_kib = guest.meminfo()["MemTotal"]
    guest.qmp.command("object-add", qom_type="memory-backend-ram", id="mem1", size=DIMM_MIB * MIB)
    guest.qmp.command("device_add", driver="pc-dimm", id="dimm1", memdev="mem1")
    assert DIMM in regions(guest)
    wait_for(lambda: guest.meminfo()["MemTotal"] > total_kib + 200 * 1024, "the new memory")
    work = guest.memwork(260)
    work.ask("fill 260")
    work.ask("free 95")
    guest.compact()
    start = guest.host_address(DIMM_GPA)
    collect(guest)
    least = DIMM_MIB * 1024 // BLOCK_KIB // 4
    freed = 0

    def collected():
        # Of the dimm alone, so that it is its tables that go.
        nonlocal freed
        pageout(guest.pid, start, DIMM_MIB * MIB)
        freed += collect(guest)["tables-freed"]
        return freed >= least
    wait_for(collected, lambda: f"{freed} of {least} tables: {stats(guest)}", 300)
    work.ask("refill")
    work.ask("free 95")
    guest.qmp.command("device_del", id="dimm1")
    guest.qmp.wait_event("DEVICE_DELETED", 300)
    assert DIMM not in regions(guest)
    collect(guest)
    finish(guest, work, 2 * 12 * 256)
