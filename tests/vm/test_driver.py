# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest's driver: what it offers and when, and every way in which its life can end."""
import pathlib
import re
import select
import time

import pytest

from harness import agent as ag
from harness import initramfs, mutant
from harness.ebb import DONE_OK, DONE_PARTIAL, DONE_SHORT, DONE_UNSUPPORTED, RELEASE_F_ANEW
from harness.guest import parse_totals
from harness.hold import held
from harness.wait import wait_for

MIB = 1 << 20
EXECUTOR = "ebb-executor"
PATH = "/machine/peripheral/ebb"
TRACING = "/sys/kernel/debug/tracing"
# A batch of page reporting: 32 blocks of at most 4 MiB.
BATCH_BYTES = 128 * MIB
FLAG_NO_REPORTING, FLAG_POISON = 1, 2
EVERYTHING = 1 << 50


class Ebb:
    """A guest on virtio-ebb-pci, with an agent that the test plays."""

    def __init__(self, vm, tmp_path, mode="auto", memory_mib=384, driver=True, stage=None,
                 bus="", devices=(), **options):
        self.vm = vm
        self.agent = ag.FakeAgent(tmp_path / "agent")
        option = f"virtio-ebb-pci,id=ebb,mode={mode},agent={self.agent.path}{bus}"
        self.guest = vm.start(memory_mib=memory_mib, devices=[*devices, option], **options)
        self.agent.accept(500)  # the executor waits for its welcome as long, not for the boot
        self.guest.wait_boot()
        self.releases = 0
        if stage:
            self.agent.policy(ag.MODE_KEEP, stage)
        if driver:
            self.load()

    def load(self, name="virtio_ebb"):
        self.vm.insmod(self.guest, name)
        self.trace("events/virtio_ebb/enable", "1")

    def unload(self):
        self.guest.check("rmmod virtio_ebb")

    def trace(self, file, text):
        self.guest.check(f"echo '{text}' >{TRACING}/{file}")

    def traced(self):
        self.drain()
        return self.guest.check(f"cat {TRACING}/trace")

    def drain(self):
        """An executor hangs up on an agent that does not read."""
        while select.select([self.agent.peer], [], [], 0)[0]:
            assert self.agent.peer.recv(4096), "the executor closed the link"

    def stats(self):
        self.drain()
        return self.guest.qmp.get(PATH, "ebb-stats")

    def free_bytes(self):
        """Free pages, those that wait on the processors' own lists included."""
        lists = self.guest.check("grep -w count: /proc/zoneinfo; true")
        pages = sum(int(n) for n in re.findall(r"count:\s+(\d+)", lists))
        return self.guest.meminfo()["MemFree"] * 1024 + pages * 4096

    def ask_release(self, size=EVERYTHING, flags=0):
        self.drain()
        self.releases += 1
        self.agent.release(self.releases, size, flags)

    def release(self, size=EVERYTHING, flags=0):
        self.ask_release(size, flags)
        while True:
            done = self.agent.release_done()
            if done["id"] == self.releases:
                return done

    def guest_stats(self, accept=lambda s: True):
        """The guest's own figures, by tag, when accept() likes them."""
        sample = self.agent.sample(
            lambda s: s["flags"] & ag.SAMPLE_F_GUEST and accept(s["guest"]))
        return sample["guest"]

    def finish(self, work):
        """End a memwork; none of its pages may be bad."""
        work.write("quit\n")
        assert work.wait() == 0, work.output
        checked, bad = parse_totals(work.output)
        assert checked and not bad, work.output
        assert self.stats()["violations"] == 0


@pytest.fixture
def boot(vm, build, tmp_path):
    assert build.driver
    return lambda **options: Ebb(vm, tmp_path, **options)


@pytest.fixture
def with_mutants(vm, build, kernel, tmp_path):
    """with_mutants(name, changes...): guests can also load virtio_ebb_<name>."""
    def make(name, *changes):
        changed = mutant.build(kernel, tmp_path, name, changes)
        programs = [build.root / f"tests/guest/{p}" for p in ("agent", "memwork")]
        path = tmp_path / "mutant.cpio"
        modules = initramfs.build(kernel, path, programs, [build.driver, changed])
        image = type(vm.image_of())(path, modules)
        vm.image_of = lambda: image
    return make


# ---- offers and commands ----

def peak_rss_kib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.M).group(1))


def test_release_offers_all_that_is_free(boot):
    """In a guest of 2 GiB, at once, without touching a page of it; again only if asked anew."""
    ebb = boot(memory_mib=2048, stage=ag.STAGE_PLENTY)
    work = ebb.guest.memwork(1400)
    work.ask("touch")
    full = ebb.guest.sample().rss_kib * 1024
    free = ebb.free_bytes()
    for flags in (0, RELEASE_F_ANEW, RELEASE_F_ANEW):
        resident = ebb.guest.sample().rss_kib
        pathlib.Path(f"/proc/{ebb.guest.pid}/clear_refs").write_text("5")  # peak RSS begins anew
        ebb.trace("trace", "")
        done = ebb.release(flags=flags)
        times = [float(t) for t in re.findall(r" (\d+\.\d+): ebb_(?:command|done)", ebb.traced())]
        print(f"release, flags {flags}: {done}, free {free}, guest's time "
              f"{(times[1] - times[0]) * 1e3:.2f} ms, RSS {ebb.guest.sample().rss_kib >> 10} MiB")
        assert done["status"] == DONE_PARTIAL
        # Some of what is free is in blocks smaller than can be offered, or in a small zone.
        assert done["discarded_bytes"] == done["offered_bytes"] > 0.95 * free - 16 * MIB
        assert ebb.guest.sample().rss_kib * 1024 < full - 1300 * MIB
        assert peak_rss_kib(ebb.guest.pid) < resident + 48 * 1024, "what is offered was touched"
    # Nothing was used since: there is nothing left to offer.
    assert ebb.release()["offered_bytes"] < 32 * MIB
    work.ask("fill 200")
    work.ask("verify")
    ebb.finish(work)


def test_release_of_a_part(boot):
    """At least what was asked for, at most one batch more; at rest, and while reporting runs."""
    ebb = boot(memory_mib=1024, stage=ag.STAGE_PLENTY)
    for size in (1, 100 * MIB, 300 * MIB):
        done = ebb.release(size)
        assert done["status"] == DONE_OK
        assert size <= done["discarded_bytes"] <= done["offered_bytes"] < size + BATCH_BYTES
    before = ebb.stats()["marked-bytes"]
    ebb.agent.policy(ag.MODE_KEEP, ag.STAGE_NEARING)
    wait_for(lambda: ebb.stats()["marked-bytes"] > before + 600 * MIB,
             lambda: f"all free memory to be marked: {ebb.stats()}")
    done = ebb.release(64 * MIB, RELEASE_F_ANEW)
    assert done["status"] == DONE_OK and done["discarded_bytes"] >= 64 * MIB


def test_at_rest_nothing_is_offered(boot):
    """The kernel's reporting work runs and nothing comes of it; then the host is nearing."""
    ebb = boot(stage=ag.STAGE_PLENTY)
    ebb.trace("events/workqueue/workqueue_execute_end/filter",
              "function == " + ebb.guest.check(
                  "grep ' page_reporting_process$' /proc/kallsyms").split()[0].join(("0x", "")))
    ebb.trace("events/workqueue/workqueue_execute_end/enable", "1")
    before = ebb.stats()
    work = ebb.guest.memwork(200)
    for _ in range(2):
        work.ask("fill 200")
        work.ask("free 100")
        seen = ebb.traced().count("workqueue_execute_end")
        wait_for(lambda: ebb.traced().count("workqueue_execute_end") > seen,
                 "the guest's kernel to run its reporting work")
    assert "ebb_offer" not in ebb.traced()
    assert ebb.stats()["ranges"] == before["ranges"]

    free = ebb.free_bytes()
    ebb.agent.policy(ag.MODE_KEEP, ag.STAGE_NEARING)
    wait_for(lambda: ebb.stats()["marked-bytes"] > before["marked-bytes"] + 0.7 * free,
             lambda: f"all free memory to be marked: {ebb.stats()}, free {free}")
    # Offered anew, and discarded, although nothing of it was used.
    marked = ebb.stats()["marked-bytes"]
    ebb.agent.policy(ag.MODE_KEEP, ag.STAGE_SHORT)
    wait_for(lambda: ebb.stats()["discarded-bytes"] > before["discarded-bytes"] + 0.7 * free,
             lambda: f"all free memory to be discarded: {ebb.stats()}, free {free}")
    assert ebb.stats()["marked-bytes"] - marked < BATCH_BYTES
    work.ask("fill 200")
    work.ask("verify")
    ebb.finish(work)


def test_statistics(boot):
    ebb = boot(mode="lazy")
    work = ebb.guest.memwork(200)
    work.ask("fill 200")
    work.ask("free 100")

    def agrees(told):
        """With what the guest says of itself; a report under way keeps blocks from both."""
        info = ebb.guest.meminfo()
        total, free, available, cached, reported, _, oom, flags = told[1:]
        return (total == info["MemTotal"] * 1024
                and abs(free - info["MemFree"] * 1024) < 16 * MIB
                and abs(available - info["MemAvailable"] * 1024) < 16 * MIB
                and abs(cached - (info["Cached"] + info["Buffers"]) * 1024) < 4 * MIB
                and 180 * MIB < reported <= free and oom == 0 and flags == 0)

    first = ebb.guest_stats(agrees)
    reported, reused = first[5], first[6]
    work.ask("fill 180")
    ebb.guest_stats(lambda g: g[6] > reused + 100 * MIB and g[5] < reported - 100 * MIB)
    work.ask("verify")
    ebb.finish(work)


def test_a_guest_that_is_short_is_left_alone(boot, vm):
    """Nothing is offered of the little that is left; an OOM is counted. At page reporting's usual
    order its own watermark would see to that; here it hands over single pages as well."""
    vm.expect_trouble = r"oom-kill|Out of memory|Call Trace"
    ebb = boot(memory_mib=320, stage=ag.STAGE_PLENTY)
    ebb.guest.check("echo 0 >/sys/module/page_reporting/parameters/page_reporting_order")
    room = ebb.guest.meminfo()["MemAvailable"] >> 10
    work = ebb.guest.memwork(room)
    work.ask(f"fill {room - 40}")
    assert ebb.release(flags=RELEASE_F_ANEW)["offered_bytes"] > 4 * MIB
    while ebb.guest.meminfo()["MemAvailable"] > 12 << 10:
        work.ask("fill 2")
    done = ebb.release(flags=RELEASE_F_ANEW)
    assert done["offered_bytes"] == 0 and done["status"] == DONE_SHORT, done
    work.ask("verify")
    ebb.finish(work)
    ebb.guest.run(f"memwork -m {room + 64} -r 1")
    ebb.guest_stats(lambda g: g[7] > 0)
    assert ebb.release()["discarded_bytes"] > 100 * MIB


def test_everything_changes_all_the_time(boot):
    """Rest, run, marks, discards and releases in turn, under a load on two processors."""
    ebb = boot(mode="auto", cpus=2)
    works = [ebb.guest.memwork(90, seed=n, rounds=0) for n in range(2)]
    words = [(ag.MODE_KEEP, ag.STAGE_NEARING), (ag.MODE_KEEP, ag.STAGE_PLENTY), (ag.MODE_EAGER, 2),
             (ag.MODE_OFF, 2), (ag.MODE_KEEP, ag.STAGE_SHORT), (ag.MODE_LAZY, 2)]
    for mode, stage in 3 * words:
        ebb.agent.policy(mode, stage)
        for size in (16 * MIB, EVERYTHING):
            ebb.ask_release(size, RELEASE_F_ANEW)
    for work in works:
        ebb.finish(work)
    ebb.agent.policy(ag.MODE_EAGER)
    assert ebb.release(flags=RELEASE_F_ANEW)["discarded_bytes"] > 100 * MIB


# ---- isolation ----

def offers_in_flight(ebb):
    """Ranges of the last offer, the only one that can be in flight, without a verdict."""
    text = ebb.traced()
    last = text.rfind("ebb_offer:")
    if last < 0:
        return 0
    offered = re.match(r"ebb_offer: .* ranges=(\d+)", text[last:])
    return int(offered.group(1)) - text.count("ebb_verdict:", last)


def test_an_offer_in_flight_is_isolated(boot):
    """Rules 1 and 4: while the host may still discard it nobody in the guest gets it. The executor
    is held still with an offer in its hands, and the guest uses all its other memory."""
    ebb = boot(mode="eager", memory_mib=448)
    free = ebb.free_bytes()
    work = ebb.guest.memwork(300)
    work.ask("fill 280")
    wait_for(lambda: offers_in_flight(ebb) == 0, "what is free to be reported")
    with held(ebb.guest.pid, EXECUTOR):
        work.ask("free 100")
        wait_for(lambda: offers_in_flight(ebb) > 0, "an offer of the guest")
        room = (ebb.guest.meminfo()["MemAvailable"] >> 10) - 32
        assert room > 60, "too little is left beside the offer"
        work.ask(f"fill {min(room, 300)}")
    wait_for(lambda: offers_in_flight(ebb) == 0, "the answer")
    work.ask("verify")
    ebb.finish(work)
    wait_for(lambda: ebb.free_bytes() > free - 8 * MIB,
             lambda: f"all memory to be free again: {ebb.free_bytes()} of {free}")


@pytest.mark.parametrize("waits", [True, False], ids=["waits", "does-not-wait"])
def test_the_oom_killer_waits_for_an_offer_in_flight(boot, vm, waits):
    """Rule 9: a slow host has free memory in its hands, which a program of the guest needs. It gets
    it when the answer is there; were the kernel told not to wait, it would end the program."""
    ebb = boot(mode="eager", memory_mib=448, stage=ag.STAGE_PLENTY)
    wait = "/sys/module/virtio_ebb/parameters/oom_wait_msec"
    ebb.guest.check(f"echo {600000 if waits else 0} >{wait}")
    if not waits:
        vm.expect_trouble = r"oom-kill|Out of memory|Call Trace"
    work = ebb.guest.memwork(340)
    free = ebb.guest.meminfo()["MemAvailable"] >> 10
    work.ask("fill 280")
    ebb.release(flags=RELEASE_F_ANEW)  # what comes next are the blocks that become free now
    with held(ebb.guest.pid, EXECUTOR):
        work.ask("free 280")
        wait_for(lambda: offers_in_flight(ebb) > 8, "an offer of the guest", 60)
        left = ebb.guest.meminfo()["MemAvailable"] >> 10
        wanted = (left + free) // 2  # more than is left, less than there will be
        assert left + 30 < wanted, (left, free)
        work.write(f"fill {wanted}\n")
        wait_for(lambda: "that the host has in its hands" in ebb.guest.console(),
                 "the guest to be out of memory")
        if not waits:
            wait_for(lambda: "Out of memory: Killed process" in ebb.guest.console(), "the OOM killer")
            return
    answer = work.read_line(300)
    assert answer.startswith("ok"), answer
    assert "Killed process" not in ebb.guest.console()
    work.ask("verify")
    ebb.finish(work)
    ebb.guest_stats(lambda g: g[7] > 0)


# ---- the ends of a driver's life ----

def test_unload_while_an_offer_is_in_flight(boot):
    """Unload waits for the device's reset, which waits for the executor; nothing is leaked."""
    ebb = boot(mode="eager")
    free = ebb.free_bytes()
    for _ in range(2):
        work = ebb.guest.memwork(200)
        work.ask("fill 200")
        wait_for(lambda: offers_in_flight(ebb) == 0, "what is free to be reported")
        with held(ebb.guest.pid, EXECUTOR):
            work.ask("free 100")
            wait_for(lambda: offers_in_flight(ebb) > 0, "an offer of the guest")
            going = ebb.guest.spawn("rmmod virtio_ebb")
            # The guest's only processor is in the reset, or the unload waits: either way it must
            # not end before the executor has let go.
            time.sleep(0.3)
            assert going.status is None
        assert going.wait() == 0, going.output
        work.ask("fill 200")
        work.ask("verify")
        ebb.finish(work)
        assert ebb.free_bytes() > free - 8 * MIB
        ebb.load()
        ebb.trace("trace", "")


def test_unload_and_reload_with_releases_under_way(boot):
    """The agent asks all the time; the driver comes and goes under a load."""
    ebb = boot(mode="lazy", cpus=2)
    free = ebb.free_bytes()
    work = ebb.guest.memwork(200, rounds=0)
    for turn in range(10):
        for _ in range(4):
            ebb.ask_release(flags=RELEASE_F_ANEW)
        if turn % 3 == 0:
            work.read_line(600)
        ebb.unload()
        ebb.load()
    ebb.finish(work)
    assert ebb.release()["discarded_bytes"] > 100 * MIB
    assert ebb.free_bytes() > free - 8 * MIB


def suspend_to_ram(ebb):
    command = ebb.guest.spawn("echo mem >/sys/power/state")
    monitor = ebb.guest.qmp

    def asleep():
        return monitor.command("query-status")["status"] == "suspended"
    # QEMU keeps the state that the first wakeup left: from then on it wakes up by itself at once.
    wait_for(lambda: asleep() or command.status is not None, "the guest to suspend")
    if command.status is None:
        monitor.command("system_wakeup")
    assert command.wait() == 0, command.output


def snapshot_for_hibernation(ebb):
    """Without swap this ends after the image was made in memory; devices are stopped for that
    and started again."""
    status, output = ebb.guest.run("echo disk >/sys/power/state")
    assert status, output
    assert "Cannot find swap device" in ebb.guest.check("dmesg")


@pytest.mark.parametrize("suspend", [suspend_to_ram, snapshot_for_hibernation])
def test_suspend_and_resume(boot, suspend):
    """Suspend takes everything back; afterwards all that is free is offered anew."""
    ebb = boot(mode="eager", memory_mib=384)
    work = ebb.guest.memwork(200)
    work.ask("fill 100")
    for _ in range(2):
        before = ebb.stats()["discarded-bytes"]
        suspend(ebb)
        free = ebb.free_bytes()
        wait_for(lambda: ebb.stats()["discarded-bytes"] > before + 0.6 * free,
                 lambda: f"all free memory to be offered anew: {ebb.stats()}, free {free}")
        work.ask("verify")
        work.ask("free 50")
        work.ask("fill 60")
    work.ask("verify")
    ebb.finish(work)
    assert ebb.release(flags=RELEASE_F_ANEW)["discarded_bytes"] > 100 * MIB


@pytest.mark.parametrize("how", ["reboot -f", "poweroff -f"])
def test_shutdown_with_an_offer_in_flight(boot, how):
    """The kernel breaks the queues before it resets devices: the driver must come first."""
    ebb = boot(mode="eager")
    work = ebb.guest.memwork(200)
    work.ask("fill 200")
    wait_for(lambda: offers_in_flight(ebb) == 0, "what is free to be reported")
    with held(ebb.guest.pid, EXECUTOR):
        work.ask("free 100")
        wait_for(lambda: offers_in_flight(ebb) > 0, "an offer of the guest")
        ebb.guest.spawn(how)
        time.sleep(0.3)
    if how == "poweroff -f":
        wait_for(lambda: ebb.guest.process.poll() is not None, "the guest to power off")
        assert ebb.guest.process.returncode == 0
        return
    ebb.guest.wait_boot(2)
    ebb.load()
    assert ebb.release()["status"] in (DONE_PARTIAL, DONE_OK)


def test_hot_unplug_under_load(boot):
    ebb = boot(mode="eager", memory_mib=384, bus=",bus=rp",
               devices=["pcie-root-port,id=rp,chassis=1"])
    work = ebb.guest.memwork(200, rounds=0)
    work.read_line(600)
    ebb.guest.qmp.command("device_del", id="ebb")
    ebb.guest.qmp.wait_event("DEVICE_DELETED")
    wait_for(lambda: not ebb.guest.run("ls -A /sys/bus/virtio/devices")[1].strip(),
             "the guest's device to go")
    work.read_line(600)
    work.write("quit\n")
    assert work.wait() == 0 and parse_totals(work.output)[1] == 0
    ebb.unload()


# ---- a device that is broken, or that lies ----

def test_a_device_that_breaks_is_reset(boot, vm, with_mutants):
    """A changed driver offers what is against the specification: the device breaks itself with
    the offer in flight, and the driver takes the pages back by a reset."""
    with_mutants("misaligned", ("report.c", "page_to_phys(sg_page(*sg)));",
                                "page_to_phys(sg_page(*sg)) + 512);"))
    ebb = boot(mode="eager", memory_mib=384, driver=False)
    free = ebb.free_bytes()
    ebb.load("virtio_ebb_misaligned")
    wait_for(lambda: "needs a reset: device reset" in ebb.guest.check("dmesg"),
             "the driver to see that the device is broken")
    assert ebb.stats()["violations"] == 1
    wait_for(lambda: ebb.free_bytes() > free - 8 * MIB,
             lambda: f"the pages to come back: {ebb.free_bytes()} of {free}")
    work = ebb.guest.memwork(200)
    work.ask("fill 200")
    work.ask("free 100")
    work.ask("fill 200")
    work.ask("verify")
    ebb.unload()
    ebb.load()
    work.ask("free 100")
    wait_for(lambda: ebb.stats()["discarded-bytes"] > 100 * MIB, "the good driver's offers")
    work.ask("fill 200")
    work.ask("verify")
    work.write("quit\n")
    assert work.wait() == 0 and parse_totals(work.output)[1] == 0


@pytest.mark.parametrize("change", [
    ("request.c", "virtio_ebb_check_resp(rq->in, rq->used_bytes,",
     "virtio_ebb_check_resp(rq->in, rq->used_bytes - 1,"),
    ("report.c", "verdict = verdicts[i];",
     "verdict = verdicts[i];\n\t\tebb_put_le16(&verdict.verdict, 77);"),
    ("command.c", "*cmd = *buffer;", "*cmd = *buffer;\n\t\t\tebb_put_le64(&cmd->command.id, 0);"),
], ids=["short-answer", "unknown-verdict", "command-without-id"])
def test_a_device_that_lies_is_reset(boot, with_mutants, change):
    """A changed driver sees what no device of ours says: it resets the device and gets along."""
    with_mutants("lie", change)
    ebb = boot(mode="eager", memory_mib=384, driver=False)
    free = ebb.free_bytes()
    ebb.load("virtio_ebb_lie")
    wait_for(lambda: "device reset; it is unused" in ebb.guest.check("dmesg"),
             "the driver to refuse what the device says")
    wait_for(lambda: ebb.free_bytes() > free - 8 * MIB,
             lambda: f"the pages to come back: {ebb.free_bytes()} of {free}")
    work = ebb.guest.memwork(200)
    work.ask("fill 200")
    work.ask("verify")
    ebb.unload()
    ebb.load()
    work.ask("free 100")
    assert ebb.release(flags=RELEASE_F_ANEW)["discarded_bytes"] > 100 * MIB
    ebb.finish(work)


# ---- a kernel that allows no reporting ----

def test_another_driver_has_page_reporting(boot, vm):
    """Said once; statistics and commands go on; ours as soon as it is free and wanted."""
    ebb = boot(mode="auto", devices=["virtio-balloon-pci,free-page-reporting=on"], driver=False,
               stage=ag.STAGE_PLENTY)
    vm.insmod(ebb.guest, "virtio_balloon")
    ebb.load()
    ebb.guest_stats(lambda g: g[8] == FLAG_NO_REPORTING and g[1] > 0 and g[5] == 0)
    for stage in (ag.STAGE_NEARING, ag.STAGE_PLENTY):
        ebb.agent.policy(ag.MODE_KEEP, stage)
        assert ebb.release()["status"] == DONE_UNSUPPORTED
    assert ebb.guest.check("dmesg").count("free memory is not offered") == 1
    assert ebb.stats()["ranges"] == 0

    ebb.guest.check("rmmod virtio_balloon")
    ebb.agent.policy(ag.MODE_KEEP, ag.STAGE_NEARING)
    ebb.guest_stats(lambda g: g[8] == 0 and g[5] > 100 * MIB)
    assert ebb.guest.check("dmesg").count("page reporting is ours now") == 1
    assert ebb.release(flags=RELEASE_F_ANEW)["discarded_bytes"] > 100 * MIB


def test_poisoned_free_pages_are_not_offered(boot, kernel, vm, with_mutants):
    """Rule 10. A kernel without CONFIG_PAGE_POISONING never poisons: there the driver is changed
    to think that it does, so that what follows from it is tested."""
    config = (kernel.root / f"boot/config-{kernel.release}").read_text()
    if "CONFIG_PAGE_POISONING=y" in config:
        ebb = boot(mode="lazy", append="page_poison=1", driver=False)
        name = "virtio_ebb"
    else:
        with_mutants("poison", ("compat.h", "IS_ENABLED(CONFIG_PAGE_POISONING) &&", "true ||"))
        ebb = boot(mode="lazy", driver=False)
        name = "virtio_ebb_poison"
    ebb.load(name)
    ebb.guest_stats(lambda g: g[8] == FLAG_POISON)
    assert ebb.release()["status"] == DONE_UNSUPPORTED
    ebb.agent.policy(ag.MODE_EAGER, ag.STAGE_SHORT)
    assert ebb.release()["status"] == DONE_UNSUPPORTED
    assert ebb.stats()["ranges"] == 0
    assert ebb.guest.check("dmesg").count("page_poison=1 fills it") == 1


@pytest.mark.parametrize("option", ["init_on_free=1", "init_on_alloc=0"])
def test_zeroing_of_pages(boot, option):
    """What the host discards reads zeros, and what it only marked is whole or zeros: both are
    good enough for a kernel that zeroes at free and for one that never does."""
    ebb = boot(mode="lazy", append=option)
    work = ebb.guest.memwork(220)
    for mode in (ag.MODE_LAZY, ag.MODE_EAGER, ag.MODE_LAZY):
        ebb.agent.policy(mode)
        before = ebb.stats()
        work.ask("free 100")
        work.ask("fill 220")
        work.ask("free 70")
        wait_for(lambda: sum(ebb.stats()[k] - before[k] for k in ("marked-bytes",
                                                                  "discarded-bytes")) > 50 * MIB,
                 lambda: f"the offers: {ebb.stats()}, before {before}")
        work.ask("verify")
    ebb.finish(work)
