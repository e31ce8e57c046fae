# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables of the VMM that are left after each way of giving memory back."""
import time

from harness.pageout import pageout
from harness.proc import sample

from . import clocks
from .lab import MIB, say, wait_until

GUEST_MIB = 512
LOAD_MIB = 320
BASE_MIB = 192  # beside virtio-mem
VIRTIO_MEM_MIB = 384
STILL_SEC = 7  # the guest's kernel reports each 2 s
LIMIT_SEC = 240
MOST_OF_BEFORE = 1.05
REPORTING = "virtio-balloon-pci,id=ebb0,free-page-reporting=on"
MOVES = ",x-page-tables-way=move,x-no-pagemap-scan=on"

WAYS = {
    "fpr9": "free page reporting, order 9",
    "fpr0": "free page reporting, order 0",
    "balloon": "balloon, inflated and deflated",
    "virtio_mem": "virtio-mem, unplugged and plugged",
    "ebb_purge": "ebb: lazily freed, taken",
    "ebb_collect": "ebb: the same, collected",
    "ebb_collect_moves": "the same, as before Linux 6.7",
    "ebb_collect_compacted": "ebb: compaction in the guest, and the same",
}


def still(look, guest):
    """Wait until what look() says has not changed for a while."""
    end = time.monotonic() + LIMIT_SEC
    last, since = look(), time.monotonic()
    while time.monotonic() < end and time.monotonic() - since < STILL_SEC:
        time.sleep(0.5)
        guest.check_alive()
        now = look()
        if now != last:
            last, since = now, time.monotonic()
    return last


class Way:
    """A guest and how it gives back what is free."""

    def __init__(self, name, guest):
        self.name = name
        self.guest = guest
        self.ram = guest.host_address(0) if name.startswith("ebb") else None
        self.collections = []

    def give(self):
        getattr(self, "_" + self.name.split("_")[0].rstrip("09"))()

    def _rss(self):
        return sample(self.guest.pid).rss_kib >> 10

    def _fpr(self):
        still(self._rss, self.guest)

    def _balloon(self):
        free_mib = self.guest.meminfo()["MemFree"] // 1024 - 48
        actual = lambda: self.guest.qmp.command("query-balloon")["actual"]  # noqa: E731
        whole = actual()
        self.guest.qmp.command("balloon", value=whole - free_mib * MIB)
        still(actual, self.guest)
        self.guest.qmp.command("balloon", value=whole)
        still(actual, self.guest)

    def _virtio(self):
        plugged = lambda: self.guest.qmp.get("vm0", "size")  # noqa: E731
        self.guest.qmp.set("/machine/peripheral/vm0", "requested-size", 0)
        still(plugged, self.guest)
        self.guest.qmp.set("/machine/peripheral/vm0", "requested-size", VIRTIO_MEM_MIB * MIB)
        still(plugged, self.guest)

    def _ebb(self):
        lazy = lambda: sample(self.guest.pid).lazyfree_kib >> 10  # noqa: E731
        still(lazy, self.guest)
        for _ in range(20):  # the kernel passes over pages now and then
            pageout(self.guest.pid, self.ram, GUEST_MIB * MIB)
            if lazy() < 4:
                break
        if "collect" in self.name:
            self.collect()

    def collect(self):
        """Keeps what it did and how long it took."""
        stats = lambda: self.guest.qmp.get("ebb0", "ebb-stats")  # noqa: E731
        before, start = stats(), time.monotonic()
        self.guest.qmp.set("/machine/peripheral/ebb0", "collect", True)
        while stats()["collections"] == before["collections"]:
            time.sleep(0.001)
            if time.monotonic() > start + LIMIT_SEC:
                raise RuntimeError("the collection has no end")
        after = stats()
        self.collections.append({key[7:]: after[key] - before[key] for key in before
                                 if key.startswith("tables-")} |
                                {"seconds": time.monotonic() - start})


def boot(lab, name):
    append, options, modules = "transparent_hugepage=never", {}, ["virtio_ebb"]
    if name.startswith("ebb"):
        device = "virtio-ebb-pci,id=ebb0,mode=lazy,agent="
        options = {"ebb": True, "devices": [device + (MOVES if name.endswith("moves") else "")]}
    elif name == "virtio_mem":
        options = {"extra": ["-object", f"memory-backend-ram,id=mem0,size={VIRTIO_MEM_MIB}M",
                             "-device", "virtio-mem-pci,id=vm0,memdev=mem0,requested-size="
                             f"{VIRTIO_MEM_MIB}M"]}
        append += " memhp_default_state=online_movable"
        modules = ["virtio_mem"]
    else:
        modules = ["virtio_balloon"]
        options = {"devices": ["virtio-balloon-pci,id=ebb0" if name == "balloon" else REPORTING]}
        if name == "fpr0":
            append += " page_reporting.page_reporting_order=0"
    memory = f"{BASE_MIB},maxmem=2G" if name == "virtio_mem" else GUEST_MIB
    return lab.boot(f"tables-{name}", "4k", memory, modules=modules, append=append, **options)


def given(way, call):
    """What call() leaves, and takes."""
    guest, start = way.guest, time.monotonic()
    cpu_nsec = clocks.cpu_nsec(guest.pid)
    call()
    found = sample(guest.pid)
    return {"page_table_bytes": found.page_tables_kib << 10, "rss_bytes": found.rss_kib << 10,
            "seconds": time.monotonic() - start,
            "cpu_seconds": (clocks.cpu_nsec(guest.pid) - cpu_nsec) / 1e9}


def one(lab, name):
    with boot(lab, name) as guest:
        if name == "virtio_mem":
            wait_until(lambda: guest.qmp.get("vm0", "size") == VIRTIO_MEM_MIB * MIB,
                       "virtio-mem to be plugged", LIMIT_SEC, 0.5, guest)
        way = Way(name, guest)
        work = guest.spawn(f"memwork -s 1 -m {LOAD_MIB} -c")
        figures = {"before_bytes": sample(guest.pid).page_tables_kib << 10}
        work.ask(f"fill {LOAD_MIB}")
        work.ask("thin")
        figures["peak_bytes"] = sample(guest.pid).page_tables_kib << 10

        def thinned():
            if name == "ebb_collect_compacted":
                guest.compact()
            way.give()
        figures["thin"] = given(way, thinned)
        work.ask("free 100")
        guest.compact()
        figures["free"] = given(way, way.give)
        if way.collections:
            figures["collections"] = way.collections
        with clocks.KernelTime(guest.pid, guess=True) as host:
            start = time.monotonic()
            work.ask(f"fill {LOAD_MIB}")
            seconds = time.monotonic() - start
        figures["again"] = {"seconds": seconds, "kernel_seconds": host.kernel_nsec / 1e9,
                            "cpu_seconds": host.cpu_nsec / 1e9, "faults": host.faults}
        work.ask("verify")
        work.write("quit\n")
        if work.wait():
            raise RuntimeError(f"{name}: content was lost: {work.output}")
    figures["of_before"] = figures["free"]["page_table_bytes"] / figures["before_bytes"]
    say(f"  {WAYS[name]}: {figures['before_bytes'] >> 10} kB of tables before, "
        f"{figures['peak_bytes'] >> 10} at the peak, {figures['free']['page_table_bytes'] >> 10} "
        "in the end")
    return figures


def run(lab, ways):
    return {name: one(lab, name) for name in ways}


def table(figures):
    rows = [("", "before", "peak", "one in 512 kept", "all free", "of before", "time", "CPU",
             "touched again: CPU", "host kernel")]
    for name, f in figures.items():
        rows.append((WAYS[name], f"{f['before_bytes'] >> 10} kB", f"{f['peak_bytes'] >> 10}",
                     f"{f['thin']['page_table_bytes'] >> 10}",
                     f"{f['free']['page_table_bytes'] >> 10}", f"{f['of_before']:.2f}",
                     f"{f['free']['seconds']:.1f} s", f"{f['free']['cpu_seconds']:.2f} s",
                     f"{f['again']['cpu_seconds']:.2f} s", f"{f['again']['kernel_seconds']:.2f} s"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(row, widths))) for row in rows)


def targets(figures):
    return [{"name": f"VmPTE in the end, of before: {WAYS[name]}", "value": f["of_before"],
             "limit": MOST_OF_BEFORE, "met": f["of_before"] <= MOST_OF_BEFORE}
            for name, f in figures.items() if "collect" in name]
