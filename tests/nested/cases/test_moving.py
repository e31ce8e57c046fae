# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest runs while it moves, is copied or is put back, and its free memory is marked, taken and
used again meanwhile. Two memworks see to the content: one keeps what it has, one never rests."""
import pytest

from harness.wait import wait_for
from test_guest_memory import FRONTS, MIB, boot, finish, front, stats  # noqa: F401
from test_migration import add_snapshot_disk, run_job, take_over, wait_running, wait_status
from test_tables import collect

MEMORY_MIB = 320
KEPT_MIB, BUSY_MIB = 64, 64
UNLIMITED = 1 << 40
BALLOON, OURS = FRONTS
# So slow that what is kept alone takes minutes; what the guest waits for comes at once.
SLOW = MIB // 2


@pytest.fixture
def group(memory_cgroup):
    """Of both QEMUs. Nothing in it can be swapped: reclaim takes what is marked, and files."""
    group = memory_cgroup()
    (group.path / "memory.swap.max").write_text("0")
    return group


class Load:
    """What runs in the guest."""

    def __init__(self, guest):
        self.guest = guest
        self.kept = guest.memwork(KEPT_MIB, seed=1)
        self.kept.ask(f"fill {KEPT_MIB}")
        self.busy = guest.memwork(BUSY_MIB, seed=2, rounds=0)
        self.rounds(1)

    def rounds(self, number):
        for _ in range(number):
            self.busy.read_line(600)

    def copy(self, guest):
        """The load of a copy of this guest."""
        copy = object.__new__(Load)
        copy.guest = guest
        copy.kept = guest.channel.copy_of(self.kept)
        copy.busy = guest.channel.copy_of(self.busy)
        return copy

    def finish(self):
        self.kept.ask("verify")
        finish(self.kept, 2 * KEPT_MIB * 256)
        finish(self.busy, 2 * BUSY_MIB * 256)


def start_target(vm, front, group, mode="lazy"):
    return vm.start(memory_mib=MEMORY_MIB, devices=[front.option(mode)], cgroup=group,
                    extra=["-incoming", "defer"])


def status(guest):
    return guest.qmp.command("query-migrate").get("status")


def begin(source, target, uri, capability=None):
    """Slowly; returns when pages are on their way."""
    target.channel.follow(source.channel)
    if capability:
        for guest in (source, target):
            guest.qmp.command("migrate-set-capabilities",
                              capabilities=[{"capability": capability, "state": True}])
    source.qmp.command("migrate-set-parameters", max_bandwidth=SLOW, downtime_limit=1,
                       max_postcopy_bandwidth=SLOW)
    target.qmp.command("migrate-incoming", uri=uri)
    source.qmp.command("migrate", uri=uri)
    wait_status(source, "active")


def hurry(source, target):
    """To the end, without a stop that a test orders; what ran goes on at the target."""
    source.qmp.command("migrate-set-parameters", max_bandwidth=UNLIMITED,
                       max_postcopy_bandwidth=UNLIMITED, downtime_limit=60000)
    wait_status(source, "completed")
    wait_running(target)
    take_over(source, target)


def more(guest, name, than):
    wait_for(lambda: stats(guest)[name] > than,
             lambda: f"{name} above {than}: {stats(guest)}", 300, alive=guest.check_alive)


def collect_tables(guest, front):
    """One that cannot be asked has none to give."""
    if front is OURS and stats(guest)["can-collect"]:
        print(f"collected: {collect(guest)}")


def test_pre_copy_with_reports_and_purges(vm, front, group, tmp_path):
    """On both sides marks are made and the kernel takes what is marked, before and after; and the
    tables that this leaves are collected, also while KVM logs what is written."""
    source = boot(vm, front, memory_mib=MEMORY_MIB, cgroup=group)
    load = Load(source)
    target = start_target(vm, front, group)
    begin(source, target, f"unix:{tmp_path / 'socket'}")
    for _ in range(3):
        more(source, "marked-bytes", stats(source)["marked-bytes"])
        group.reclaim_all()
        collect_tables(source, front)
        load.rounds(1)
    assert status(source) == "active"
    hurry(source, target)
    for _ in range(2):
        more(target, "marked-bytes", stats(target)["marked-bytes"])
        group.reclaim_all()
        collect_tables(target, front)
        load.rounds(1)
    load.finish()
    assert stats(target)["violations"] == 0


def test_pre_copy_cancelled_and_again(vm, group, tmp_path):
    """A migration that is given up leaves a guest that offers as before, and moves later."""
    source = boot(vm, BALLOON, memory_mib=MEMORY_MIB, mode="eager", cgroup=group)
    load = Load(source)
    begin(source, start_target(vm, BALLOON, group, "eager"), f"unix:{tmp_path / 'one'}")
    load.rounds(1)
    source.qmp.command("migrate_cancel")
    wait_for(lambda: status(source) == "cancelled", "the migration to be cancelled", 300)
    found = stats(source)
    assert found["hardened"] is False and found["inhibited"] is False
    more(source, "discarded-bytes", found["discarded-bytes"])
    load.rounds(1)
    target = start_target(vm, BALLOON, group, "eager")
    begin(source, target, f"unix:{tmp_path / 'two'}")
    load.rounds(1)
    hurry(source, target)
    more(target, "discarded-bytes", 0)
    load.rounds(1)
    load.finish()


def test_post_copy(vm, front, group, tmp_path):
    """The guest runs at the target while most of its pages are still to come: they come when it
    touches them, and nothing is discarded before all are there (rule 6)."""
    source = boot(vm, front, memory_mib=MEMORY_MIB, mode="eager", cgroup=group)
    load = Load(source)
    target = start_target(vm, front, group, "eager")
    begin(source, target, f"unix:{tmp_path / 'socket'}", "postcopy-ram")
    source.qmp.command("migrate-start-postcopy")
    wait_status(source, "postcopy-active")
    wait_running(target)
    take_over(source, target)
    load.rounds(1)
    more(target, "not-marked-inhibited-bytes", 0)
    assert status(source) == "postcopy-active"
    found = stats(target)
    assert found["discarded-bytes"] == 0 and found["inhibited"] is True
    source.qmp.command("migrate-set-parameters", max_postcopy_bandwidth=0)
    wait_status(source, "completed")
    more(target, "discarded-bytes", 0)
    load.rounds(1)
    load.finish()
    assert stats(target)["violations"] == 0


def test_background_snapshot(vm, group, tmp_path):
    """The host write-protects the guest's memory and copies it while the guest runs: the copy is
    whole, and so is who was copied."""
    guest = boot(vm, OURS, memory_mib=MEMORY_MIB, cgroup=group)
    load = Load(guest)
    file = tmp_path / "snapshot"
    guest.qmp.command("migrate-set-capabilities",
                      capabilities=[{"capability": "background-snapshot", "state": True}])
    guest.qmp.command("migrate", uri=f"exec:cat >{file}")
    wait_for(lambda: status(guest) == "active" and
             guest.qmp.command("query-status")["running"], "the snapshot to be under way", 300)
    # QEMU knows no limit at the start. The guest waits for each page that it writes to.
    guest.qmp.command("migrate-set-parameters", max_bandwidth=2 * MIB)
    refused = stats(guest)["not-marked-inhibited-bytes"]
    more(guest, "not-marked-inhibited-bytes", refused)
    group.reclaim_all()
    assert status(guest) == "active"
    guest.qmp.command("migrate-set-parameters", max_bandwidth=UNLIMITED)
    load.rounds(1)
    wait_status(guest, "completed")
    more(guest, "marked-bytes", stats(guest)["marked-bytes"])

    copy = start_target(vm, OURS, group)
    load_of_copy = load.copy(copy)
    copy.qmp.command("migrate-incoming", uri=f"exec:cat {file}")
    wait_running(copy)
    for each in (load_of_copy, load):
        each.rounds(1)
        more(each.guest, "marked-bytes", 0)
        group.reclaim_all()
        each.finish()


def test_snapshot_and_back_under_load(vm, group, tmp_path):
    """Saved and put back in the middle of its work, with offers in flight both times."""
    guest = boot(vm, OURS, memory_mib=MEMORY_MIB, cgroup=group)
    where = add_snapshot_disk(guest, tmp_path / "snapshots.qcow2")
    load = Load(guest)
    for tag in ("one", "two"):
        more(guest, "marked-bytes", stats(guest)["marked-bytes"])
        run_job(guest, "snapshot-save", tag=tag, **where)
        more(guest, "marked-bytes", stats(guest)["marked-bytes"])
        group.reclaim_all()
        load.rounds(2)
        run_job(guest, "snapshot-load", tag=tag, **where)
        wait_running(guest)
        more(guest, "marked-bytes", stats(guest)["marked-bytes"])
        group.reclaim_all()
        load.rounds(2)
    load.finish()
    assert stats(guest)["violations"] == 0
