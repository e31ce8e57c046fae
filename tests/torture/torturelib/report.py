# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a run has found: bad pages, trouble, and whether both sides really did something."""
import collections
import json
import pathlib
import platform
import time

from harness import guest as guest_mod

from .host import Ksm
from .subject import Trouble

MIB = 1 << 20
LAST_ACTIONS = 15
SCANS_TO_MERGE = 100
DEVICE = ["requests", "marked-bytes", "discarded-bytes", "purged-seen-bytes", "releases",
          "released-bytes", "tables-found", "tables-freed", "merge-marks", "merge-unmarks",
          "merge-failures", "violations"]


class Run:
    def __init__(self, args):
        self.args = args
        self.lab = self.actions = None
        self.begin = time.monotonic()
        self.seconds = None
        self.progress = 0
        self.trouble = []   # what is wrong besides bad pages
        self.missing = []   # what should have happened and did not
        self.device = {}    # subject's name -> its device's counters
        self.merged_pages = collections.Counter()  # the most that was seen of each
        self.hinted_pages = collections.Counter()  # of these, while merging was by hint
        self.found_sec = None

    def bad_lines(self):
        return [f"{s.name}: {line}" for s in self.lab.subjects for line in s.bad_lines]

    def totals(self):
        found = sum((s.totals() for s in self.lab.subjects), collections.Counter())
        # What was told of since the last line of totals.
        found["bad"] = max(found["bad"], len(self.bad_lines()))
        return found

    def sum(self, key):
        return sum(stats.get(key, 0) for stats in self.device.values())

    def measure(self):
        if self.lab.ksm.usable:
            self.lab.ksm.count_scans()
            self.lab.ksm.pace()
        self.measure_merging()

    def measure_merging(self):
        for subject in self.lab.subjects:
            name, stats, merged = subject.name, subject.stats(), Ksm.merged_pages(subject.pid)
            self.device[name] = stats
            self.merged_pages[name] = max(self.merged_pages[name], merged)
            if stats.get("merge") == "hinted" and not stats["merge-whole"]:
                self.hinted_pages[name] = max(self.hinted_pages[name], merged)

    def progress_line(self, actions):
        totals = self.totals()
        return (f"{time.monotonic() - actions.start:5.0f} s: pages checked {totals['checked']}, "
                f"bad {totals['bad']}; marked {self.sum('marked-bytes') >> 20} MiB, purged "
                f"{self.purged_bytes() >> 20}, discarded {self.sum('discarded-bytes') >> 20}, "
                f"merged {sum(self.merged_pages.values())} pages, by hint "
                f"{sum(self.hinted_pages.values())}, releases {self.sum('releases')}, "
                f"tables {self.sum('tables-freed')}; "
                f"{sum(actions.done.values())} actions")

    def purged_bytes(self):
        """What was seen to go: by the devices, or by us around a reclaim."""
        return max(self.sum("purged-seen-bytes"), self.actions.purged_bytes)

    def look_again(self):
        """After trouble: bad pages that the programs told of meanwhile are the better word."""
        for subject in self.lab.subjects:
            try:
                subject.look()
            except (Trouble, AssertionError) as e:
                if str(e) not in self.trouble:
                    self.trouble.append(str(e))

    def judge(self):
        """Was there anything that could have gone wrong?"""
        if (self.bad_lines() or self.trouble) and self.actions:
            self.found_sec = time.monotonic() - self.actions.start
        if self.bad_lines() or self.trouble or not self.actions:
            return
        ebb = self.lab.with_ebb
        limited = any(s.cgroup for s in self.lab.subjects)
        may_merge = self.lab.ksm.usable and sum(s.merge for s in self.lab.subjects) > 1
        done = {
            "marked with MADV_FREE": (ebb, self.sum("marked-bytes")),
            "discarded": (ebb, self.sum("discarded-bytes")),
            "purged by the host's kernel": (ebb and limited, self.purged_bytes()),
            "released": (ebb, self.sum("released-bytes")),
            "taken back whole from volatile objects": (ebb, self.totals()["volatile-whole"]),
            "purged of volatile objects": (ebb and limited, self.totals()["volatile-purged"]),
            "merged by KSM": (may_merge, sum(self.merged_pages.values())),
            "made mergeable by hint": (ebb and may_merge, self.sum("merge-marks")),
            "made unmergeable again": (ebb and may_merge, self.sum("merge-unmarks")),
            # On a busy machine KSM hardly gets there before a block changes its use.
            "merged by hint": (ebb and may_merge and self.lab.ksm.count_scans() >= SCANS_TO_MERGE,
                               sum(self.hinted_pages.values())),
            "checked": (True, self.totals()["checked"]),
            "forked": (True, self.totals()["forks"]),
            "read from files": (True, self.totals()["file-checked"]),
        }
        self.missing = [name for name, (possible, n) in done.items() if possible and not n]
        if self.sum("violations"):
            self.trouble.append("a device counted violations of its driver")

    def table(self):
        totals = self.totals()
        rows = [("guest", "checked", "forks", "file", "marked", "discarded", "purged", "released",
                 "merged", "boots"),
                ("", "pages", "", "pages", "MiB", "MiB", "MiB", "MiB", "pages", "")]
        for s in self.lab.subjects:
            d, t = self.device.get(s.name, {}), s.totals()
            rows.append((f"{s.name} {s.front}{' merge' * s.merge}", t["checked"], t["forks"],
                         t["file-checked"], d.get("marked-bytes", 0) >> 20,
                         d.get("discarded-bytes", 0) >> 20, d.get("purged-seen-bytes", 0) >> 20,
                         d.get("released-bytes", 0) >> 20, self.merged_pages[s.name], s.boots))
        lines = ["".join(f"{cell:>{20 if i == 0 else 11}}" for i, cell in enumerate(row))
                 for row in rows]
        a = self.actions
        lines.append("host: " + ", ".join(f"{name} {n}" for name, n in sorted(a.done.items())))
        t = self.totals()
        lines.append(f"volatile objects: {t['volatile-whole']} pages taken back whole, "
                     f"{t['volatile-purged']} purged")
        lines.append("merging by hint: " + ", ".join(
            f"{name} {n} pages at most" for name, n in self.hinted_pages.items())
            + f"; {self.sum('merge-marks')} marks, {self.sum('merge-unmarks')} taken back")
        lines.append(f"host: reclaim took {a.purged_bytes >> 20} MiB of lazily freed memory, "
                     f"{a.pageout_bytes >> 20} MiB were advised to be paged out, "
                     f"KSM scanned everything {self.lab.ksm.count_scans()} times")
        return "\n".join(lines)

    def document(self):
        totals = self.totals()
        return {
            "seed": self.args.seed, "seconds": self.seconds,
            "wall_seconds": time.monotonic() - self.begin,
            "kernel": platform.release(), "accelerator": guest_mod.accelerator(),
            "without_ebb": self.args.without_ebb,
            "pages_checked": totals["checked"], "bad": totals["bad"],
            "volatile_whole": totals["volatile-whole"],
            "volatile_purged": totals["volatile-purged"],
            "found_after_seconds": self.found_sec,
            "bad_pages": self.bad_lines(), "trouble": self.trouble, "missing": self.missing,
            "actions": dict(self.actions.done) if self.actions else {},
            "skipped": dict(self.actions.skipped) if self.actions else {},
            "last_actions": list(self.actions.log)[-LAST_ACTIONS:] if self.actions else [],
            "ksm_full_scans": self.lab.ksm.count_scans(),
            "reclaimed_lazily_freed_bytes": self.actions.purged_bytes if self.actions else 0,
            "guests": [{
                "name": s.name, "front": s.front, "mergeable": s.merge, "boots": s.boots,
                "merged_pages_most": self.merged_pages[s.name],
                "hinted_pages_most": self.hinted_pages[s.name], "program": dict(s.totals()),
                "device": {key: self.device.get(s.name, {}).get(key) for key in DEVICE},
            } for s in self.lab.subjects],
        }

    def finish(self):
        """Say it all; returns the exit status."""
        bad = self.totals()["bad"]
        if self.actions:
            print(self.table())
        if self.args.json:
            pathlib.Path(self.args.json).write_text(json.dumps(self.document(), indent=1) + "\n")
        failed = bad or self.bad_lines() or self.trouble or self.missing
        if failed:
            for line in self.bad_lines():
                print(line)
            for line in self.trouble:
                print(f"trouble: {line}")
            for name in self.missing:
                print(f"trouble: nothing was {name}: this run shows nothing")
            if self.actions:
                print("the host's last actions:")
                print("\n".join("  " + line for line in list(self.actions.log)[-LAST_ACTIONS:]))
            if self.found_sec is not None:
                print(f"found after {self.found_sec:.1f} s")
            print(f"to repeat it: --seed {self.args.seed} --seconds {self.args.seconds} "
                  f"--guests {self.args.guests} --memory {self.args.memory}")
        print(f"pages checked {self.totals()['checked']}, bad {bad}", flush=True)
        return 1 if failed else 0
