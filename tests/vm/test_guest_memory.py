# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real guests on both devices: nothing that is in use is ever lost."""
import dataclasses

import pytest

from harness.guest import parse_totals
from harness.wait import wait_for

MIB = 1 << 20
MIB_KIB = 1024


@dataclasses.dataclass
class Front:
    device: str
    module: str

    def option(self, mode, extra=""):
        return f"{self.device},id=ebb,mode={mode},agent={extra}"


FRONTS = [Front("virtio-ebb-balloon-pci", "virtio_balloon"), Front("virtio-ebb-pci", "virtio_ebb")]


@pytest.fixture(params=FRONTS, ids=lambda f: f.module)
def front(request, build):
    if request.param.module == "virtio_ebb":
        assert build.driver
    return request.param


def boot(vm, front, mode="lazy", memory_mib=384, **options):
    return vm.boot(memory_mib=memory_mib, devices=[front.option(mode)], modules=[front.module],
                   **options)


def stats(guest):
    return guest.qmp.get("/machine/peripheral/ebb", "ebb-stats")


def wait_lazyfree(guest, mib):
    def marked():
        guest.compact()
        now = guest.sample()
        return now.lazyfree_kib >= mib * MIB_KIB and now

    return wait_for(marked, lambda: f"{mib:g} MiB to be lazily freed: {guest.sample()}, "
                    f"{stats(guest)}", 300, 0.5)


def finish(work, least_pages):
    """End a memwork and check its accounts."""
    work.write("quit\n")
    status = work.wait()
    checked, bad = parse_totals(work.output)
    assert bad == 0 and status == 0, work.output
    assert checked >= least_pages
    return checked


def test_report_and_reuse(vm, front):
    """What the guest frees becomes volatile and stays; used again it is simply there."""
    guest = boot(vm, front)
    work = guest.memwork(240)
    work.ask("fill 240")
    full = guest.sample()
    work.ask("free 100")
    marked = wait_lazyfree(guest, 160)
    # Discarded at once it would be 160 MiB less; some may go to the host's own reclaim.
    assert marked.rss_kib > full.rss_kib - 80 * MIB_KIB, "memory was taken without need"
    assert marked.held_kib < full.rss_kib - 150 * MIB_KIB
    for how in ("dontneed", "munmap", "dontneed"):
        work.ask("refill")
        work.ask("verify")
        work.ask(f"free 60 {how}")
        wait_lazyfree(guest, 40)
    work.ask("verify")
    finish(work, 4 * 240 * 256)
    assert stats(guest)["violations"] == 0
    assert stats(guest)["discarded-bytes"] == 0


def test_eager(vm, front):
    guest = boot(vm, front, mode="eager")
    work = guest.memwork(240)
    work.ask("fill 240")
    full = guest.sample().rss_kib
    work.ask("free 100")
    wait_for(lambda: guest.sample().rss_kib < full - 160 * MIB_KIB,
             lambda: f"the host to get memory back: {guest.sample()}, was {full}", 300)
    work.ask("fill 240")
    work.ask("free 50")
    work.ask("refill")
    work.ask("verify")
    finish(work, 2 * 240 * 256)
    assert stats(guest)["marked-bytes"] == 0


def test_off(vm, front):
    guest = boot(vm, front, mode="off")
    work = guest.memwork(200)
    work.ask("fill 200")
    work.ask("free 100")
    work.ask("fill 200")
    work.ask("verify")
    finish(work, 2 * 200 * 256)
    assert guest.sample().lazyfree_kib == 0
    assert stats(guest)["marked-bytes"] == stats(guest)["discarded-bytes"] == 0


def test_purge_under_a_limit(vm, front, memory_cgroup):
    """Pressure takes what is marked and nothing else; all that is live is checked."""
    group = memory_cgroup()
    guest = boot(vm, front, cgroup=group)
    work = guest.memwork(240)
    for turn in range(3):
        work.ask("rounds 1" if turn else "fill 240")
        work.ask("free 75")
        wait_lazyfree(guest, 80)
        group.reclaim_all()
        wait_for(lambda: guest.sample().lazyfree_kib < 16 * MIB_KIB,
                 lambda: f"the purge: {guest.sample()}")
        work.ask("verify")
    work.ask("rounds 2")
    finish(work, 5 * 240 * 256)


def test_two_guests_in_less_memory_than_they_touch(vm, front, memory_cgroup):
    """In turn each fills more than would fit if the other's free memory were not taken."""
    group = memory_cgroup()
    guests = [boot(vm, front, cgroup=group, memory_mib=320) for _ in range(2)]
    base = group.usage_bytes()
    limit = base + 340 * MIB
    group.set_limit(limit)
    works = [g.memwork(200, seed=i + 1) for i, g in enumerate(guests)]
    for work in works:
        work.ask("fill 24")  # kept for the whole test
    for turn in range(6):
        guest, work = guests[turn % 2], works[turn % 2]
        work.ask("refill")
        work.ask("verify")
        work.ask("free 85")
        wait_lazyfree(guest, 80)
        assert group.oom_kills() == 0
    assert group.failures() > 0, "the limit was never reached: the test tested nothing"
    for work in works:
        work.ask("verify")
        finish(work, 3 * 170 * 256)
    for guest in guests:
        assert guest.process.poll() is None
        assert stats(guest)["marked-bytes"] > 100 * MIB


def test_pressure_while_memory_is_reused(vm, front, memory_cgroup):
    """The kernel takes marked memory all the time while the guest frees and uses it."""
    group = memory_cgroup()
    guest = boot(vm, front, cgroup=group)
    work = guest.memwork(200, rounds=0)
    for _ in range(12):
        work.read_line(600)
        group.reclaim_all()
    finish(work, 12 * 100 * 256)
    assert stats(guest)["marked-bytes"] > 0


def test_unload_and_reload_under_load(vm, front):
    guest = boot(vm, front)
    work = guest.memwork(240, rounds=0)
    for _ in range(8):
        work.read_line(600)
        guest.check(f"rmmod {front.module}")
        assert stats(guest)["driver"] is False
        vm.insmod(guest, front.module)
        wait_for(lambda: stats(guest)["driver"], "the device to see the driver")
    finish(work, 8 * 150 * 256)
    assert stats(guest)["violations"] == 0


def test_system_reset_under_load(vm, front):
    guest = boot(vm, front, mode="eager")
    for turn in range(2):
        work = guest.memwork(160, seed=turn, rounds=0)
        work.read_line(600)
        work.read_line(600)
        guest.reset()
        vm.insmod(guest, front.module)
    work = guest.memwork(240, rounds=2)
    assert work.wait(600) == 0
    assert parse_totals(work.output)[1] == 0
    assert stats(guest)["violations"] == 0


def test_reboot_by_the_guest(vm, front):
    """The guest's own way down: its driver takes part in it, the device is reset in the end."""
    guest = boot(vm, front)
    work = guest.memwork(200, rounds=0)
    work.read_line(600)
    boots = guest.channel.boots
    guest.spawn("reboot -f")
    guest.wait_boot(boots + 1)
    vm.insmod(guest, front.module)
    work = guest.memwork(240, rounds=1)
    assert work.wait(600) == 0


def test_init_on_free_is_marked(vm, front):
    """Rule 10: where freed memory is zeroed, old and purged content are the same."""
    guest = boot(vm, front, append="init_on_free=1")
    work = guest.memwork(240)
    work.ask("fill 240")
    work.ask("free 100")
    wait_lazyfree(guest, 120)
    work.ask("fill 240")
    work.ask("verify")
    finish(work, 3 * 240 * 256)


def test_stop_and_cont_under_load(vm, front):
    guest = boot(vm, front)
    work = guest.memwork(240, rounds=0)
    for _ in range(10):
        work.read_line(600)
        guest.qmp.command("stop")
        before = stats(guest)
        assert guest.qmp.command("query-status")["running"] is False
        after = stats(guest)
        assert before["madvise-calls"] == after["madvise-calls"]
        guest.qmp.command("cont")
    finish(work, 10 * 150 * 256)
