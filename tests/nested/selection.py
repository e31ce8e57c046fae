# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which tests are cases of the nested host: all of tests/vm that run a guest on KVM, and those of
cases/, which need a host of their own."""
import json
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TESTS = HERE.parent

# Files of tests/vm that stay outside, each with its reason.
LEFT_OUT = {
    "test_device_rules.py": "qtest only: no KVM in it",
    "test_collect_rules.py": "qtest only: no KVM in it",
    "test_hostile.py": "qtest only: no KVM in it",
    "test_in_flight.py": "qtest only: no KVM in it",
    "test_backing.py": "qtest only: no KVM in it",
    "test_content.py": "qtest only: no KVM in it",
    "test_harness.py": "looks at the harness, not at memory",
    "test_qtest_harness.py": "qtest only: no KVM in it",
    "test_loader.py": "starts QEMU without a guest, and builds modules with a compiler",
    "test_libvirt.py": "the nested host has no libvirtd",
    "test_tree.py": "looks at the tree's files",
    "test_origins.py": "looks at the tree's files",
    "test_bench_figures.py": "looks at the bench's arithmetic, not at memory",
    "test_users.py": "its guests get libraries of this machine, which the nested host has not",
    "test_reports.py": "looks at reports only",
}
# Fixtures and tests that keep a single case outside.
FIXTURES_LEFT_OUT = {
    "with_mutants": "builds a changed driver with a compiler",
}
CASES_LEFT_OUT = {
    "vm/test_torture.py::test_a_spoiled_page_is_found":
        "shows that the program can fail, which is the same everywhere",
    "vm/test_migration.py::test_offers_in_flight_are_answered_before_the_state_is_saved":
        "qtest only: no KVM in it",
}


# What measures runs only when it is named.
BENCH = "nested/bench/"


class SelectionError(Exception):
    pass


def collect():
    """[(case, what it says of itself)] as pytest finds them, without the build."""
    files = [p for p in sorted((TESTS / "vm").glob("test_*.py")) if p.name not in LEFT_OUT]
    files += sorted((HERE / "cases").glob("test_*.py"))
    files += sorted((HERE / "bench").glob("test_*.py"))
    with tempfile.NamedTemporaryFile("r", suffix=".json") as found:
        done = subprocess.run(
            ["/usr/bin/python3", "-B", "-m", "pytest", "-q", "-c", "vm/pytest.ini",
             "--rootdir", TESTS, "--collect-only", "-p", "collection", "--collection", found.name,
             *(p.relative_to(TESTS) for p in files)],
            cwd=TESTS, capture_output=True, text=True,
            env={"PYTHONPATH": f"{HERE}:{TESTS / 'vm'}", "PATH": "/usr/bin:/bin"})
        if done.returncode:
            raise SelectionError(f"pytest cannot collect the cases:\n{done.stdout}{done.stderr}")
        every = []
        for case, text, fixtures in json.load(found):
            if case not in CASES_LEFT_OUT and not FIXTURES_LEFT_OUT.keys() & set(fixtures):
                every.append((case, text))
        return every


def choose(every, wanted):
    if not wanted:
        return [case for case, _ in every if not case.startswith(BENCH)]
    chosen = []
    for part in wanted:
        exact = [case for case, _ in every if case == part]
        fitting = exact or [case for case, _ in every if part in case]
        if not fitting:
            raise SelectionError(f"no case is called {part}: see --list")
        chosen += [case for case in fitting if case not in chosen]
    return chosen


def show(every):
    width = max(len(case) for case, _ in every)
    for case, text in every:
        print(f"{case:{width}}  {text}".rstrip())
    for file, reason in sorted(LEFT_OUT.items()):
        print(f"# not: vm/{file}: {reason}")
    for case, reason in sorted(CASES_LEFT_OUT.items()):
        print(f"# not: {case}: {reason}")
    for fixture, reason in sorted(FIXTURES_LEFT_OUT.items()):
        print(f"# not: what uses the fixture {fixture}: {reason}")
