# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collection of page tables with a driver that is the test: what it may offer, and what it loses."""
import threading

import pytest

from harness import ebb
from harness.ebb import BLOCK, MIB, EbbDevice
from harness.hold import held
from harness.wait import wait_for
from test_background_snapshot import snapshot

BASE = 64 * MIB
COUNT = 8
FEATURES = (ebb.F_REPORT, ebb.F_RELEASE, ebb.F_STATS, ebb.F_VOLATILE, ebb.F_COLLECT)
PATH = "/machine/peripheral/ebb"


def stats(guest):
    return guest.qmp.get(PATH, "ebb-stats")


def start(vm, kernel_like, features=FEATURES):
    guest = vm.start(qtest=True, memory_mib=256, devices=[
        f"virtio-ebb-pci,id=ebb,addr={ebb.SLOT},mode=eager,agent={kernel_like}"])
    dev = EbbDevice(guest)
    dev.up(features)
    if not stats(guest)["can-collect"]:
        pytest.skip("this host's kernel cannot free empty page tables")
    return guest, dev


def make_empty_tables(guest, dev, gpa=BASE, count=COUNT):
    """A part of each block is written, offered and discarded: its table stays, without an entry.
    From here on what is offered is marked, and only a collection discards."""
    for at in range(gpa, gpa + count * BLOCK, BLOCK):
        guest.qtest.memset(at, ebb.PAGE, 0xa5)
        dev.free([(at, MIB)])
        dev.free([(at + MIB, MIB)])
    guest.qmp.set(PATH, "mode", "lazy")


def ask(guest, dev):
    at = dev.give_command_buffer(ebb.COLLECT_BYTES)
    guest.qmp.set(PATH, "collect", True)
    return dev.wait_collect(at)


def over(guest, count):
    return wait_for(lambda: stats(guest)["collections"] == count and stats(guest),
                    lambda: f"the end of the collection: {stats(guest)}")


def test_only_what_is_asked_for_and_offered(vm, kernel_like):
    """Gone when the answer is there, and nothing else; what is written then stays (rule 1)."""
    guest, dev = start(vm, kernel_like)
    guest.qtest.memset(BASE + COUNT * BLOCK, 4 * BLOCK, 0x5a)
    make_empty_tables(guest, dev)
    before = stats(guest)
    number, ranges = ask(guest, dev)
    assert ranges == [(BASE, COUNT * BLOCK)]
    verdicts = dev.free([(BASE + COUNT * BLOCK, BLOCK), (BASE, 4 * BLOCK)], number)
    assert verdicts[1] == ebb.Verdict(ebb.DISCARDED, ebb.REASON_NONE, 4 * BLOCK)
    assert verdicts[0] == ebb.Verdict(ebb.MARKED, ebb.REASON_NONE, BLOCK)
    guest.qtest.memset(BASE, BLOCK, 0x11)
    # Offered again, it is not empty any more: as any other offer.
    assert dev.free([(BASE, BLOCK)], number)[0].verdict == ebb.MARKED
    guest.qtest.memset(BASE, BLOCK, 0x11)
    assert dev.done(number, ebb.DONE_PARTIAL) == ebb.RESP_OK
    after = over(guest, 1)
    assert guest.qtest.holds(BASE, BLOCK, 0x11)
    assert guest.qtest.holds(BASE + (COUNT + 1) * BLOCK, 3 * BLOCK, 0x5a)
    assert after["tables-asked"] == COUNT
    assert after["tables-offered"] == after["tables-freed"] == 4
    assert after["discarded-bytes"] - before["discarded-bytes"] == 4 * BLOCK


def test_a_guest_that_writes_to_what_it_offers(vm, kernel_like):
    """It may lose that, and nothing beside it; its device goes on."""
    guest, dev = start(vm, kernel_like)
    guest.qtest.memset(BASE + COUNT * BLOCK, BLOCK, 0x5a)
    guest.qtest.memset(BASE - BLOCK, BLOCK, 0x5b)
    make_empty_tables(guest, dev)
    number, _ = ask(guest, dev)
    with held(guest.pid, "ebb-executor"):
        answer = dev.send(ebb.free_request([(BASE, COUNT * BLOCK)], number), 24)
        guest.qtest.memset(BASE + 3 * BLOCK, ebb.PAGE, 0x77)
    status, (verdict,) = dev.read_answer(answer, 1)
    assert status == ebb.RESP_OK and verdict.bytes == COUNT * BLOCK
    dev.done(number)
    after = over(guest, 1)
    # The block that it wrote to was found in use, and left for what an offer is in general.
    assert after["tables-refused"] == 1 and after["tables-freed"] == COUNT - 1
    assert guest.qtest.holds(BASE + COUNT * BLOCK, BLOCK, 0x5a)
    assert guest.qtest.holds(BASE - BLOCK, BLOCK, 0x5b)
    assert after["violations"] == 0


def test_a_guest_that_offers_without_end(vm, kernel_like):
    """Ids of no collection, of one that is over, and a DONE that nobody asked for."""
    guest, dev = start(vm, kernel_like)
    make_empty_tables(guest, dev)
    before = stats(guest)["discarded-bytes"]
    assert dev.free([(BASE, BLOCK)], 1)[0].verdict == ebb.MARKED
    assert dev.done(1) == ebb.RESP_OK
    number, _ = ask(guest, dev)
    assert dev.free([(BASE, BLOCK)], number + 1)[0].verdict == ebb.MARKED
    assert dev.done(number + 1) == ebb.RESP_OK
    assert stats(guest)["collections"] == 0
    assert dev.done(number, ebb.DONE_SHORT) == ebb.RESP_OK
    over(guest, 1)
    assert dev.free([(BASE, COUNT * BLOCK)], number)[0].verdict == ebb.MARKED
    assert stats(guest)["discarded-bytes"] == before


def test_a_reset_ends_it(vm, kernel_like):
    """What was asked before a reset is asked for no more, whatever comes after it (rule 1)."""
    guest, dev = start(vm, kernel_like)
    make_empty_tables(guest, dev)
    number, _ = ask(guest, dev)
    dev.status = 0
    over(guest, 1)
    dev.memory.next = 1 << 20
    dev.up(FEATURES)
    before = stats(guest)["discarded-bytes"]
    assert dev.free([(BASE, COUNT * BLOCK)], number)[0].verdict == ebb.MARKED
    assert stats(guest)["discarded-bytes"] == before
    # A new one finds them again.
    again, ranges = ask(guest, dev)
    assert again != number and ranges == [(BASE, COUNT * BLOCK)]


def test_stopped_and_inhibited(vm, kernel_like):
    """While the machine stands still the question waits; what comes then is as ever."""
    guest, dev = start(vm, kernel_like)
    make_empty_tables(guest, dev)
    number, _ = ask(guest, dev)
    guest.qmp.command("stop")
    answer = dev.send(ebb.free_request([(BASE, COUNT * BLOCK)], number), 24)
    before = stats(guest)["madvise-calls"]
    guest.qmp.command("cont")
    status, (verdict,) = dev.read_answer(answer, 1)
    assert status == ebb.RESP_OK and verdict.verdict == ebb.DISCARDED
    assert stats(guest)["madvise-calls"] == before + 1


def test_a_driver_that_does_not_know_it(vm, kernel_like):
    guest, dev = start(vm, kernel_like, FEATURES[:-1])
    make_empty_tables(guest, dev)
    guest.qmp.set(PATH, "collect", True)
    after = over(guest, 1)
    assert after["tables-found"] == COUNT and after["tables-offered"] == 0


def test_a_buffer_that_is_too_small(vm, kernel_like):
    """Rule 7: it breaks that guest's device and nothing else."""
    guest, dev = start(vm, kernel_like)
    make_empty_tables(guest, dev)
    dev.give_command_buffer(32)
    guest.qmp.set(PATH, "collect", True)
    wait_for(lambda: stats(guest)["broken"], "the device to break")
    assert stats(guest)["violations"] == 1
    dev.status = 0
    over(guest, 1)


def test_a_background_snapshot_meanwhile(vm, kernel_like, tmp_path):
    """The guest was asked before and offers while it is copied: nothing is discarded (rule 6), and what
    is written there then stays. Afterwards all is as before."""
    guest, dev = start(vm, kernel_like)
    guest.qtest.memset(BASE + COUNT * BLOCK, 4 * BLOCK, 0x5a)
    make_empty_tables(guest, dev)
    number, _ = ask(guest, dev)
    before = stats(guest)["discarded-bytes"]
    with snapshot(guest, tmp_path) as slowly:
        verdict, = dev.free([(BASE, COUNT * BLOCK)], number)
        assert verdict == ebb.Verdict(ebb.NOT_MARKED, ebb.REASON_INHIBITED, 0)
        # A write to what is protected waits for the copy.
        threading.Timer(1, slowly.go).start()
        guest.qtest.memset(BASE, 2 * BLOCK, 0x77)
    dev.done(number)
    after = over(guest, 1)
    assert after["tables-freed"] == 0 and after["discarded-bytes"] == before
    assert guest.qtest.holds(BASE, 2 * BLOCK, 0x77)
    assert guest.qtest.holds(BASE + COUNT * BLOCK, 4 * BLOCK, 0x5a)
    guest.qmp.set(PATH, "mode", "eager")
    dev.free([(BASE, COUNT * BLOCK)])
    make_empty_tables(guest, dev)
    number, _ = ask(guest, dev)
    verdict, = dev.free([(BASE, COUNT * BLOCK)], number)
    assert verdict.verdict == ebb.DISCARDED
    dev.done(number)
    assert over(guest, 2)["tables-freed"] == COUNT
    assert guest.qtest.holds(BASE + COUNT * BLOCK, 4 * BLOCK, 0x5a)
