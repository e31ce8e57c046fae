# SPDX-License-Identifier: LGPL-2.1-or-later
"""The QEMU that emulates the nested host: the machine's own, or the newer one of backports.

QEMU 7.2's emulation of SVM has races of its own (README.md): with it once in some hundred cases a guest
gets an interrupt twice. So "auto" takes the newer one where something is emulated at all and the
machine's is old.
"""
import os
import re
import shutil
import subprocess

import image
import packages

NAMES = ("auto", "machine", "backports")
PROGRAM = "qemu-system-x86_64"
GOOD_MAJOR = 10  # seen without the fault; between 7.2 and this nothing was tried


class Emulator:
    """Command: what begins its command line. Environment: added to its own."""

    def __init__(self, command, environment):
        self.command, self.environment = command, environment


def is_good(text):
    """Does QEMU's --version say so?"""
    found = re.search(r"version (\d+)\.", text)
    return bool(found) and int(found[1]) >= GOOD_MAJOR


def machine_is_good():
    said = subprocess.run([PROGRAM, "--version"], check=True, capture_output=True, text=True)
    return is_good(said.stdout)


def find(name, emulates):
    """Emulates: the nested host's processor is."""
    if name == "machine" or (name == "auto" and (not emulates or machine_is_good())):
        return Emulator([PROGRAM], {})
    suite = f"{packages.codename()}-backports"
    root = image.cache() / f"qemu-{suite}"
    with image.Locked(image.cache()):
        if not root.is_dir():
            fetch(suite, root)
    libraries = [root / "usr/lib/x86_64-linux-gnu", root / "lib/x86_64-linux-gnu"]
    return Emulator([root / "usr/bin" / PROGRAM, "-L", root / "usr/share/qemu",
                     "-L", root / "usr/share/seabios"],
                    {"LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))})


def fetch(suite, root):
    image.say(f"fetching qemu-system-x86 of {suite}")
    work = packages.work_dir(root)
    try:
        apt = packages.Apt(work, suite, beside=True)
        packages.unpack(apt.download_with_needs(["-t", suite, "qemu-system-x86"]), work / "root")
        (work / "root").rename(root)
    finally:
        shutil.rmtree(work)
