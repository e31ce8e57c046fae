# SPDX-License-Identifier: LGPL-2.1-or-later
"""ksmd merges guests while they report free memory (rule 2)."""
from harness.wait import wait_for
from test_guest_memory import FRONTS, boot, finish, stats

MIB = 1 << 20
OURS = FRONTS[1]
MERGEABLE = "q35,mem-merge=on"
SAME = 7  # one seed: the guests' pages are identical


def start(vm, group):
    guest = boot(vm, OURS, memory_mib=256, machine=MERGEABLE, cgroup=group)
    work = guest.memwork(96, seed=SAME)
    work.ask("fill 96")
    return guest, work


def wait_merged(ksm, mib):
    wait_for(lambda: ksm.read("pages_sharing") * 4096 >= mib * MIB,
             lambda: f"{mib} MiB to be merged: {ksm.read('pages_sharing')} pages are", 600)


def test_a_page_left_behind_by_its_other_user(vm, ksm, memory_cgroup):
    """Two guests share pages, one ends, the other offers them, a third gets identical ones, and
    memory gets short: with a page of KSM freed lazily the third would read zeros."""
    group = memory_cgroup()
    first, first_work = start(vm, group)
    second, second_work = start(vm, group)
    wait_merged(ksm, 80)
    second_work.ask("verify")
    finish(second_work, 96 * 256)
    assert second.quit() == 0
    first_work.ask("free 75")
    wait_for(lambda: stats(first)["discarded-bytes"] > 48 * MIB,
             lambda: f"the guest to offer it: {stats(first)}", 300)
    assert stats(first)["marked-bytes"] == 0, "memory that KSM may hold was marked"
    third, third_work = start(vm, group)
    wait_merged(ksm, 16)
    group.reclaim_all()
    for work in (first_work, third_work):
        work.ask("verify")
        work.ask("refill")
        group.reclaim_all()
        work.ask("verify")
        finish(work, 96 * 256)
    assert stats(third)["violations"] == 0


def test_rounds_while_ksmd_scans(vm, ksm, memory_cgroup):
    """Both free and fill again all the time, and the host reclaims."""
    group = memory_cgroup()
    pairs = [start(vm, group) for _ in range(2)]
    wait_merged(ksm, 48)
    for _ in range(3):
        for _, work in pairs:
            work.ask("free 60")
            group.reclaim_all()
            work.ask("verify")
            work.ask("refill")
    for guest, work in pairs:
        work.ask("verify")
        finish(work, 3 * 36 * 256)
        assert stats(guest)["marked-bytes"] == 0
        assert stats(guest)["discarded-bytes"] > 0
