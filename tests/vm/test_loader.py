# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wrapper, the loader and the module in the distribution's QEMU: the devices are there in
every way that QEMU is started, and where anything does not fit there is a message and no device."""
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess

import pytest

from harness.wait import wait_for

WRAPPER = "qemu-system-x86_64-ebb"
DEVICES = ("virtio-ebb-pci", "virtio-ebb-balloon-pci")
GOES_ON = "QEMU goes on without ebb's devices"
PLAIN = ["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"]
# What libvirt denies its guests.
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@pytest.fixture
def wrapper(build):
    return build.qemu


@pytest.fixture
def copy(wrapper, tmp_path):
    """A copy of wrapper, loader and module, for a test to spoil."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in [wrapper, *wrapper.parent.glob("*.so")]:
        shutil.copy(path, folder)
    return folder


def module_of(folder):
    module, = (p for p in folder.glob("*.so") if p.name != "ebb-shim.so")
    return module


def run(*args, **env):
    return subprocess.run([str(a) for a in args], env={**os.environ, **env}, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, capture_output=True)


def device_names(result):
    assert result.returncode == 0, result.stderr
    return re.findall(r'^name "([^"]+)"', result.stdout, re.M)


def assert_no_device(folder, why):
    """QEMU works, without the devices, and has said why."""
    result = run(folder / WRAPPER, "-device", "help")
    names = device_names(result)
    assert "virtio-balloon-pci" in names
    assert not set(DEVICES) & set(names)
    assert re.search(why, result.stderr), result.stderr
    assert GOES_ON in result.stderr
    # A machine comes up as well.
    result = run(folder / WRAPPER, *PLAIN, "-machine", "none", "-monitor", "none", "-S",
                 "-daemonize", "-pidfile", folder / "pid")
    assert result.returncode == 0, result.stderr
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


class Monitor:
    """QEMU with its monitor on stdin and stdout."""

    def __init__(self, *args):
        self.process = subprocess.Popen(
            [str(a) for a in args] + ["-qmp", "stdio"], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._read()
        self.command("qmp_capabilities")

    def _read(self):
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def command(self, name, **arguments):
        request = {"execute": name, "arguments": {k.replace("_", "-"): v
                                                  for k, v in arguments.items()}}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        while True:
            answer = self._read()
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def quit(self):
        self.command("quit")
        self.process.stdin.close()
        return self.process.wait(60), self.process.stderr.read()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()


def test_help(wrapper):
    result = run(wrapper, "-device", "help")
    assert set(DEVICES) <= set(device_names(result))
    assert result.stderr == ""


@pytest.mark.parametrize("device", DEVICES)
def test_help_of_a_device(wrapper, device):
    result = run(wrapper, "-device", f"{device},help")
    assert result.returncode == 0
    for name in ("mode", "agent", "label", "ebb-stats", "guest-stats"):
        assert re.search(rf"^  {name}=<", result.stdout, re.M), result.stdout


def test_trace_events(wrapper):
    result = run(wrapper, "-trace", "help")
    for event in ("request", "verdict", "answer", "violation", "command"):
        assert f"virtio_ebb_{event}\n" in result.stdout


@pytest.mark.parametrize("device", DEVICES)
def test_trace_of_a_region(wrapper, device, tmp_path):
    log = tmp_path / "log"
    with Monitor(wrapper, *PLAIN, "-machine", "q35", "-S", "-trace", "virtio_ebb_*", "-D", log,
                 "-device", f"{device},agent=") as qemu:
        assert qemu.quit()[0] == 0
    assert "virtio_ebb_region add gpa 0x100000" in log.read_text()


def test_capability_probing(wrapper):
    """What libvirt asks an <emulator>, as it asks it."""
    with Monitor(wrapper, "-S", "-no-user-config", "-nodefaults", "-nographic", "-machine",
                 "none,accel=tcg", "-sandbox", SANDBOX) as qemu:
        types = {t["name"] for t in qemu.command("qom-list-types")}
        assert set(DEVICES) <= types
        for device in DEVICES:
            found = qemu.command("device-list-properties", typename=device)
            assert {"mode", "agent", "label"} <= {p["name"] for p in found}
        assert qemu.command("query-qmp-schema")
        status, stderr = qemu.quit()
        assert status == 0
        assert GOES_ON not in stderr


@pytest.mark.parametrize("device", DEVICES)
def test_hot_plug_and_properties(wrapper, device):
    with Monitor(wrapper, *PLAIN, "-machine", "pc", "-m", "64", "-sandbox", SANDBOX) as qemu:
        qemu.command("device_add", driver=device, id="ebb", agent="", label="web-1",
                     mode="eager")
        path = "/machine/peripheral/ebb"
        stats = qemu.command("qom-get", path=path, property="ebb-stats")
        assert stats["mode"] == "eager"
        assert stats["ram-bytes"] >= 63 << 20
        assert stats["agent-connected"] is stats["driver"] is stats["broken"] is False
        for mode in ("off", "auto", "lazy"):
            qemu.command("qom-set", path=path, property="mode", value=mode)
            assert qemu.command("qom-get", path=path, property="mode") == mode
            assert qemu.command("qom-get", path=path, property="ebb-stats")["mode"] == mode
        assert qemu.command("qom-get", path=path, property="guest-stats")["valid"] is False
        assert "private anonymous" in qemu.command("qom-get", path=path, property="ebb-regions")
        # Not plugged by a guest, so nobody need be asked when the machine is reset.
        qemu.command("device_del", id="ebb")
        qemu.command("system_reset")
        wait_for(lambda: not any(c["name"] == "ebb" for c in
                                 qemu.command("qom-list", path="/machine/peripheral")),
                 "the device to be unplugged")
        qemu.command("device_add", driver=device, id="ebb", agent="")
        assert qemu.command("qom-get", path=path, property="ebb-stats")["mode"] == "auto"
        assert qemu.quit()[0] == 0


@pytest.mark.parametrize("options,why", [
    ("label=a/b", "label 'a/b'"),
    ("label=" + "x" * 64, "label"),
    ("agent=/" + "x" * 200, "agent"),
    ("mode=sometimes", "sometimes"),
])
def test_bad_properties(wrapper, options, why):
    result = run(wrapper, *PLAIN, "-machine", "q35", "-S", "-device",
                 f"virtio-ebb-pci,{options}")
    assert result.returncode == 1
    assert why in result.stderr


def test_two_devices_are_refused(wrapper):
    result = run(wrapper, *PLAIN, "-machine", "q35", "-S", "-device", "virtio-ebb-pci,agent=",
                 "-device", "virtio-ebb-balloon-pci,agent=")
    assert result.returncode == 1
    assert "only one ebb device" in result.stderr


def test_balloon_behind_an_iommu_is_refused(wrapper):
    """Its reports would name other addresses than the guest's own."""
    result = run(wrapper, *PLAIN, "-machine", "q35", "-S", "-device", "intel-iommu", "-device",
                 "virtio-ebb-balloon-pci,agent=,iommu_platform=on,disable-legacy=on")
    assert result.returncode == 1
    assert "iommu_platform=true is not supported by the device" in result.stderr


def test_daemonize(wrapper, tmp_path):
    pidfile = tmp_path / "pid"
    log = tmp_path / "log"
    result = run(wrapper, *PLAIN, "-machine", "q35", "-S", "-daemonize", "-pidfile", pidfile,
                 "-trace", "virtio_ebb_*", "-D", log, "-device", "virtio-ebb-pci,agent=")
    assert result.returncode == 0, result.stderr
    pid = int(pidfile.read_text())
    try:
        # The executor's thread is one of the daemon's, not of the parent that has gone.
        assert len(os.listdir(f"/proc/{pid}/task")) > 1
        assert "virtio_ebb_region add" in log.read_text()
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not pidfile.exists(), "QEMU to end")
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.mark.parametrize("other", ["", "/usr/lib/x86_64-linux-gnu/libdl.so.2"])
def test_children_are_not_preloaded(wrapper, tmp_path, other):
    if other and not pathlib.Path(other).exists():
        pytest.skip(f"{other} is not there")
    found = tmp_path / "environment"
    env = {**os.environ, "LD_PRELOAD": other} if other else os.environ
    with subprocess.Popen([wrapper, *PLAIN, "-machine", "q35", "-m", "32", "-monitor", "stdio",
                           "-device", "virtio-ebb-pci,agent="], text=True, env=env,
                          stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as qemu:
        qemu.communicate(f'migrate "exec:env >{found}; cat >/dev/null"\nquit\n', timeout=120)
    lines = found.read_text().splitlines()
    assert [l for l in lines if l.startswith("LD_PRELOAD=")] == (
        [f"LD_PRELOAD={other}"] if other else [])


@pytest.mark.parametrize("program", ["/bin/true", "/usr/bin/env"])
def test_other_programs_are_left_alone(wrapper, program):
    shim = wrapper.parent / "ebb-shim.so"
    result = run(program, LD_PRELOAD=str(shim))
    assert (result.returncode, result.stderr) == (0, "")
    if program.endswith("env"):
        assert f"LD_PRELOAD={shim}\n" in result.stdout


def test_named_qemu(wrapper, tmp_path):
    fake = tmp_path / "my-qemu"
    fake.write_text('#!/bin/sh\necho "$0 $*"\n')
    fake.chmod(0o755)
    assert run(wrapper, "a", "b c", EBB_QEMU=str(fake)).stdout == f"{fake} a b c\n"


def test_wrapper_under_the_name_of_qemu(wrapper, tmp_path):
    """First in PATH under QEMU's own name it runs the next, not itself."""
    (tmp_path / "qemu-system-x86_64").symlink_to(wrapper)
    result = run("qemu-system-x86_64", "-device", "help", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert set(DEVICES) <= set(device_names(result))


def test_installed_layout(wrapper, copy):
    """The wrapper in bin/, the rest where it was told at build time."""
    relative = re.search(r'"\$here/(\.\./[^"]+)"', wrapper.read_text()).group(1)
    bindir = copy / "usr/bin"
    bindir.mkdir(parents=True)
    libdir = (bindir / relative).resolve()
    libdir.mkdir(parents=True)
    for library in copy.glob("*.so"):
        library.rename(libdir / library.name)
    (copy / WRAPPER).rename(bindir / WRAPPER)
    assert set(DEVICES) <= set(device_names(run(bindir / WRAPPER, "-device", "help")))


def test_no_loader(copy):
    (copy / "ebb-shim.so").unlink()
    assert_no_device(copy, "ebb-shim.so is neither in")


def test_path_that_cannot_be_preloaded(copy, tmp_path):
    folder = tmp_path / "with space"
    copy.rename(folder)
    assert_no_device(folder, "no path with a space")


def test_another_build_of_qemu(copy):
    """First layer: the file's name is the build-id."""
    module = module_of(copy)
    module.rename(module.with_name("0" * 40 + ".so"))
    assert_no_device(copy, "no module for this build of QEMU: .*" + module.name)


def replace_first(path, old, new):
    """The first place is what is loaded; debug information comes later in the file."""
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new, 1))


def test_module_renamed(copy):
    """Second layer: the build-id inside."""
    module = module_of(copy)
    build_id = module.stem.encode()
    replace_first(module, b"\0" + build_id + b"\0", b"\0" + b"f" * len(build_id) + b"\0")
    assert_no_device(copy, "was built for another QEMU")


def test_missing_symbol(copy):
    """Third layer: all that the module needs must be in this QEMU."""
    replace_first(module_of(copy), b"\0ram_block_discard_require\0",
                  b"\0ram_block_discard_requirE\0")
    assert_no_device(copy, "this QEMU does not fit the module: .*ram_block_discard_requirE")


def module_type_offset(module, number):
    """Where struct ebb_module_type number lies in the file."""
    symbol = re.search(r"^.*\bebb_module$", run("readelf", "-sW", "--dyn-syms", module).stdout,
                       re.M).group(0).split()
    address, section = int(symbol[1], 16), symbol[6]
    line = re.search(rf"^  \[ *{section}\] \S+ +\S+ +([0-9a-f]+) ([0-9a-f]+) ",
                     run("readelf", "-SW", module).stdout, re.M)
    return address - int(line.group(1), 16) + int(line.group(2), 16) + 24 + 24 * number


@pytest.mark.parametrize("number,name", enumerate(["device", "pci-device", "virtio-device",
                                                   "virtio-pci"]))
@pytest.mark.parametrize("size", [1, 2], ids=["class", "instance"])
def test_other_sizes(copy, number, name, size):
    """Fourth layer: QEMU's types are as large as in the headers."""
    module = module_of(copy)
    data = bytearray(module.read_bytes())
    at = module_type_offset(module, number) + 8 * size
    value, = struct.unpack_from("<Q", data, at)
    assert 0 < value < 1 << 20
    struct.pack_into("<Q", data, at, value + 8)
    module.write_bytes(data)
    assert_no_device(copy, rf"ebb: {name} has sizes \d+ and \d+ in this QEMU")


def test_module_of_another_version(copy):
    module = module_of(copy)
    data = bytearray(module.read_bytes())
    at = module_type_offset(module, 0) - 24
    assert struct.unpack_from("<L", data, at) == (1,)
    struct.pack_into("<L", data, at, 99)
    module.write_bytes(data)
    assert_no_device(copy, "is no module of this version of ebb")


def test_module_that_is_none(copy):
    module_of(copy).write_bytes(b"no ELF file")
    assert_no_device(copy, "this QEMU does not fit the module")
