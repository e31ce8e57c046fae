# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests of one image, merged: what is saved over time, what ksmd takes for it, what is left of huge
pages, and what the guests feel of it."""
import array
import contextlib
import ctypes
import fcntl
import os
import pathlib
import statistics
import subprocess
import threading
import time

from harness import ksm

from .lab import MIB, PAGE_BYTES, libc, say

SEED = 9
BLOCK_PAGES = 512
FRAME_MASK = (1 << 55) - 1
PRESENT = 1 << 63
SAMPLE_SEC = 0.5
WORK_MSEC = 400
BEFORE_SEC = 4  # the guest's own speed, with KSM at rest
AFTER_SEC = 5   # what ksmd takes when all is merged
ENOUGH = 0.99
# A busy host is no fault of the guest's.
PATIENT = "nowatchdog rcupdate.rcu_cpu_stall_timeout=300"
STILL_SEC = 20  # nothing more was saved for so long: that is all


def make_image(lab, mib):
    path = lab.work / f"image-{mib}"
    subprocess.run([lab.need("tests/guest/torture"), "-S", str(SEED), "-m", str(mib), "-I", path],
                   check=True)
    return path


class PageScan:
    """PAGEMAP_SCAN: which of another process's memory is huge pages; of Linux 6.7 and newer."""

    IS_HUGE = 1 << 6
    IOCTL = 3 << 30 | 96 << 16 | ord("f") << 8 | 16
    REGIONS = 4096

    @classmethod
    def huge(cls, pid, start, end):
        """[(start, end)] of huge pages, or None where the kernel cannot say."""
        regions = (ctypes.c_uint64 * (3 * cls.REGIONS))()
        found = []
        with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
            while start < end:
                arg = (ctypes.c_uint64 * 12)(96, 0, start, end, 0, ctypes.addressof(regions),
                                             cls.REGIONS, 0, 0, cls.IS_HUGE, 0, cls.IS_HUGE)
                n = libc.ioctl(pagemap.fileno(), ctypes.c_ulong(cls.IOCTL), arg)
                if n < 0:
                    return None
                found += [(regions[3 * i], regions[3 * i + 1]) for i in range(n)]
                start = arg[4]
        return found


class Loaded:
    """A guest with mergeload in it; frames: where its file and its anonymous memory are."""

    def __init__(self, guest, number, anon_mib):
        self.guest = guest
        self.program = guest.spawn(f"exec mergeload -i /dev/vda -m {anon_mib} -S {SEED} "
                                   f"-g {number + 1}")
        self.base = None
        self.frames = {"file": [], "anon": []}

    def find_frames(self, again=False):
        if again:
            self.program.write("frames\n")
        self.frames = {"file": [], "anon": []}
        while (line := self.program.read_line()) != "ready":
            kind, first, count = line.split()
            self.frames[kind] += range(int(first), int(first) + int(count))
        if self.base is None:
            self.base = self.guest.host_address(MIB) - MIB

    def file_frames_of_host(self):
        """The host's page frames of the file's pages; they are equal where two guests share."""
        entries = array.array("Q")
        first, end = min(self.frames["file"]), max(self.frames["file"]) + 1
        with open(f"/proc/{self.guest.pid}/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek((self.base // PAGE_BYTES + first) * 8)
            left = (end - first) * 8
            while left and (data := pagemap.read(left)):
                entries.frombytes(data)
                left -= len(data)
        return [entries[f - first] & FRAME_MASK for f in self.frames["file"]
                if entries[f - first] & PRESENT]

    def anon_huge_blocks(self):
        """How many of the blocks that are anonymous memory of the guest are huge pages."""
        frames = sorted(self.frames["anon"])
        blocks = {f // BLOCK_PAGES for f in frames if f % BLOCK_PAGES == 0}
        regions = PageScan.huge(self.guest.pid, self.base,
                                self.base + self.guest.memory_mib * MIB)
        if regions is None:
            return None
        size = BLOCK_PAGES * PAGE_BYTES
        huge = {block for start, end in regions
                for block in range((start - self.base) // size, (end - self.base) // size)}
        return len(blocks & huge)

    def stats(self):
        return self.guest.qmp.get("/machine/peripheral/ebb", "ebb-stats")

    def set_merge(self, mode):
        self.guest.qmp.set("/machine/peripheral/ebb", "merge", mode)

    def verify(self):
        self.program.write("verify\n")
        words = self.program.read_line(600).split()
        return int(words[2].rstrip(",")), int(words[4])


class Worker(threading.Thread):
    """One guest uses its memory all the time: (when, nanoseconds a touch, the longest gap)."""

    def __init__(self, loaded):
        super().__init__(daemon=True)
        self.program = loaded.program
        self.turns = []
        self.enough = False

    def run(self):
        while not self.enough:
            self.program.write(f"work {WORK_MSEC}\n")
            words = self.program.read_line(600).split()
            self.turns.append((time.monotonic(), int(words[3]) / int(words[1]), int(words[5])))

    def stop(self):
        self.enough = True
        self.join()

    def between(self, start, end):
        turns = [t for t in self.turns if start + WORK_MSEC / 1000 < t[0] <= end + WORK_MSEC / 1000]
        if not turns:
            return None
        return {"ns_per_touch": statistics.median(t[1] for t in turns),
                "longest_gap_ms": max(t[2] for t in turns) / 1e6}


def cpu_seconds(pid):
    """Of a kernel's thread, to the nanosecond where the kernel says it."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def saved_file_bytes(guests):
    frames = [f for guest in guests for f in guest.file_frames_of_host()]
    return (len(frames) - len(set(frames))) * PAGE_BYTES


def others_mergeable_pages(guests):
    """What ksmd has to look through for others: it makes both ways look dearer."""
    own = {guest.guest.pid for guest in guests}
    found = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/ksm_stat"):
        try:
            if int(path.parent.name) not in own:
                found += int(path.read_text().split()[1])
        except (OSError, ValueError, IndexError):
            pass
    return found


def mem_free_bytes():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemFree:"):
            return int(line.split()[1]) << 10
    return 0


def time_to_free(guest):
    """SIGKILL until 95 % of what comes free of it is free."""
    samples, start = [(0.0, mem_free_bytes())], time.monotonic()
    guest.process.kill()
    reaped = None
    while (now := time.monotonic() - start) < 2 or reaped is None:
        samples.append((now, mem_free_bytes()))
        if reaped is None and guest.process.poll() is not None:
            reaped = now
        time.sleep(0.001 if now < 0.5 else 0.02)
    gained = statistics.median(m for _, m in samples[-10:]) - samples[0][1]
    free = next(t for t, m in samples if m - samples[0][1] >= 0.95 * gained)
    return {"reaped_seconds": reaped, "free_seconds": free, "freed_bytes": gained}


class Curve:
    """One way of merging at one rate of scanning, from the order to merge on."""

    def __init__(self, guests, mode, pages_to_scan):
        self.guests, self.mode, self.pages_to_scan = guests, mode, pages_to_scan
        self.ksmd = ksm.thread()
        self.points = []
        self.found = {"mode": mode, "pages_to_scan": pages_to_scan}

    def _sample(self):
        self.points.append({
            "seconds": time.monotonic() - self.start,
            "saved_file_bytes": saved_file_bytes(self.guests),
            "saved_bytes": (ksm.number("pages_sharing") - self.sharing) * PAGE_BYTES,
            "ksmd_seconds": cpu_seconds(self.ksmd) - self.cpu})
        return self.points[-1]["saved_file_bytes"]

    def follow(self, limit_sec):
        """Until all of the file is merged, or nothing more is, or the time is over."""
        possible = (len(self.guests) - 1) * len(self.guests[0].frames["file"]) * PAGE_BYTES
        self.start, self.cpu = time.monotonic(), cpu_seconds(self.ksmd)
        self.sharing = ksm.number("pages_sharing")
        best, best_at = 0, self.start
        for guest in self.guests:
            guest.set_merge(self.mode)
        ksm.write("pages_to_scan", self.pages_to_scan)
        ksm.write("run", 1)
        while (now := time.monotonic()) - self.start < limit_sec:
            saved = self._sample()
            if saved > best * 1.01:
                best, best_at = saved, now
            if saved >= ENOUGH * possible or best and now - best_at > STILL_SEC:
                break
            time.sleep(SAMPLE_SEC)
        self.found.update(possible_bytes=possible, points=self.points,
                          merging_seconds=time.monotonic() - self.start)

    def rest(self):
        """What ksmd goes on taking."""
        cpu, start = cpu_seconds(self.ksmd), time.monotonic()
        time.sleep(AFTER_SEC)
        self.found["ksmd_share_after"] = ((cpu_seconds(self.ksmd) - cpu) /
                                          (time.monotonic() - start))


@contextlib.contextmanager
def boot_guests(lab, image, mode, count, memory_mib, anon_mib):
    """They come up side by side, each with all of its memory in use once."""
    with contextlib.ExitStack() as stack:
        guests = []
        for number in range(count):
            guest = stack.enter_context(lab.boot(
                f"{mode}-{number}", "thp", memory_mib, ebb=True,
                modules=["virtio_blk", "virtio_ebb"], append=PATIENT,
                devices=["virtio-ebb-pci,id=ebb,mode=off,merge=off,agent=",
                         "virtio-blk-pci,drive=disk"],
                extra=["-drive", f"file={image},format=raw,if=none,id=disk,readonly=on"]))
            guests.append(Loaded(guest, number, anon_mib))
        for loaded in guests:
            loaded.find_frames()
        yield guests


def sum_or_none(values):
    values = list(values)
    return None if None in values else sum(values)


def run(lab, image, mode, pages_to_scan, *, count, memory_mib, anon_mib, limit_sec):
    """One curve and what belongs to it. The caller holds KSM's settings."""
    say(f"{mode}, {pages_to_scan} pages a turn: {count} guests of {memory_mib} MiB come up")
    ksm.write("run", 0)
    with boot_guests(lab, image, mode, count, memory_mib, anon_mib) as guests:
        curve = Curve(guests, mode, pages_to_scan)
        found = curve.found
        before = sum_or_none(g.anon_huge_blocks() for g in guests)
        worker = Worker(guests[0])
        worker.start()
        time.sleep(BEFORE_SEC)
        start = time.monotonic()
        found["guest_before"] = worker.between(start - BEFORE_SEC, start)
        found["others_mergeable_pages"] = others_mergeable_pages(guests)
        curve.follow(limit_sec)
        merged = time.monotonic()
        found["guest_merging"] = worker.between(start, merged)
        curve.rest()
        found["guest_after"] = worker.between(merged, time.monotonic())
        worker.stop()
        after = sum_or_none(g.anon_huge_blocks() for g in guests)
        found.update(anon_huge_blocks_before=before, anon_huge_blocks_after=after,
                     marked_bytes=sum(g.stats()["merge-marked-bytes"] for g in guests),
                     merge_longest_call_ms=max(g.stats()["merge-longest-nsec"]
                                               for g in guests) / 1e6)
        checks = [g.verify() for g in guests]
        found.update(pages_checked=sum(c for c, _ in checks), bad=sum(b for _, b in checks))
        found["kill"] = time_to_free(guests[-1].guest)
        found["taking_back"] = take_back(guests[0])
    return found


def take_back(loaded):
    """merge=off on a living guest: how long, and the longest that it was held up."""
    worker, start = Worker(loaded), time.monotonic()
    worker.start()
    loaded.set_merge("off")
    pid = loaded.guest.pid
    while (ksm.of_process(pid)["ksm_rmap_items"] != "0" or loaded.stats()["merge-pending"]) and \
            time.monotonic() - start < 60:
        time.sleep(0.05)
    end = time.monotonic()
    time.sleep(2 * WORK_MSEC / 1000)
    worker.stop()
    return {"seconds": end - start, "rmap_items": int(ksm.of_process(pid)["ksm_rmap_items"]),
            "guest": worker.between(start - WORK_MSEC / 1000, end),
            "longest_call_ms": loaded.stats()["merge-longest-nsec"] / 1e6}


def reached(points, wanted, key):
    """The first time (or processor time) at which so much was saved, between two samples."""
    last = None
    for point in points:
        if point["saved_file_bytes"] >= wanted:
            if last is None or point["saved_file_bytes"] == last["saved_file_bytes"]:
                return point[key]
            part = ((wanted - last["saved_file_bytes"]) /
                    (point["saved_file_bytes"] - last["saved_file_bytes"]))
            return last[key] + part * (point[key] - last[key])
        last = point
    return None


def compare(every, hinted, off=None):
    """hinted beside all, at one rate; off: the same guests unmerged, for what a kill takes."""
    most = max(p["saved_file_bytes"] for p in every["points"])
    found = {"pages_to_scan": every["pages_to_scan"], "all_saves_bytes": most,
             "hinted_saves_bytes": max(p["saved_file_bytes"] for p in hinted["points"])}
    for key, name in (("seconds", "time"), ("ksmd_seconds", "ksmd")):
        times = [reached(run_["points"], 0.9 * most, key) if most else None
                 for run_ in (every, hinted)]
        found[f"all_{name}_seconds"], found[f"hinted_{name}_seconds"] = times
        found[f"{name}_ratio"] = times[1] / times[0] if all(times) else None
    for name, run_ in (("all", every), ("hinted", hinted)):
        before, after = run_["anon_huge_blocks_before"], run_["anon_huge_blocks_after"]
        found[f"{name}_huge_kept"] = after / before if before else None
        found[f"{name}_slowdown"] = (run_["guest_merging"]["ns_per_touch"] /
                                     run_["guest_before"]["ns_per_touch"])
        found[f"{name}_kill_ratio"] = (run_["kill"]["free_seconds"] / off["kill"]["free_seconds"]
                                       if off else None)
    return found


@contextlib.contextmanager
def settings():
    """KSM's settings are this run's alone; ksmd at its ordinary priority."""
    with open(ksm.LOCK, "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        saved = {name: ksm.read(name) for name in ksm.START}
        try:
            for name, value in ksm.START.items():
                ksm.write(name, value)
            yield
        finally:
            for name in sorted(saved, key=lambda n: (n == "run", n)):
                if saved[name] is not None:
                    ksm.write(name, saved[name])
