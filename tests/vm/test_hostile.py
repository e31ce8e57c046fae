# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule 7: a hostile driver breaks its device and nothing else.

Raw bytes on the virtqueues of virtio-ebb-pci. After each attack: the memory that was not offered
is whole, QEMU and another device of the same guest work, and after a reset so does ours.
"""
import random

import pytest

from harness import ebb
from harness.ebb import BLOCK, MIB, PAGE, BalloonDevice, EbbDevice, free_request
from harness.qtest import le
from harness.virtio import DESC_INDIRECT, DESC_NEXT, DESC_WRITE
from harness.wait import wait_for

RAM = 256 * MIB
LIVE = 128 * MIB  # never offered by any test here
LIVE_BYTES = 32 * MIB
OFFER = 64 * MIB  # what tests offer
OTHER = 192 * MIB  # offered to the other device


class Scene:
    def __init__(self, vm):
        self.guest = vm.start(
            qtest=True, memory_mib=RAM // MIB,
            devices=[f"virtio-ebb-pci,addr={ebb.SLOT},mode=eager,agent=",
                     "virtio-balloon-pci,free-page-reporting=on,disable-legacy=on,addr=5"])
        self.dev = EbbDevice(self.guest)
        self.dev.up()
        self.other = BalloonDevice(self.guest, slot=5)
        self.other.up()
        self.qtest = self.guest.qtest
        self.qtest.memset(LIVE, LIVE_BYTES, 0xa5)
        self.qtest.memset(OFFER, 16 * MIB, 0x5a)

    def wait_broken(self):
        wait_for(lambda: self.dev.broken, "the device to say that it is broken")

    def check_harm(self, broken=True):
        """Whatever was done, only our device may be the worse for it."""
        if broken:
            self.wait_broken()
        assert self.guest.process.poll() is None
        assert self.guest.qmp.command("query-status")["status"] == "running"
        assert self.qtest.holds(LIVE, LIVE_BYTES, 0xa5)
        self.qtest.memset(OTHER, 8 * MIB, 0x33)
        self.other.report_free([(OTHER, 4 * MIB)])
        assert self.qtest.read(OTHER, 8 * MIB) == bytes(4 * MIB) + b"\x33" * (4 * MIB)
        # A reset mends it.
        self.dev.memory.next = 1 << 20
        self.dev.up()
        assert not self.dev.broken
        self.qtest.memset(OFFER, 16 * MIB, 0x5a)
        verdict, = self.dev.free([(OFFER, 8 * MIB)])
        assert verdict == ebb.Verdict(ebb.DISCARDED, ebb.REASON_NONE, 8 * MIB)
        assert self.qtest.read(OFFER, 16 * MIB) == bytes(8 * MIB) + b"\x5a" * (8 * MIB)


@pytest.fixture
def scene(vm):
    return Scene(vm)


OFFERS = (ebb.REQ_FREE, ebb.REQ_VOLATILE)

BAD_RANGES = {
    "beyond the end of RAM": [(RAM, BLOCK)],
    "over the end of RAM": [(RAM - BLOCK, 2 * BLOCK)],
    "in a PCI BAR": [(0xd4000000, BLOCK)],
    "in the firmware": [(0xfffe0000, 0x10000)],
    "far away": [(1 << 52, BLOCK)],
    "at the top of the address space": [((1 << 64) - BLOCK, BLOCK)],
    "wraps to zero": [((1 << 64) - PAGE, 2 * PAGE)],
    "wraps over RAM": [(OFFER, (1 << 64) - PAGE)],
    "longer than any RAM": [(OFFER, 1 << 62)],
    "no bytes": [(OFFER, 0)],
    "misaligned address": [(OFFER + 512, BLOCK)],
    "misaligned length": [(OFFER, BLOCK + 1)],
    "twice the same": [(OFFER, BLOCK), (OFFER, BLOCK)],
    "overlap by a page": [(OFFER, BLOCK), (OFFER + BLOCK - PAGE, BLOCK)],
    "one inside another, backwards": [(OFFER + BLOCK, BLOCK), (OFFER, 4 * BLOCK)],
    "good ones around a bad one": [(OFFER, BLOCK), (RAM + BLOCK, BLOCK), (OFFER + BLOCK, BLOCK)],
}


@pytest.mark.parametrize("name", BAD_RANGES)
def test_bad_ranges(scene, name):
    ranges = BAD_RANGES[name]
    for kind in OFFERS:
        scene.dev.up()
        scene.dev.send(free_request(ranges, req_type=kind), 8 + 16 * len(ranges))
        scene.wait_broken()
        # A bad request is refused as a whole: nothing of it was done.
        assert scene.qtest.holds(OFFER, 16 * MIB, 0x5a)
    scene.check_harm()


@pytest.mark.parametrize("first,second", [("FREE", "FREE"), ("FREE", "VOLATILE"),
                                          ("VOLATILE", "FREE")])
def test_overlap_with_an_offer_in_flight(scene, first, second):
    """The second offer of the same memory: refused if the first is in flight, else another offer."""
    for kind in (first, second):
        at = scene.dev.memory.take(32)
        scene.qtest.write(at, free_request([(OFFER, 4 * BLOCK)],
                                           req_type=getattr(ebb, f"REQ_{kind}")))
        scene.dev.report.add([(at, 32, False), (scene.dev.memory.take(24), 24, True)])
    scene.dev.report.kick()
    wait_for(lambda: scene.dev.broken or scene.dev.report.used_count() == 2, "a reaction")
    scene.check_harm(broken=False)


GOOD = free_request([(OFFER, BLOCK)])
BAD_REQUESTS = {
    # name: (bytes of the request, room for the answer)
    "no header": (b"", 24),
    "one byte": (GOOD[:1], 24),
    "header cut": (GOOD[:15], 24),
    "header alone": (GOOD[:16], 24),
    "entry cut": (GOOD[:31], 24),
    "a byte too many": (GOOD + b"\0", 24),
    "count 0": (free_request([], count=0), 24),
    "count 0 with an entry": (free_request([(OFFER, BLOCK)], count=0), 24),
    "count more than there is": (free_request([(OFFER, BLOCK)], count=2), 40),
    "count less than there is": (free_request([(OFFER, BLOCK)] * 2, count=1), 40),
    "count of all ones": (free_request([(OFFER, BLOCK)], count=0xffffffff), 24),
    "count whose bytes wrap in 32 bits": (free_request([(OFFER, BLOCK)], count=0x10000001), 24),
    "count over the limit": (free_request([(OFFER + i * PAGE, PAGE) for i in range(1025)]),
                             8 + 16 * 1025),
    "no room for the answer": (GOOD, 0),
    "room for the header alone": (GOOD, 8),
    "one byte of room missing": (GOOD, 23),
    "DONE without a command": (le("HHLQ", ebb.REQ_DONE, 0, 1, 0) + le("LLQ", 0, 1, 0), 8),
    "DONE with a strange status": (le("HHLQ", ebb.REQ_DONE, 0, 1, 7) + le("LLQ", 99, 1, 0), 8),
    "DONE twice in one": (le("HHLQ", ebb.REQ_DONE, 0, 2, 7) + 2 * le("LLQ", 0, 1, 0), 8),
    "STATS with none": (le("HHLQ", ebb.REQ_STATS, 0, 0, 7), 8),
    "STATS with too many": (le("HHLQ", ebb.REQ_STATS, 0, 65, 7) + 65 * le("HHHHQ", 1, 0, 0, 0, 1),
                            8),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_requests(scene, name):
    request, room = BAD_REQUESTS[name]

    def parts(at, answer):
        chain = [(at, len(request), False)] if request else []
        return chain + ([(answer, room, True)] if room else [])

    attempts = [request]
    if request[:2] == GOOD[:2]:
        attempts.append(le("H", ebb.REQ_VOLATILE) + request[2:])
    for request in attempts:
        scene.dev.up()
        scene.dev.send(request, room, parts)
        scene.wait_broken()
        assert scene.qtest.holds(OFFER, 16 * MIB, 0x5a)
    scene.check_harm()


def test_unknown_type_is_answered(scene):
    """The way in which the format grows: not a violation."""
    for kind in (0, 63, 77, 0xffff):
        answer = scene.dev.send(le("HHLQ", kind, 0, 3, 0) + b"whatever this may be", 8)
        assert scene.dev.read_answer(answer, 0)[0] == ebb.RESP_UNSUPPORTED
    scene.check_harm(broken=False)


def test_answers_to_commands_that_nobody_gave(scene):
    assert scene.dev.done(command_id=0xdeadbeef, offered=1 << 62) == ebb.RESP_OK
    stats = le("HHLQ", ebb.REQ_STATS, 0, 3, 12345) + b"".join(
        le("HHHHQ", tag, 9, 9, 9, (1 << 64) - 1) for tag in (1, 0x7fff, 0xffff))
    answer = scene.dev.send(stats, 8)
    assert scene.dev.read_answer(answer, 0)[0] == ebb.RESP_OK
    verdict, = scene.dev.free([(OFFER, BLOCK)], command_id=0x1234567890)
    assert verdict.verdict == ebb.DISCARDED
    scene.check_harm(broken=False)


def chain_loop(q, at, answer):
    q.write_desc(0, at, 32, DESC_NEXT, 1)
    q.write_desc(1, answer, 24, DESC_NEXT | DESC_WRITE, 0)
    return 0


def chain_self_loop(q, at, answer):
    q.write_desc(0, at, 32, DESC_NEXT, 0)
    return 0


def chain_next_out_of_range(q, at, answer):
    q.write_desc(0, at, 32, DESC_NEXT, q.size)
    return 0


def chain_head_out_of_range(q, at, answer):
    return q.size + 3


def chain_read_after_write(q, at, answer):
    q.write_desc(0, answer, 24, DESC_NEXT | DESC_WRITE, 1)
    q.write_desc(1, at, 32, 0, 0)
    return 0


def chain_not_ram(q, at, answer):
    q.write_desc(0, 1 << 50, 32, DESC_NEXT, 1)
    q.write_desc(1, answer, 24, DESC_WRITE, 0)
    return 0


def chain_answer_not_ram(q, at, answer):
    q.write_desc(0, at, 32, DESC_NEXT, 1)
    q.write_desc(1, RAM + MIB, 24, DESC_WRITE, 0)
    return 0


def chain_zero_length(q, at, answer):
    q.write_desc(0, at, 0, DESC_NEXT, 1)
    q.write_desc(1, answer, 24, DESC_WRITE, 0)
    return 0


def chain_indirect_cut(q, at, answer):
    q.write_desc(0, at, 24, DESC_INDIRECT, 0)
    return 0


def chain_indirect_loop(q, at, answer):
    table = q.device.memory.take(4096, 4096)
    q.write_desc(0, at, 32, DESC_NEXT, 1, table)
    q.write_desc(1, answer, 24, DESC_WRITE | DESC_NEXT, 0, table)
    q.write_desc(0, table, 32, DESC_INDIRECT, 0)
    return 0


def chain_indirect_nested(q, at, answer):
    table = q.device.memory.take(4096, 4096)
    q.write_desc(0, table, 4096, DESC_INDIRECT, 0, table)
    q.write_desc(0, table, 4096, DESC_INDIRECT, 0)
    return 0


@pytest.mark.parametrize("build_chain", [
    chain_loop, chain_self_loop, chain_next_out_of_range, chain_head_out_of_range,
    chain_read_after_write, chain_not_ram, chain_answer_not_ram, chain_zero_length,
    chain_indirect_cut, chain_indirect_loop, chain_indirect_nested],
    ids=lambda f: f.__name__)
@pytest.mark.parametrize("queue", ["report", "command"])
def test_bad_chains(scene, build_chain, queue):
    at, answer = scene.dev.memory.take(32), scene.dev.memory.take(24)
    scene.qtest.write(at, GOOD)
    q = getattr(scene.dev, queue)
    q.make_available(build_chain(q, at, answer))
    q.kick()
    if queue == "report" and build_chain in (chain_not_ram, chain_answer_not_ram):
        # QEMU lends such a buffer some memory of its own: the request is nonsense, or its answer
        # goes nowhere.
        wait_for(lambda: scene.dev.broken or q.used_count(), "a reaction")
    elif queue == "report":
        scene.wait_broken()
        assert scene.qtest.holds(OFFER, 16 * MIB, 0x5a)
    # The command queue is looked at when there is a command; until then nothing need happen.
    scene.check_harm(broken=False)


def test_avail_index_jumps(scene):
    scene.qtest.writew(scene.dev.report.avail + 2, 0x8000)
    scene.dev.report.kick()
    scene.check_harm()


def test_offer_of_its_own_rings_and_request(scene):
    """The guest asked for it: its rings may be gone, QEMU and all else may not."""
    at = scene.dev.memory.next // BLOCK * BLOCK
    scene.dev.send(free_request([(at, BLOCK), (0x200000, 6 * MIB)] if at == 0 else [(at, BLOCK)]),
                   40)
    scene.guest.qmp.command("query-status")
    scene.check_harm(broken=False)


def test_answer_inside_the_offer(scene):
    at = scene.dev.memory.take(32)
    scene.qtest.write(at, GOOD)
    scene.dev.report.add([(at, 32, False), (OFFER + PAGE, 24, True)])
    scene.dev.report.kick()
    scene.dev.report.wait_used()
    scene.check_harm(broken=False)


def test_request_changes_while_it_is_read(scene):
    """All that the device acts on must be what it has checked: a request that is rewritten right
    after the notification leads to old, new or broken, and never to harm."""
    for i in range(50):
        at, answer = scene.dev.memory.take(32), scene.dev.memory.take(24)
        scene.qtest.write(at, GOOD)
        scene.dev.report.add([(at, 32, False), (answer, 24, True)])
        scene.dev.report.kick()
        scene.qtest.write(at, free_request([(RAM - PAGE, 1 << 40)]))
        wait_for(lambda: scene.dev.broken or scene.dev.report.used_count() == i + 1, "a reaction")
        if scene.dev.broken:
            break
    scene.check_harm(broken=False)


def random_request(rnd):
    """Bytes that get past some of the checks: a sound header with unsound entries, or the reverse."""
    count = rnd.choice([0, 1, 1, 2, 3, 8, 64, 1024, 1025, 0xffffffff])
    kind = rnd.choice([0, 1, 1, 1, 1, 2, 3, 4, 0xffff])
    entries = []
    for _ in range(min(count, 64)):
        gpa = rnd.choice([OFFER, OFFER + BLOCK, RAM - BLOCK, RAM, rnd.getrandbits(64),
                          OFFER + PAGE * rnd.randrange(2048)])
        size = rnd.choice([0, 1, PAGE, BLOCK, 4 * BLOCK, 1 << 40, rnd.getrandbits(64)])
        if gpa < LIVE and gpa + size > LIVE and gpa + size <= RAM:
            size = PAGE
        entries.append(le("QQ", gpa, size))
    data = le("HHLQ", kind, rnd.getrandbits(16), count, rnd.choice([0, 1, rnd.getrandbits(64)]))
    data += b"".join(entries)
    if rnd.random() < 0.3:
        data = data[:rnd.randrange(len(data) + 1)]
    if rnd.random() < 0.2:
        data += rnd.randbytes(rnd.randrange(64))
    return data


@pytest.mark.parametrize("seed", range(4))
def test_random_requests(scene, seed):
    rnd = random.Random(seed)
    broken = answered = 0
    for _ in range(400):
        request = random_request(rnd)
        room = rnd.choice([0, 7, 8, 24, 8 + 16 * 64, 8 + 16 * 1024])
        cut = rnd.randrange(len(request) + 1)

        def parts(at, answer):
            pieces = [(at, cut, False), (at + cut, len(request) - cut, False)]
            return [p for p in pieces if p[1]] + ([(answer, room, True)] if room else [])

        if not request and not room:
            continue
        scene.dev.memory.next = scene.dev.memory.next % (4 * MIB) or MIB
        before = scene.dev.report.used_count()
        scene.dev.send(request, room, parts)
        wait_for(lambda: scene.dev.broken or scene.dev.report.used_count() != before, "a reaction")
        if scene.dev.broken:
            broken += 1
            scene.dev.memory.next = MIB
            scene.dev.up()
        else:
            answered += 1
    assert broken > 20 and answered > 20, f"{broken} broken, {answered} answered: not much tried"
    scene.check_harm(broken=False)
