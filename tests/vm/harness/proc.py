# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the host's kernel says of a process's memory."""
import dataclasses
import pathlib
import re


@dataclasses.dataclass
class MemorySample:
    rss_kib: int
    lazyfree_kib: int
    anon_huge_kib: int
    page_tables_kib: int

    @property
    def held_kib(self):
        return self.rss_kib - self.lazyfree_kib


def kib_fields(text):
    return {k: int(v) for k, v in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)}


def sample(pid):
    """All of the process. LazyFree lags by a small batch for each CPU."""
    proc = pathlib.Path("/proc") / str(pid)
    rollup = kib_fields((proc / "smaps_rollup").read_text())
    status = kib_fields((proc / "status").read_text())
    return MemorySample(rollup["Rss"], rollup["LazyFree"], rollup["AnonHugePages"],
                        status["VmPTE"])


@dataclasses.dataclass
class Mapping:
    start: int
    end: int
    fields: dict
    flags: list


def mappings(pid):
    """Every mapping of smaps."""
    found = []
    for line in (pathlib.Path("/proc") / str(pid) / "smaps").read_text().splitlines():
        head = re.match(r"^([0-9a-f]+)-([0-9a-f]+) ", line)
        if head:
            found.append(Mapping(int(head.group(1), 16), int(head.group(2), 16), {}, []))
            continue
        key, _, value = line.partition(":")
        if key == "VmFlags":
            found[-1].flags = value.split()
        elif value.strip().endswith(" kB"):
            found[-1].fields[key] = int(value.split()[0])
    return found


def mappings_in(pid, start, end):
    """The mappings that reach into [start, end)."""
    return [m for m in mappings(pid) if m.start < end and m.end > start]
