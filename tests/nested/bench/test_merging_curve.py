# SPDX-License-Identifier: LGPL-2.1-or-later
"""Merging by hint beside merging of all RAM, on real KVM: saved over time, ksmd, huge pages."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench"))
from benchlib import merging  # noqa: E402
from benchlib.lab import MIB, Lab  # noqa: E402

RATE = 1000
SIZES = {"count": 2, "memory_mib": 320, "anon_mib": 128, "limit_sec": 400}


def test_merging_curve(build, log_dir, record_property):
    """Two guests of 320 MiB with 40 MiB of files in common; all pages are right in the end."""
    with Lab(build.root, ("agent", "mergeload")) as lab, merging.settings():
        image = merging.make_image(lab, 40)
        hinted, every = (merging.run(lab, image, mode, RATE, **SIZES)
                         for mode in ("hinted", "all"))
    found = merging.compare(every, hinted)
    (log_dir / "merging.json").write_text(json.dumps([found, hinted, every]) + "\n")
    for way in ("all", "hinted"):
        record_property("figure", f"{way}: {found[way + '_saves_bytes'] / MIB:.1f} MiB of files, "
                        f"90 % in {found[way + '_time_seconds']} s, ksmd "
                        f"{found[way + '_ksmd_seconds']} s, huge pages kept "
                        f"{found[way + '_huge_kept']}, the guest {found[way + '_slowdown']:.2f} "
                        "times as slow")
    for run in (every, hinted):
        record_property("figure", f"{run['mode']}: kill to free {run['kill']['free_seconds']:.3f} s, "
                        f"longest call {run['merge_longest_call_ms']:.1f} ms, taking back "
                        f"{run['taking_back']['seconds']:.1f} s")
    assert every["bad"] == hinted["bad"] == 0
    assert found["hinted_saves_bytes"] > 0.5 * found["all_saves_bytes"] > 0
