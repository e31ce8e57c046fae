# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest of the real libvirtd, with the wrapper as its <emulator>."""
import json
import socket

import pytest

from harness import proc
from harness.channel import Channel
from harness.guest import COMMAND_LINE, accelerator, parse_totals
from harness.libvirt import Libvirtd, missing_programs
from harness.wait import wait_for

NAME = "ebb-test"
MIB_KIB = 1024

DOMAIN = """<domain type='{type}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <memory unit='MiB'>384</memory>
  <memoryBacking><nosharepages/></memoryBacking>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/></features>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>{emulator}</emulator>
    <serial type='file'><source path='{console}'/><target port='0'/></serial>
    <serial type='unix'><source mode='connect' path='{channel}'/><target port='1'/></serial>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-device'/>
    <qemu:arg value='{device},id=ebb,mode=lazy,agent=,addr=0x1e'/>
  </qemu:commandline>
</domain>
"""


@pytest.fixture
def libvirtd(tmp_path):
    missing = missing_programs()
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    daemon = Libvirtd(tmp_path / "libvirt")
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()


def qom_get(libvirtd, prop):
    query = {"execute": "qom-get",
             "arguments": {"path": "/machine/peripheral/ebb", "property": prop}}
    _, answer = libvirtd.virsh("qemu-monitor-command", NAME, json.dumps(query))
    return json.loads(answer)["return"]


@pytest.mark.parametrize("device, module", [
    ("virtio-ebb-balloon-pci", "virtio_balloon"), ("virtio-ebb-pci", "virtio_ebb")])
def test_guest_of_libvirt(libvirtd, build, kernel, image, tmp_path, device, module):
    """Probed, started, reports, reuses, stopped: as libvirt does it, under its sandbox."""
    if module == "virtio_ebb":
        assert build.driver
    # The channel's other end listens before libvirt starts QEMU.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "channel"))
    listener.listen(1)
    listener.settimeout(120)
    console = tmp_path / "console.log"
    xml = tmp_path / "domain.xml"
    xml.write_text(DOMAIN.format(
        type="kvm" if accelerator() == "kvm" else "qemu", name=NAME, kernel=kernel.image,
        initrd=image.path, cmdline=COMMAND_LINE, emulator=build.qemu, console=console,
        channel=tmp_path / "channel", device=device))

    libvirtd.virsh("define", str(xml))
    libvirtd.virsh("start", NAME)
    with listener.accept()[0] as sock:
        def alive():
            state = libvirtd.virsh("domstate", NAME)[1].strip()
            assert state == "running", f"{state}: {libvirtd.qemu_log(NAME)}"
        channel = Channel(sock, lambda: None)

        def run(text):
            command = channel.run(text)
            assert command.wait() == 0, command.output
            return command.output

        wait_for(lambda: channel.boots, lambda: f"the guest's init: {console.read_text()[-2000:]}",
                 300, 0.5, alive)
        assert "spawn=deny" in libvirtd.qemu_log(NAME)
        pid = libvirtd.qemu_pid(NAME)
        for name in image.order(module):
            if not channel.run(f"grep -q '^{name} ' /proc/modules").wait() == 0:
                run(f"insmod /lib/modules/{name}.ko")
        work = channel.run("memwork -m 240 -c")
        work.ask("fill 240")
        work.ask("free 100")
        wait_for(lambda: proc.sample(pid).lazyfree_kib > 150 * MIB_KIB,
                 lambda: f"lazily freed memory: {proc.sample(pid)} {qom_get(libvirtd, 'ebb-stats')}",
                 300, 0.5, alive)
        stats = qom_get(libvirtd, "ebb-stats")
        assert stats["driver"] and stats["marked-bytes"] > 150 << 20 and not stats["mergeable"]
        work.ask("fill 240")
        work.ask("verify")
        work.write("quit\n")
        assert work.wait() == 0
        assert parse_totals(work.output)[1] == 0

        boots = channel.boots
        libvirtd.virsh("reset", NAME)
        wait_for(lambda: channel.boots > boots, "the guest after libvirt's reset", 300, 0.5, alive)
        libvirtd.virsh("destroy", NAME)
    assert libvirtd.virsh("domstate", NAME)[1].strip() == "shut off"
    listener.close()
