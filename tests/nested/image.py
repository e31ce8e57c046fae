# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the nested host boots from: its kernel and initramfs, a disk with a Debian that holds QEMU,
Python and pytest, and a disk with this build. The first two are cached, the last is made each time.
"""
import fcntl
import hashlib
import lzma
import pathlib
import re
import shutil
import stat
import struct
import subprocess

import packages
from harness import initramfs
from harness import kernel as kernel_mod

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parents[1]
FORMAT = 1  # of what is cached; another number makes it anew

# What runs in the nested host, and the libraries that ebbd wants.
DEBIAN = ["bash", "busybox-static", "dash", "libinih1", "libjson-c5", "libsystemd0",
          "python3-pytest", "util-linux"]
LEFT_OUT = ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/iso-codes",
            "usr/share/bug", "usr/share/lintian", "var/cache", "var/log"]
MODULES = ["virtio_ring", "virtio", "virtio_pci", "virtio_blk", "kvm", "kvm_amd", "kvm_intel",
           "lzo_rle", "zram", "vfio_pci", "vfio_iommu_type1"]
# What a run takes from the build directory.
BUILT = ["build.ninja", "vmm/qemu/*.so", "vmm/qemu/qemu-system-x86_64-ebb",
         "guest-driver/virtio_ebb.ko", "host-agent/ebbd", "host-agent/ebbctl",
         "tests/guest/agent", "tests/guest/memwork", "tests/guest/kexec", "tests/guest/torture",
         "tests/guest/mergeload",
         "tests/guest/vol*[a-z]", "tests/bench/barecalls", "tests/bench/rawkvm/rawkvm",
         "tests/reproducers/ksm-lazyfree", "tests/reproducers/torn-copy"]


class Locked:
    """A directory of the cache, made by one process at a time."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = open(folder / ".lock", "w", encoding="ascii")

    def __enter__(self):
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *exc):
        self.file.close()


def cache():
    return kernel_mod.cache_dir() / "nested"


def say(text):
    print(f"# {text}", flush=True)


# Kernels.

def uncompress_linux(bzimage, out):
    """The ELF file inside a bzImage: QEMU boots it by PVH, without a decompressor in the guest."""
    data = bzimage.read_bytes()
    sectors = data[0x1f1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = data[start:start + length - 4]  # the last word is the length when uncompressed
    for magic, tool in ((b"\x02\x21\x4c\x18", "lz4"), (b"\x28\xb5\x2f\xfd", "zstd")):
        if payload.startswith(magic):
            done = subprocess.run([tool, "-dc"], input=payload, stdout=subprocess.PIPE, check=True)
            elf = done.stdout
            break
    else:
        elf = lzma.decompress(payload)
    if not elf.startswith(b"\x7fELF"):
        raise RuntimeError(f"{bzimage} holds no ELF file")
    part = out.with_suffix(".part")
    part.write_bytes(elf)
    part.rename(out)


class HostKernel:
    """.vmlinux, .release, .modules (name -> path)."""

    def __init__(self, vmlinux, release, modules):
        self.vmlinux = vmlinux
        self.release = release
        self.modules = {p.stem.replace("-", "_"): p for p in modules.rglob("*.ko")}


def guest_vmlinux(kernel):
    """The guests' kernel, uncompressed, in the cache."""
    out = cache() / f"vmlinux-{kernel.release}"
    with Locked(cache()):
        if not out.exists():
            uncompress_linux(kernel.image, out)
    return out


def host_kernel(version, guest_kernel):
    """6.1: the same as the guests'. Else the newest cloud kernel of that version in sid."""
    if version == "6.1":
        modules = guest_kernel.root / "lib/modules" / guest_kernel.release
        return HostKernel(guest_vmlinux(guest_kernel), guest_kernel.release, modules)
    target = cache() / f"kernel-{version}-{FORMAT}"
    with Locked(cache()):
        if not target.is_dir():
            fetch_sid_kernel(version, target)
    release = (target / "release").read_text().strip()
    return HostKernel(target / "vmlinux", release, target / "modules")


def fetch_sid_kernel(version, target):
    say(f"fetching the cloud kernel {version} of sid")
    work = packages.work_dir(target)
    try:
        apt = packages.Apt(work, "sid")
        prefix = f"linux-binary-{version}."
        releases = [n[len("linux-binary-"):] for n in apt.names(prefix)
                    if re.fullmatch(re.escape(prefix) + r"[\d.]*\S*-cloud-amd64", n)]
        if not releases:
            raise packages.PackageError(f"sid serves no cloud kernel {version} any more")
        release = max(releases, key=lambda r: [int(n) for n in re.findall(r"\d+", r)])
        debs = apt.download([f"linux-{part}-{release}" for part in ("binary", "modules", "base")])
        packages.unpack(debs, work / "root")
        tree = work / "root/usr/lib/modules" / release
        made = work / "made"
        (made / "modules").mkdir(parents=True)
        uncompress_linux(tree / "vmlinuz", made / "vmlinux")
        shutil.copy(tree / "config", made / "config")
        for path in tree.rglob("*.ko.xz"):
            (made / "modules" / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
        (made / "release").write_text(release + "\n")
        made.rename(target)
    finally:
        shutil.rmtree(work)


def write_initramfs(kernel, out):
    cpio = initramfs.Cpio()
    for name in ("bin", "dev", "etc", "lib", "proc", "sys", "root"):
        cpio.directory(name)
    cpio.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    cpio.file("init", (HERE / "l1/init").read_bytes())
    cpio.file("bin/busybox", pathlib.Path("/bin/busybox").read_bytes())
    order = kernel_mod.load_order(kernel.modules, [m for m in MODULES if m in kernel.modules])
    for name in order:
        cpio.file(f"lib/{name}.ko", kernel.modules[name].read_bytes(), 0o644)
    cpio.file("etc/modules", "\n".join(order).encode() + b"\n", 0o644)
    out.write_bytes(cpio.bytes())


# Disks.

def make_disk(out, mib, tree=None):
    """A file system without a journal: what was written stays readable after a kill."""
    line = ["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0"]
    if tree:
        line += ["-d", tree]
    subprocess.run(line + [out, f"{mib}M"], check=True, stdout=subprocess.DEVNULL)


def used_mib(tree):
    done = subprocess.run(["du", "-sm", "--apparent-size", tree], check=True, text=True,
                          stdout=subprocess.PIPE)
    return int(done.stdout.split()[0])


def qemu_version():
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "qemu-system-x86"],
                          check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout


def base_disk():
    """The nested host's system. Its QEMU is the installed one, since the device is built for it."""
    wanted = [f"qemu-system-x86={qemu_version()}", *DEBIAN]
    key = hashlib.sha256(" ".join([str(FORMAT), *wanted]).encode()).hexdigest()[:12]
    target = cache() / f"base-{key}.img"
    with Locked(cache()):
        if not target.exists():
            make_base(wanted, target)
    return target


def make_base(wanted, target):
    say(f"making the nested host's system: {' '.join(wanted)}")
    work = packages.work_dir(target)
    try:
        apt = packages.Apt(work)
        served = apt.versions("qemu-system-x86")
        if qemu_version() not in served:
            raise packages.PackageError(
                f"qemu-system-x86 {qemu_version()} is installed, the package sources serve "
                f"{', '.join(served)}: upgrade it and build again")
        root = work / "root"
        packages.unpack(apt.download_with_needs(wanted), root)
        for name in LEFT_OUT:
            shutil.rmtree(root / name, ignore_errors=True)
        for name in ("ebb", "out", "proc", "sys", "dev", "run", "tmp", "root"):
            (root / name).mkdir(exist_ok=True)
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", "-s", root, "-p", "/",
                        "--invalidation-mode", "unchecked-hash", root / "usr/lib/python3",
                        root / "usr/lib/python3.11"], check=False, stdout=subprocess.DEVNULL)
        make_disk(work / "base.img", used_mib(root) * 5 // 4 + 64, root)
        (work / "base.img").rename(target)
    finally:
        shutil.rmtree(work)


def project_disk(build, guest_kernel, work):
    """This build, the tests, and the guests' kernel."""
    stage = work / "stage"
    for pattern in BUILT:
        found = list(build.glob(pattern))
        if not found:
            raise FileNotFoundError(f"not built: {build / pattern}")
        for path in found:
            if path.is_dir():
                continue  # of objects, beside the program
            to = stage / "build" / path.relative_to(build)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for part in ("tests/vm", "tests/nested", "tests/guest", "tests/torture",
                 "tests/bench"):
        shutil.copytree(TREE / part, stage / "tree" / part, ignore=skip)
    kernel = stage / "cache/kernel" / guest_kernel.root.name
    (kernel / "boot").mkdir(parents=True)
    # By its name a bzImage; QEMU looks at what it is.
    shutil.copy(guest_vmlinux(guest_kernel), kernel / "boot" / guest_kernel.image.name)
    shutil.copy(guest_kernel.image, kernel / "bzImage")  # for kexec
    wanted = initramfs.BOOT_MODULES + initramfs.TEST_MODULES
    modules = guest_kernel.modules
    for name in kernel_mod.load_order(modules, [m for m in wanted if m in modules]):
        to = kernel / modules[name].relative_to(guest_kernel.root)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(modules[name], to)
    out = work / "project.img"
    make_disk(out, used_mib(stage) * 5 // 4 + 64, stage)
    shutil.rmtree(stage)
    return out
