# SPDX-License-Identifier: LGPL-2.1-or-later
"""The harness itself, on the stock QEMU and its own virtio-balloon."""
import importlib.util
import pathlib
import subprocess
import sys

import pytest

from harness.channel import GuestGone
from harness.guest import QemuDied, parse_totals
from harness.hold import PPOLL, held, system_call
from harness.wait import wait_for

MIB_KIB = 1024
FAULTS = pathlib.Path(__file__).resolve().parents[1] / "nested/faults.py"


def test_commands_in_the_guest(vm):
    guest = vm.boot(stock=True)
    assert guest.check("echo hello").strip() == "hello"
    assert guest.run("exit 7") == (7, "")
    assert guest.run("kill -9 $$")[0] == 128 + 9
    # Much output, beside another command that takes input.
    other = guest.spawn("cat")
    big = guest.check("seq 1 20000")
    assert big.split() == [str(n) for n in range(1, 20001)]
    text = "".join(f"line {n}\n" for n in range(500))
    other.write(text)
    other.close_input()
    assert other.wait() == 0
    assert other.output == text


def test_reset_brings_the_guest_back(vm):
    guest = vm.boot(stock=True)
    running = guest.spawn("while true; do echo busy; done")
    running.read_line()
    guest.reset()
    with pytest.raises(GuestGone):
        running.wait()
    assert guest.check("cat /proc/uptime")


def test_bad_pages_are_seen(vm):
    """The accounting can fail: a page that is changed behind memwork's back is counted."""
    guest = vm.boot(stock=True)
    work = guest.memwork(16)
    work.ask("fill 16")
    assert parse_totals(work.ask("verify")) == (2 * 4096, 0)
    work.ask("spoil 5")
    checked, bad = parse_totals(work.ask("verify"))
    assert (checked, bad) == (3 * 4096, 1)
    work.write("quit\n")
    assert work.wait() == 1
    assert "bad page 5 (in use): word 511 is" in work.output


def test_kernel_trouble_is_seen(vm):
    guest = vm.boot(stock=True)
    assert guest.kernel_trouble() == ""
    guest.check("echo 'WARNING: CPU: 0 PID: 1 at a test of the test' >/dev/kmsg; "
                "echo '<2>BUG: a test of the test' >/dev/kmsg")
    wait_for(lambda: "BUG: a test of the test" in guest.console(), "the line on the console")
    trouble = guest.kernel_trouble()
    assert "WARNING: CPU: 0" in trouble and "BUG: a test" in trouble


def test_stock_free_page_reporting(vm):
    """QEMU's own balloon: what the guest frees leaves the host, and the guest uses it again."""
    guest = vm.boot(stock=True, memory_mib=384, modules=["virtio_balloon"],
                    devices=["virtio-balloon-pci,free-page-reporting=on"])
    work = guest.memwork(256)
    work.ask("fill 256")
    full = guest.sample().rss_kib
    work.ask("free 100")
    wait_for(lambda: guest.sample().rss_kib < full - 150 * MIB_KIB,
             lambda: f"the host to get memory back: {guest.sample()}, was {full} KiB")
    work.ask("fill 256")
    assert guest.sample().rss_kib > full - 20 * MIB_KIB
    checked, bad = parse_totals(work.ask("verify"))
    assert bad == 0 and checked >= 3 * 256 * 256


def test_cgroup_limit_and_reclaim(vm, memory_cgroup):
    group = memory_cgroup()
    guest = vm.boot(stock=True, cgroup=group)
    used = group.usage_bytes()
    assert used > 32 << 20
    assert str(guest.pid) in group.procs.read_text().split()
    # Too low to be met: the guest's memory is in use and cannot go.
    with pytest.raises(OSError):
        group.set_limit(used // 4)
        if group.version == 2:
            raise OSError("version 2 takes the limit and kills")
    group.set_limit(used * 2)
    group.reclaim_all()
    assert guest.check("echo alive").strip() == "alive"


# Most of the time in no system call, as if a lock were held then.
BUSY = """
import ctypes, time
libc = ctypes.CDLL(None)
libc.prctl(15, b"busy", 0, 0, 0)
rest = (ctypes.c_long * 2)(0, 1000000)
print(flush=True)
while True:
    end = time.monotonic() + 0.01
    while time.monotonic() < end:
        pass
    libc.ppoll(None, 0, rest, None)
"""


def test_a_thread_is_held_where_it_has_no_lock():
    """Held elsewhere the executor would keep its lock, and QEMU would stand still."""
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as busy:
        try:
            busy.stdout.readline()
            for _ in range(20):
                with held(busy.pid, "busy") as tid:
                    assert system_call(tid) == PPOLL
        finally:
            busy.kill()


def test_a_guest_that_kvm_gave_up(vm):
    """It stands still, and QEMU goes on: nobody waits for it until a limit."""
    guest = vm.boot(stock=True)
    running = guest.spawn("sleep 1000")
    with open(guest.qemu_log, "a") as log:
        log.write("KVM internal error. Suberror: 1\n")
    with pytest.raises(QemuDied, match="given the guest up"):
        running.wait()
    guest.kill()


def test_faults_of_an_emulated_processor():
    """What tests/nested/run takes for one, and what it does not."""
    spec = importlib.util.spec_from_file_location("faults", FAULTS)
    faults = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faults)
    assert faults.find("E  KVM has given the guest up:\nKVM internal error. Suberror: 3\nextra data")
    assert faults.find("BUG: ENTRY_TRAMPOLINE stack guard page was hit at 1\nCall Trace:\n"
                       " ? asm_sysvec_apic_timer_interrupt+0x3/0x20\n")
    for text in ("KVM internal error. Suberror: 1\n", "pages checked 900, bad 1",
                 "BUG: ENTRY_TRAMPOLINE stack guard page was hit at 1\n do_fault+0x3/0x20",
                 "WARNING: CPU: 0 PID: 1 at kernel/time/hrtimer.c", ""):
        assert faults.find(text) is None, text
