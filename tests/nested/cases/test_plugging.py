# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory comes and goes while offers are in flight and the guest never rests (rules 6 and 11)."""
import threading
import time

from harness.hold import held
from harness.wait import wait_for
from test_guest_memory import FRONTS, MIB, finish, front, stats  # noqa: F401
from test_memory_devices import DIMM, plugged, regions, resize

BALLOON, OURS = FRONTS
DIMM_MIB = 256
REPORT_QUEUE = {"virtio_balloon": 3, "virtio_ebb": 0}


def boot(vm, front, memory, extra=(), modules=()):
    return vm.boot(memory_mib=memory, devices=[front.option("eager")], extra=list(extra),
                   append="memhp_default_state=online_movable", modules=[*modules, front.module])


def boot_virtio_mem(vm, front, requested_mib):
    guest = boot(vm, front, "320,maxmem=2G", modules=["virtio_mem"],
                 extra=["-object", "memory-backend-ram,id=mem0,size=512M", "-device",
                        f"virtio-mem-pci,id=vm0,memdev=mem0,requested-size={requested_mib}M"])
    wait_plugged(guest, requested_mib)
    return guest


def wait_plugged(guest, mib):
    wait_for(lambda: plugged(guest) == mib * MIB,
             lambda: f"{mib} MiB to be plugged, now {plugged(guest) / MIB} are", 300)


def in_flight(guest, front):
    return guest.qmp.command("x-query-virtio-queue-status", queue=REPORT_QUEUE[front.module],
                             path="/machine/peripheral/ebb/virtio-backend")["inuse"]


def wait_quiet(guest):
    """Until what is free has been offered: nothing new for longer than the guest's delay."""
    def still():
        before = stats(guest)["requests"]
        time.sleep(5)
        return stats(guest)["requests"] == before
    wait_for(still, "the guest to have offered all", 300)


def free_and_hold(guest, front, work):
    """With the executor held: free memory, and wait for an offer of it."""
    work.ask("free 60")
    wait_for(lambda: in_flight(guest, front), "an offer of the guest", 300)


def test_virtio_mem_plug_meets_a_discard(vm, front):
    """A discard takes long, and the guest plugs: the plug waits for it, and loses nothing."""
    guest = boot_virtio_mem(vm, front, 128)
    work = guest.memwork(260)
    for mib in (256, 384, 512):
        work.ask("fill 260" if mib == 256 else "refill")
        wait_quiet(guest)
        with held(guest.pid, "ebb-executor"):
            free_and_hold(guest, front, work)
            # The guest plugs at once, and who has the big lock waits then: the monitor's answer
            # may come only after that.
            asked = threading.Thread(target=resize, args=(guest, mib * MIB))
            asked.start()
            time.sleep(3)
        asked.join()
        wait_plugged(guest, mib)
        work.ask("rounds 1")
    finish(work, 4 * 200 * 256)
    found = stats(guest)
    assert found["violations"] == 0 and found["broken"] is False


def test_virtio_mem_resized_without_pause(vm):
    """Plugs and unplugs as fast as the guest can, while it frees and uses all the time."""
    guest = boot_virtio_mem(vm, OURS, 256)
    kept = guest.memwork(80, seed=1)
    kept.ask("fill 80")
    busy = guest.memwork(160, seed=2, rounds=0)
    for turn in range(8):
        resize(guest, (512, 192)[turn % 2] * MIB)
        busy.read_line(600)
    resize(guest, 512 * MIB)
    wait_plugged(guest, 512)
    kept.ask("verify")
    finish(kept, 2 * 80 * 256)
    finish(busy, 8 * 100 * 256)
    found = stats(guest)
    assert found["violations"] == 0 and found["discarded-bytes"] > 0


def plug_dimm(guest):
    guest.qmp.command("object-add", qom_type="memory-backend-ram", id="mem1",
                      size=DIMM_MIB * MIB)
    guest.qmp.command("device_add", driver="pc-dimm", id="dimm1", memdev="mem1")


def test_dimm_goes_with_offers_in_flight(vm, front):
    """A discard takes long while the guest gives the memory back: its region goes after that."""
    guest = boot(vm, front, "320,slots=4,maxmem=2G")
    total_kib = guest.meminfo()["MemTotal"]
    work = guest.memwork(320)
    for turn in range(2):
        plug_dimm(guest)
        wait_for(lambda: guest.meminfo()["MemTotal"] > total_kib + 200 * 1024,
                 "the guest to use the new memory", 300)
        work.ask("refill")
        wait_quiet(guest)
        with held(guest.pid, "ebb-executor"):
            free_and_hold(guest, front, work)
            guest.qmp.command("device_del", id="dimm1")
            time.sleep(3)
        guest.qmp.wait_event("DEVICE_DELETED", 300)
        assert DIMM not in regions(guest)
        guest.qmp.command("object-del", id="mem1")
        work.ask("verify")
        assert stats(guest)["violations"] == 0, turn
    finish(work, 2 * 300 * 256)


def test_dimm_comes_while_a_discard_runs(vm):
    """A region that is new beside the one that is discarded from, and offers of it at once."""
    guest = boot(vm, BALLOON, "320,slots=4,maxmem=2G")
    work = guest.memwork(150)
    work.ask("fill 150")
    wait_quiet(guest)
    with held(guest.pid, "ebb-executor"):
        free_and_hold(guest, BALLOON, work)
        before = stats(guest)["discarded-bytes"]
        plug_dimm(guest)
        time.sleep(3)
    assert DIMM in regions(guest)
    # What is held are 60 MiB.
    wait_for(lambda: stats(guest)["discarded-bytes"] > before + (60 + DIMM_MIB // 2) * MIB,
             lambda: f"the new memory to be offered: {stats(guest)}", 600)
    work.ask("rounds 2")
    finish(work, 3 * 150 * 256)
    assert stats(guest)["violations"] == 0
