# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fixtures of tests/vm, and what only a host of one's own has."""
import importlib.util
import pathlib
import subprocess

import pytest

VM = pathlib.Path(__file__).resolve().parents[1] / "vm/conftest.py"
_spec = importlib.util.spec_from_file_location("vm_conftest", VM)
_vm = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_vm)

build, kernel, image, log_dir = _vm.build, _vm.kernel, _vm.image, _vm.log_dir
vm, cgroups, memory_cgroup = _vm.vm, _vm.cgroups, _vm.memory_cgroup
image_with, programs, serve = _vm.image_with, _vm.programs, _vm.serve
kernel_like, small_host_pages = _vm.kernel_like, _vm.small_host_pages
pytest_runtest_makereport = _vm.pytest_runtest_makereport


def pytest_addoption(parser):
    try:
        _vm.pytest_addoption(parser)
    except ValueError:
        pass  # tests/vm is part of the same run


@pytest.fixture
def swap():
    """Compressed swap while the case runs: what is live may be swapped out and comes back."""
    subprocess.run(["swapon", "/dev/zram0"], check=True)
    yield
    subprocess.run(["swapoff", "/dev/zram0"], check=True)


class Ksm:
    """The host's ksmd, quick."""

    def __init__(self):
        self.root = pathlib.Path("/sys/kernel/mm/ksm")

    def write(self, name, value):
        (self.root / name).write_text(str(value))

    def read(self, name):
        return int((self.root / name).read_text())


@pytest.fixture
def ksm():
    ksm = Ksm()
    ksm.write("pages_to_scan", 1000)
    ksm.write("sleep_millisecs", 20)
    ksm.write("run", 1)
    yield ksm
    ksm.write("run", 2)  # stop, and unmerge what is left
    ksm.write("run", 0)
