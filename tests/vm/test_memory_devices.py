# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that comes and goes while the guest's free memory is discarded: nothing in use is lost."""
from harness.qmp import QmpError
from harness.volatile import counters
from harness.wait import wait_for
from test_guest_memory import finish, front, stats  # noqa: F401

MIB = 1 << 20
DIMM = "0x100000000 +0x10000000 page 4096: private anonymous"


def regions(guest):
    return guest.qmp.get("/machine/peripheral/ebb", "ebb-regions")


def plugged(guest):
    return guest.qmp.get("/machine/peripheral/vm0", "size")


def resize(guest, size):
    guest.qmp.set("/machine/peripheral/vm0", "requested-size", size)


def test_virtio_mem_under_load(vm, front):
    """Blocks are plugged and unplugged while their neighbours are offered (rule 6)."""
    guest = vm.boot(memory_mib="384,maxmem=2G", devices=[front.option("eager")],
                    extra=["-object", "memory-backend-ram,id=mem0,size=512M",
                           "-device", "virtio-mem-pci,id=vm0,memdev=mem0,requested-size=256M"],
                    append="memhp_default_state=online_movable", modules=["virtio_mem", front.module])
    assert "+0x20000000 page 4096: private anonymous" in regions(guest)
    wait_for(lambda: plugged(guest) == 256 * MIB, "the guest to plug its memory", 300)
    work = guest.memwork(300)
    work.ask("fill 200")
    for size in (512 * MIB, 128 * MIB, 384 * MIB):
        resize(guest, size)
        work.ask("rounds 1")
    wait_for(lambda: plugged(guest) == 384 * MIB, "the guest to plug its memory again", 300)
    work.ask("verify")
    finish(work, 2 * 200 * 256)
    found = stats(guest)
    assert found["violations"] == 0 and found["broken"] is False
    assert found["discarded-bytes"] > 0


def test_virtio_mem_while_tables_are_collected(vm, kernel_like, small_host_pages):
    """What virtio-mem has taken back is collected without a question, and plugged again meanwhile:
    what the guest has is whole (rule 1)."""
    guest = vm.boot(memory_mib="384,maxmem=2G",
                    devices=[f"virtio-ebb-pci,id=ebb,mode=eager,agent={kernel_like}"],
                    extra=["-object", "memory-backend-ram,id=mem0,size=512M",
                           "-device", "virtio-mem-pci,id=vm0,memdev=mem0,requested-size=512M"],
                    append="memhp_default_state=online_movable transparent_hugepage=never",
                    modules=["virtio_mem", "virtio_ebb"])
    wait_for(lambda: plugged(guest) == 512 * MIB, "the guest to plug its memory", 300)
    work = guest.memwork(600)
    work.ask("fill 600")
    work.ask("free 80")
    for size in (64 * MIB, 512 * MIB, 64 * MIB):
        resize(guest, size)

        def resized():
            try:
                guest.qmp.set("/machine/peripheral/ebb", "collect", True)
            except QmpError as e:
                assert "under way" in str(e), e
            return plugged(guest) == size
        wait_for(resized, lambda: f"the guest to have {size}: {plugged(guest)}", 600, 0.01)
        if size == 512 * MIB:
            work.ask("fill 300")
            work.ask("free 50")
        work.ask("verify")
    wait_for(lambda: collected_again(guest), lambda: f"a collection: {stats(guest)}", 300)
    finish(work, 3 * 100 * 256)
    found = stats(guest)
    print({key: value for key, value in found.items() if "table" in key or "collect" in key})
    assert found["violations"] == 0 and found["broken"] is False
    if found["moves-tables"] and not kernel_like:
        assert found["tables-unplugged"] > 0


def collected_again(guest):
    """What was under way when the last memory was unplugged did perhaps not see it."""
    before = stats(guest)["collections"]
    try:
        guest.qmp.set("/machine/peripheral/ebb", "collect", True)
    except QmpError:
        return False
    wait_for(lambda: stats(guest)["collections"] > before, "its end", 300)
    return True


def test_unplug_and_compaction_beside_a_large_object(vm, programs):
    """Memory of /dev/ebb moves out of the way while it is not marked; what was marked and offered
    goes with the rest as soon as it is taken back."""
    guest = vm.boot(memory_mib="384,maxmem=2G", devices=["virtio-ebb-pci,id=ebb,mode=lazy"],
                    extra=["-object", "memory-backend-ram,id=mem0,size=256M",
                           "-device", "virtio-mem-pci,id=vm0,memdev=mem0,requested-size=256M"],
                    append="memhp_default_state=online_movable", modules=["virtio_mem"])
    vm.insmod(guest, "virtio_ebb", "age_msec=1")
    wait_for(lambda: plugged(guest) == 256 * MIB, "the guest to plug its memory", 300)
    large = guest.spawn("exec volserve 38400")
    large.ask("query")
    guest.compact()
    resize(guest, 0)
    wait_for(lambda: plugged(guest) == 0, "the guest to unplug all", 300)
    for first in (0, 20000, 37800):  # a look at all of it takes minutes
        assert large.ask(f"unmark {first} 600") == "ok purged 0 wrong 0"

    resize(guest, 256 * MIB)
    wait_for(lambda: plugged(guest) == 256 * MIB, "the guest to plug its memory again", 300)
    small = guest.spawn("exec volserve 1024")
    small.ask("mark")
    wait_for(lambda: counters(guest)["offered"] >= 1024, lambda: f"the offer: {counters(guest)}")
    resize(guest, 0)
    guest.compact()
    assert small.ask("unmark") == "ok purged 0 wrong 0"
    wait_for(lambda: plugged(guest) == 0, "the guest to unplug all again", 300)
    assert counters(guest)["strange"] == 0
    for work in (large, small):
        assert work.ask("unmark 0 600") == "ok purged 0 wrong 0"
        work.write("quit\n")
        assert work.wait() == 0


def test_dimm_plugged_and_unplugged_under_load(vm, front):
    """A region goes with offers in flight and comes again at the same address (rule 11)."""
    guest = vm.boot(memory_mib="384,slots=4,maxmem=2G", devices=[front.option("eager")],
                    append="memhp_default_state=online_movable", modules=[front.module])
    ram_bytes = stats(guest)["ram-bytes"]
    total_kib = guest.meminfo()["MemTotal"]
    work = guest.memwork(200)
    work.ask("fill 200")
    for _ in range(2):
        guest.qmp.command("object-add", qom_type="memory-backend-ram", id="mem1", size=256 * MIB)
        guest.qmp.command("device_add", driver="pc-dimm", id="dimm1", memdev="mem1")
        assert DIMM in regions(guest)
        assert stats(guest)["ram-bytes"] == 256 * MIB + ram_bytes
        wait_for(lambda: guest.meminfo()["MemTotal"] > total_kib + 200 * 1024,
                 "the guest to use the new memory", 120)
        work.ask("rounds 1")
        # The guest moves out what lies there, while its free memory is offered.
        guest.qmp.command("device_del", id="dimm1")
        work.ask("rounds 1")
        guest.qmp.wait_event("DEVICE_DELETED", 120)
        assert DIMM not in regions(guest)
        assert stats(guest)["ram-bytes"] == ram_bytes
        guest.qmp.command("object-del", id="mem1")
    work.ask("verify")
    finish(work, 2 * 200 * 256)
    assert stats(guest)["violations"] == 0
