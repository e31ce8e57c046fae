# SPDX-License-Identifier: LGPL-2.1-or-later
"""/dev/ebb in a guest: volatile memory with content."""
import re

import pytest

from harness import agent as ag
from harness.hold import held
from harness.pageout import pageout_ram
from harness.volatile import MIB, PAGE, Purger, counters, unload
from harness.wait import wait_for

EXECUTOR = "ebb-executor"


@pytest.mark.parametrize("device", ["none", "ebb"])
def test_semantics(vm, programs, device):
    """Every promise that needs no host, without a device and with one."""
    devices = ["virtio-ebb-pci,id=ebb,mode=lazy"] if device == "ebb" else []
    guest = vm.boot(memory_mib=256, devices=devices, modules=["virtio_ebb"])
    status, output = guest.run("volcheck all")
    assert status == 0, output
    unload(guest)


def totals(output):
    found = [[int(n) for n in line] for line in re.findall(
        r"takebacks (\d+), whole (\d+), purged (\d+), calls (\d+), bad (\d+)", output)]
    assert found, f"volwork gave no account:\n{output}"
    return [sum(column) for column in zip(*found)]


@pytest.mark.parametrize("kind,huge", [("explicit", 1), ("optimistic", 0), ("optimistic", 1),
                                       ("content-free", 1)])
def test_answers_under_purging(vm, programs, kind, huge):
    """10^5 take-backs while the host purges: whole is bit-identical, purged is never seen again."""
    guest = vm.boot(memory_mib=384, cpus=2, devices=["virtio-ebb-pci,id=ebb,mode=lazy"])
    vm.insmod(guest, "virtio_ebb", f"age_msec=1 huge={huge}")
    with Purger(guest) as purger:
        status, output = guest.run(f"volwork -m 16 -p 2 -n 50000 -k {kind}", 600)
        wait_for(lambda: purger.rounds > 2, "the host to purge")
    takebacks, whole, purged, _, bad = totals(output)
    seen = counters(guest)
    print(kind, huge, takebacks, whole, purged, seen)
    assert status == 0 and bad == 0, output
    assert takebacks >= 100000 and whole > 5000 and purged > 5000
    assert seen["whole"] > 1000 and seen["purged"] > 1000 and seen["strange"] == 0
    unload(guest)


@pytest.mark.parametrize("where", ["group", "guest"])
def test_own_pressure(vm, programs, where):
    """A guest, or a control group in it, that is full loses what is volatile, and kills nobody."""
    guest = vm.boot(memory_mib=256, modules=["virtio_ebb"])
    if where == "group":
        guest.check("mount -t cgroup2 none /cg && echo +memory >/cg/cgroup.subtree_control && "
                    "mkdir /cg/full && echo 64M >/cg/full/memory.max")
        output = guest.check("echo $$ >/cg/full/cgroup.procs && exec volcheck pressure 40 44")
        assert "oom_kill 0" in guest.check("cat /cg/full/memory.events")
        group = guest.check("cat /cg/full/memory.stat")
        assert int(re.search(r"^shmem (\d+)", group, re.M).group(1)) < 4 * MIB, group
    else:
        output = guest.check("volcheck pressure 120 130")
    print(output, counters(guest))
    assert counters(guest)["own_purged"] > 1000
    unload(guest)


def test_own_pressure_takes_parts_of_huge_pages(vm, programs):
    """A control group that is full loses what is volatile also where it is half of each huge page."""
    guest = vm.boot(memory_mib=256, modules=["virtio_ebb"])
    guest.check("mount -t cgroup2 none /cg && echo +memory >/cg/cgroup.subtree_control && "
                "mkdir /cg/full && echo 64M >/cg/full/memory.max")
    output = guest.check("echo $$ >/cg/full/cgroup.procs && exec volcheck parts 40 36 256")
    print(output, counters(guest))
    assert "oom_kill 0" in guest.check("cat /cg/full/memory.events")
    assert counters(guest)["own_purged"] > 1000
    unload(guest)


def test_small_ranges_are_packed(serve):
    """Marked one by one, at different times, a block is offered as one when all of it is volatile."""
    served = serve(1024, options="age_msec=50")
    for first in range(0, 512, 16):
        served.ask(f"mark {first} 16")
        served.guest.check("usleep 20000")
    served.wait_offered(512)
    # A part of a block: a host with huge pages says no, until all of it is volatile.
    served.ask("mark 512 256")
    wait_for(lambda: counters(served.guest)["refused"] or served.query(512, 256)["offered"] == 256,
             "the half block to be offered")
    served.ask("mark 768 256")
    served.wait_offered(1024)
    served.purge()
    assert served.unmark() > 0
    served.finish()


def shmem_kib(guest):
    return guest.meminfo()["Shmem"]


def test_host_tells_what_is_gone(serve):
    """A purge by the host reaches a waiting program, and the guest gets the memory."""
    served = serve(2048)
    served.ask("mark")
    served.wait_offered()
    before = shmem_kib(served.guest)
    served.work.write("event\n")
    with Purger(served.guest):
        event = re.search(r"offset (\d+) bytes (\d+)", served.work.read_line())
        offset, size = int(event.group(1)), int(event.group(2))
        assert offset % PAGE == 0 and offset + size <= served.pages * PAGE and size
        wait_for(lambda: served.query()["purged"] >= served.pages // 2,
                 lambda: f"the notices: {served.query()}")
    purged = served.query()["purged"]
    assert shmem_kib(served.guest) <= before - purged * 4 + 256
    assert served.ask(f"touch {offset // PAGE}") == "ok bus"
    assert served.unmark() >= purged
    assert served.unmark() == 0
    served.finish()


def test_offer_in_flight_is_waited_for(serve):
    """Rule 4: neither a touch nor NONVOLATILE takes a page that the host may be marking."""
    served = serve(512, options="age_msec=300")
    served.ask("mark")
    with held(served.guest.pid, EXECUTOR):
        wait_for(lambda: served.query()["offered"], "the offer")
        served.work.write("unmark\n")
        with pytest.raises(AssertionError):
            wait_for(lambda: "purged 0 wrong" in served.work.output, "what must not come", 1)
        # The rest of the guest goes on, and an opener that waits can be killed.
        assert served.guest.check("echo on") == "on\n"
    assert "ok purged 0" in served.work.read_line()
    served.finish()


def test_held_pages_are_left_out(serve):
    """Of a block that a pipe holds a page of nothing is offered, of its neighbour all; and of both
    when it is let go."""
    served = serve(1024)
    served.ask("hold 7")
    served.ask("mark")
    served.wait_offered(512)
    assert served.query(0, 512)["offered"] == 0
    served.purge()
    served.ask("letgo 7")
    wait_for(lambda: served.query(0, 512)["offered"] == 512, "the block to be offered as well")
    assert 0 < served.unmark() < 1024
    # Held while it is offered cannot be: who takes hold of it takes it back.
    served.ask("mark")
    served.wait_offered()
    served.ask("hold 9")
    assert served.query(9, 1) == {"volatile": 0, "offered": 0, "purged": 0}
    served.purge()
    served.ask("letgo 9")
    served.finish()


def test_unbind_and_bind(serve):
    """All is taken back before the device goes; it is offered anew to the next one."""
    served = serve(1024)
    driver = "/sys/bus/virtio/drivers/virtio_ebb"
    name = served.guest.check(f"cd {driver} && echo virtio*").strip()
    served.ask("mark")
    served.wait_offered()
    served.guest.check(f"echo {name} >{driver}/unbind")
    assert served.query() == {"volatile": 1024, "offered": 0, "purged": 0}
    served.guest.check(f"echo {name} >{driver}/bind")
    served.wait_offered()
    served.purge()
    served.guest.check(f"echo {name} >{driver}/unbind")
    gone = served.query()
    assert gone["offered"] == 0 and gone["purged"] > 0
    assert served.unmark() == gone["purged"]
    served.finish()


def test_damaged_units_are_completed(serve, tmp_path):
    """WHOLE, and the host is short: what is left of a unit that lost a page goes as well."""
    agent = ag.FakeAgent(tmp_path / "agent")
    served = serve(4096, unit=512, agent=agent)
    served.ask("mark")
    served.wait_offered()
    for gpa in range(0, 256 * MIB, 2 * MIB):
        pageout_ram(served.guest, gpa, 16 << 10)
    served.ask("event")
    wait_for(lambda: all(served.query(unit, 512)["purged"] in (0, 512)
                         for unit in range(0, 4096, 512)),
             lambda: f"whole units: {served.query()}, {counters(served.guest)}", 60, 1)
    assert counters(served.guest)["own_purged"] > 0
    assert served.unmark() > 0
    served.finish()


def test_all_is_offered_when_the_host_gets_short(serve, tmp_path):
    """What is volatile then, however young; what is marked later ages as ever."""
    agent = ag.FakeAgent(tmp_path / "agent")
    served = serve(1024, options="age_msec=3600000", agent=agent)
    agent.policy(ag.MODE_KEEP, ag.STAGE_NEARING)
    served.ask("mark 0 512")
    served.guest.check("usleep 300000")
    assert served.query()["offered"] == 0
    agent.policy(ag.MODE_KEEP, ag.STAGE_SHORT)
    served.wait_offered(512)
    served.ask("mark 512 512")
    served.guest.check("usleep 300000")
    assert served.query()["offered"] == 512
    served.purge()
    assert served.unmark() > 0
    served.finish()


def test_a_part_of_a_block_when_the_host_is_short(serve, tmp_path):
    """Its huge page is split for it; the other half is in use and stays."""
    agent = ag.FakeAgent(tmp_path / "agent")
    served = serve(512, agent=agent)
    served.ask("mark 0 256")
    served.wait_offered(256)
    served.purge()
    assert served.query(256, 256) == {"volatile": 0, "offered": 0, "purged": 0}
    assert served.unmark() > 0
    served.finish()


def test_the_old_does_not_wait_for_the_young(serve, tmp_path):
    """Of a block that is all volatile, but marked anew here and there all the time, as a cache does,
    the host gets what has aged."""
    agent = ag.FakeAgent(tmp_path / "agent")
    served = serve(512, options="age_msec=2000", agent=agent)
    served.ask("mark")

    def offered():
        # Volatile all the time, and always young.
        served.ask("mark 256 256")
        return served.query(0, 256)["offered"] == 256
    wait_for(offered, lambda: f"the half that is not used: {served.query()}", 60)
    served.purge()
    assert served.unmark() > 0
    served.finish()


def test_limits(serve):
    served = serve(64, options="max_object_mib=1 max_total_mib=2")
    status, output = served.guest.run("volserve 257 </dev/null")
    assert status and "quota" in output.lower(), output
    others = [served.guest.spawn("volserve 200") for _ in range(2)]
    for other in others:
        assert other.ask("query").startswith("ok")
    status, output = served.guest.run("volserve 256 </dev/null")
    assert status and "quota" in output.lower(), output
    for other in others:
        other.write("quit\n")
        assert other.wait() == 0
    wait_for(lambda: served.guest.run("volserve 256 </dev/null")[0] == 0, "room again")
    served.finish()
