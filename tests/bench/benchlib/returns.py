# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long it takes, and at what CPU cost, until the host has a guest's free memory back."""
import array
import pathlib
import re
import statistics
import subprocess
import time

from . import clocks
from .lab import MIB, PAGE_BYTES, Toucher, host_pages, rss_bytes, say, wait_until

GUEST_MIB = 2048
TOUCHED_MIB = 1400
ASKED_MIB = 1024
# Free page reporting never says that it is through: it is when nothing has come for this long,
# twice and a half its own interval.
QUIET_SEC = 5.0
SHARE = 0.95
BLOCK_BYTES = 2 * MIB


class Fall:
    """How the resident memory of a guest falls, from the moment that this is made."""

    def __init__(self, guest):
        self.guest = guest
        self.rss = rss_bytes(guest.pid)
        self.cpu = clocks.cpu_nsec(guest.pid)
        self.start = time.monotonic()
        self.points = []

    def look(self):
        """Bytes that have come back."""
        fall = self.rss - rss_bytes(self.guest.pid)
        self.points.append((time.monotonic() - self.start, fall,
                            clocks.cpu_nsec(self.guest.pid) - self.cpu))
        return fall

    def reached(self, target):
        """The figures at the first look that saw this many bytes back."""
        seconds, fall, cpu = next(p for p in self.points if p[1] >= target)
        return {"seconds": seconds, "cpu_seconds": cpu / 1e9, "bytes": fall}


def median_of(rounds):
    return {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}


def free_page_reporting(lab, pages, repeats):
    device = "virtio-balloon-pci,free-page-reporting=on"
    with lab.boot(f"return-fpr-{pages}", pages, GUEST_MIB, devices=[device],
                  modules=["virtio_balloon"], quick_zeroing=False) as guest:
        toucher = Toucher(guest, TOUCHED_MIB)
        return median_of([reported_once(guest, toucher) for _ in range(repeats)])


def reported_once(guest, toucher):
    toucher.touch()
    fall = Fall(guest)

    def quiet():
        now = fall.look()
        elapsed = fall.points[-1][0]
        earlier = [p[1] for p in fall.points if p[0] <= elapsed - QUIET_SEC]
        return earlier and now > ASKED_MIB * MIB and now - earlier[-1] < 2 * MIB

    wait_until(quiet, "free page reporting to end", 120, 0.02, guest)
    return fall.reached(SHARE * fall.points[-1][1])


def balloon(lab, pages, repeats):
    with lab.boot(f"return-balloon-{pages}", pages, GUEST_MIB, devices=["virtio-balloon-pci"],
                  modules=["virtio_balloon"], quick_zeroing=False) as guest:
        toucher = Toucher(guest, TOUCHED_MIB)

        def resize(mib):
            guest.qmp.command("balloon", value=mib * MIB)

        def size_bytes():
            return guest.qmp.command("query-balloon")["actual"]

        return taken_and_given(guest, toucher, resize, size_bytes,
                               (GUEST_MIB - ASKED_MIB, GUEST_MIB), repeats)


def virtio_mem_quick(lab, pages, repeats):
    return virtio_mem(lab, pages, repeats, quick_zeroing=True)


def virtio_mem(lab, pages, repeats, quick_zeroing=False):
    boot_mib = GUEST_MIB - ASKED_MIB
    with lab.boot(f"return-virtio-mem-{pages}", pages, f"{boot_mib}M,maxmem={GUEST_MIB}M",
                  append="memhp_default_state=online_movable", modules=["virtio_mem"],
                  quick_zeroing=quick_zeroing,
                  extra=["-object", f"memory-backend-ram,id=mem0,size={ASKED_MIB}M",
                         "-device", "virtio-mem-pci,id=vm0,memdev=mem0,"
                         f"requested-size={ASKED_MIB}M"]) as guest:
        def resize(mib):
            guest.qmp.set("vm0", "requested-size", mib * MIB)

        def size_bytes():
            return guest.qmp.get("vm0", "size")

        wait_until(lambda: size_bytes() == ASKED_MIB * MIB, "virtio-mem to plug its memory", 120,
                   0.1, guest)
        toucher = Toucher(guest, TOUCHED_MIB)
        return taken_and_given(guest, toucher, resize, size_bytes, (0, ASKED_MIB), repeats)


def taken_and_given(guest, toucher, resize, size_bytes, ends_mib, repeats):
    """For the two that are asked for 1 GiB, give it piece by piece, and get it back between."""
    target, rounds = SHARE * ASKED_MIB * MIB, []
    for number in range(repeats):
        toucher.touch()
        fall = Fall(guest)
        resize(ends_mib[0])
        wait_until(lambda: fall.look() >= target, "the guest to give back what was asked for", 120,
                   0.002, guest)
        rounds.append(fall.reached(target))
        say(f"    {number + 1:2} of {repeats}: {rounds[-1]['seconds']:.3f} s")
        for mib in ends_mib:
            resize(mib)
            wait_until(lambda: size_bytes() == mib * MIB, f"{mib} MiB, which were asked for", 120,
                       0.05, guest)
    return median_of(rounds)


class Frames:
    """Where the host keeps a guest's memory: the frame number of each page, 0 where there is none."""

    PRESENT = 1 << 63
    FRAME = (1 << 55) - 1

    def __init__(self, pid):
        areas = re.findall(r"^(\w+)-(\w+) ", pathlib.Path(f"/proc/{pid}/maps").read_text(), re.M)
        start, end = max(((int(a, 16), int(b, 16)) for a, b in areas), key=lambda x: x[1] - x[0])
        entries = array.array("Q")
        with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
            pagemap.seek(start // PAGE_BYTES * 8)
            entries.frombytes(pagemap.read((end - start) // PAGE_BYTES * 8))
        self.frames = [e & self.FRAME if e & self.PRESENT else 0 for e in entries]

    def order_of_gone(self, later):
        """The pages that are gone later, counted from 0, in the order of their frames."""
        gone = [f for f, left in zip(self.frames, later.frames) if f and not left]
        return array.array("I", sorted(range(len(gone)), key=gone.__getitem__))


class BareCalls:
    """The same discards with nothing around them."""

    def __init__(self, lab, pages):
        self.order_path = lab.work / f"order-{pages}"
        with host_pages(pages):
            self.process = subprocess.Popen([lab.need("tests/bench/barecalls")], text=True,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def seconds(self, size_bytes, calls, order=None):
        """order: that in which the pages are touched. Memory that the host hands out in order then
        lies as scattered as the guest's did."""
        blocks = -(-size_bytes // BLOCK_BYTES)
        call_bytes = -(-blocks // calls) * BLOCK_BYTES
        where = "-"
        if order is not None:
            order.extend(range(len(order), blocks * BLOCK_BYTES // PAGE_BYTES))
            self.order_path.write_bytes(order.tobytes())
            where = self.order_path
        self.process.stdin.write(f"{blocks * BLOCK_BYTES} {call_bytes} {where}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("barecalls ended: see its message above")
        return int(line) / 1e9 * size_bytes / (blocks * BLOCK_BYTES)


def release_once(guest, executor):
    """Everything that is free, at once."""
    before, stats = guest.sample(), guest.qmp.get("ebb0", "ebb-stats")
    fall = Fall(guest)
    answered_seconds, _, usec = executor.release(GUEST_MIB * MIB)
    fall.look()
    after, later = guest.sample(), guest.qmp.get("ebb0", "ebb-stats")
    _, fallen, cpu_nsec = fall.points[0]
    # Memory that was huge and is not any more, although it stayed resident.
    split_kib = (before.anon_huge_kib - after.anon_huge_kib) - (before.rss_kib - after.rss_kib)
    split_blocks = max(split_kib, 0) * 1024 // BLOCK_BYTES
    return {"seconds": usec / 1e6, "answered_seconds": answered_seconds,
            "cpu_seconds": cpu_nsec / 1e9, "bytes": fallen,
            "calls": later["madvise-calls"] - stats["madvise-calls"],
            "call_seconds": (later["madvise-nsec"] - stats["madvise-nsec"]) / 1e9,
            "split_huge_bytes": split_blocks * BLOCK_BYTES}


def release(lab, pages, repeats):
    """Ours, again and again: the median, the worst, and the bare system calls beside it."""
    rounds, bare, in_order = [], [], []
    device = f"virtio-ebb-pci,id=ebb0,agent={lab.agent.path}"
    with lab.boot(f"return-release-{pages}", pages, GUEST_MIB, ebb=True, devices=[device],
                  modules=["virtio_ebb"], quick_zeroing=False) as guest, BareCalls(lab, pages) as calls:
        executor = lab.agent.accept("release")
        executor.stage("rest")
        toucher = Toucher(guest, TOUCHED_MIB)
        for number in range(repeats):
            toucher.touch()
            before = Frames(guest.pid) if pages == "4k" else None
            rounds.append(release_once(guest, executor))
            last = rounds[-1]
            gone = before.order_of_gone(Frames(guest.pid)) if before else None
            size = len(gone) * PAGE_BYTES if gone else last["bytes"]
            in_order.append(calls.seconds(size, last["calls"]))
            # A huge page is one page to the host: there is no order within it.
            bare.append(calls.seconds(size, last["calls"], gone) if gone else in_order[-1])
            say(f"    release {number + 1:2} of {repeats}: {last['bytes'] >> 20} MiB in "
                f"{last['seconds'] * 1e3:.1f} ms, of which {last['call_seconds'] * 1e3:.1f} in "
                f"{last['calls']} calls; bare calls {bare[-1] * 1e3:.1f}, over pages touched in "
                f"order {in_order[-1] * 1e3:.1f}")
        executor.close()
    result = median_of(rounds)
    worst = max(rounds, key=lambda r: r["seconds"])
    result["worst_seconds"] = worst["seconds"]
    result["worst_call_seconds"] = worst["call_seconds"]
    result["split_huge_bytes"] = max(r["split_huge_bytes"] for r in rounds)
    result["bare_seconds"] = statistics.median(bare)
    result["bare_in_order_seconds"] = statistics.median(in_order)
    return result
