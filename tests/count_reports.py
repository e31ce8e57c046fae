#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Count tests in reports: meson's testlog.json and JUnit files.

usage: count_reports.py REPORT...

Prints what failed and what was skipped and why, and as its last line
"N passed, N failed, N skipped". A report that is missing, cannot be read or holds no test counts
as one failed test. Exit status 0 only if nothing failed and something passed.
"""
import json
import sys
import xml.etree.ElementTree as ElementTree

MESON_PASSED = {"OK", "EXPECTEDFAIL"}


def meson_tests(path):
    """(name, verdict, words) of each test. meson's own JUnit file shows a test that ran into its
    time limit as passed, so it is not used."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            test = json.loads(line)
            if test["result"] in MESON_PASSED:
                yield test["name"], "passed", ""
            elif test["result"] == "SKIP":
                yield test["name"], "skipped", last_line(test.get("stdout"))
            else:
                yield test["name"], "failed", test["result"] + last_lines(test)


def last_lines(test, limit=15):
    """What a failed test said, indented: of a run elsewhere the end may be all that is seen."""
    said = f"{test.get('stdout') or ''}\n{test.get('stderr') or ''}".strip().splitlines()
    return "".join(f"\n    {line}" for line in said[-limit:])


def last_line(text):
    lines = (text or "").strip().splitlines()
    return lines[-1] if lines else "no reason given"


def junit_tests(path):
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        verdict, words = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                verdict, words = "failed", child.get("message", "")
                break
            if child.tag == "skipped":
                verdict, words = "skipped", child.get("message", "")
        yield name, verdict, words.splitlines()[0] if words else ""


def main(paths):
    count = {"passed": 0, "failed": 0, "skipped": 0}
    for path in paths:
        read = meson_tests if path.endswith(".json") else junit_tests
        try:
            tests = list(read(path))
        except (OSError, ValueError, KeyError, ElementTree.ParseError) as e:
            tests = [(path, "failed", f"no report: {e}")]
        if not tests:
            tests = [(path, "failed", "the report holds no test")]
        for name, verdict, words in tests:
            count[verdict] += 1
            if verdict != "passed":
                print(f"{verdict}: {name}: {words}")
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**count))
    return 0 if count["passed"] and not count["failed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
