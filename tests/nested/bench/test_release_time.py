# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast a guest's free memory comes back on real KVM, beside virtio-mem in the same run."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench"))
from benchlib import returns  # noqa: E402
from benchlib.lab import MIB, Lab  # noqa: E402
from benchlib.report import seconds_per_gib  # noqa: E402

RELEASES, UNPLUGS = 20, 3


def words(name, way):
    return (f"{name}: {way['bytes'] / MIB:.0f} MiB in {way['seconds'] * 1e3:.1f} ms, "
            f"{seconds_per_gib(way) * 1e3:.1f} ms for each GiB")


def test_release_beside_virtio_mem(build, record_property):
    """20 releases of everything free in a guest of 2 GiB, and virtio-mem's unplug of 1 GiB; huge
    pages on the host."""
    with Lab(build.root) as lab:
        ours = returns.release(lab, "thp", RELEASES)
        theirs = returns.virtio_mem(lab, "thp", UNPLUGS)
    record_property("figure", words("release, median of 20", ours))
    record_property("figure", f"worst of 20: {ours['worst_seconds'] * 1e3:.1f} ms, of which "
                    f"{ours['worst_call_seconds'] * 1e3:.1f} in system calls; the bare calls take "
                    f"{ours['bare_seconds'] * 1e3:.1f}")
    record_property("figure", words("virtio-mem unplug, median of 3", theirs))
    ratio = seconds_per_gib(theirs) / seconds_per_gib(ours)
    record_property("figure", f"release is {ratio:.1f} times as fast for each GiB")
    assert ours["bytes"] > 0.9 * returns.TOUCHED_MIB * MIB
    assert theirs["bytes"] >= returns.SHARE * returns.ASKED_MIB * MIB
