# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole path on KVM: the guest reports, the host marks, its kernel takes it by each way in
which a host gets short."""
from harness.wait import wait_for
from test_guest_memory import FRONTS, boot, finish, stats, wait_lazyfree

MIB = 1 << 20
OURS = FRONTS[1]


def test_limit_that_falls(vm, memory_cgroup):
    """memory.max goes under what the guest has: marked memory goes, live memory is whole."""
    group = memory_cgroup()
    guest = boot(vm, OURS, cgroup=group)
    work = guest.memwork(240)
    work.ask("fill 240")
    for _ in range(2):
        work.ask("free 75")
        wait_lazyfree(guest, 100)
        before = group.usage_bytes()
        limit = before - 90 * MIB
        group.set_limit(limit)
        assert group.usage_bytes() <= limit
        assert group.oom_kills() == 0
        work.ask("verify")
        group.set_limit("max")
        work.ask("refill")
        work.ask("verify")
    finish(work, 4 * 100 * 256)
    assert stats(guest)["discarded-bytes"] == 0


def test_reclaim_with_swap(vm, memory_cgroup, swap):
    """memory.reclaim of everything: what is marked is purged and not swapped out, what is live is
    swapped out and comes back."""
    group = memory_cgroup()
    guest = boot(vm, OURS, cgroup=group)
    work = guest.memwork(240)
    work.ask("fill 240")
    work.ask("free 75")
    marked = wait_lazyfree(guest, 120)
    group.reclaim_all()
    wait_for(lambda: guest.sample().lazyfree_kib < 16 << 10, lambda: f"the purge: {guest.sample()}")
    swapped = int((group.path / "memory.swap.current").read_text())
    assert swapped > 16 * MIB, "nothing was swapped out: the case tested nothing"
    assert swapped < (marked.held_kib << 10) + 16 * MIB, "what was marked was swapped out"
    work.ask("verify")
    work.ask("rounds 1")
    group.reclaim_all()
    work.ask("verify")
    finish(work, 2 * 100 * 256)


def test_two_guests_one_is_reclaimed(vm, memory_cgroup):
    """Two guests at once: the pressure on one neither takes nor harms what the other has."""
    groups = [memory_cgroup(), memory_cgroup()]
    guests = [boot(vm, OURS, cgroup=group, memory_mib=256) for group in groups]
    works = [guest.memwork(140, seed=number + 1) for number, guest in enumerate(guests)]
    for guest, work in zip(guests, works):
        work.ask("fill 140")
        work.ask("free 70")
        wait_lazyfree(guest, 40)
    groups[0].reclaim_all()
    wait_for(lambda: guests[0].sample().lazyfree_kib < 8 << 10, "the purge of the first")
    assert guests[1].sample().lazyfree_kib > 24 << 10, "the second lost its marked memory"
    for work in works:
        work.ask("verify")
        work.ask("refill")
        work.ask("verify")
        finish(work, 2 * 140 * 256)


def test_transparent_huge_pages_are_whole(vm, memory_cgroup):
    """The host backs the guest with huge pages; they are marked and purged whole."""
    guest = boot(vm, OURS, cgroup=(group := memory_cgroup()))
    work = guest.memwork(240)
    work.ask("fill 240")
    huge = guest.sample().anon_huge_kib
    assert huge > 100 << 10, f"only {huge} kB of huge pages: the case tested nothing"
    work.ask("free 75")
    marked = wait_lazyfree(guest, 120)
    assert marked.anon_huge_kib > huge - (48 << 10), "marking has split huge pages"
    group.reclaim_all()
    wait_for(lambda: guest.sample().lazyfree_kib < 16 << 10, lambda: f"the purge: {guest.sample()}")
    work.ask("verify")
    work.ask("refill")
    work.ask("verify")
    finish(work, 2 * 100 * 256)
