# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests of one image, merged by hint: what one of them does is never another's loss (rule 2), and
one that goes leaves nothing behind."""
import collections
import json
import subprocess

import pytest

from harness import ebb, ksm
from harness.ebb import MIB
from harness.guest import parse_totals
from harness.wait import wait_for

IMAGE_MIB = 48
IMAGE_PAGES = IMAGE_MIB * 256
MOST = IMAGE_MIB * MIB * 3 // 4
SEED = 9

pytestmark = pytest.mark.skipif(not ksm.usable(), reason="KSM's settings cannot be written here")


@pytest.fixture
def disk(build, image_with, tmp_path):
    """An image of which no two pages are alike; a guest's torture can say which are right."""
    image_with("memwork", "torture")
    path = tmp_path / "image"
    subprocess.run([build.need("tests/guest/torture"), "-S", str(SEED), "-m", str(IMAGE_MIB), "-I",
                    path], check=True)
    return path


def boot(vm, disk, cgroup=None, how="merge=hinted,agent=", **options):
    guest = vm.boot(memory_mib=256, modules=["virtio_blk"], cgroup=cgroup,
                    devices=[f"virtio-ebb-pci,id=ebb,mode=lazy,{how}",
                             "virtio-blk-pci,drive=disk"],
                    extra=["-drive", f"file={disk},format=raw,if=none,id=disk,readonly=on"],
                    **options)
    # The cache of a block device goes with who has opened it last.
    guest.spawn("exec sleep 100000 </dev/vda")
    vm.insmod(guest, "virtio_ebb", "hint_rest_msec=10 hint_pass_msec=300")
    return guest


def stats(guest):
    return guest.qmp.get("/machine/peripheral/ebb", "ebb-stats")


def guest_stats(guest):
    return guest.qmp.get("/machine/peripheral/ebb", "guest-stats")


def set_device(guest, name, value):
    guest.qmp.set("/machine/peripheral/ebb", name, value)


def check_image(guest):
    status, output = guest.run(f"torture -S {SEED} -v /dev/vda")
    checked, bad = parse_totals(output)
    assert (checked, bad, status) == (IMAGE_PAGES, 0, 0), output


def offered_bytes(guest):
    found = stats(guest)
    return found["marked-bytes"] + found["discarded-bytes"]


def wait_marked(*guests):
    wait_for(lambda: all(stats(g)["merge-marked-bytes"] >= MOST for g in guests),
             lambda: f"the hints: {[stats(g) for g in guests]}", 300)


def wait_merged(*guests):
    wait_for(lambda: all(ksm.merged_pages(g.pid) * ebb.PAGE >= MOST for g in guests),
             lambda: f"the merge: {[ksm.merged_pages(g.pid) for g in guests]}", 300)


def wait_scans(more):
    before = ksm.number("full_scans")
    wait_for(lambda: ksm.number("full_scans") >= before + more, f"{more} more scans of all", 300)


def look_no_more(guest):
    """The driver's view of its memory stays what it is now: hints are not withdrawn, unless the
    device's configuration changes."""
    guest.check("echo 100000000 >/sys/module/virtio_ebb/parameters/hint_pass_msec")
    # One pass is due all the same. Whoever is here too early fails at what is marked later.
    seen = collections.deque(maxlen=10)

    def rests():
        seen.append(guest_stats(guest)["hint-passes"])
        return len(seen) == seen.maxlen and len(set(seen)) == 1
    wait_for(rests, lambda: f"the end of the driver's passes: {seen}", interval=0.3)


def test_a_page_that_only_one_guest_has_left(vm, disk, memory_cgroup):
    """Two guests share their page cache; one ends, the other frees its cache and offers it before
    the hints are withdrawn; a third reads the same image, and KSM finds the same pages; then the
    host needs memory. Had the second one's pages been marked, the third would read zeros."""
    group = memory_cgroup()
    with ksm.running():
        first, second = (boot(vm, disk, group) for _ in range(2))
        work = first.memwork(16, seed=5)
        work.ask("fill 16")
        for guest in (first, second):
            check_image(guest)
        wait_marked(first, second)
        wait_merged(first, second)
        look_no_more(first)
        assert second.quit() == 0

        before = offered_bytes(first)
        first.check("echo 1 >/proc/sys/vm/drop_caches")
        wait_for(lambda: offered_bytes(first) > before + MOST,
                 lambda: f"the guest to offer what it has freed: {before}, {stats(first)}", 300)
        assert stats(first)["merge-marked-bytes"] >= MOST, "the hints were withdrawn"
        third = boot(vm, disk, group)
        check_image(third)
        wait_marked(third)
        wait_scans(4)
        group.reclaim_all()

        for guest in (third, first, third):
            check_image(guest)
        work.ask("verify")
        work.write("quit\n")
        assert work.wait() == 0 and parse_totals(work.output)[1] == 0, work.output
        assert stats(first)["discarded-bytes"] > MOST // 2
        assert stats(first)["violations"] == stats(third)["violations"] == 0


def test_guests_that_go_leave_nothing(vm, disk):
    """What is merged goes with its guests, by an orderly end and by SIGKILL, and with the mode."""
    with ksm.running():
        before = ksm.number("pages_sharing"), ksm.number("pages_shared")
        guests = [boot(vm, disk) for _ in range(3)]
        for guest in guests:
            check_image(guest)
        wait_marked(*guests)
        wait_merged(*guests)
        set_device(guests[0], "merge", "off")
        wait_for(lambda: ksm.of_process(guests[0].pid)["ksm_rmap_items"] == "0",
                 lambda: f"no traces in KSM: {ksm.of_process(guests[0].pid)}", 300)
        assert ksm.merged_pages(guests[0].pid) == 0
        found = stats(guests[0])
        assert found["merge-marked-bytes"] == found["merge-areas"] == 0
        assert ksm.merged_pages(guests[1].pid) * ebb.PAGE >= MOST
        check_image(guests[0])
        assert guests[1].quit() == 0
        check_image(guests[2])
        guests[2].kill()
        # Others may merge here as well: less than one of these guests had.
        wait_for(lambda: ksm.number("pages_sharing") < before[0] + IMAGE_PAGES // 2 and
                 ksm.number("pages_shared") < before[1] + IMAGE_PAGES // 2,
                 lambda: f"what KSM holds to go: {before}, now {ksm.number('pages_sharing')}, "
                         f"{ksm.number('pages_shared')}", 300)
        check_image(guests[0])


@pytest.fixture
def ebbd(build, tmp_path):
    """One that steers this host's KSM, for guests of one group."""
    control, log = tmp_path / "control.sock", tmp_path / "ebbd.log"
    conf = tmp_path / "ebbd.conf"
    conf.write_text(f"[ebbd]\nsocket = {tmp_path}/ebbd.sock\ncontrol_socket = {control}\n"
                    f"state_file = {tmp_path}/state\nsample_interval_msec = 200\n"
                    "[policy]\nmerge = hinted\nmerge_group = host\nksm = steer\n"
                    "ksm_interval_msec = 300\nksm_cpu_percent = 100\n"
                    "nearing_percent = 1\nshort_percent = 0\n")
    programs = build.ebbd, build.ebbctl
    started = []

    def ctl(*args):
        return json.loads(subprocess.run([programs[1], "-s", control, "--json", *args], check=True,
                                         stdout=subprocess.PIPE, text=True).stdout)

    def start():
        with open(log, "ab") as out:
            started.append(subprocess.Popen([programs[0], "-c", conf], stdout=out, stderr=out))
        wait_for(control.exists, "ebbd's control socket")
        return started[0]
    yield start, ctl, tmp_path / "ebbd.sock"
    for process in started:
        process.kill()
        process.wait()


STEERED = ("run", "pages_to_scan", "sleep_millisecs", "use_zero_pages", "merge_across_nodes")


def test_ebbd_steers_the_hosts_ksm(vm, disk, ebbd):
    """The kernel's own files: KSM runs for guests that are mergeable, not for nobody, and is as it was
    found afterwards. run is never 2."""
    start, ctl, socket = ebbd
    with ksm.running(sleep_millisecs=37, pages_to_scan=321):
        ksm.write("run", 0)
        found = {name: ksm.read(name) for name in STEERED}
        process = start()
        wait_for(lambda: ctl("status")["ksm"]["owner"] == "ebbd", lambda: f"{ctl('status')}")
        assert {name: ksm.read(name) for name in STEERED} == found
        guests = [boot(vm, disk, how=f"merge=off,agent={socket},label=g{i}") for i in range(2)]
        for guest in guests:
            check_image(guest)
        wait_for(lambda: ksm.read("run") == "1", lambda: f"KSM to run: {ctl('status')['ksm']}")
        assert ksm.read("sleep_millisecs") == "20"
        assert ksm.read("merge_across_nodes") == found["merge_across_nodes"]
        wait_for(lambda: all(ksm.merged_pages(g.pid) for g in guests),
                 lambda: f"something to be merged: {ctl('status')['ksm']}", 600)
        for guest in guests:
            check_image(guest)
        for name in ("g0", "g1"):
            ctl("set", name, "merge", "off")
        wait_for(lambda: ctl("status")["ksm"]["why"] == "nobody",
                 lambda: f"KSM to rest: {ctl('status')['ksm']}")
        assert ksm.read("run") == "0"
        process.terminate()
        assert process.wait(60) == 0
        assert {name: ksm.read(name) for name in STEERED} == found
