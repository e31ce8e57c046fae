# SPDX-License-Identifier: LGPL-2.1-or-later
"""Merging by hint beside merging of all RAM, on real KVM: saved over time, ksmd, huge pages."""
import json
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench"))
from benchlib import merging, svg  # noqa: E402
from benchlib.lab import MIB, Lab  # noqa: E402

SIZES = {"count": 2, "memory_mib": 320, "anon_mib": 128, "limit_sec": 400}


def panels(runs):
    return [svg.Panel("real KVM", words, "MiB of files saved", [
        (r["mode"], [(p[key], p["saved_file_bytes"] / MIB) for p in r["points"]]) for r in runs])
        for key, words in (("seconds", "seconds"), ("ksmd_seconds", "seconds of ksmd"))]


@pytest.mark.parametrize("rate", [1000, 4000])
def test_merging_curve(build, log_dir, record_property, rate):
    """Two guests of 320 MiB with 40 MiB of files in common; all pages are right in the end."""
    with Lab(build.root, ("agent", "mergeload")) as lab, merging.settings():
        image = merging.make_image(lab, 40)
        hinted, every = runs = [merging.run(lab, image, mode, rate, **SIZES)
                                for mode in ("hinted", "all")]
        off = merging.run(lab, image, "off", rate, **{**SIZES, "limit_sec": 5})
    found = merging.compare(every, hinted, off)
    (log_dir / "merging.json").write_text(json.dumps([found, *runs, off]) + "\n")
    (log_dir / "merging.svg").write_text(svg.picture(panels(runs)))
    for way in ("all", "hinted"):
        record_property("figure", f"{way}: {found[way + '_saves_bytes'] / MIB:.1f} MiB of files, "
                        f"90 % in {found[way + '_time_seconds']} s, ksmd "
                        f"{found[way + '_ksmd_seconds']} s, huge pages kept "
                        f"{found[way + '_huge_kept']}, the guest {found[way + '_slowdown']:.2f} "
                        "times as slow")
    for run in runs:
        back = run["taking_back"]
        record_property("figure", f"{run['mode']}: kill to free {run['kill']['free_seconds']:.3f} s, "
                        f"longest call {run['merge_longest_call_ms']:.1f} ms, taking back "
                        f"{back['seconds']:.1f} s, longest call {back['longest_call_ms']:.1f} ms")
    record_property("figure", f"off: kill to free {off['kill']['free_seconds']:.3f} s; hinted "
                    f"{found['hinted_kill_ratio']:.2f} times that, all {found['all_kill_ratio']:.2f}")
    assert every["bad"] == hinted["bad"] == off["bad"] == 0
    assert found["hinted_saves_bytes"] > 0.5 * found["all_saves_bytes"] > 0
