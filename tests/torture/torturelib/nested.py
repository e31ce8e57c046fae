# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same run in a KVM host of its own: the case of tests/nested that is the test of this run."""
import os
import pathlib
import shutil
import subprocess
import tempfile

CASE = "vm/test_torture.py::test_torture"
NESTED = pathlib.Path(__file__).resolve().parents[2] / "nested/run"
QUIET_SEC = 1800  # the case says nothing while it runs


def hand_over(args):
    """Returns the exit status; prints what the run in there has printed."""
    out = pathlib.Path(args.logs).resolve() if args.logs else None
    kept = out or pathlib.Path(tempfile.mkdtemp(prefix="ebb-torture-nested-"))
    words = {"EBB_TORTURE_SECONDS": args.seconds, "EBB_TORTURE_SEED": args.seed,
             "EBB_TORTURE_GUESTS": args.guests}
    print(f"torture: seed {args.seed}, {args.seconds} s, {args.guests} guests, in a host with "
          f"Linux {args.nested}", flush=True)
    done = subprocess.run(
        [NESTED, "--host", args.nested, "--build", args.build, "--out", kept,
         "--limit", str(args.seconds + QUIET_SEC), CASE],
        env={**os.environ, **{name: str(value) for name, value in words.items()}})
    found = list(kept.glob("host*/**/torture.txt"))
    if found:
        print(found[-1].read_text(), end="", flush=True)
        if args.json:
            shutil.copy(found[-1].with_name("torture.json"), args.json)
    if out is None and done.returncode == 0:
        shutil.rmtree(kept)
    return done.returncode if found else 2
