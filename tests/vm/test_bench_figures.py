# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the bench of merging makes of its samples."""
import pathlib
import sys
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from benchlib import merging, svg  # noqa: E402


def points(*pairs):
    return [{"seconds": s, "ksmd_seconds": s / 10, "saved_file_bytes": b} for s, b in pairs]


def run(mode, before, after, *pairs, kill=0.2):
    return {"mode": mode, "pages_to_scan": 100, "points": points(*pairs),
            "kill": {"free_seconds": kill},
            "anon_huge_blocks_before": before, "anon_huge_blocks_after": after,
            "guest_before": {"ns_per_touch": 10}, "guest_merging": {"ns_per_touch": 15}}


def test_the_time_to_a_saving():
    found = points((0, 0), (1, 0), (2, 100), (3, 300))
    assert merging.reached(found, 50, "seconds") == 1.5
    assert merging.reached(found, 300, "seconds") == 3
    assert merging.reached(found, 200, "ksmd_seconds") == 0.25
    assert merging.reached(found, 301, "seconds") is None
    assert merging.reached(points((4, 7)), 1, "seconds") == 4


def test_hinted_beside_all():
    every = run("all", 100, 3, (0, 0), (100, 1000))
    found = merging.compare(every, run("hinted", 100, 100, (0, 0), (10, 950)))
    assert (found["all_saves_bytes"], found["hinted_saves_bytes"]) == (1000, 950)
    assert found["all_time_seconds"] == 90 and abs(found["hinted_time_seconds"] - 9.474) < 0.001
    assert abs(found["time_ratio"] - found["ksmd_ratio"]) < 1e-9 < found["time_ratio"] < 0.11
    assert (found["all_huge_kept"], found["hinted_huge_kept"]) == (0.03, 1)
    assert found["hinted_slowdown"] == 1.5 and found["hinted_kill_ratio"] is None
    # It never saves 90 % of that.
    found = merging.compare(every, run("hinted", None, None, (0, 0), (10, 500)))
    assert found["time_ratio"] is None and found["hinted_huge_kept"] is None


def test_a_kill_beside_one_that_is_not_merged():
    every, hinted = (run(mode, 1, 1, (0, 0), (1, 9), kill=seconds)
                     for mode, seconds in (("all", 0.5), ("hinted", 0.25)))
    found = merging.compare(every, hinted, run("off", 1, 1, (0, 0), kill=0.125))
    assert (found["all_kill_ratio"], found["hinted_kill_ratio"]) == (4, 2)


def test_the_picture_is_one():
    panels = [svg.Panel("a & b", "x", "y", [("all", [(0, 0), (3, 7)]), ("hinted", [(0, 0), (1, 7)])]),
              svg.Panel("nothing", "x", "y", [("all", [])], dots=True)]
    root = ElementTree.fromstring(svg.picture(panels))
    assert root.tag.endswith("svg")
    assert len(root.findall(".//{*}polyline")) == 3
    assert svg.ticks(7) == [0, 2, 4, 6] and svg.ticks(0.3)[1] == 0.1
