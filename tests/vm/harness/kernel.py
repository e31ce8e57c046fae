# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian's cloud kernel for the guests: downloaded and unpacked, never installed."""
import fcntl
import os
import pathlib
import re
import shutil
import subprocess


def cache_dir():
    base = os.environ.get("EBB_CACHE")
    if not base:
        xdg = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        base = os.path.join(xdg, "ebb")
    path = pathlib.Path(base)
    path.mkdir(parents=True, exist_ok=True)
    return path


def wanted_package():
    """The image that fits the installed headers, since our module is built for these; without
    headers the newest that the package lists know."""
    override = os.environ.get("EBB_GUEST_KERNEL")
    if override:
        return override
    known = subprocess.run(["apt-cache", "pkgnames", "linux-image-6.1.0-"], check=True,
                           stdout=subprocess.PIPE, text=True).stdout.split()
    known = {name for name in known if re.fullmatch(r"linux-image-6\.1\.0-\d+-cloud-amd64", name)}
    by_number = lambda name: int(re.search(r"6\.1\.0-(\d+)", name).group(1))
    headers = pathlib.Path("/usr/src").glob("linux-headers-6.1.0-*-cloud-amd64")
    fitting = {h.name.replace("headers", "image", 1) for h in headers} & known
    if not known:
        raise RuntimeError("apt knows no linux-image-6.1.0-*-cloud-amd64: run apt-get update")
    return max(fitting or known, key=by_number)


class Kernel:
    """An unpacked kernel: .image, .release, and its modules with what they depend on."""

    def __init__(self, root):
        self.root = root
        self.image, = (root / "boot").glob("vmlinuz-*")
        self.release = self.image.name.split("-", 1)[1]
        self.modules = {p.stem.replace("-", "_"): p
                        for p in (root / "lib/modules" / self.release).rglob("*.ko")}


def module_info(path, key):
    """One value out of a module's .modinfo section; None if it is not there."""
    found = re.search(rb"(?:^|\0)" + key.encode() + rb"=([^\0]*)\0", path.read_bytes())
    return found.group(1).decode() if found else None


def load_order(available, wanted):
    """The modules to load for those wanted, dependencies first. available: name -> path."""
    order = []

    def visit(name):
        if name in order or name not in available:
            return
        depends = module_info(available[name], "depends") or ""
        for other in filter(None, depends.split(",")):
            visit(other.replace("-", "_"))
        order.append(name)

    for name in wanted:
        if name not in available:
            raise KeyError(f"this kernel has no module {name}")
        visit(name)
    return order


def fetch():
    """Download and unpack the kernel unless the cache has it; EBB_GUEST_KERNEL may be a directory
    with one unpacked already."""
    package = wanted_package()
    if os.path.isabs(package):
        return Kernel(pathlib.Path(package))
    folder = cache_dir() / "kernel"
    folder.mkdir(exist_ok=True)
    target = folder / package
    with open(folder / ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            download(package, folder, target)
    return Kernel(target)


def download(package, folder, target):
    work = folder / (package + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    subprocess.run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package],
                   cwd=work, check=True, stdout=subprocess.DEVNULL)
    deb, = work.glob("*.deb")
    subprocess.run(["dpkg", "-x", deb, work / "root"], check=True)
    (work / "root").rename(target)
    shutil.rmtree(work)
