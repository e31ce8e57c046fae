# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory with content, without a guest: the test is the driver that offers it and takes it back.

Rule 3: what is marked is whole or gone, page by page; it is never discarded, and before anything
copies it, it is made permanent."""
import os

import pytest

from harness import agent, ebb
from harness.ebb import BLOCK, MIB, PAGE, EbbDevice, Verdict
from harness.pageout import pageout_ram
from harness.wait import wait_for

BASE = 64 * MIB
RAM = 256 * MIB


def start(vm, mode="lazy", agent_path="", **options):
    device = f"virtio-ebb-pci,id=ebb,addr={ebb.SLOT},mode={mode},agent={agent_path}"
    guest = vm.start(qtest=True, memory_mib=RAM // MIB, devices=[device], **options)
    dev = EbbDevice(guest)
    dev.up()
    return guest, dev


def stats(guest):
    return guest.qmp.get("/machine/peripheral/ebb", "ebb-stats")


def fill(guest, gpa, size, value=0xa5):
    guest.qtest.memset(gpa, size, value)


def count(guest, gpa, size, value=0xa5):
    """(whole, gone) pages; any other page is an error."""
    data = guest.qtest.read(gpa, size)
    pages = [data[at:at + PAGE] for at in range(0, size, PAGE)]
    whole, gone = pages.count(bytes([value]) * PAGE), pages.count(bytes(PAGE))
    assert whole + gone == len(pages), "a page is neither whole nor gone"
    return whole, gone


def purge(guest, gpa, size):
    """What the kernel may take of it, it takes."""
    pageout_ram(guest, gpa, size)


@pytest.mark.parametrize("mode", ["lazy", "eager", "auto"])
def test_content_is_marked_and_never_discarded(vm, mode):
    guest, dev = start(vm, mode)
    fill(guest, BASE, 8 * BLOCK)
    verdict, = dev.volatile([(BASE, 4 * BLOCK)])
    assert verdict == Verdict(ebb.MARKED, ebb.REASON_NONE, 4 * BLOCK)
    assert count(guest, BASE, 8 * BLOCK) == (8 * BLOCK // PAGE, 0)
    fill(guest, BASE, BLOCK, 0xa5)  # taken back by a write
    purge(guest, BASE, 8 * BLOCK)
    whole, gone = count(guest, BASE, 4 * BLOCK)
    assert gone > 3 * BLOCK // PAGE * 9 // 10, "hardly anything was volatile"
    assert count(guest, BASE, BLOCK) == (BLOCK // PAGE, 0)
    assert count(guest, BASE + 4 * BLOCK, 4 * BLOCK)[1] == 0
    assert stats(guest)["discarded-bytes"] == 0


def test_off_and_rest(vm):
    guest, dev = start(vm, "off")
    fill(guest, BASE, BLOCK)
    assert dev.volatile([(BASE, BLOCK)]) == [Verdict(ebb.NOT_MARKED, ebb.REASON_OFF, 0)]


def test_without_the_feature(vm):
    guest, dev = start(vm)
    assert dev.up((ebb.F_REPORT,)) == {ebb.F_REPORT}
    request = ebb.free_request([(BASE, BLOCK)], req_type=ebb.REQ_VOLATILE)
    status, _ = dev.read_answer(dev.send(request, 24), 1)
    assert status == ebb.RESP_UNSUPPORTED and not dev.broken


def test_small_ranges(vm, memory_cgroup):
    """Parts of a block are marked exactly, where no huge page would be split."""
    group = memory_cgroup()
    guest, dev = start(vm, "eager", cgroup=group)
    fill(guest, BASE, 2 * BLOCK)
    ranges = [(BASE + 64 * 1024 * n, 16 * 1024) for n in range(16)]
    if guest.sample().anon_huge_kib:
        fragments = [Verdict(ebb.NOT_MARKED, ebb.REASON_FRAGMENT, 0)] * 16
        assert dev.volatile(ranges) == fragments
    # Discarding one page of each block leaves no huge page there.
    hole = 60 * 1024
    dev.free([(BASE + hole, PAGE), (BASE + BLOCK + hole, PAGE)])
    verdicts = dev.volatile(ranges)
    if all(v.reason == ebb.REASON_FRAGMENT for v in verdicts):
        pytest.skip("this host's kernel cannot tell whether there are huge pages")
    assert verdicts == [Verdict(ebb.MARKED, ebb.REASON_NONE, 16 * 1024)] * 16
    # PAGEOUT passes over such pages now and then, without a word; reclaim finds them.
    group.reclaim_all()
    whole, gone = 0, 0
    for n in range(16):
        at = BASE + 64 * 1024 * n
        neighbours = count(guest, at + 16 * 1024, 48 * 1024)
        assert neighbours[1] == (1 if n == 0 else 0), "a neighbour was lost"
        mine = count(guest, at, 16 * 1024)
        whole, gone = whole + mine[0], gone + mine[1]
    assert gone > 0


def test_stop_hardens(vm):
    """A stopped machine's memory may be copied: nothing of it goes any more."""
    guest, dev = start(vm)
    fill(guest, BASE, 16 * BLOCK)
    dev.volatile([(BASE, 16 * BLOCK)])
    before = stats(guest)["reoffer-generation"]
    guest.qmp.command("stop")
    assert stats(guest)["hardened"]
    purge(guest, BASE, 16 * BLOCK)
    assert count(guest, BASE, 16 * BLOCK) == (16 * BLOCK // PAGE, 0)
    guest.qmp.command("cont")
    wait_for(lambda: stats(guest)["reoffer-generation"] != before, "the device to ask anew")
    assert not stats(guest)["hardened"]
    verdict, = dev.volatile([(BASE, BLOCK)])
    assert verdict.verdict == ebb.MARKED


def test_reset_hardens(vm):
    guest, dev = start(vm)
    fill(guest, BASE, 16 * BLOCK)
    dev.volatile([(BASE, 16 * BLOCK)])
    dev.reset()
    purge(guest, BASE, 16 * BLOCK)
    assert count(guest, BASE, 16 * BLOCK) == (16 * BLOCK // PAGE, 0)


def test_notices(vm):
    """The guest is told where pages went, and of nothing else."""
    guest, dev = start(vm)
    fill(guest, BASE, 16 * BLOCK)
    at = dev.give_command_buffer()
    dev.volatile([(BASE + 2 * BLOCK, 8 * BLOCK)])
    purge(guest, BASE + 4 * BLOCK, 2 * BLOCK)
    command = dev.wait_command(at)
    assert (command.id, command.type, command.flags) == (0, ebb.CMD_PURGED, 0)
    assert BASE + 4 * BLOCK <= command.gpa
    assert command.gpa + command.bytes <= BASE + 6 * BLOCK
    assert stats(guest)["content-purged-bytes"] >= BLOCK


def test_mergeable_memory_is_left_alone(vm):
    """Rule 2: where KSM may be, nothing is freed, and content is not discarded instead."""
    guest = vm.start(qtest=True, memory_mib=RAM // MIB, extra=["-machine", "mem-merge=on"],
                     devices=[f"virtio-ebb-pci,id=ebb,addr={ebb.SLOT},mode=lazy,agent="])
    dev = EbbDevice(guest)
    dev.up()
    fill(guest, BASE, BLOCK)
    verdict, = dev.volatile([(BASE, BLOCK)])
    assert verdict == Verdict(ebb.NOT_MARKED, ebb.REASON_BACKING, 0)
    assert count(guest, BASE, BLOCK) == (BLOCK // PAGE, 0)


def expect_hard(guest, dev, what):
    """Nothing of [BASE, + 16 blocks), which was offered whole, goes now, and no more is marked."""
    assert stats(guest)["hardened"], what
    purge(guest, BASE, 16 * BLOCK)
    assert count(guest, BASE, 16 * BLOCK) == (16 * BLOCK // PAGE, 0), what


def migration_status(guest):
    return guest.qmp.command("query-migrate").get("status")


@pytest.mark.parametrize("background", [False, True], ids=["migration", "background-snapshot"])
def test_what_is_copied_from_a_running_machine_is_hard(vm, tmp_path, background):
    guest, dev = start(vm)
    if background:
        try:
            guest.qmp.command("migrate-set-capabilities", capabilities=[
                {"capability": "background-snapshot", "state": True}])
        except Exception as e:  # the host's kernel or QEMU cannot
            pytest.skip(f"no background snapshots here: {e}")
    fill(guest, BASE, 16 * BLOCK)
    dev.volatile([(BASE, 16 * BLOCK)])
    before = stats(guest)["reoffer-generation"]
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # Nobody reads what QEMU writes before the gate is opened.
    guest.qmp.command("migrate", uri=f"exec:cat {gate}; cat >{tmp_path / 'state'}")
    wait_for(lambda: migration_status(guest) == "active" and
             guest.qmp.command("query-status")["running"], "the copy to be under way")
    expect_hard(guest, dev, "while it is copied")
    verdict, = dev.volatile([(BASE, BLOCK)])
    assert verdict == Verdict(ebb.NOT_MARKED, ebb.REASON_INHIBITED, 0)
    if not background:
        guest.qmp.command("migrate_cancel")
    gate.write_bytes(b"")
    wait_for(lambda: migration_status(guest) in ("cancelled", "completed"), "the end of the copy")
    wait_for(lambda: stats(guest)["reoffer-generation"] != before, "the device to ask anew")
    verdict, = dev.volatile([(BASE, BLOCK)])
    assert verdict == Verdict(ebb.MARKED, ebb.REASON_NONE, BLOCK)


def test_a_migration_carries_what_was_whole(vm, tmp_path):
    """Pages that are purged on the source while it is copied would arrive torn."""
    source, dev = start(vm)
    fill(source, BASE, 16 * BLOCK)
    dev.volatile([(BASE, 16 * BLOCK)])
    source.qmp.command("migrate-set-parameters", max_bandwidth=16 * MIB)
    source.qmp.command("migrate", uri=f"exec:cat >{tmp_path / 'state'}")
    # What goes before the copy begins goes with a notice, as ever.
    wait_for(lambda: stats(source)["hardened"], "the copy to begin")
    while migration_status(source) not in ("completed", "failed"):
        purge(source, BASE, 16 * BLOCK)
    assert migration_status(source) == "completed"
    target = vm.start(qtest=True, memory_mib=RAM // MIB, extra=["-incoming", "defer"],
                      devices=[f"virtio-ebb-pci,id=ebb,addr={ebb.SLOT},mode=lazy,agent="])
    target.qmp.command("migrate-incoming", uri=f"exec:cat {tmp_path / 'state'}")
    wait_for(lambda: target.qmp.command("query-status")["running"], "the target to run")
    assert count(target, BASE, 16 * BLOCK) == (16 * BLOCK // PAGE, 0)


def test_dump_finds_it_whole(vm, tmp_path):
    """A dump of a running machine stops it first."""
    guest, dev = start(vm)
    fill(guest, BASE, 4 * BLOCK)
    dev.volatile([(BASE, 4 * BLOCK)])
    guest.qmp.command("dump-guest-memory", paging=False, protocol=f"file:{tmp_path / 'dump'}",
                      begin=BASE, length=4 * BLOCK)
    assert (tmp_path / "dump").read_bytes().count(b"\xa5" * PAGE) == 4 * BLOCK // PAGE
    # It was made permanent, and the guest is asked to offer it anew.
    purge(guest, BASE, 4 * BLOCK)
    assert count(guest, BASE, 4 * BLOCK) == (4 * BLOCK // PAGE, 0)
    assert stats(guest)["reoffer-generation"] > 0


def test_purge_by_hand(vm):
    guest, dev = start(vm)
    fill(guest, BASE, 16 * BLOCK)
    dev.volatile([(BASE, 16 * BLOCK)])
    fill(guest, BASE, 4 * BLOCK)  # taken back
    guest.qmp.command("qom-set", path="/machine/peripheral/ebb", property="purge",
                      value=12 * BLOCK)
    wait_for(lambda: stats(guest)["purges"] == 1, "the purge")
    assert count(guest, BASE, 4 * BLOCK) == (4 * BLOCK // PAGE, 0)
    whole, gone = count(guest, BASE + 4 * BLOCK, 12 * BLOCK)
    assert gone == stats(guest)["content-purged-bytes"] // PAGE > whole


def test_purge_by_the_agent(vm, tmp_path):
    """As ebbd does it when the host is short: the guest is told that this is so."""
    fake = agent.FakeAgent(tmp_path / "agent")
    guest, dev = start(vm, "auto", agent_path=fake.path)
    fake.accept(version=2)
    fake.policy(agent.MODE_KEEP, agent.STAGE_PLENTY)
    fill(guest, BASE, 16 * BLOCK)
    rest = Verdict(ebb.NOT_MARKED, ebb.REASON_REST, 0)
    assert dev.volatile([(BASE, 8 * BLOCK)]) == [rest]
    fake.policy(agent.MODE_KEEP, agent.STAGE_SHORT)
    verdict, = dev.volatile([(BASE, 8 * BLOCK)])
    assert verdict == Verdict(ebb.MARKED, ebb.REASON_NONE, 8 * BLOCK)
    fake.purge(7, 4 * BLOCK)
    done = fake.purge_done()
    assert done["id"] == 7 and done["status"] == agent.PURGE_OK
    assert 4 * BLOCK <= done["purged_bytes"] <= 8 * BLOCK
    whole, gone = count(guest, BASE, 16 * BLOCK)
    assert gone * PAGE == done["purged_bytes"]
    while (command := dev.wait_command(dev.give_command_buffer())).type == ebb.CMD_STATS:
        pass
    assert (command.id, command.type, command.flags) == (0, ebb.CMD_PURGED, ebb.PURGED_F_COMPLETE)
    figures = fake.content(lambda c: c["notices"] > 0)
    assert figures["marked_bytes"] == 8 * BLOCK
    assert figures["purged_bytes"] == done["purged_bytes"]
    guest.qmp.command("stop")
    assert fake.content(lambda c: c["flags"] & agent.CONTENT_F_HARDENED)["block_bytes"] == 0
    fake.purge(8, BLOCK)
    assert fake.purge_done()["status"] == agent.PURGE_OFF


def test_many_losses_and_few_buffers(vm):
    """Nothing waits for the driver; what it is told covers all that went, and nothing else."""
    guest, dev = start(vm)
    fill(guest, BASE, 64 * BLOCK)
    dev.volatile([(BASE + 2 * n * BLOCK, BLOCK) for n in range(32)])
    purge(guest, BASE, 64 * BLOCK)
    gone = {n for n in range(64) if count(guest, BASE + n * BLOCK, BLOCK)[1]}
    assert gone and all(n % 2 == 0 for n in gone)
    wait_for(lambda: stats(guest)["content-purged-bytes"] >= len(gone) * BLOCK, "the scan")
    told = set()
    while gone - told:
        command = dev.wait_command(dev.give_command_buffer())
        assert command.type == ebb.CMD_PURGED
        blocks = range((command.gpa - BASE) // BLOCK, (command.gpa + command.bytes - BASE) // BLOCK)
        assert set(blocks) <= gone
        told |= set(blocks)


def test_content_and_free_in_one_block(vm):
    """What is offered as free is content no more, whichever way it goes."""
    guest, dev = start(vm, "eager")
    fill(guest, BASE, 4 * BLOCK)
    dev.volatile([(BASE, 4 * BLOCK)])
    dev.free([(BASE + BLOCK, BLOCK // 2)])
    assert guest.qtest.holds(BASE + BLOCK, BLOCK // 2, 0)
    assert count(guest, BASE, BLOCK)[1] == 0
    guest.qmp.command("stop")
    guest.qmp.command("cont")
    rest = count(guest, BASE, 4 * BLOCK)
    assert rest == (4 * BLOCK // PAGE - BLOCK // 2 // PAGE, BLOCK // 2 // PAGE)
