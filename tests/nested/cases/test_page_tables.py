# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables on KVM: what the host's kernel has taken leaves them, and the guest works on."""
import pathlib

import pytest

from harness.guest import parse_totals
from harness.proc import kib_fields
from harness.wait import wait_for
from test_guest_memory import wait_lazyfree
from test_tables import MIB, boot, collect, stats, tables_kib


THP = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def kvm_tables_kib():
    """Of all guests of this host."""
    return kib_fields(pathlib.Path("/proc/meminfo").read_text()).get("SecPageTables")


@pytest.fixture
def small_pages():
    """A huge page has no table that could be left behind."""
    was = THP.read_text().split("[")[1].split("]")[0]
    THP.write_text("never")
    yield
    THP.write_text(was)


def test_collected_after_the_host_reclaimed(vm, memory_cgroup, small_pages, kernel_like):
    """Each time all is checked that the guest kept, and the freed part is used again."""
    group = memory_cgroup()
    guest = boot(vm, kernel_like, cgroup=group)
    print(f"tables are {'moved' if stats(guest)['moves-tables'] else 'freed by a discard'}")
    work = guest.memwork(240)
    freed = 0
    for _ in range(3):
        work.ask("refill")
        work.ask("free 75")
        wait_lazyfree(guest, 80)
        group.reclaim_all()
        wait_for(lambda: guest.sample().lazyfree_kib < 8 << 10, lambda: f"the purge: {guest.sample()}")
        before, kvm_before = tables_kib(guest), kvm_tables_kib()
        did = collect(guest)
        print(f"VmPTE {before} kB to {tables_kib(guest)} kB, KVM's {kvm_before} kB to "
              f"{kvm_tables_kib()} kB, {did}")
        assert did["tables-freed"] > 20, (did, stats(guest))
        assert tables_kib(guest) <= before - 4 * did["tables-freed"] * 3 // 4
        freed += did["tables-freed"]
        work.ask("verify")
    # And while it works: what is offered is discarded, and what it uses is not.
    work.ask("rounds 1")
    collect(guest)
    work.ask("refill")
    work.ask("verify")
    work.write("quit\n")
    status = work.wait()
    checked, bad = parse_totals(work.output)
    assert bad == 0 and status == 0, work.output
    assert checked > 3 * 100 * 256
    assert stats(guest)["violations"] == 0 and stats(guest)["discarded-bytes"] >= freed * 2 * MIB
