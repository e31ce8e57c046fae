# SPDX-License-Identifier: LGPL-2.1-or-later
"""The demo's three guests and what runs in them."""
import re

from benchlib import clocks
from benchlib.lab import MIB, PAGE_BYTES, rss_bytes

NAMES = ("demo1", "demo2", "demo3")
GUEST_MIB = 512
PEAK_MIB = 416
FREE_PERCENT = 95
ROUNDS = 2
# Linux reports only free blocks of 2 MiB and more, so not quite all that was freed.
GIVEN_SHARE = 0.8


class Use:
    """What it cost the host that the guest used memory."""

    def __init__(self):
        self.pages = self.kernel_nsec = self.taken_bytes = 0

    def add(self, pages, kernel_nsec, taken_bytes):
        self.pages += pages
        self.kernel_nsec += kernel_nsec
        self.taken_bytes += taken_bytes

    def ns_per_page(self):
        return self.kernel_nsec / self.pages

    def taken_share(self):
        return self.taken_bytes / (self.pages * PAGE_BYTES)


class Worker:
    """A guest and the program in it. It fills memory with checksummed pages, verifies, frees most
    of it, and later uses the freed memory again."""

    def __init__(self, name, guest):
        self.name = name
        self.guest = guest
        self.command = guest.spawn(f"memwork -m {PEAK_MIB} -s {sum(name.encode())} -c")
        self.in_use_mib = self.checked = self.bad = 0
        self.uses = {"first": Use(), "again": Use(), "at once again": Use()}

    def ask(self, request):
        words = self.command.ask(request)
        found = re.match(r"ok in use (\d+) MiB, pages checked (\d+), bad (\d+)$", words)
        if not found:
            raise RuntimeError(f"{self.name}: memwork said '{words}' to '{request}'")
        self.in_use_mib, self.checked, self.bad = (int(n) for n in found.groups())

    def peak(self, pause, kind):
        """Use all, verify, free most, and idle until that has reached the host (pause).
        kind: which use of the memory this is."""
        want_mib = PEAK_MIB - self.in_use_mib
        before = rss_bytes(self.guest.pid)
        with clocks.KernelTime(self.guest.pid, guess=True) as host:
            self.ask(f"fill {want_mib}")
        # What had to become resident again had been taken.
        taken = max(rss_bytes(self.guest.pid) - before, 0)
        self.uses[kind].add(want_mib * MIB // PAGE_BYTES, host.kernel_nsec, taken)
        self.ask("verify")
        held_kib = self.guest.sample().held_kib
        self.ask(f"free {FREE_PERCENT}")
        pause(self, held_kib * 1024 - GIVEN_SHARE * (PEAK_MIB - self.in_use_mib) * MIB)

    def result(self):
        sample = self.guest.sample()
        return {"name": self.name,
                "memory_bytes": GUEST_MIB * MIB,
                "touched_bytes": PEAK_MIB * MIB,
                "in_use_bytes": self.in_use_mib * MIB,
                "resident_bytes": sample.rss_kib * 1024,
                "reclaimable_bytes": sample.lazyfree_kib * 1024,
                "held_bytes": sample.held_kib * 1024,
                "checked_pages": self.checked,
                "bad_pages": self.bad,
                "first_use_ns_per_page": self.uses["first"].ns_per_page(),
                "reuse_ns_per_page": self.uses["at once again"].ns_per_page(),
                "reuse_taken_share": self.uses["at once again"].taken_share()}


def work(workers, progress, pause):
    """The same work with ebb and without: each guest has its peaks in turn, so that together they
    touch far more than they need at any one time. pause: called after each peak with the guest and
    what it should hold then at most."""
    for number in range(ROUNDS):
        for worker in workers:
            progress(f"round {number + 1} of {ROUNDS}: {worker.name} uses {PEAK_MIB} MiB, checks "
                     f"every page, frees {FREE_PERCENT} %")
            worker.peak(pause, "again" if number else "first")
            if number == ROUNDS - 1:
                progress(f"round {number + 1} of {ROUNDS}: {worker.name} at once uses all of it "
                         "again")
                worker.peak(pause, "at once again")
            for other in workers:
                other.ask("verify")
