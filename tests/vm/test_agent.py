# SPDX-License-Identifier: LGPL-2.1-or-later
"""ebbd and ebbctl with real guests: what is shown, asked and told, and an ebbd that dies."""
import os
import re
import signal

import pytest

from harness.ebbd import Ebbd
from harness.pageout import pageout
from harness.proc import sample
from harness.volatile import counters
from harness.wait import wait_for

MIB = 1 << 20
GUEST_MIB = 384


@pytest.fixture
def agent(build, tmp_path):
    agent = Ebbd(build.ebbd, build.ebbctl, tmp_path)
    yield agent
    agent.close()


def boot(vm, agent, name, mode="auto", front="virtio-ebb-pci", modules=("virtio_ebb",), **options):
    device = f"{front},id=ebb,label={name},agent={agent.socket},mode={mode}"
    return vm.boot(modules=modules, memory_mib=GUEST_MIB, devices=[device], **options)


def churn(guest, mib):
    """Touch so much and free it again."""
    status, output = guest.memwork(mib, rounds=1).wait(300), None
    assert status == 0, output


def test_shown_set_and_released(vm, agent):
    agent.start()
    guest = boot(vm, agent, "web")
    shown = agent.wait_guest("web", "the driver's word", lambda g: g["device"] and
                             g["flags"]["driver"] and g["guest"] and g["guest"]["free_bytes"])
    assert shown["pid"] == guest.pid and shown["front"] == "ebb"
    assert shown["device"]["ram_bytes"] == GUEST_MIB * MIB
    assert shown["mode"] == "auto" and shown["stage"] == "plenty"

    # At rest nothing is marked; what was touched stays resident.
    churn(guest, 200)
    before = agent.json("show", "web")
    assert before["resident_bytes"] > 200 * MIB

    # lazy: it stays resident, and becomes reclaimable.
    agent.run("set", "web", "mode", "lazy")
    lazy = agent.wait_guest("web", "reclaimable memory and its mode", lambda g:
                            g["reclaimable_bytes"] > 150 * MIB and g["mode"] == "lazy")
    assert lazy["held_bytes"] == lazy["resident_bytes"] - lazy["reclaimable_bytes"]
    assert lazy["device"]["marked_bytes"] > 150 * MIB

    # release: it goes, although it was offered before.
    released = agent.json("release", "web", "all")["release"]
    assert released["status"] in ("ok", "partial")
    assert released["discarded_bytes"] > 150 * MIB
    after = agent.json("show", "web")
    assert after["resident_bytes"] < lazy["resident_bytes"] - 150 * MIB
    assert after["last_release"] == released

    # off: nobody asks any more.
    agent.run("set", "web", "mode", "off")
    agent.wait_guest("web", "mode off", lambda g: g["mode"] == "off")
    failed = agent.run("release", "web", "all", status=1)
    assert "mode is off" in failed.stderr


def test_content_is_counted_end_to_end(vm, agent, programs, memory_cgroup):
    """What is volatile, purged and taken back: the guest's own figures are those that ebbctl shows,
    and the policy sees them: it purges by itself when the guest's group is short."""
    agent.start()
    guest = boot(vm, agent, "web", mode="lazy", cgroup=memory_cgroup(640 * MIB))
    guest.check("echo 1 >/sys/module/virtio_ebb/parameters/age_msec")
    work = guest.spawn("exec volserve 4096")
    work.ask("mark")
    shown = agent.wait_guest("web", "what is volatile", lambda g: g["content"] and
                             g["content"]["volatile_bytes"] == 16 * MIB)
    assert shown["content"]["marked_bytes"] >= 16 * MIB
    assert not shown["content"]["taken_whole_pages"] and not shown["content"]["taken_purged_pages"]
    assert agent.json("purge", "web", "8M")["purge"]["purged_bytes"] >= 8 * MIB
    wait_for(lambda: "purged 0 " not in work.ask("query") + " ", "the guest to hear of it")
    work.ask("unmark")
    mine = counters(guest)
    assert mine["purged"] >= 2048 and mine["whole"] > 0
    shown = agent.wait_guest("web", "the end", lambda g: not g["content"]["volatile_bytes"] and
                             g["content"]["taken_whole_pages"] == mine["whole"])["content"]
    assert shown["taken_purged_pages"] == mine["purged"]
    assert shown["purged_bytes"] >= 8 * MIB and shown["notices"] > 0
    text = agent.run("show", "web").stdout
    assert f"{mine['whole']}  pages whole, {mine['purged']} purged" in text
    assert re.search(r"volatile +0B", text) and re.search(r"purged +8.00M", text), text

    # Short of everything: what is volatile goes without being asked for.
    agent.configure("mode = auto\nnearing_percent = 90\nshort_percent = 89\nhysteresis_percent = 10\n"
                    "release = yes\nsettle_msec = 0\nguest_floor = 10G")
    work.ask("mark")
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_guest("web", "a purge by policy", lambda g: g["last_purge"] and
                     counters(guest)["purged"] > mine["purged"])
    work.write("quit\n")
    assert work.wait() == 0


def test_killed_and_back(vm, agent):
    """The guest goes on with the last word, is found again, and keeps what was set."""
    agent.start()
    guest = boot(vm, agent, "web")
    agent.wait_guest("web", "the driver", lambda g: g["flags"]["driver"])
    agent.run("set", "web", "mode", "lazy")
    agent.wait_guest("web", "mode lazy", lambda g: g["mode"] == "lazy")
    work = guest.memwork(150, rounds=6)
    for _ in range(3):
        agent.kill()
        churn(guest, 60)
        agent.start()
        shown = agent.wait_guest("web", "the guest again",
                                 lambda g: g["device"] and g["mode"] == "lazy")
        assert shown["pid"] == guest.pid
    assert work.wait(300) == 0, work.output
    # What was freed while ebbd was away was marked all the same.
    agent.wait_guest("web", "marks", lambda g: g["reclaimable_bytes"] > 50 * MIB)


def test_unmodified_guest(vm, agent):
    agent.start()
    guest = boot(vm, agent, "old", front="virtio-ebb-balloon-pci", mode="lazy",
                 modules=("virtio_balloon",))
    agent.wait_guest("old", "a sample", lambda g: g["device"])
    churn(guest, 200)
    shown = agent.wait_guest("old", "reclaimable memory",
                             lambda g: g["reclaimable_bytes"] > 150 * MIB)
    assert shown["front"] == "balloon"
    assert "cannot be asked" in agent.run("release", "old", "all", status=1).stderr


def test_two_guests_of_one_name(vm, agent):
    agent.start()
    guests = [boot(vm, agent, "web", modules=()) for _ in range(2)]
    wait_for(lambda: len(agent.names()) == 2, "both")
    by_pid = {g["pid"]: g["name"] for g in agent.json("list")["guests"]}
    assert set(by_pid) == {g.pid for g in guests}
    assert sorted(by_pid.values())[0] == "web"
    os.kill(guests[0].pid, signal.SIGKILL)
    guests[0].process.wait()
    wait_for(lambda: len(agent.names()) == 1, "the other one alone")


def test_stage_and_release_of_a_limited_guest(vm, agent, memory_cgroup):
    """A guest whose cgroup runs short is told so, and its free memory goes."""
    agent.configure("nearing_percent = 40\nshort_percent = 25\nhysteresis_percent = 2\n"
                    "calm_msec = 1000\nsettle_msec = 500\nguest_floor = 8M")
    agent.start()
    cgroup = memory_cgroup(500 * MIB)
    guest = boot(vm, agent, "web", cgroup=cgroup)
    shown = agent.wait_guest("web", "the driver", lambda g: g["flags"]["driver"] and g["limit"])
    assert shown["limit"]["limit_bytes"] == 500 * MIB
    churn(guest, 280)
    # What was asked for at once is gone; what came free when it was no longer short is marked.
    agent.wait_guest("web", "little held", lambda g: g["held_bytes"] < 280 * MIB and
                     g["device"]["discarded_bytes"] > 64 * MIB and
                     g["limit"]["stage"] == "nearing")
    status, output = guest.run("memwork -m 100 -r 2")
    assert status == 0, output


def test_what_is_used_again_is_not_available(vm, agent, memory_cgroup):
    """Lazily freed memory that was used again stays on the kernel's lists of what it can take."""
    agent.start()
    cgroup = memory_cgroup(640 * MIB)
    guest = boot(vm, agent, "web", mode="lazy", cgroup=cgroup)
    work = guest.memwork(250)
    work.ask("fill 250")
    work.ask("free 100")

    def available_is(marked, bytes_listed):
        """What ebbd says, while so much is marked and so much stands on the lists at least."""
        def look(g):
            room = 640 * MIB - cgroup.usage_bytes() + g["reclaimable_bytes"]
            return (marked(g["reclaimable_bytes"]) and
                    cgroup.inactive_file_bytes() >= bytes_listed and
                    room - 16 * MIB < g["limit"]["available_bytes"] < room + 32 * MIB)
        agent.wait_guest("web", f"the right figure, {bytes_listed >> 20} MiB listed", look)
    available_is(lambda now: now > 200 * MIB, 200 * MIB)
    work.ask("refill")
    # The kernel has not looked at them since.
    available_is(lambda now: now < 100 * MIB, 180 * MIB)
    work.ask("verify")
    work.write("quit\n")
    assert work.wait() == 0


COUNTED = ("found", "asked", "offered", "freed", "refused", "failed", "unplugged")


def tables_are_seen(agent, guest, name):
    """What the device counts is what `show`, `list`, `top` and the metrics say, and VmPTE is the
    kernel's word."""
    mine = guest.qmp.get("/machine/peripheral/ebb", "ebb-stats")
    want = {key: mine[f"tables-{key}"] for key in COUNTED}
    want["collections"] = mine["collections"]
    shown = agent.wait_guest(name, f"the figures {want}", lambda g: all(
        g["tables"][key] == value for key, value in want.items()))
    assert shown["tables"]["skipped_bytes"] == mine["skipped-ram-bytes"]
    assert shown["tables"]["skipped_by_bytes"] == {
        reason: mine[f"skipped-{reason}-bytes"]
        for reason in ("other", "locked", "hugetlb", "shared", "file")}
    kib = sample(guest.pid).page_tables_kib
    assert abs(shown["page_table_bytes"] - kib * 1024) <= 256 * 1024
    text = agent.run("show", name).stdout
    assert re.search(rf"found +{want['found']}  in {want['collections']} collections", text), text
    assert re.search(rf"asked +{want['asked']}  of the guest, which offered {want['offered']}", text)
    assert re.search(rf"freed +{want['freed']}  and {want['refused']} not empty", text), text
    for command in (("list", "--tables"), ("top", "--tables", "--count", "1")):
        lines = agent.run(*command).stdout.splitlines()
        head, = (line.split() for line in lines if line.startswith("GUEST"))
        row, = (line.split() for line in lines if line.startswith(name + " "))
        row = dict(zip(head, row))
        assert {key: row[key.upper()] for key in COUNTED} == {
            key: str(want[key]) for key in COUNTED}
        assert row["TABLES"].endswith(("K", "M")), row
    series = dict(line.rsplit(" ", 1) for line in agent.run("metrics").stdout.splitlines()
                  if not line.startswith("#"))
    for key in want:
        assert int(series[f'ebb_guest_tables_{key}_total{{guest="{name}"}}']) == want[key]
    assert int(series[f'ebb_guest_page_table_bytes{{guest="{name}"}}']) >= 100 * 1024
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        kvm = "SecPageTables" in meminfo.read()
    status = agent.json("status")["host"]["sec_page_table_bytes"]
    assert ("ebb_host_kvm_page_table_bytes" in series) == (status is not None) == kvm


def test_page_tables_are_collected(vm, agent):
    """By hand, and then in the background: what was freed and purged leaves no table."""
    agent.configure("nearing_percent = 1\nshort_percent = 0\nanswer_msec = 0\n"
                    "page_tables_delay_msec = 200\npage_tables_least = 1")
    agent.start()
    guest = boot(vm, agent, "web", mode="lazy")
    shown = agent.wait_guest("web", "the device's word", lambda g: g["tables"])
    if not shown["tables"]["supported"]:
        pytest.skip("this host's kernel cannot free empty page tables")
    assert shown["tables"]["mode"] == "on-demand"

    def purge():
        churn(guest, 200)
        agent.wait_guest("web", "the marks", lambda g: g["reclaimable_bytes"] > 120 * MIB)
        pageout(guest.pid, guest.host_address(0), GUEST_MIB * MIB)

    purge()
    collect = agent.json("collect", "web")["collect"]
    assert collect["status"] == "ok" and collect["freed"] > 30, collect
    assert collect["freed"] <= collect["offered"] <= collect["asked"] <= collect["found"]
    tables_are_seen(agent, guest, "web")
    agent.run("set", "web", "page-tables", "off")
    wait_for(lambda: agent.json("show", "web")["tables"]["mode"] == "off", "the mode")
    assert "page-tables is off" in agent.run("collect", "web", status=1).stderr
    before = agent.json("show", "web")["tables"]["freed"]
    agent.run("set", "web", "page-tables", "background")
    purge()
    agent.wait_guest("web", "passes", lambda g: g["tables"]["freed"] > before + 30)
    assert guest.memwork(200, rounds=1).wait(600) == 0
