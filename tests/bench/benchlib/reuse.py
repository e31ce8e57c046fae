# SPDX-License-Identifier: LGPL-2.1-or-later
"""What it costs the host when a guest uses memory again that it had freed."""
import contextlib
import statistics
import threading

from . import clocks
from .lab import MIB, PAGE_BYTES, Toucher, rss_bytes, say, wait_until
from .reserve import Reserve

# Little more than is used again, so that what is used again is what was used before.
GUEST_MIB = 1184
MIN_FREE_MIB = 8
LEFT_FREE_MIB = 24
TOUCHED_MIB = 1024
PAGES = TOUCHED_MIB * MIB // PAGE_BYTES
# The share of the freed memory that must have been marked or discarded before it is used again.
SHARE = 0.95
VARIANTS = ("never", "rest", "lazy", "eager", "fpr")


class Variant:
    """A guest whose free memory is treated in one of the five ways."""

    def __init__(self, name, guest, executor, reserve):
        self.name = name
        self.guest = guest
        self.executor = executor
        self.reserve = reserve
        self.toucher = Toucher(guest, TOUCHED_MIB)
        self.rounds = []
        self.high = 0

    def warm(self):
        """Have the host put a page behind all that the guest can touch."""
        # Its kernel would keep 66 MiB back, which nobody could touch before and which would come up
        # in the middle of a measurement.
        self.guest.check(f"echo {MIN_FREE_MIB << 10} >/proc/sys/vm/min_free_kbytes")
        free_mib = self.guest.meminfo()["MemFree"] // 1024
        whole = Toucher(self.guest, (free_mib - LEFT_FREE_MIB) & ~1)
        whole.touch()
        whole.close()
        self.toucher.touch()

    def start_giving(self):
        """Have the free memory marked or discarded, if this is a way that does it."""
        self.high = rss_bytes(self.guest.pid)
        if self.executor:
            self.executor.stage(self.name)

    def wait_given(self):
        want = SHARE * TOUCHED_MIB * MIB

        def given():
            if self.name == "lazy":
                return self.guest.sample().lazyfree_kib * 1024 >= want
            gone = self.high - rss_bytes(self.guest.pid)
            self.reserve.take(gone)
            return gone >= want

        if self.name in ("lazy", "eager", "fpr"):
            wait_until(given, f"{self.name}: 95 % of the free memory to be marked or discarded",
                       120, 0.02, self.guest)

    def measure(self):
        """Use the memory again, once."""
        with self.reserve.feed(self.guest), clocks.KernelTime(self.guest.pid) as host:
            wall_nsec = self.toucher.touch()
        if host.lost:
            raise RuntimeError("samples of the host's kernel time were lost: use a quieter machine")
        if self.executor:
            self.executor.stage("rest")
        self.rounds.append({"kernel_ns_per_page": host.kernel_nsec / PAGES,
                            "wall_ns_per_page": wall_nsec / PAGES,
                            "cpu_ns_per_page": host.cpu_nsec / PAGES,
                            "faults_per_page": host.faults / PAGES})
        say(f"    {self.name:6} {self.rounds[-1]['kernel_ns_per_page']:8.1f} ns/page in the "
            f"host's kernel, {self.rounds[-1]['wall_ns_per_page']:8.1f} in all, "
            f"{host.faults} faults")

    def requests(self):
        return self.guest.qmp.get("ebb0", "ebb-stats")["requests"] if self.executor else 0

    def result(self):
        found = {key: statistics.median(r[key] for r in self.rounds) for key in self.rounds[0]}
        found["kernel_min_ns_per_page"] = min(r["kernel_ns_per_page"] for r in self.rounds)
        return found


def boot_variant(lab, stack, name, pages):
    options = {}
    if name == "fpr":
        options = {"devices": ["virtio-balloon-pci,free-page-reporting=on"],
                   "modules": ["virtio_balloon"]}
    elif name != "never":
        options = {"devices": [f"virtio-ebb-pci,id=ebb0,agent={lab.agent.path}"],
                   "modules": ["virtio_ebb"], "ebb": True}
    guest = stack.enter_context(lab.boot(f"reuse-{name}-{pages}", pages, GUEST_MIB, **options))
    executor = None
    if name in ("rest", "lazy", "eager"):
        executor = lab.agent.accept(name)
        stack.callback(executor.close)
        executor.stage("rest")
    reserve = Reserve()
    stack.callback(reserve.drop, 1 << 62)
    variant = Variant(name, guest, executor, reserve)
    variant.warm()
    return variant


def follow(variant):
    """Wait beside the main thread, which waits again afterwards and says what went wrong."""
    with contextlib.suppress(OSError, AssertionError):
        variant.wait_given()


def one_round(variants, number, pairs):
    """Every way once, never and rest several times: these two are almost equal, and what the
    machine does beside it must hit both alike."""
    variants["fpr"].start_giving()
    fpr_given = threading.Thread(target=follow, args=(variants["fpr"],), daemon=True)
    fpr_given.start()
    order = ["lazy", "eager", "pairs", "eager", "lazy"]
    for name in order[number % 5:] + order[:number % 5]:
        if name == "pairs":
            for pair in range(pairs):
                first = pair % 2
                for name_of_two in (("never", "rest"), ("rest", "never"))[first]:
                    variants[name_of_two].measure()
            continue
        variants[name].start_giving()
        variants[name].wait_given()
        variants[name].measure()
    fpr_given.join()
    variants["fpr"].wait_given()
    variants["fpr"].measure()


def compare(rest, never):
    """What using memory again costs at rest, as a multiple of what it costs without the device.

    Neither makes the host touch a page table, so that all of the host's kernel time in both is
    timers and other processes' work: its ratio says nothing. What the device adds to the host's
    kernel time is taken as a part of all CPU time that reusing the memory takes."""
    def values(rounds, key):
        return [r[key] for r in rounds]

    added = [r - n for r, n in zip(values(rest, "kernel_ns_per_page"),
                                   values(never, "kernel_ns_per_page"))]
    whole = statistics.median(values(never, "cpu_ns_per_page"))
    faults = [statistics.mean(values(rounds, "faults_per_page")) for rounds in (rest, never)]
    return {"of_never": 1 + statistics.median(added) / whole,
            # Standard error of a median, from the spread of the pairs.
            "of_never_error": 1.25 * statistics.stdev(added) / len(added) ** 0.5 / whole,
            "kernel_of_never": sum(values(rest, "kernel_ns_per_page")) /
                               sum(values(never, "kernel_ns_per_page")),
            "more_faults_per_page": faults[0] - faults[1]}


def run(lab, pages, rounds, pairs):
    """{variant: {figure: median}}, with what the pairs of never and rest say."""
    with contextlib.ExitStack() as stack:
        variants = {}
        for name in VARIANTS:
            say(f"  {pages}: starting the guest '{name}', first use of all its memory")
            variants[name] = boot_variant(lab, stack, name, pages)
        requests = variants["rest"].requests()
        for number in range(rounds):
            say(f"  {pages}: round {number + 1} of {rounds}")
            one_round(variants, number, pairs)
        result = {name: variant.result() for name, variant in variants.items()}
        result["rest"]["requests"] = variants["rest"].requests() - requests
    result["rest"].update(compare(variants["rest"].rounds, variants["never"].rounds))
    return result
