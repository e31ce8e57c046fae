# SPDX-License-Identifier: LGPL-2.1-or-later
"""The driver with one line changed, to reach what a healthy device or kernel never does, and to
see a test notice a driver that breaks a rule."""
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


def build(kernel, folder, name, changes):
    """Build virtio_ebb_<name>.ko in folder; changes: (file, old, new), old exactly once in it."""
    headers = pathlib.Path("/lib/modules") / kernel.release / "build"
    if not headers.exists():
        headers = pathlib.Path("/usr/src") / f"linux-headers-{kernel.release}"
    if not headers.exists():
        pytest.skip(f"no kernel headers for {kernel.release} to build a changed driver")
    source = folder / f"source-{name}"
    shutil.copytree(ROOT / "guest-driver", source)
    for file, old, new in changes:
        text = (source / file).read_text()
        assert text.count(old) == 1, f"{file} has '{old}' {text.count(old)} times"
        (source / file).write_text(text.replace(old, new))
    files = [*source.glob("*.[ch]"), *source.glob("uapi/*.h"), source / "Kbuild",
             *(ROOT / "proto").glob("*.h")]
    out = folder / f"virtio_ebb_{name}.ko"
    done = subprocess.run([source / "build-module", headers, out, folder / f"work-{name}", *files],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"the changed driver does not build:\n{done.stdout}"
    return out
