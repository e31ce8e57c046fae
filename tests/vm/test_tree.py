# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tree's own rules: licences, format, size, mutants that still fit."""
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILT = {".git", "__pycache__"}
CODE = {".c", ".h", ".py", ".build", ".in"}


def tree(*suffixes):
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if not path.is_file() or BUILT & set(parts) or parts[0].startswith("build"):
            continue
        if not suffixes or path.suffix in suffixes:
            yield path


def test_c_is_formatted():
    if not shutil.which("clang-format"):
        pytest.skip("clang-format is not installed")
    done = subprocess.run(["clang-format", "--dry-run", "-Werror", *tree(".c", ".h")],
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def test_code_names_its_licence():
    def is_code(path):
        return path.suffix in CODE or path.read_bytes()[:2] == b"#!"
    assert not [str(p.relative_to(ROOT)) for p in tree() if is_code(p) and
                "SPDX-License-Identifier:" not in
                "\n".join(p.read_text(errors="replace").splitlines()[:3])]


def test_no_file_is_too_long():
    assert not [f"{p.relative_to(ROOT)}: {n} lines" for p in tree(".c", ".h", ".py")
                if (n := len(p.read_text().splitlines())) > 800]


def test_mutants_fit_the_tree(monkeypatch):
    """Each rule that is broken on purpose is still where tests/mutants looks for it."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "tests/mutants"), *sys.path])
    from mutants import MUTANTS
    assert MUTANTS
    assert not [f"{name}: {path}" for _, name, changes, _ in MUTANTS for path, old, _ in changes
                if (ROOT / path).read_text().count(old) != 1]


def test_names_of_test_files_differ():
    """Those of vm, nested/cases and nested/bench are collected in one run, by their names alone."""
    names = [p.name for folder in ("vm", "nested") for p in (ROOT / "tests" / folder).rglob("test_*.py")]
    assert len(names) > 20
    assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)
