# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that have one image in common, merged by hint."""
import collections
import subprocess

from . import ebb, ksm
from .guest import parse_totals
from .wait import wait_for

MIB = 1 << 20
SEED = 9
DEVICE = "/machine/peripheral/ebb"


def make_image(build, path, mib):
    """No two pages of it are alike; check_image() can say which are right."""
    subprocess.run([build.need("tests/guest/torture"), "-S", str(SEED), "-m", str(mib), "-I", path],
                   check=True)
    return path


def boot(vm, image, memory_mib=256, how="merge=hinted,agent=", devices=(), **options):
    """A guest that has the image as /dev/vda, with a driver that looks for hints all the time."""
    guest = vm.boot(memory_mib=memory_mib, modules=["virtio_blk"],
                    devices=[*devices, f"virtio-ebb-pci,id=ebb,mode=lazy,{how}",
                             "virtio-blk-pci,drive=disk"],
                    extra=["-drive", f"file={image},format=raw,if=none,id=disk,readonly=on"],
                    **options)
    # The cache of a block device goes with who has opened it last.
    guest.spawn("exec sleep 100000 </dev/vda")
    vm.insmod(guest, "virtio_ebb", "hint_rest_msec=10 hint_pass_msec=300")
    return guest


def check_image(guest):
    status, output = guest.run(f"torture -S {SEED} -v /dev/vda")
    checked, bad = parse_totals(output)
    assert (bad, status) == (0, 0) and checked, output
    return checked


def stats(guest):
    return guest.qmp.get(DEVICE, "ebb-stats")


def guest_stats(guest):
    return guest.qmp.get(DEVICE, "guest-stats")


def set_merge(guest, merge):
    guest.qmp.set(DEVICE, "merge", merge)


def offered_bytes(guest):
    found = stats(guest)
    return found["marked-bytes"] + found["discarded-bytes"]


def wait_marked(least_bytes, *guests):
    wait_for(lambda: all(stats(g)["merge-marked-bytes"] >= least_bytes for g in guests),
             lambda: f"the hints: {[stats(g) for g in guests]}", 300)


def wait_merged(least_bytes, *guests):
    wait_for(lambda: all(ksm.merged_pages(g.pid) * ebb.PAGE >= least_bytes for g in guests),
             lambda: f"the merge: {[ksm.merged_pages(g.pid) for g in guests]}, marked "
                     f"{[stats(g)['merge-marked-bytes'] for g in guests]}", 300)


def wait_scans(more):
    before = ksm.number("full_scans")
    wait_for(lambda: ksm.number("full_scans") >= before + more, f"{more} more scans of all", 300)


def wait_no_traces(guest):
    """ksmd forgets what is not mergeable any more when it next comes by."""
    wait_for(lambda: ksm.of_process(guest.pid)["ksm_rmap_items"] == "0",
             lambda: f"no traces in KSM: {ksm.of_process(guest.pid)}", 300)
    assert ksm.merged_pages(guest.pid) == 0


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
