# SPDX-License-Identifier: LGPL-2.1-or-later
"""How dense in page cache shall a block be to be hinted? Guests whose page cache has been through
reclaim, and what each threshold has KSM look through and merge."""
import contextlib
import time

from harness import ksm
from harness.wait import wait_for

from .lab import say
from .merging import PATIENT

THRESHOLDS = (512, 448, 384, 320, 256, 192, 128, 96, 64, 32, 16, 8, 2)
PASSES_SEC = 5  # the driver rests 0.2 s between two
PARAMETERS = "/sys/module/virtio_ebb/parameters"
SCANS = 4  # of everything: a page is merged when it is met for the second time


def read_about(guest, number, read_mib, anon_mib):
    """Random runs of a file that is larger than the guest's memory, beside a program that takes
    memory and gives it back: what is left in the page cache is what the guest's kernel left."""
    reader = guest.spawn(f"exec mergeload -i /dev/vda -R {read_mib} -s {number + 1}")
    user = guest.memwork(anon_mib, seed=number + 1, rounds=6)
    while reader.read_line(1200) != "ready":
        pass
    user.wait(1200)
    return reader


def state(guest):
    return guest.qmp.get("/machine/peripheral/ebb", "ebb-stats")


def settle(guests):
    """Several passes of each driver, and the marks that follow from them."""
    time.sleep(PASSES_SEC)
    wait_for(lambda: not any(state(g)["merge-pending"] for g in guests), "the marks", 600)
    scans = ksm.number("full_scans")
    wait_for(lambda: ksm.number("full_scans") >= scans + SCANS, "KSM's scans", 1200)


def point(guests, min_pages):
    """What follows from one threshold: sums over the guests, in pages."""
    for guest in guests:
        guest.check(f"echo {min_pages} >{PARAMETERS}/hint_min_pages")
    settle(guests)
    states = [state(g) for g in guests]
    found = {"min_pages": min_pages,
             "hinted_pages": sum(s["merge-hinted-bytes"] for s in states) // 4096,
             "compared_pages": sum(int(ksm.of_process(g.pid)["ksm_rmap_items"]) for g in guests),
             "merged_pages": sum(ksm.merged_pages(g.pid) for g in guests)}
    say(f"  {found}")
    return found


def sweep(lab, image, memory_mib, read_mib, anon_mib):
    """[point] from the highest threshold down: a block that is hinted stays so at half of it."""
    say(f"density: two guests of {memory_mib} MiB read {read_mib} MiB at random")
    with contextlib.ExitStack() as stack:
        guests = [stack.enter_context(lab.boot(
            f"density-{number}", "thp", memory_mib, ebb=True,
            modules=["virtio_blk", "virtio_ebb"], append=PATIENT,
            devices=["virtio-ebb-pci,id=ebb,mode=off,merge=off,agent=",
                     "virtio-blk-pci,drive=disk"],
            extra=["-drive", f"file={image},format=raw,if=none,id=disk,readonly=on"]))
            for number in range(2)]
        readers = [read_about(g, n, read_mib, anon_mib) for n, g in enumerate(guests)]
        cached = sum(g.meminfo()["Cached"] + g.meminfo()["Buffers"] for g in guests) // 4
        ksm.write("pages_to_scan", 4000)
        ksm.write("run", 1)
        for guest in guests:
            guest.check(f"echo 10 >{PARAMETERS}/hint_rest_msec; "
                        f"echo 200 >{PARAMETERS}/hint_pass_msec; "
                        f"echo 512 >{PARAMETERS}/hint_min_pages")
            guest.qmp.set("/machine/peripheral/ebb", "merge", "hinted")
        points = [point(guests, min_pages) for min_pages in THRESHOLDS]
        for guest in guests:
            guest.qmp.set("/machine/peripheral/ebb", "merge", "all")
        settle_all = ksm.number("full_scans")
        wait_for(lambda: ksm.number("full_scans") >= settle_all + SCANS, "KSM's scans", 1200)
        every = {"compared_pages": sum(int(ksm.of_process(g.pid)["ksm_rmap_items"])
                                       for g in guests),
                 "merged_pages": sum(ksm.merged_pages(g.pid) for g in guests)}
        for reader in readers:
            reader.close_input()
    return {"cached_pages": cached, "points": points, "all": every}
