# SPDX-License-Identifier: LGPL-2.1-or-later
"""The QEMU that emulates the nested host: the machine's own, or the newer one of backports.

QEMU 7.2's emulation of SVM has races of its own (README.md): with it once in some hundred cases a guest
gets an interrupt twice. The newer one is slower by a third.
"""
import os
import shutil

import image
import packages

NAMES = ("machine", "backports")
PROGRAM = "qemu-system-x86_64"


class Emulator:
    """Command: what begins its command line. Environment: added to its own."""

    def __init__(self, command, environment):
        self.command, self.environment = command, environment


def find(name):
    if name == "machine":
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
