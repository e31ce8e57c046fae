# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests of one image, merged by hint: what one of them does is never another's loss (rule 2), and
one that goes leaves nothing behind."""
import pytest

from harness import ebb, ksm
from harness.guest import parse_totals
from harness.merging import (MIB, boot, check_image, look_no_more, make_image, offered_bytes,
                             set_merge, stats, wait_marked, wait_merged, wait_no_traces,
                             wait_scans)
from harness.proc import mappings_in
from harness.wait import wait_for
from test_agent import agent  # noqa: F401

IMAGE_MIB = 48
IMAGE_PAGES = IMAGE_MIB * 256
MOST = IMAGE_MIB * MIB * 3 // 4

pytestmark = pytest.mark.skipif(not ksm.usable(), reason="KSM's settings cannot be written here")


@pytest.fixture
def disk(build, image_with, tmp_path):
    image_with("memwork", "torture")
    return make_image(build, tmp_path / "image", IMAGE_MIB)


def test_a_page_that_only_one_guest_has_left(vm, disk, memory_cgroup):
    """Two guests share their page cache; one ends, the other frees its cache and offers it before
    the hints are withdrawn; a third reads the same image, and KSM finds the same pages; then the
    host needs memory. Had the second one's pages been marked, the third would read zeros."""
    group = memory_cgroup()
    with ksm.running():
        first, second = (boot(vm, disk, cgroup=group) for _ in range(2))
        work = first.memwork(16, seed=5)
        work.ask("fill 16")
        for guest in (first, second):
            check_image(guest)
        wait_marked(MOST, first, second)
        wait_merged(MOST, first, second)
        look_no_more(first)
        assert second.quit() == 0

        before = offered_bytes(first)
        first.check("echo 1 >/proc/sys/vm/drop_caches")
        wait_for(lambda: offered_bytes(first) > before + MOST,
                 lambda: f"the guest to offer what it has freed: {before}, {stats(first)}", 300)
        assert stats(first)["merge-marked-bytes"] >= MOST, "the hints were withdrawn"
        third = boot(vm, disk, cgroup=group)
        check_image(third)
        wait_marked(MOST, third)
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
        wait_marked(MOST, *guests)
        wait_merged(MOST, *guests)
        set_merge(guests[0], "off")
        wait_no_traces(guests[0])
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


def ram_areas(guest):
    """How many areas guest RAM is in, and of these that KSM may merge."""
    start = guest.host_address(0)
    found = mappings_in(guest.pid, start, start + guest.memory_mib * MIB)
    return len(found), sum("mg" in area.flags for area in found)


def unplug(guest):
    guest.qmp.command("device_del", id="ebb")
    # One without a name, of the virtio device, comes before that of the whole.
    while guest.qmp.wait_event("DEVICE_DELETED", 120)["data"].get("device") != "ebb":
        pass
    wait_for(lambda: "virtio" not in guest.check("ls /sys/bus/virtio/drivers/virtio_ebb"),
             "the guest's driver to have no device")


def all_ksm_bytes():
    return (ksm.number("pages_sharing") + ksm.number("pages_shared")) * ebb.PAGE


def test_a_device_that_goes_takes_its_marks_along(vm, disk):
    """device_del while blocks are marked and merged, twice: areas, rmap items and counts are as
    before, all content is right, and the device can come again and merge again."""
    with ksm.running():
        guest = boot(vm, disk, how="merge=off,agent=,bus=rp",
                     devices=["pcie-root-port,id=rp,chassis=1"])
        other = boot(vm, disk)
        work = guest.memwork(16, seed=5)
        work.ask("fill 16")
        before, held = ram_areas(guest), all_ksm_bytes()
        assert before[1] == 0
        for _ in range(2):
            set_merge(guest, "hinted")
            for one in (guest, other):
                assert check_image(one) == IMAGE_PAGES
            wait_marked(MOST, guest, other)
            wait_merged(MOST, guest, other)
            areas = ram_areas(guest)
            assert areas[0] > before[0] and areas[1] > 0
            unplug(guest)
            assert ram_areas(guest) == before
            wait_no_traces(guest)
            assert check_image(guest) == IMAGE_PAGES
            work.ask("verify")
            # What the other one has marked is its own affair.
            assert stats(other)["merge-marked-bytes"] >= MOST
            guest.qmp.command("device_add", driver="virtio-ebb-pci", id="ebb", bus="rp", mode="lazy",
                              merge="off", agent="")
            found = stats(guest)
            assert not any(found[f"merge-{what}"] for what in (
                "hinted-bytes", "marked-bytes", "areas", "marks"))
        set_merge(guest, "hinted")
        wait_marked(MOST, guest)
        wait_merged(MOST, guest, other)
        work.ask("rounds 1")
        work.write("quit\n")
        assert work.wait() == 0 and parse_totals(work.output)[1] == 0, work.output
        for one in (guest, other):
            assert check_image(one) == IMAGE_PAGES
            assert stats(one)["violations"] == 0 and stats(one)["merge-failures"] == 0
            assert one.quit() == 0
        # Others may merge here as well: less than one of these guests had.
        wait_for(lambda: all_ksm_bytes() < held + IMAGE_MIB * MIB // 2,
                 lambda: f"what KSM holds to go: {held}, now {all_ksm_bytes()}", 300)


STEERED = ("run", "pages_to_scan", "sleep_millisecs", "use_zero_pages", "merge_across_nodes")


def test_ebbd_steers_the_hosts_ksm(vm, disk, agent):
    """The kernel's own files: KSM runs for guests that are mergeable, not for nobody, and is as it was
    found afterwards. run is never 2."""
    agent.configure("merge = hinted\nmerge_group = host\nksm = steer\nksm_interval_msec = 300\n"
                    "ksm_cpu_percent = 100\nnearing_percent = 1\nshort_percent = 0")

    def shown():
        return agent.json("status")["ksm"]

    with ksm.running(sleep_millisecs=37, pages_to_scan=321):
        ksm.write("run", 0)
        found = {name: ksm.read(name) for name in STEERED}
        agent.start()
        wait_for(lambda: shown()["owner"] == "ebbd", lambda: f"{shown()}")
        assert {name: ksm.read(name) for name in STEERED} == found
        guests = [boot(vm, disk, how=f"merge=off,agent={agent.socket},label=g{i}") for i in range(2)]
        for guest in guests:
            check_image(guest)
        wait_for(lambda: ksm.read("run") == "1", lambda: f"KSM to run: {shown()}")
        assert ksm.read("sleep_millisecs") == "20"
        assert ksm.read("merge_across_nodes") == found["merge_across_nodes"]
        wait_for(lambda: all(ksm.merged_pages(g.pid) for g in guests),
                 lambda: f"something to be merged: {shown()}", 600)
        for guest in guests:
            check_image(guest)
        for name in ("g0", "g1"):
            agent.run("set", name, "merge", "off")
        wait_for(lambda: shown()["why"] == "nobody",
                 lambda: f"KSM to rest: {shown()}")
        assert ksm.read("run") == "0"
        agent.stop()
        assert {name: ksm.read(name) for name in STEERED} == found
