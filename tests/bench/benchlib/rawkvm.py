# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same questions to KVM itself: tests/bench/rawkvm, a guest without a kernel."""
import json
import pathlib
import subprocess
import tempfile

from .lab import say
from .report import PAGES_WORDS, target

SKIP_STATUS = 77
MOST_OF_EAGER = {"4k": 0.6, "thp": 0.1}


def run(build, quick):
    """Its report, with its table as "text"; or {"skipped": why}."""
    program = pathlib.Path(build) / "tests/bench/rawkvm/rawkvm"
    if not program.exists():
        return {"skipped": f"not built: {program}"}
    say("Reuse and calls under KVM, a guest without a kernel")
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        done = subprocess.run([program, "--json", file.name] +
                              (["--mib", "16", "--repeat", "3"] if quick else []),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode == SKIP_STATUS:
            return {"skipped": done.stderr.strip()}
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return json.loads(pathlib.Path(file.name).read_text()) | {"text": done.stdout}


def targets(figures):
    if "skipped" in figures:
        return []
    return [target(f"raw KVM: write after lazy / after eager, {PAGES_WORDS[pages]}",
                   figures[pages]["lazy_of_eager"], limit)
            for pages, limit in MOST_OF_EAGER.items()]


def show(figures):
    print("Under KVM itself, a guest without a kernel\n")
    print(figures.get("text") or f"not measured: {figures['skipped']}\n")
