# SPDX-License-Identifier: LGPL-2.1-or-later
"""Empty page tables of a guest's RAM: found, asked for and freed; nothing in use is lost."""
import pytest

from harness.guest import parse_totals
from harness.pageout import pageout
from harness.proc import sample
from harness.wait import wait_for
from test_guest_memory import stats, wait_lazyfree

MIB = 1 << 20
BLOCK_KIB = 2048
TABLE_KIB = 4
GUEST_MIB = 512
LOAD_MIB = 320
LEAST_LEFT = 1.05  # of the tables before a load


def tables_kib(guest):
    return sample(guest.pid).page_tables_kib


def boot(vm, kernel_like="", mode="lazy", agent="", memory_mib=GUEST_MIB, **options):
    device = f"virtio-ebb-pci,id=ebb,mode={mode},agent={agent}{kernel_like}"
    guest = vm.boot(memory_mib=memory_mib, modules=["virtio_ebb"], devices=[device], **options)
    if not stats(guest)["can-collect"]:
        pytest.skip("this host's kernel cannot free empty page tables")
    return guest


def purge(guest, start=None):
    pageout(guest.pid, guest.host_address(0) if start is None else start,
            guest.memory_mib * MIB)


def purge_what_was_freed(guest, work, percent, load_mib=LOAD_MIB):
    """So much of it becomes free, is marked, and then taken by the host's kernel."""
    before = guest.sample()
    work.ask(f"free {percent}")
    wait_lazyfree(guest, load_mib * percent / 200)
    start = guest.host_address(0)

    def taken():
        # The kernel passes over pages now and then.
        purge(guest, start)
        return guest.sample().rss_kib < before.rss_kib - load_mib * 1024 * percent // 200
    wait_for(taken, lambda: f"the purge: {guest.sample()}, was {before}", 300)


def collect(guest):
    """A collection, until it is over; returns what it added to the counters."""
    before = stats(guest)
    guest.qmp.set("/machine/peripheral/ebb", "collect", True)
    after = wait_for(lambda: stats(guest)["collections"] > before["collections"] and stats(guest),
                     lambda: f"the collection: {stats(guest)}", 300)
    return {key: after[key] - value for key, value in before.items()
            if key.startswith("tables-")}


def end(work):
    """Returns how many pages it has checked."""
    work.write("quit\n")
    status = work.wait()
    checked, bad = parse_totals(work.output)
    assert bad == 0 and status == 0 and checked, work.output
    return checked


def finish(guest, work, least_pages):
    work.ask("verify")
    assert end(work) >= least_pages
    assert stats(guest)["violations"] == 0


def test_tables_go_after_a_purge(vm, kernel_like):
    """What was freed and purged leaves its tables; a collection frees them, and those alone."""
    guest = boot(vm, kernel_like)
    assert stats(guest)["moves-tables"] or not kernel_like
    work = guest.memwork(LOAD_MIB)
    for turn in range(3):
        work.ask("refill")
        purge_what_was_freed(guest, work, 70)
        before = tables_kib(guest)
        did = collect(guest)
        assert did["tables-freed"] > LOAD_MIB * 1024 // BLOCK_KIB * 30 // 100, did
        assert did["tables-freed"] <= did["tables-offered"] <= did["tables-asked"]
        assert did["tables-asked"] <= did["tables-found"]
        # As many as it says, but for those that QEMU itself makes meanwhile.
        gone = (before - tables_kib(guest)) // TABLE_KIB
        assert abs(gone - did["tables-freed"]) <= 8 + did["tables-freed"] // 10, (gone, did)
        work.ask("verify")
        # Nothing is left to find of it.
        assert collect(guest)["tables-freed"] <= 8
    work.ask("refill")
    finish(guest, work, 3 * LOAD_MIB * 256)


def test_a_load_in_pieces(vm, kernel_like):
    """One page in 512 stays in use: then nothing goes. Once those are freed, too, all tables go that
    the load made."""
    guest = boot(vm, kernel_like, append="transparent_hugepage=never")
    work = guest.memwork(LOAD_MIB)
    before = tables_kib(guest)
    work.ask(f"fill {LOAD_MIB}")
    work.ask("thin")
    peak = tables_kib(guest)
    assert peak - before > LOAD_MIB * 1024 // BLOCK_KIB * TABLE_KIB * 8 // 10
    in_pieces = collect(guest)
    kept = tables_kib(guest)
    work.ask("verify")
    work.ask("free 100")
    wait_lazyfree(guest, LOAD_MIB * 8 / 10)
    start = guest.host_address(0)

    def taken():
        purge(guest, start)
        collect(guest)
        return tables_kib(guest) <= before * LEAST_LEFT
    wait_for(taken, lambda: f"the tables: {guest.sample()}, before {before}, {stats(guest)}", 300)
    print(f"VmPTE {before} kB before the load, {peak} at its peak, {kept} with one page in 512 kept "
          f"({in_pieces}), {tables_kib(guest)} kB in the end")
    work.ask("refill")
    finish(guest, work, 2 * LOAD_MIB * 256)


def rounds_and_collections(guest, work, least):
    """One that fills, verifies and frees without a pause, purges, and collections, until some of them
    have freed tables. When a round's memory is free for long enough to be purged is chance."""
    start = guest.host_address(0)
    freed = rounds = 0
    while rounds < least or freed == 0 and rounds < 200:
        work.read_line(600)
        purge(guest, start)
        freed += collect(guest)["tables-freed"]
        rounds += 1
    print(f"{freed} tables freed in {rounds} rounds")
    return freed


def test_memory_is_reused_while_tables_are_collected(vm, kernel_like):
    guest = boot(vm, kernel_like)
    work = guest.memwork(LOAD_MIB, rounds=0)
    freed = rounds_and_collections(guest, work, 10)
    assert end(work) > 10 * 200 * 256
    assert freed > 0 and stats(guest)["violations"] == 0


def test_at_rest(vm):
    """The host has plenty and nothing is reported: what was purged before is collected."""
    guest = boot(vm)
    work = guest.memwork(LOAD_MIB)
    work.ask("refill")
    purge_what_was_freed(guest, work, 70)
    guest.qmp.set("/machine/peripheral/ebb", "mode", "off")
    wait_for(lambda: not stats(guest)["reporting"], "the driver to rest")
    with pytest.raises(Exception, match="mode or page-tables is 'off'"):
        collect(guest)
    guest.qmp.set("/machine/peripheral/ebb", "mode", "lazy")
    assert collect(guest)["tables-freed"] > LOAD_MIB * 1024 // BLOCK_KIB * 30 // 100
    work.ask("refill")
    finish(guest, work, 2 * LOAD_MIB * 256)
