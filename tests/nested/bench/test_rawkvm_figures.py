# SPDX-License-Identifier: LGPL-2.1-or-later
"""The price of marking, discarding and merging under true MMU notifiers, exits included."""
import subprocess


def test_rawkvm_figures(build, record_property):
    """tests/bench/rawkvm: a guest without a kernel, 16 MiB, 4 KiB and huge pages."""
    done = subprocess.run([build.need("tests/bench/rawkvm/rawkvm"), "--mib", "16", "--repeat", "3"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    for line in done.stdout.splitlines():
        record_property("figure", line)
