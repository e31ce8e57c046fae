# SPDX-License-Identifier: LGPL-2.1-or-later
"""A bounded run of tests/torture, and that it finds a page that was spoiled on purpose."""
import json
import os
import pathlib
import re
import subprocess

import pytest

from harness import cgroup
from harness.wait import SCALE

RUN = pathlib.Path(__file__).resolve().parents[1] / "torture/run"
SECONDS = int(os.environ.get("EBB_TORTURE_SECONDS", 60 * max(1, SCALE)))
ENDS_SEC = 900  # boot and the last look at every page, counted generously


def torture(build, log_dir, seconds, *more):
    """(status, what it printed); both kept with the logs, and so is the JSON."""
    assert build.driver and build.ebbd and build.ebbctl and build.need("tests/guest/torture")
    command = [RUN, "--build", build.root, "--seconds", str(seconds), "--logs", log_dir,
               "--json", log_dir / "torture.json", *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=(seconds + ENDS_SEC) * max(1, SCALE))
    (log_dir / "torture.txt").write_text(done.stdout)
    return done.returncode, done.stdout


def test_torture(build, kernel, log_dir):
    """Guests use memory at random while the host marks, purges, merges, releases, kills ebbd."""
    if cgroup.find_parent()[0] is None:
        pytest.skip(cgroup.find_parent()[1])
    more = [f"--{word}={os.environ[name]}" for word in ("seed", "guests")
            if (name := f"EBB_TORTURE_{word.upper()}") in os.environ]
    status, text = torture(build, log_dir, SECONDS, *more)
    assert status == 0, text
    assert re.search(r"^pages checked \d+, bad 0\n\Z", text, re.M), text
    found = json.loads((log_dir / "torture.json").read_text())
    assert found["bad"] == 0 and found["pages_checked"] > 10000
    assert found["found_after_seconds"] is None


def test_a_spoiled_page_is_found(build, kernel, log_dir):
    """One bit of one page is changed in a guest: the run must fail, and say which page."""
    status, text = torture(build, log_dir, int(20 * max(1, SCALE)), "--guests", "1", "--spoil")
    assert status == 1, text
    assert re.search(r"^g0: BAD .* word 17 wrong; found torn", text, re.M), text
    assert re.search(r"^pages checked \d+, bad [1-9]\d*\n\Z", text, re.M), text
    assert json.loads((log_dir / "torture.json").read_text())["found_after_seconds"] is not None
