# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule 1, with an offer in flight for as long as the test wants: the executor's thread is held.

Whatever ends an offer early (reset, stop, removal of the memory) must wait for the executor, for
what the executor does afterwards would hit memory that is in use again.
"""
import contextlib
import threading

import pytest

from harness import ebb
from harness.ebb import BLOCK, MIB, EbbDevice
from harness.hold import held
from harness.wait import wait_for
from test_backing import DIMM_GPA, MEMHP_CONTROL, MEMHP_EJECT, MEMHP_SELECT, plug_dimm

BASE = 64 * MIB
EXECUTOR = "ebb-executor"
# How long a device that does not wait gets to show it. A device that waits passes at any length.
PATIENCE_SEC = 1


@pytest.fixture
def scene(vm):
    guest = vm.start(qtest=True, memory_mib=256, extra=["-m", "256,slots=4,maxmem=2G"],
                     devices=[f"virtio-ebb-pci,id=ebb,addr={ebb.SLOT},mode=eager,agent="])
    dev = EbbDevice(guest)
    dev.up()
    return guest, dev


@contextlib.contextmanager
def offer_in_flight(guest, dev, gpa):
    """The memory at gpa is offered, and the executor does not get to it inside the block."""
    guest.qtest.memset(gpa, 4 * BLOCK, 0xa5)
    with held(guest.pid, EXECUTOR):
        dev.send(ebb.free_request([(gpa, 4 * BLOCK)]), 24)
        yield


def during_the_offer(guest, dev, gpa, action):
    """Run action() in a thread while an offer is in flight. Says whether it came back early."""
    problems = []
    done = threading.Event()

    def act():
        try:
            action()
        except Exception as e:
            problems.append(e)
        done.set()

    with offer_in_flight(guest, dev, gpa):
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        early = done.wait(PATIENCE_SEC)
    thread.join(120)
    assert not thread.is_alive() and not problems, problems
    return early


def test_the_answer_waits_for_the_executor(scene):
    guest, dev = scene
    with offer_in_flight(guest, dev, BASE):
        for _ in range(50):
            assert dev.report.used_count() == 0
        assert guest.qtest.holds(BASE, 4 * BLOCK, 0xa5)
    status, (verdict,) = dev.read_answer(dev.last_answer, 1)
    assert verdict.verdict == ebb.DISCARDED
    assert guest.qtest.holds(BASE, 4 * BLOCK, 0)


def test_reset_waits(scene):
    guest, dev = scene

    def reset_and_reuse():
        dev.status = 0
        guest.qtest.memset(BASE, 4 * BLOCK, 0x3c)

    early = during_the_offer(guest, dev, BASE, reset_and_reuse)
    dev.memory.next = MIB
    dev.up()
    dev.free([(BASE + 32 * MIB, BLOCK)])  # after it nothing of the old offer can come
    assert guest.qtest.holds(BASE, 4 * BLOCK, 0x3c), "memory was lost that the guest had back"
    assert not early, "the reset came back while the offer was in flight"


def test_system_reset_waits(scene):
    guest, dev = scene

    def reset_and_reuse():
        guest.qmp.command("system_reset")
        guest.qmp.wait_event("RESET")
        guest.qtest.memset(BASE, 4 * BLOCK, 0x3c)

    early = during_the_offer(guest, dev, BASE, reset_and_reuse)
    dev = EbbDevice(guest)
    dev.up()
    dev.free([(BASE + 32 * MIB, BLOCK)])
    assert guest.qtest.holds(BASE, 4 * BLOCK, 0x3c), "memory was lost that the guest had back"
    assert not early, "the reset came back while the offer was in flight"


def test_stop_waits(scene):
    guest, dev = scene
    early = during_the_offer(guest, dev, BASE, lambda: guest.qmp.command("stop"))
    state = guest.qtest.read(BASE, 16)
    assert not early, "the machine stopped while the offer was in flight"
    # Stopped means that the memory stands still.
    for _ in range(20):
        assert guest.qtest.read(BASE, 16) == state
    guest.qmp.command("cont")
    status, (verdict,) = dev.read_answer(dev.last_answer, 1)
    assert guest.qtest.holds(BASE, 4 * BLOCK, 0 if verdict.verdict == ebb.DISCARDED else 0xa5)


def test_removal_of_the_memory_waits(scene):
    """Rule 11: the region is held until its offers are through; other memory may follow there."""
    guest, dev = scene
    plug_dimm(guest, 1)

    def remove():
        guest.qmp.command("device_del", id="dimm1")
        guest.qtest.outl(MEMHP_SELECT, 0)
        guest.qtest.command(f"outb {MEMHP_CONTROL:#x} {MEMHP_EJECT:#x}")

    early = during_the_offer(guest, dev, DIMM_GPA, remove)
    guest.qmp.wait_event("DEVICE_DELETED")
    guest.qmp.command("object-del", id="mem1")
    plug_dimm(guest, 2)
    guest.qtest.memset(DIMM_GPA, 4 * BLOCK, 0x3c)
    dev.read_answer(dev.last_answer, 1)
    dev.free([(BASE, BLOCK)])
    assert guest.qtest.holds(DIMM_GPA, 4 * BLOCK, 0x3c)
    assert not early, "the memory went away while an offer of it was in flight"


def test_quit_with_an_offer_in_flight(scene):
    guest, dev = scene
    with offer_in_flight(guest, dev, BASE):
        pass
    assert guest.quit() == 0


def test_offer_in_flight_is_not_offered_again(scene):
    """Rule 7: the second offer of it, while the first is in flight, breaks the device."""
    guest, dev = scene
    with offer_in_flight(guest, dev, BASE):
        dev.send(ebb.free_request([(BASE + BLOCK, BLOCK)]), 24)
        wait_for(lambda: dev.broken, "the device to refuse the overlap")
        assert guest.qtest.holds(BASE, 4 * BLOCK, 0xa5)
    dev.memory.next = MIB
    dev.up()
    verdict, = dev.free([(BASE, 4 * BLOCK)])
    assert verdict.verdict == ebb.DISCARDED


def test_more_requests_than_the_executor_takes(scene):
    """Rule 9: what is in flight is bounded; the rest waits in the queue and is answered."""
    guest, dev = scene
    guest.qtest.memset(BASE, 64 * MIB, 0xa5)
    with held(guest.pid, EXECUTOR):
        answers = [dev.send(ebb.free_request([(BASE + i * BLOCK, BLOCK)]), 24) for i in range(24)]
        assert guest.qmp.command("query-status")["running"]
    for answer in answers:
        _, (verdict,) = dev.read_answer(answer, 1)
        assert verdict.verdict == ebb.DISCARDED
    assert guest.qtest.holds(BASE, 24 * BLOCK, 0)
    assert guest.qtest.holds(BASE + 24 * BLOCK, 64 * MIB - 24 * BLOCK, 0xa5)
