# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory under KVM's own MMU notifiers, as a guest sees it: tests/bench/rawkvm, small.

Its figures are not looked at, only what it found in the pages.
"""
import json
import subprocess

import pytest

SKIP_STATUS = 77
BAD_STATUS = 1


def rawkvm(build, tmp_path, *options):
    """Exit status and report. Minutes where each exit is emulated."""
    report = tmp_path / "rawkvm.json"
    done = subprocess.run([build.need("tests/bench/rawkvm/rawkvm"), "--mib", "4", "--repeat", "1",
                           "--no-merging", "--json", report, *options],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=600)
    if done.returncode == SKIP_STATUS:
        pytest.skip(f"KVM cannot run it: {done.stderr.strip()}")
    assert done.returncode in (0, BAD_STATUS), done.stderr
    return done.returncode, json.loads(report.read_text())


@pytest.mark.parametrize("options", [[], ["--small-guest-pages"]], ids=["2M", "4K"])
def test_what_a_guest_finds_after_the_calls(build, tmp_path, options):
    status, report = rawkvm(build, tmp_path, *options)
    assert status == 0 and report["bad"] == 0
    assert report["pages_checked"] > 0
    for pages in ("4k", "thp"):
        for who in ("", "plain_"):
            def share(state, what):
                return report[pages][f"{who}read_{state}_{what}"]
            assert share("never", "kept") == 1
            # MADV_FREE takes nothing away by itself; the host may, if it is short.
            assert share("lazy", "kept") > 0.5
            assert share("lazy", "kept") + share("lazy", "zero") == pytest.approx(1)
            # MADV_PAGEOUT of it does, but for pages that the kernel has in its hands.
            assert share("purged", "zero") > 0.5
            assert share("eager", "zero") == 1
        # A guest that reads makes its page dirty for the host, or not: that is KVM's choice.
        # In plain memory reading changes nothing.
        assert report[pages]["plain_volatile_after_read"] > 0.5


def test_a_bad_page_is_noticed(build, tmp_path):
    status, report = rawkvm(build, tmp_path, "--spoil")
    assert status == BAD_STATUS and report["bad"] == 2  # by the guest and from outside
