# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures: what a test asks for, and what is checked and cleaned up after it."""
import ctypes
import os
import pathlib
import re
import shutil
import signal
import sys
import threading

import pytest

from harness import cgroup as cgroup_mod
from harness import guest as guest_mod
from harness import initramfs
from harness import kernel as kernel_mod
from harness.volatile import Served


def pytest_addoption(parser):
    parser.addoption("--ebb-build", default=os.environ.get("EBB_BUILD"),
                     help="the meson build directory (or EBB_BUILD)")
    parser.addoption("--fuzz-seconds", type=int, default=4,
                     help="how long random calls of /dev/ebb go on, twice")


def pytest_configure(config):
    # SIGTERM cleans up as Ctrl-C does.
    def stop(signum, frame):
        raise KeyboardInterrupt
    # A worker of xdist now and then configures in a second thread, where no handler can be set:
    # it ends with the process that started it, and the sweep of the next run finds what it left.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)  # also where a shell has started us with it ignored
    version, parent = cgroup_mod.find_parent()
    if version:
        cgroup_mod.sweep(parent)


class Build:
    """What meson has built."""

    def __init__(self, root):
        self.root = pathlib.Path(root).resolve()

    def need(self, *relative):
        for path in relative:
            if not (self.root / path).exists():
                pytest.skip(f"not built: {path} (in the build directory {self.root})")
        return self.root / relative[0]

    @property
    def qemu(self):
        return self.need("vmm/qemu/qemu-system-x86_64-ebb")

    @property
    def driver(self):
        """EBB_GUEST_DRIVER: one that is built for another kernel."""
        return self.need(os.environ.get("EBB_GUEST_DRIVER", "guest-driver/virtio_ebb.ko"))

    @property
    def ebbd(self):
        return self.need("host-agent/ebbd")

    @property
    def ebbctl(self):
        return self.need("host-agent/ebbctl")


@pytest.fixture(scope="session")
def build(request):
    root = request.config.getoption("--ebb-build")
    if not root or not pathlib.Path(root, "build.ninja").exists():
        pytest.exit("say where the meson build is: --ebb-build DIR or EBB_BUILD", 4)
    return Build(root)


@pytest.fixture(scope="session")
def kernel():
    return kernel_mod.fetch()


class Image:
    def __init__(self, path, modules):
        self.path = path
        self.modules = modules

    def order(self, name):
        return kernel_mod.load_order(self.modules, [name])


@pytest.fixture(scope="session")
def image(build, kernel, tmp_path_factory):
    """The initramfs, with our driver if it was built."""
    programs = [build.need(f"tests/guest/{name}") for name in ("agent", "memwork")]
    driver = build.root / os.environ.get("EBB_GUEST_DRIVER", "guest-driver/virtio_ebb.ko")
    path = tmp_path_factory.mktemp("image") / "initramfs.cpio"
    modules = initramfs.build(kernel, path, programs, [driver] if driver.exists() else [])
    return Image(path, modules)


@pytest.fixture
def log_dir(request, tmp_path):
    """Logs of this test's guests; kept below EBB_TEST_LOGS if that is set."""
    base = os.environ.get("EBB_TEST_LOGS")
    if not base:
        return tmp_path
    path = pathlib.Path(base) / re.sub(r"[^\w.-]+", "_", request.node.nodeid.split("/")[-1])
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    setattr(item, "report_" + call.when, outcome.get_result())


class Vms:
    """Starts guests, and after the test looks at their kernel logs and ends them."""

    def __init__(self, build, kernel, image_of, log_dir):
        self.build = build
        self.kernel = kernel
        self.image_of = image_of
        self.log_dir = log_dir
        self.guests = []
        self.expect_trouble = None

    def start(self, stock=False, **options):
        binary = "qemu-system-x86_64" if stock else self.build.qemu
        name = f"guest{len(self.guests)}"
        initrd = None if options.get("qtest") else self.image_of().path
        guest = guest_mod.Guest(binary=options.pop("binary", binary), kernel=self.kernel,
                                initrd=initrd, log_dir=self.log_dir / name, **options)
        self.guests.append(guest)
        return guest

    def boot(self, modules=(), **options):
        """A guest whose init has come up, with these modules loaded."""
        guest = self.start(**options)
        guest.wait_boot()
        for name in modules:
            self.insmod(guest, name)
        return guest

    def insmod(self, guest, name, options=""):
        guest.insmod(self.image_of().order(name), options)

    def finish(self, passed):
        problems = []
        for guest in self.guests:
            try:
                if passed and guest.process.poll() is None:
                    status = guest.quit()
                    if status:
                        problems.append(f"QEMU ended with {status}:\n{guest.qemu_output()}")
                trouble = guest.kernel_trouble()
                if trouble and not (self.expect_trouble and
                                    re.search(self.expect_trouble, trouble)):
                    problems.append(f"the guest's kernel complained:\n{trouble}")
            finally:
                guest.kill()
        return problems


@pytest.fixture
def cgroups():
    """The control groups of a test; they go after its guests, who are to end by themselves."""
    made = []
    yield made
    for group in made:
        group.remove()


@pytest.fixture
def vm(request, build, kernel, log_dir, cgroups):
    vms = Vms(build, kernel, lambda: request.getfixturevalue("image"), log_dir)
    passed = False
    try:
        yield vms
        passed = getattr(request.node, "report_call", None) and request.node.report_call.passed
    finally:
        problems = vms.finish(passed)
    if passed and problems:
        pytest.fail("\n".join(problems))
    for problem in problems:
        print(problem, file=sys.stderr)


@pytest.fixture
def image_with(vm, build, kernel, tmp_path):
    """Gives the guests of this test an image with these static programs of tests/guest, and with
    the paths in dynamic and the libraries that they need."""
    def make(*programs, dynamic=()):
        path = tmp_path / "own.cpio"
        programs = [build.need(f"tests/guest/{name}") for name in ("agent", *programs)]
        made = Image(path, initramfs.build(kernel, path, programs, [build.driver], dynamic))
        vm.image_of = lambda: made
    return make


@pytest.fixture
def programs(image_with):
    """The guests of this test have the programs for /dev/ebb."""
    image_with("memwork", "volcheck", "volfuzz", "volio", "volserve", "volwork")


@pytest.fixture
def serve(vm, programs):
    return lambda *args, **options: Served(vm, *args, **options)


PR_SET_THP_DISABLE = 41
# Neither PAGEMAP_SCAN nor CONFIG_PT_RECLAIM (which came with 6.14).
AS_BEFORE_6_7 = ",x-page-tables-way=move,x-no-pagemap-scan=on"


@pytest.fixture(params=["", AS_BEFORE_6_7], ids=["this-kernel", "as-before-6.7"])
def kernel_like(request):
    """Further properties of the device: what it takes the host's kernel to be able to."""
    return request.param


@pytest.fixture
def small_host_pages():
    """What is started meanwhile gets no huge pages of the host: they have no tables to be left."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    yield
    prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)


@pytest.fixture
def memory_cgroup(cgroups):
    """Makes memory control groups; a test that needs one is skipped where there can be none."""
    version, reason = cgroup_mod.find_parent()
    if version is None:
        pytest.skip(reason)

    def make(limit_bytes=None):
        cgroups.append(cgroup_mod.MemoryCgroup(limit_bytes))
        return cgroups[-1]
    return make
