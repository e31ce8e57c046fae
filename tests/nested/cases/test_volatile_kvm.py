# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volatile memory with content on KVM: the guest's page tables are the processor's own, and the host
takes pages through MMU notifiers while the guest takes them back. volwork holds each answer against
a model: whole is bit-identical, purged is never seen again, and what is not volatile stays."""
import os

import pytest

from harness.volatile import Again, Purger, counters, unload
from harness.wait import wait_for
from test_guest_memory import FRONTS, MIB, stats
from test_migration import add_snapshot_disk, run_job, wait_running, wait_status
from test_moving import MEMORY_MIB, begin, hurry, start_target, status, take_over
from test_volatile import totals

OURS = FRONTS[1]
TAKE_BACKS = int(os.environ.get("EBB_TAKE_BACKS", 1000000))
KINDS = ("explicit", "optimistic", "content-free")
ENOUGH = "/tmp/enough"
# A host with one emulated processor, that purges without a rest, lets a guest wait for long.
STARVED = "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=300"
PAUSE = 0.3  # between two purges: the guest shares the one processor of its host
REST = 3     # where it is take-backs that are to be many


@pytest.fixture
def group(memory_cgroup):
    """Of all QEMUs. Nothing in it can be swapped: reclaim takes what is volatile, and files."""
    group = memory_cgroup()
    if (group.path / "memory.swap.max").exists():  # version 1, outside of the nested host, has none
        (group.path / "memory.swap.max").write_text("0")
    return group


class Reclaimer(Again):
    """Reclaims all that can be: pressure on the whole group."""

    def __init__(self, group, rest=0):
        super().__init__(group.reclaim_all, PAUSE, rest)


def start(vm, group, **options):
    guest = vm.boot(memory_mib=MEMORY_MIB, devices=[OURS.option("lazy")], cgroup=group,
                    append=STARVED, **options)
    vm.insmod(guest, "virtio_ebb", "age_msec=1")
    return guest


def busy(guest, processes=2):
    """volworks of two kinds that go on until they are told that it is enough."""
    return [guest.spawn(f"exec volwork -m 8 -p {processes} -n 1000 -k {kind} -f {ENOUGH} -s {seed}")
            for seed, kind in enumerate(("optimistic", "content-free"))]


def end(guest, works, record_property):
    """No answer was wrong; returns take-backs, whole, purged."""
    guest.check(f"touch {ENOUGH}")
    sums = [0, 0, 0]
    for work in works:
        assert work.wait(1200) == 0, work.output
        takebacks, whole, purged, _, bad = totals(work.output)
        assert bad == 0, work.output
        sums = [a + b for a, b in zip(sums, (takebacks, whole, purged))]
    record_property("figure", "take-backs {}, whole {}, purged {}".format(*sums))
    assert counters(guest)["strange"] == 0 and stats(guest)["violations"] == 0
    return sums


def more_purged(guest, than=0):
    wait_for(lambda: counters(guest)["purged"] > than,
             lambda: f"purges: {counters(guest)}, {stats(guest)}", 300, alive=guest.check_alive)


def test_a_million_take_backs(vm, programs, group, record_property):
    """10^6 take-backs, of each kind a third, while the host reclaims and pages out."""
    guest = start(vm, group)
    each = TAKE_BACKS // len(KINDS) // 2 + 1
    sums = [0, 0, 0]
    with Purger(guest, PAUSE, REST), Reclaimer(group, REST) as reclaimer:
        for kind in KINDS:
            code, output = guest.run(f"volwork -m 16 -p 2 -n {each} -k {kind}", 3600)
            takebacks, whole, purged, _, bad = totals(output)
            record_property("figure", f"{kind}: take-backs {takebacks}, whole {whole}, purged {purged}, "
                            f"bad {bad}")
            assert code == 0 and bad == 0, output
            sums = [a + b for a, b in zip(sums, (takebacks, whole, purged))]
        assert reclaimer.rounds > 2
    seen = counters(guest)
    assert sums[0] >= TAKE_BACKS and min(sums[1:]) > TAKE_BACKS // 20, sums
    # Not the model's word alone: by cookie, of pages that the host had.
    assert min(seen["whole"], seen["purged"]) > TAKE_BACKS // 50 and seen["strange"] == 0, seen
    assert stats(guest)["violations"] == 0
    unload(guest)


def test_pre_copy_while_the_host_purges(vm, programs, group, tmp_path, record_property):
    """A stream so slow that it meets every state of a page, with purges before, meanwhile and
    after; what is copied is permanent while it is copied."""
    source = start(vm, group)
    works = busy(source)
    with Purger(source, PAUSE):
        more_purged(source)
    target = start_target(vm, OURS, group)
    purger = Purger(target, PAUSE)
    with Purger(source, PAUSE), Reclaimer(group):
        begin(source, target, f"unix:{tmp_path / 'socket'}")
        before = source.check("cat /sys/class/misc/ebb/counters/whole")
        wait_for(lambda: source.check("cat /sys/class/misc/ebb/counters/whole") != before or
                 stats(source)["hardened"], "something to happen meanwhile", 300)
        assert status(source) == "active"
        hurry(source, target)
    purged = counters(target)["purged"]
    with purger, Reclaimer(group):
        more_purged(target, purged)
    end(target, works, record_property)


def test_post_copy_while_the_host_purges(vm, programs, group, tmp_path, record_property):
    """The guest takes back, at the target, pages that are still to come."""
    source = start(vm, group)
    works = busy(source)
    with Purger(source, PAUSE):
        more_purged(source)
    target = start_target(vm, OURS, group)
    purger = Purger(target, PAUSE)
    with Purger(source, PAUSE):
        begin(source, target, f"unix:{tmp_path / 'socket'}", "postcopy-ram")
        source.qmp.command("migrate-start-postcopy")
        wait_status(source, "postcopy-active")
        wait_running(target)
        take_over(source, target)
        assert status(source) == "postcopy-active"
        source.qmp.command("migrate-set-parameters", max_postcopy_bandwidth=0)
        wait_status(source, "completed")
    purged = counters(target)["purged"]
    with purger, Reclaimer(group):
        more_purged(target, purged)
    end(target, works, record_property)


def test_savevm_while_the_host_purges(vm, programs, group, tmp_path, record_property):
    """Saved and put back in the middle of its work: what the snapshot says to be whole is whole."""
    guest = start(vm, group)
    where = add_snapshot_disk(guest, tmp_path / "snapshots.qcow2")
    works = busy(guest)
    with Purger(guest, PAUSE), Reclaimer(group):
        for tag in ("one", "two"):
            more_purged(guest, counters(guest)["purged"])
            run_job(guest, "snapshot-save", tag=tag, **where)
            more_purged(guest, counters(guest)["purged"])
            run_job(guest, "snapshot-load", tag=tag, **where)
            wait_running(guest)
            more_purged(guest, counters(guest)["purged"])
    sums = end(guest, works, record_property)
    assert min(sums[1:]) > 100
