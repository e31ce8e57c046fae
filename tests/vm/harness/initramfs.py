# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest's whole file system: busybox, our programs and modules, in one uncompressed cpio."""
import pathlib
import re
import stat
import subprocess

from . import kernel as kernel_mod

GUEST_DIR = pathlib.Path(__file__).resolve().parents[2] / "guest"
# Not loaded by virtio_pci's dependencies in this order on every kernel: virtio_ring comes first.
BOOT_MODULES = ["virtio_ring", "virtio", "virtio_pci"]
# Carried along and loaded by the tests that want them.
TEST_MODULES = ["virtio_balloon", "virtio_mem", "virtio_console", "virtio_blk", "virtio_net",
                "virtio_rng"]


class Cpio:
    """Writes the newc format, which the kernel unpacks."""

    def __init__(self):
        self.parts = []
        self.count = 0

    def add(self, name, mode, data=b"", device=(0, 0)):
        self.count += 1
        raw = name.encode() + b"\0"
        fields = (self.count, mode, 0, 0, 1, 0, len(data), 0, 0, *device,
                  len(raw), 0)
        head = b"070701" + b"".join(b"%08x" % f for f in fields) + raw
        for part in (head, data):
            self.parts.append(part + b"\0" * (-len(part) % 4))

    def directory(self, name):
        self.add(name, stat.S_IFDIR | 0o755)

    def file(self, name, data, mode=0o755):
        self.add(name, stat.S_IFREG | mode, data)

    def link(self, name, target):
        self.add(name, stat.S_IFLNK | 0o777, target.encode())

    def bytes(self):
        self.add("TRAILER!!!", 0)
        return b"".join(self.parts)


def libraries(paths):
    """What these dynamically linked programs and libraries need: name in the guest -> path."""
    found = {}
    for path in paths:
        said = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
        for line in said.splitlines():
            if "not found" in line:
                raise RuntimeError(f"{path} needs a library that this machine has not: {line}")
            # "libc.so.6 => /lib/.../libc.so.6 (0x...)", and the loader by its whole path
            match = re.match(r"\s*(\S+) (?:=> (/\S+) )?\(0x", line)
            if match and match.group(2):
                found["lib/" + match.group(1)] = pathlib.Path(match.group(2))
            elif match and match.group(1).startswith("/"):
                found[match.group(1)[1:]] = pathlib.Path(match.group(1))
    return found


def build(kernel, out, programs, extra_modules, dynamic=()):
    """programs: paths of static binaries; extra_modules: paths of .ko files; dynamic: paths of
    programs and libraries that come along with the libraries that they need. Returns name -> path
    of every module inside."""
    modules = dict(kernel.modules)
    for path in extra_modules:
        magic = kernel_mod.module_info(path, "vermagic") or ""
        if magic.split(" ")[0] != kernel.release:
            raise RuntimeError(f"{path} is built for kernel {magic.split(' ')[0]}, the guests run "
                               f"{kernel.release}: install the headers of that kernel, or set "
                               "EBB_GUEST_KERNEL to the image package of the other")
        modules[path.stem] = path
    names = [path.stem for path in extra_modules]
    names += [name for name in BOOT_MODULES + TEST_MODULES if name in modules]
    inside = kernel_mod.load_order(modules, names)

    cpio = Cpio()
    for name in ("bin", "dev", "etc", "lib", "lib/modules", "lib64", "proc", "root", "sys", "tmp"):
        cpio.directory(name)
    cpio.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    cpio.file("init", (GUEST_DIR / "init").read_bytes())
    cpio.file("bin/busybox", pathlib.Path("/bin/busybox").read_bytes())
    for applet in APPLETS:
        cpio.link("bin/" + applet, "busybox")
    for path in programs:
        cpio.file("bin/" + path.name, path.read_bytes())
    for path in dynamic:
        where = "lib/" if ".so" in path.name else "bin/"
        cpio.file(where + path.name, path.read_bytes())
    for name, path in libraries(dynamic).items():
        cpio.file(name, path.read_bytes())
    for name in inside:
        cpio.file(f"lib/modules/{name}.ko", modules[name].read_bytes(), 0o644)
    boot = kernel_mod.load_order(modules, [m for m in BOOT_MODULES if m in modules])
    cpio.file("etc/boot-modules", "\n".join(boot).encode(), 0o644)
    out.write_bytes(cpio.bytes())
    return {name: modules[name] for name in inside}


APPLETS = """sh mount umount mkdir rmdir ls cat echo insmod rmmod lsmod dmesg grep sed awk head tail
    sleep kill ps free dd rm cp mv sync test true false wc tr cut sort seq poweroff reboot id
    printf timeout usleep od hexdump date env find xargs tee uname vmstat chmod ln""".split()
