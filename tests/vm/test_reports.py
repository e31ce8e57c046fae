# SPDX-License-Identifier: LGPL-2.1-or-later
"""./check counts from reports: a test that failed, hung or never ran must not be missed."""
import json
import pathlib
import subprocess

import pytest

COUNT = pathlib.Path(__file__).resolve().parents[1] / "count_reports.py"
JUNIT = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="off"><skipped message="no such memory"/></testcase>
{}</testsuite></testsuites>"""


def count(*reports):
    done = subprocess.run([COUNT, *reports], stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout.splitlines()


def meson_log(folder, *results):
    path = folder / "testlog.json"
    path.write_text("".join(json.dumps({"name": f"t{i}", "result": result, "stdout": "words\nwhy\n"})
                            + "\n" for i, result in enumerate(results)))
    return path


def junit(folder, more=""):
    path = folder / "report.xml"
    path.write_text(JUNIT.format(more))
    return path


def test_all_is_well(tmp_path):
    status, lines = count(meson_log(tmp_path, "OK", "EXPECTEDFAIL", "SKIP"), junit(tmp_path))
    assert status == 0
    assert lines[-1] == "3 passed, 0 failed, 2 skipped"
    assert "skipped: t2: why" in lines and "skipped: a.off: no such memory" in lines


@pytest.mark.parametrize("result", ["FAIL", "TIMEOUT", "ERROR", "INTERRUPT", "UNEXPECTEDPASS"])
def test_meson_failures(tmp_path, result):
    status, lines = count(meson_log(tmp_path, "OK", result))
    assert (status, lines[-1]) == (1, "1 passed, 1 failed, 0 skipped")


@pytest.mark.parametrize("tag", ["failure", "error"])
def test_junit_failures(tmp_path, tag):
    more = f'<testcase classname="a" name="bad"><{tag} message="x"/></testcase>'
    status, lines = count(junit(tmp_path, more))
    assert (status, lines[-1]) == (1, "1 passed, 1 failed, 1 skipped")


def test_reports_that_are_none(tmp_path):
    good = meson_log(tmp_path, "OK")
    empty, broken = tmp_path / "empty.xml", tmp_path / "broken.xml"
    empty.write_text("<testsuites/>")
    broken.write_text("<testsuites><testsuite>")
    for bad in (tmp_path / "missing.xml", tmp_path / "missing.json", empty, broken):
        status, lines = count(good, bad)
        assert (status, lines[-1]) == (1, "1 passed, 1 failed, 0 skipped")


def test_nothing_ran(tmp_path):
    status, lines = count(meson_log(tmp_path, "SKIP", "SKIP"))
    assert (status, lines[-1]) == (1, "0 passed, 0 failed, 2 skipped")
