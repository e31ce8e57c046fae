# SPDX-License-Identifier: LGPL-2.1-or-later
"""libebb in guests."""
import pytest

from harness.volatile import unload


@pytest.mark.parametrize("where", ["plain", "device"])
def test_library(vm, image_with, where):
    """Every promise of libebb.h, where there is a /dev/ebb and where there is none."""
    image_with("libcheck")
    guest = vm.boot(memory_mib=256, modules=["virtio_ebb"] if where == "device" else [])
    status, output = guest.run(f"libcheck {where}")
    assert status == 0, output
    if where == "device":
        unload(guest)
