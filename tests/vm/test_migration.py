# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest's state goes elsewhere and comes back: nothing of it is lost, and the host's marks, which
stay behind, are asked for anew.

Under TCG the guest stands still while it moves: QEMU 7.2's TCG itself loses writes of a guest that
runs during its migration (seen without any device of ours), so it could not tell us anything."""

import time

from harness import ebb
from harness.guest import accelerator
from harness.hold import held
from harness.wait import wait_for
from test_guest_memory import FRONTS, boot, finish, front, stats, wait_lazyfree  # noqa: F401

MIB = 1 << 20


def generation(guest):
    return stats(guest)["reoffer-generation"]


def wait_status(guest, wanted):
    def status():
        found = guest.qmp.command("query-migrate").get("status")
        assert found not in ("failed", "cancelled"), guest.qemu_output()
        return found == wanted
    wait_for(status, f"the migration to be {wanted}", 300)


def wait_running(guest):
    wait_for(lambda: guest.qmp.command("query-status")["status"] == "running",
             "the guest to run", 120)


def take_over(source, target):
    """What ran in the guest is from now on asked at the target's channel, which follows already."""
    for command in source.channel.running.values():
        command.channel = target.channel
    source.channel.running.clear()
    source.channel.alive = target.channel.alive


def move(source, target, path):
    live = accelerator() == "kvm"
    if not live:
        source.qmp.command("stop")
    target.channel.follow(source.channel)
    target.qmp.command("migrate-incoming", uri=f"unix:{path}")
    source.qmp.command("migrate", uri=f"unix:{path}")
    wait_status(source, "completed")
    wait_for(lambda: target.qmp.command("query-status")["status"] not in ("inmigrate",),
             "the target to have it all")
    if not live:
        target.qmp.command("cont")
    wait_running(target)
    take_over(source, target)


def wait_ok(work):
    """The end of a command that was written before."""
    while not (line := work.read_line()).startswith("ok"):
        assert not line.startswith("error"), line


def run_job(guest, command, **arguments):
    """Run a job of QEMU to its end."""
    guest.qmp.command(command, job_id="job", **arguments)
    def concluded():
        job, = [j for j in guest.qmp.command("query-jobs") if j["id"] == "job"]
        return job["status"] == "concluded" and job
    job = wait_for(concluded, f"{command} to end", 300)
    assert "error" not in job, job
    guest.qmp.command("job-dismiss", id="job")


def add_snapshot_disk(guest, path):
    """Returns what the snapshot jobs are told of it."""
    for options in ({"driver": "file", "filename": str(path), "size": 0},
                    {"driver": "qcow2", "file": "file0", "size": 16 * MIB}):
        if options["driver"] == "qcow2":
            guest.qmp.command("blockdev-add", driver="file", node_name="file0", filename=str(path))
        run_job(guest, "blockdev-create", options=options)
    guest.qmp.command("blockdev-add", driver="qcow2", node_name="disk0", file="file0")
    return {"vmstate": "disk0", "devices": ["disk0"]}


def test_migration_under_load(vm, front, tmp_path):
    """Free memory is marked, used again and freed while the guest moves, there and on."""
    source = boot(vm, front)
    work = source.memwork(200)
    work.ask("fill 200")
    work.ask("free 100")
    wait_lazyfree(source, 100)
    work.ask("fill 100")
    work.write("rounds 3\n")
    target = vm.start(memory_mib=384, devices=[front.option("lazy")], extra=["-incoming", "defer"])
    move(source, target, tmp_path / "socket")
    wait_ok(work)
    assert source.sample().rss_kib > 0
    work.ask("verify")
    work.ask("free 100")
    # A driver of ours offers all anew; an unmodified guest at least what it frees now.
    wait_lazyfree(target, 100 if front.module == "virtio_ebb" else 60)
    work.ask("fill 200")
    finish(work, 2 * 100 * 256)
    assert stats(target)["violations"] == 0


def test_all_is_offered_anew(vm, build, tmp_path):
    """At the target nothing is marked; the generation that the guest sees has changed."""
    ours = FRONTS[1]
    assert build.driver
    source = boot(vm, ours)
    work = source.memwork(200)
    work.ask("fill 200")
    work.ask("free 100")
    wait_lazyfree(source, 100)
    before = generation(source)
    target = vm.start(memory_mib=384, devices=[ours.option("lazy")], extra=["-incoming", "defer"])
    move(source, target, tmp_path / "socket")
    assert generation(target) != before
    wait_for(lambda: stats(target)["marked-bytes"] >= 100 * MIB,
             lambda: f"the guest to offer its free memory anew: {stats(target)}", 300)
    finish(work, 0)


def test_post_copy_inhibits(vm, front, tmp_path):
    """While pages are still to come nothing may be discarded: it would not come any more (rule 6)."""
    source = boot(vm, front, mode="eager")
    work = source.memwork(240)
    work.ask("fill 240")
    source.qmp.command("stop")
    target = vm.start(memory_mib=384, devices=[front.option("eager")], extra=["-incoming", "defer"])
    for guest in (source, target):
        guest.qmp.command("migrate-set-capabilities",
                          capabilities=[{"capability": "postcopy-ram", "state": True}])
    source.qmp.command("migrate-set-parameters", max_bandwidth=MIB, max_postcopy_bandwidth=4 * MIB)
    target.channel.follow(source.channel)
    target.qmp.command("migrate-incoming", uri=f"unix:{tmp_path / 'socket'}")
    source.qmp.command("migrate", uri=f"unix:{tmp_path / 'socket'}")
    wait_status(source, "active")
    source.qmp.command("migrate-start-postcopy")
    wait_status(source, "postcopy-active")
    wait_for(lambda: target.qmp.command("query-status")["status"] != "inmigrate",
             "the target to have the devices' state")
    target.qmp.command("cont")
    take_over(source, target)
    work.ask("free 50")
    wait_for(lambda: stats(target)["not-marked-inhibited-bytes"] > 0,
             lambda: f"an offer to be refused: {stats(target)}", 300)
    assert source.qmp.command("query-migrate")["status"] == "postcopy-active"
    assert stats(target)["discarded-bytes"] == 0
    source.qmp.command("migrate-set-parameters", max_postcopy_bandwidth=0)
    wait_status(source, "completed")
    work.ask("verify")
    work.ask("free 100")
    wait_for(lambda: stats(target)["discarded-bytes"] > 0, "discards to be allowed again", 300)
    finish(work, 120 * 256)


def test_snapshot_and_back(vm, front, tmp_path):
    """savevm, change everything, loadvm: what was, is."""
    guest = boot(vm, front)
    where = add_snapshot_disk(guest, tmp_path / "snapshots.qcow2")
    work = guest.memwork(200)
    work.ask("fill 200")
    work.ask("free 100")
    wait_lazyfree(guest, 100)
    work.ask("fill 100")
    seen = generation(guest)
    run_job(guest, "snapshot-save", tag="one", **where)
    wait_running(guest)
    # Straight back, so that the channel's two ends agree on what has been said.
    guest.qmp.command("stop")
    run_job(guest, "snapshot-load", tag="one", **where)
    assert generation(guest) != seen
    guest.qmp.command("cont")
    work.ask("verify")
    work.ask("fill 100")
    work.ask("free 100")
    wait_lazyfree(guest, 100)
    finish(work, 200 * 256)
    assert stats(guest)["violations"] == 0


def test_offers_in_flight_are_answered_before_the_state_is_saved(vm, tmp_path):
    """The target finds no offer without an answer, and takes the next one (rule 1)."""
    device = f"virtio-ebb-pci,id=ebb,addr={ebb.SLOT},mode=eager,agent="
    source = vm.start(qtest=True, memory_mib=512, devices=[device])
    dev = ebb.EbbDevice(source)
    dev.up()
    source.qtest.memset(64 * MIB, 24 * MIB, 0x5a)
    with held(source.pid, "ebb-executor"):
        answers = [dev.send(ebb.free_request([(64 * MIB + at, 8 * MIB)]), 24)
                   for at in range(0, 24 * MIB, 8 * MIB)]
        source.qmp.command("migrate", uri=f"exec:cat >{tmp_path / 'state'}")
        # Time to save the state, for a device that does not wait.
        time.sleep(2)
    wait_status(source, "completed")
    target = vm.start(qtest=True, memory_mib=512, devices=[device], extra=["-incoming", "defer"])
    target.qmp.command("migrate-incoming", uri=f"exec:cat {tmp_path / 'state'}")
    wait_running(target)
    dev.qtest = target.qtest
    dev.pci.qtest = target.qtest
    for queue in dev.queues.values():
        queue.qtest = target.qtest
    for answer in answers:
        status, (verdict,) = dev.read_answer(answer, 1)
        assert status == ebb.RESP_OK
        assert verdict.verdict in (ebb.DISCARDED, ebb.NOT_MARKED)
    assert stats(target)["requests"] == 0
    verdict, = dev.free([(64 * MIB, 8 * MIB)])
    assert verdict == ebb.Verdict(ebb.DISCARDED, ebb.REASON_NONE, 8 * MIB)
