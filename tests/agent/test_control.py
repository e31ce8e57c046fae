# SPDX-License-Identifier: LGPL-2.1-or-later
"""ebbctl and the control socket."""
import fcntl
import json
import os
import pathlib
import pty
import select
import shutil
import signal
import struct
import subprocess
import termios
import threading

import pytest

import wire
from conftest import wait_for
from wire import MIB


@pytest.mark.parametrize("raw, words", [
    (b"{", "not JSON"),
    (b"\0", "not JSON"),
    (b"[]", "not a JSON object"),
    (b"{}", 'no "command"'),
    (b'{"command":"halt"}', '"halt" is not known'),
    (b'{"command":"list","x":1}', 'knows no key "x"'),
    (b" " * 4097, "longer than 4096"),
    (b" " * 100000, "longer than 4096"),
])
def test_bad_request(ebbd, raw, words):
    with ebbd.connect_control() as sock:
        sock.send(raw)
        reply = json.loads(sock.recv(65536))
        assert reply["ok"] is False and reply["code"] == "bad-request" and words in reply["error"]
        # The connection is good for the next one.
        sock.send(b'{"command":"status"}')
        assert json.loads(sock.recv(65536))["ok"] is True


def test_many_requests_on_one_connection(ebbd):
    ebbd.guest(b"web")
    with ebbd.connect_control() as sock:
        for _ in range(200):
            sock.send(b'{"command":"show","guest":"web"}')
            assert json.loads(sock.recv(65536))["guest"]["name"] == "web"


def test_client_that_does_not_read(ebbd):
    """Its answers pile up until it is let go; nobody else waits."""
    ebbd.guest(b"web")
    with ebbd.connect_control() as sock:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(100000):
                sock.send(b'{"command":"show","guest":"web"}')
        assert ebbd.names() == ["web"]


def test_too_many_clients(ebbd):
    socks = [ebbd.connect_control() for _ in range(32)]
    try:
        wait_for("a refusal", lambda: ebbd.ask(command="status").get("code") == "busy")
    finally:
        for sock in socks:
            sock.close()
    wait_for("a place", lambda: ebbd.ask(command="status")["ok"])


def as_nobody():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def test_only_root(ebbd, need_root):
    # The build directory may be out of others' reach.
    ebbd.ebbctl_program = shutil.copy(ebbd.ebbctl_program, ebbd.dir)
    failed = ebbd.ctl("list", status=5, preexec_fn=as_nobody)
    assert "run ebbctl as root" in failed.stderr
    # Where the file lets somebody in, ebbd itself does not.
    ebbd.control.chmod(0o666)
    failed = ebbd.ctl("list", status=5, preexec_fn=as_nobody)
    assert "only root" in failed.stderr
    assert "uid 65534 may not use the control socket" in ebbd.log


def test_no_daemon(idle_ebbd):
    failed = idle_ebbd.ctl("list", status=3)
    assert "no ebbd answers there" in failed.stderr and "systemctl start ebbd" in failed.stderr
    idle_ebbd.start()
    idle_ebbd.kill()
    assert "no ebbd answers there" in idle_ebbd.ctl("list", status=3).stderr


def test_socket_from_the_environment(ebbd):
    env = {**os.environ, "EBB_CONTROL": str(ebbd.control)}
    done = subprocess.run([ebbd.ebbctl_program, "status", "--json"], env=env, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0 and json.loads(done.stdout)["nr_guests"] == 0


@pytest.mark.parametrize("args", [[], ["halt"], ["list", "x"], ["show"], ["set", "web", "mode"],
                                  ["--nonsense"], ["top", "--interval", "0"],
                                  ["top", "--interval", "x"], ["top", "--count", "0"],
                                  ["top", "--count", "-1"], ["release", "web", "some"],
                                  ["release", "web", "0"], ["release", "web", "-5M"]])
def test_usage(ebbd, args):
    failed = ebbd.ctl(*args, status=2)
    assert failed.stderr and not failed.stdout


def test_help(ebbd):
    assert "release GUEST BYTES" in ebbd.ctl("--help").stdout
    assert ebbd.ctl("--version").stdout.startswith("ebbctl ")


def test_no_such_guest(ebbd):
    for args in (["show", "wep"], ["set", "wep", "mode", "lazy"], ["release", "wep", "all"]):
        assert "there is none at the moment" in ebbd.ctl(*args, status=4).stderr
    ebbd.guest(b"web")
    ebbd.guest(b"db")
    for args in (["show", "wep"], ["set", "wep", "mode", "lazy"], ["release", "wep", "all"]):
        failed = ebbd.ctl(*args, status=4)
        assert 'no guest "wep"; there are: db, web' in failed.stderr


def test_set(ebbd):
    guest = ebbd.guest(b"web")
    for word, number in [("lazy", wire.LAZY), ("eager", wire.EAGER), ("auto", wire.AUTO),
                         ("off", wire.OFF), ("keep", wire.KEEP)]:
        assert not ebbd.ctl("set", "web", "mode", word).stdout
        assert guest.expect(wire.Policy) == wire.Policy(number, wire.PLENTY)
        assert ebbd.show("web")["mode_wanted"] == word
    assert ebbd.ctl_json("set", "web", "mode", "lazy") == dict(name="web", key="mode", value="lazy")
    assert "write lazy, eager" in ebbd.ctl("set", "web", "mode", "lasy", status=1).stderr
    failed = ebbd.ctl("set", "web", "colour", "red", status=1)
    assert "there are mode, weight, page-tables and merge" in failed.stderr


def test_set_merge(ebbd):
    """What KSM may merge: told to those who know of it, kept over a restart, shown."""
    guest, old = ebbd.guest(b"web", low=1, high=3), ebbd.guest(b"old", low=1, high=2)
    for word, number in [("hinted", wire.MERGE_HINTED), ("all", wire.MERGE_ALL),
                         ("off", wire.MERGE_OFF), ("keep", wire.MERGE_KEEP)]:
        ebbd.ctl("set", "web", "merge", word)
        assert guest.expect(wire.Merge) == wire.Merge(number)
        assert ebbd.show("web")["merge_wanted"] == word
    assert ebbd.ctl_json("set", "web", "merge", "hinted") == dict(name="web", key="merge",
                                                                  value="hinted")
    assert guest.expect(wire.Merge) == wire.Merge(wire.MERGE_HINTED)
    assert "off, hinted, all or keep" in ebbd.ctl("set", "web", "merge", "lazy", status=1).stderr
    assert json.loads(ebbd.state.read_text())["guests"] == {"web": {"merge": "hinted"}}
    # It would be refused as unknown.
    ebbd.ctl("set", "old", "merge", "all")
    ebbd.ctl("set", "old", "mode", "off")
    assert old.expect(wire.Policy) == wire.Policy(wire.OFF, wire.PLENTY)
    ebbd.ctl("set", "web", "merge", "default")
    assert guest.expect(wire.Merge) == wire.Merge(wire.MERGE_KEEP)
    assert ebbd.show("web")["mode_wanted"] == "keep"


def test_merge_state_is_shown(ebbd):
    guest = ebbd.guest(b"web", low=1, high=3)
    assert ebbd.show("web")["merge"] is None
    guest.send(wire.merge_state(wire.MERGE_HINTED, wire.MERGE_FULL,
                                [8 * MIB, 6 * MIB, 4, 3, 2, 1, 900, 500], [7 * MIB, 5 * MIB, 9, 77]))
    wait_for("the figures", lambda: ebbd.show("web")["merge"])
    shown = ebbd.show("web")["merge"]
    assert shown["mode"] == "hinted" and shown["full"] is True and shown["whole"] is False
    assert (shown["hinted_bytes"], shown["marked_bytes"], shown["areas"]) == (8 * MIB, 6 * MIB, 4)
    assert (shown["marks"], shown["unmarks"], shown["failures"]) == (3, 2, 1)
    assert (shown["usec"], shown["longest_usec"]) == (900, 500)
    assert shown["huge_bytes"] == ebbd.show("web")["huge_bytes"]
    assert shown["huge_before_bytes"] is not None
    assert (shown["guest_hinted_bytes"], shown["guest_cache_bytes"]) == (7 * MIB, 5 * MIB)
    assert (shown["guest_passes"], shown["guest_usec"]) == (9, 77)
    text = ebbd.ctl("show", "web").stdout
    assert "merging: hinted (wanted: keep, group own/web), no more areas" in text
    guest.send(wire.merge_state(mode=4))
    assert "value without meaning" in guest.expect_refused()


def test_set_weight(ebbd):
    ebbd.guest(b"web")
    assert ebbd.show("web")["weight"] == 100
    assert ebbd.ctl_json("set", "web", "weight", "250") == dict(name="web", key="weight", value=250)
    assert ebbd.show("web")["weight"] == 250 and "weight 250" in ebbd.ctl("show", "web").stdout
    for wrong in ("0", "10001", "+1", "1x", "", "heavy", "99999999999999999999999"):
        assert ebbd.ctl("set", "web", "weight", wrong, status=1).stderr
    assert ebbd.show("web")["weight"] == 250
    ebbd.ctl("set", "web", "mode", "lazy")
    ebbd.ctl("set", "web", "weight", "default")
    assert ebbd.show("web")["weight"] == 100 and ebbd.show("web")["mode_wanted"] == "lazy"


def test_set_that_cannot_be_kept(ebbd, need_root):
    """It stands, but ebbctl says that it will not outlive ebbd."""
    guest = ebbd.guest(b"web")
    (ebbd.dir / "run" / "state.new").mkdir()
    assert "cannot be kept" in ebbd.ctl("set", "web", "mode", "lazy", status=1).stderr
    assert guest.expect(wire.Policy).mode == wire.LAZY


GUEST_KEYS = {"name", "label", "pid", "uid", "front", "mode", "stage", "mode_wanted",
              "weight", "stage_wanted", "sample_age_msec", "resident_bytes", "reclaimable_bytes",
              "held_bytes", "huge_bytes", "memory_age_msec", "page_table_bytes",
              "ksm_merged_pages", "ksm_zero_pages", "flags", "device", "guest", "limit",
              "release_under_way", "last_release", "content", "purge_under_way", "last_purge",
              "tables", "page_tables_wanted", "kvm_page_table_bytes", "collect_under_way", "last_collect",
              "merge_wanted", "merge", "merge_group", "merge_waits"}


def test_list_and_show(ebbd):
    assert ebbd.ctl_json("list")["guests"] == []
    assert len(ebbd.ctl("list").stdout.splitlines()) == 1
    guest = ebbd.guest(b"web")
    ebbd.guest(b"db")
    guest.send(wire.sample(flags=0, counters=[512 * MIB, 0, 0, 0, 0, 300 * MIB]))
    wait_for("the sample", lambda: ebbd.show("web")["device"])
    listed = ebbd.ctl_json("list")
    assert listed["nr_guests"] == 2 and listed["host"]["total_bytes"] > 0
    assert [set(g) for g in listed["guests"]] == [GUEST_KEYS] * 2
    shown = ebbd.ctl_json("show", "web")
    assert set(shown) == GUEST_KEYS
    assert shown["resident_bytes"] == shown["reclaimable_bytes"] + shown["held_bytes"] > 0
    lines = ebbd.ctl("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["GUEST", "db", "web", "all"]
    assert "300.0M" in lines[2] and "no driver" in lines[2] and "nothing heard yet" in lines[1]
    text = ebbd.ctl("show", "web").stdout
    for words in ("resident", "reclaimable", "held", "page tables", "no driver", "300.0M"):
        assert words in text


def test_flags_in_words(ebbd):
    guest = ebbd.guest(b"web")
    guest.send(wire.sample(flags=wire.F_DRIVER | wire.F_BROKEN | wire.F_INHIBITED |
                           wire.F_MERGEABLE, counters=[512 * MIB, 64 * MIB]))
    wait_for("the sample", lambda: ebbd.show("web")["device"])
    text = ebbd.ctl("show", "web").stdout
    assert "broke the device's rules" in text
    assert "its VMM forbids discards" in text
    assert "discarded, never marked" in text
    assert "some RAM refused" in text


def test_list_of_many(idle_ebbd):
    """More than go into one answer."""
    idle_ebbd.start()
    names = [f"guest{i:03}" for i in range(150)]
    for name in reversed(names):
        idle_ebbd.guest(name.encode())
    assert [g["name"] for g in idle_ebbd.ctl_json("list")["guests"]] == names
    assert idle_ebbd.ctl_json("status")["nr_guests"] == 150


class Releasing:
    """ebbctl release, or another order, in the background."""

    def __init__(self, ebbd, *args, command="release"):
        self.process = subprocess.Popen(
            [ebbd.ebbctl_program, "--socket", ebbd.control, "--json", command, *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self):
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, json.loads(out) if out else None, err


@pytest.mark.parametrize("status, word, code", [
    (wire.DONE_OK, "ok", 0), (wire.DONE_PARTIAL, "partial", 0), (wire.DONE_SHORT, "guest-short", 1),
    (wire.DONE_UNSUPPORTED, "unsupported", 1), (wire.DONE_CANCELLED, "cancelled", 1),
    (wire.NO_DRIVER, "no-driver", 1), (wire.BUSY, "busy", 1), (wire.RELEASE_OFF, "off", 1)])
def test_release(ebbd, status, word, code):
    guest = ebbd.guest(b"web")
    releasing = Releasing(ebbd, "web", "512M")
    order = guest.expect(wire.Release)
    assert order.bytes == 512 * MIB and order.flags == 0
    assert ebbd.show("web")["release_under_way"] is True
    guest.send(wire.release_done(order.id, 500 * MIB, 400 * MIB, 4700, status, 9))
    returned, reply, _ = releasing.end()
    assert returned == code
    assert reply["name"] == "web"
    release = reply["release"]
    assert release.pop("text")
    assert release == dict(status=word, asked_bytes=512 * MIB, offered_bytes=500 * MIB,
                           discarded_bytes=400 * MIB, usec=4700, passes=9)
    shown = ebbd.show("web")
    assert shown["release_under_way"] is False and shown["last_release"]["status"] == word


def test_release_in_words(ebbd):
    guest = ebbd.guest(b"web")

    def obey():
        order = guest.expect(wire.Release)
        guest.send(wire.release_done(order.id, 3 * MIB, 2 * MIB, 1500, wire.DONE_PARTIAL))
    thread = threading.Thread(target=obey)
    thread.start()
    said = ebbd.ctl("release", "web", "1G").stdout
    thread.join()
    assert "partial: 1.00G asked, 3.00M offered, 2.00M given back in 1.5 ms" in said


def test_release_all(ebbd):
    guest = ebbd.guest(b"web")
    assert "not told the size of its RAM" in ebbd.ctl("release", "web", "all", status=1).stderr
    guest.send(wire.sample(counters=[2048 * MIB]))
    wait_for("the sample", lambda: ebbd.show("web")["device"])
    releasing = Releasing(ebbd, "--anew", "web", "all")
    order = guest.expect(wire.Release)
    assert order.bytes == 2048 * MIB and order.flags == wire.ANEW
    guest.send(wire.release_done(order.id))
    assert releasing.end()[0] == 0


@pytest.mark.parametrize("status, word, code", [
    (wire.PURGE_OK, "ok", 0), (wire.PURGE_PARTIAL, "partial", 0), (wire.PURGE_BUSY, "busy", 1),
    (wire.PURGE_OFF, "off", 1)])
def test_purge(ebbd, status, word, code):
    guest = ebbd.guest(b"web", high=2)
    purging = Releasing(ebbd, "web", "512M", command="purge")
    order = guest.expect(wire.Purge)
    assert order.bytes == 512 * MIB
    assert ebbd.show("web")["purge_under_way"] is True
    assert ebbd.show("web")["release_under_way"] is False
    # One order at a time; and answers to others are no answers.
    assert "under way" in ebbd.ctl("release", "web", "1M", status=1).stderr
    guest.send(wire.purge_done(order.id + 1))
    guest.send(wire.release_done(order.id))
    guest.send(wire.purge_done(order.id, 500 * MIB, 4700, status))
    returned, reply, _ = purging.end()
    assert returned == code and reply["name"] == "web"
    purge = reply["purge"]
    assert purge.pop("text")
    assert purge == dict(status=word, asked_bytes=512 * MIB, purged_bytes=500 * MIB, usec=4700)
    shown = ebbd.show("web")
    assert shown["purge_under_way"] is False and shown["last_purge"]["status"] == word
    assert shown["last_release"] is None
    assert f"last purge: {word}" in ebbd.ctl("show", "web").stdout


@pytest.mark.parametrize("status, word, code", [
    (wire.DONE_OK, "ok", 0), (wire.DONE_PARTIAL, "partial", 0), (wire.DONE_SHORT, "guest-short", 1),
    (wire.RELEASE_OFF, "off", 1), (wire.COLLECT_NO_KERNEL, "no-kernel", 1),
    (wire.COLLECT_HOST_SHORT, "host-short", 1)])
def test_collect(ebbd, status, word, code):
    guest = ebbd.guest(b"web", high=3)
    collecting = Releasing(ebbd, "web", command="collect")
    order = guest.expect(wire.Collect)
    shown = ebbd.show("web")
    assert shown["collect_under_way"] is True and shown["purge_under_way"] is False
    assert "under way" in ebbd.ctl("release", "web", "1M", status=1).stderr
    guest.send(wire.collect_done(order.id + 1))
    guest.send(wire.purge_done(order.id))
    guest.send(wire.collect_done(order.id, (9, 8, 7, 6, 5), 4700, status))
    returned, reply, _ = collecting.end()
    assert returned == code and reply["name"] == "web"
    collect = reply["collect"]
    assert collect.pop("text")
    assert collect == dict(status=word, found=9, asked=8, offered=7, freed=6, refused=5, usec=4700)
    shown = ebbd.show("web")
    assert shown["collect_under_way"] is False and shown["last_collect"]["status"] == word
    assert shown["last_purge"] is None
    assert f"last collection: {word}: 9 page tables found" in ebbd.ctl("show", "web").stdout


def test_set_page_tables(ebbd):
    guest = ebbd.guest(b"web", high=3)
    assert guest.tables_policy == wire.TablesPolicy(wire.TABLES_KEEP, 10000, 4096, 64)
    older = ebbd.guest(b"old", high=2)
    for word, mode in (("background", wire.TABLES_BACKGROUND), ("off", wire.TABLES_OFF),
                       ("on-demand", wire.TABLES_ON_DEMAND), ("default", wire.TABLES_KEEP)):
        said = ebbd.ctl_json("set", "web", "page-tables", word)
        assert said["value"] == word.replace("default", "keep")
        assert guest.expect(wire.TablesPolicy).mode == mode
        assert ebbd.show("web")["page_tables_wanted"] == said["value"]
    assert "write on-demand" in ebbd.ctl("set", "web", "page-tables", "yes", status=1).stderr
    # It outlives the guest, and one that does not know it is told nothing.
    ebbd.ctl("set", "web", "page-tables", "background")
    ebbd.ctl("set", "old", "page-tables", "background")
    guest.close()
    wait_for("the guest's end", lambda: ebbd.names() == ["old"])
    assert ebbd.guest(b"web", high=3).tables_policy.mode == wire.TABLES_BACKGROUND
    ebbd.ctl("set", "old", "mode", "lazy")
    assert older.expect(wire.Policy).mode == wire.LAZY


def test_collect_of_an_older_executor(ebbd):
    ebbd.guest(b"web", high=2)
    assert "older than this ebbd" in ebbd.ctl("collect", "web", status=1).stderr


SKIPPED = dict(other=MIB, locked=0, hugetlb=8 * MIB, shared=0, file=4 * MIB)


def tell_tables(ebbd, name=b"web"):
    guest = ebbd.guest(name, high=3)
    assert ebbd.show(name.decode())["tables"] is None
    guest.send(wire.tables(wire.TABLES_CAN | wire.TABLES_MOVES, collections=3,
                           counts=(9, 8, 7, 6, 5), skipped=13 * MIB, failed=2, unplugged=3,
                           skipped_by=[SKIPPED[word] for word in wire.SKIPPED]))
    wait_for("the figures", lambda: ebbd.show(name.decode())["tables"])


def test_tables_are_shown(ebbd):
    tell_tables(ebbd)
    assert ebbd.show("web")["tables"] == dict(
        supported=True, moves=True, mode="on-demand", collections=3, found=9, asked=8, offered=7,
        freed=6, refused=5, failed=2, unplugged=3, skipped_bytes=13 * MIB,
        skipped_by_bytes=SKIPPED)
    shown = ebbd.ctl("show", "web").stdout
    assert "6  and 5 not empty any more" in shown and "2  offered, but not freed" in shown
    assert "3  more, of memory that virtio-mem" in shown
    assert "8.00M  of RAM whose tables are left alone: hugetlb" in shown
    assert "4.00M  of RAM whose tables are left alone: file" in shown
    assert "left alone: locked" not in shown


def table_of(lines, name):
    """The columns of the guest's line below the last head."""
    head = [i for i, line in enumerate(lines) if line.startswith("GUEST")][-1]
    line, = (line for line in lines[head:] if line.split()[0] == name)
    return dict(zip(lines[head].split(), line.split()))


@pytest.mark.parametrize("args", [("list", "--tables"), ("top", "-t", "-c", "2", "-i", "0.05")])
def test_tables_in_list_and_top(ebbd, args):
    tell_tables(ebbd)
    ebbd.guest(b"old")
    lines = ebbd.ctl(*args).stdout.splitlines()
    row = table_of(lines, "web")
    assert row["TABLES"].endswith(("K", "M")) and row.pop("TABLES") != "0B" and row.pop("KVM")
    assert row == dict(GUEST="web", COLLECTED="on-demand", FOUND="9", ASKED="8", OFFERED="7",
                       FREED="6", REFUSED="5", FAILED="2", UNPLUGGED="3", SKIPPED="13.0M")
    assert table_of(lines, "old")["FOUND"] == "-"
    if args[0] == "top" and "SecPageTables" in pathlib.Path("/proc/meminfo").read_text():
        assert "; page tables of KVM " in lines[0]


def test_metrics(ebbd):
    """Prometheus' text format: each name has a help and a type, once, before its values."""
    guest = ebbd.guest(b'a"b\\c')
    guest.send(wire.sample(counters=[512 * MIB, 0, 0, 0, 0, 300 * MIB]))
    wait_for("the sample", lambda: ebbd.show('a"b\\c')["device"])
    tell_tables(ebbd)
    text = ebbd.ctl("metrics").stdout
    values, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            last = line.split()[2]
            assert last not in types and len(line.split()) > 3
        elif line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name == last and kind == ("counter" if name.endswith("_total") else "gauge")
            types[name] = kind
        else:
            series, value = line.rsplit(" ", 1)
            assert series.split("{")[0] == last and series not in values
            values[series] = int(value)
    assert values["ebb_host_guests"] == 2 and values["ebb_host_total_bytes"] > 0
    for word, number in dict(collections=3, found=9, asked=8, offered=7, freed=6, refused=5,
                             failed=2, unplugged=3).items():
        assert values[f'ebb_guest_tables_{word}_total{{guest="web"}}'] == number
    for reason, size in SKIPPED.items():
        assert values[f'ebb_guest_tables_skipped_bytes{{guest="web",reason="{reason}"}}'] == size
    assert values['ebb_guest_page_table_bytes{guest="web"}'] > 0
    assert values['ebb_guest_tables_supported{guest="web"}'] == 1
    assert values['ebb_guest_marked_bytes_total{guest="a\\"b\\\\c"}'] == 300 * MIB
    # What is not known is not there.
    assert 'ebb_guest_marked_bytes_total{guest="web"}' not in values
    assert 'ebb_guest_tables_found_total{guest="a\\"b\\\\c"}' not in values
    known = "SecPageTables" in pathlib.Path("/proc/meminfo").read_text()
    assert ("ebb_host_kvm_page_table_bytes" in values) == known


def test_purge_of_an_older_executor(ebbd):
    ebbd.guest(b"web")
    assert "older than this ebbd" in ebbd.ctl("purge", "web", "1M", status=1).stderr


def test_content_is_shown(ebbd):
    guest = ebbd.guest(b"web", high=2)
    assert ebbd.show("web")["content"] is None
    guest.send(wire.content(wire.CONTENT_HARDENED, 0, 6 * MIB, 5 * MIB, 4 * MIB, 3))
    wait_for("the figures", lambda: ebbd.show("web")["content"])
    assert ebbd.show("web")["content"] == dict(
        hardened=True, block_bytes=6 * MIB, marked_bytes=5 * MIB, purged_bytes=4 * MIB, notices=3,
        volatile_bytes=None, taken_whole_pages=None, taken_purged_pages=None)
    guest.send(wire.content(0, 0, 6 * MIB, 5 * MIB, 4 * MIB, 3, guest=(2 * MIB, 70, 7)))
    wait_for("more", lambda: ebbd.show("web")["content"]["volatile_bytes"])
    assert ebbd.show("web")["content"] == dict(
        hardened=False, block_bytes=6 * MIB, marked_bytes=5 * MIB, purged_bytes=4 * MIB, notices=3,
        volatile_bytes=2 * MIB, taken_whole_pages=70, taken_purged_pages=7)
    assert "70  pages whole, 7 purged; 3 notices" in ebbd.ctl("show", "web").stdout


LAZY_CHILD_BYTES = 16 * MIB


def test_release_of_marked_memory_asks_anew(ebbd):
    """What is lazily freed was offered before: only an offer anew gives it back."""
    import mmap
    guest = ebbd.guest(b"web")
    with mmap.mmap(-1, LAZY_CHILD_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.write(b"x" * LAZY_CHILD_BYTES)
        area.madvise(mmap.MADV_FREE)
        wait_for("reclaimable memory",
                 lambda: ebbd.show("web")["reclaimable_bytes"] > LAZY_CHILD_BYTES // 2)
        releasing = Releasing(ebbd, "web", "1M")
        order = guest.expect(wire.Release)
        assert order.flags == wire.ANEW
        guest.send(wire.release_done(order.id))
        assert releasing.end()[0] == 0


def test_second_release_is_busy(ebbd):
    guest = ebbd.guest(b"web")
    first = Releasing(ebbd, "web", "1M")
    order = guest.expect(wire.Release)
    assert "is under way" in ebbd.ctl("release", "web", "1M", status=1).stderr
    guest.send(wire.release_done(order.id))
    assert first.end()[0] == 0


def test_release_waits_for_nobody_else(ebbd):
    slow, quick = ebbd.guest(b"slow"), ebbd.guest(b"quick")
    waiting = Releasing(ebbd, "slow", "1M")
    order = slow.expect(wire.Release)
    other = Releasing(ebbd, "quick", "1M")
    quick.send(wire.release_done(quick.expect(wire.Release).id))
    assert other.end()[0] == 0
    assert ebbd.names() == ["quick", "slow"]
    assert waiting.process.poll() is None
    slow.send(wire.release_done(order.id))
    assert waiting.end()[0] == 0


def test_release_of_one_that_goes(ebbd):
    guest = ebbd.guest(b"web")
    releasing = Releasing(ebbd, "web", "1M")
    guest.expect(wire.Release)
    guest.close()
    code, _, err = releasing.end()
    assert code == 1 and "left before it answered" in err


def test_release_without_an_answer(idle_ebbd):
    idle_ebbd.configure(ebbd="release_timeout_msec = 300")
    idle_ebbd.start()
    guest = idle_ebbd.guest(b"web")
    failed = idle_ebbd.ctl("release", "web", "1M", status=1)
    assert "did not answer within 300 ms" in failed.stderr
    order = guest.expect(wire.Release)
    # The answer comes late, and the next one is another.
    guest.send(wire.release_done(order.id))
    releasing = Releasing(idle_ebbd, "web", "1M")
    again = guest.expect(wire.Release)
    assert again.id != order.id
    guest.send(wire.release_done(again.id))
    assert releasing.end()[0] == 0


def test_wrong_id_is_not_taken(ebbd):
    guest = ebbd.guest(b"web")
    releasing = Releasing(ebbd, "web", "1M")
    order = guest.expect(wire.Release)
    guest.send(wire.release_done(order.id + 1, discarded=7))
    guest.send(wire.release_done(order.id, discarded=8))
    assert releasing.end()[1]["release"]["discarded_bytes"] == 8


def test_client_goes_while_a_release_runs(ebbd):
    guest = ebbd.guest(b"web")
    releasing = Releasing(ebbd, "web", "1M")
    order = guest.expect(wire.Release)
    releasing.process.kill()
    releasing.end()
    guest.send(wire.release_done(order.id, discarded=5))
    wait_for("the answer", lambda: ebbd.show("web")["last_release"])
    assert ebbd.show("web")["last_release"]["discarded_bytes"] == 5


def test_balloon_front_cannot_be_asked(ebbd):
    ebbd.guest(b"web", front=wire.FRONT_BALLOON)
    assert "cannot be asked" in ebbd.ctl("release", "web", "1M", status=1).stderr
    assert ebbd.show("web")["front"] == "balloon"


def test_top_in_lines(ebbd):
    ebbd.guest(b"web")
    lines = ebbd.ctl("top", "--count", "3", "--interval", "0.05").stdout.splitlines()
    assert sum(line.startswith("GUEST") for line in lines) == 3
    assert sum(line.startswith("web") for line in lines) == 3
    assert sum("host: plenty" in line for line in lines) == 3
    assert "\033" not in "".join(lines)


def test_top_in_json(ebbd):
    ebbd.guest(b"web")
    lines = ebbd.ctl("--json", "top", "-c", "2", "-i", "0.05").stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert json.loads(line)["guests"][0]["name"] == "web"


def test_top_needs_a_daemon_at_the_start(idle_ebbd):
    idle_ebbd.ctl("top", "--count", "2", status=3)


def test_top_outlives_a_restart(ebbd):
    ebbd.guest(b"web")
    top = subprocess.Popen([ebbd.ebbctl_program, "--socket", ebbd.control, "--json", "top", "-i",
                            "0.05"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert json.loads(top.stdout.readline())["nr_guests"] == 1
        ebbd.kill()
        assert "trying again" in top.stderr.readline()
        ebbd.start()
        wait_for("lines of the new ebbd",
                 lambda: json.loads(top.stdout.readline())["nr_guests"] == 0)
    finally:
        top.send_signal(signal.SIGTERM)
        top.communicate(timeout=60)
    assert top.returncode in (0, 3)


@pytest.mark.parametrize("end", ["q", "interrupt"])
def test_top_on_a_terminal(ebbd, end):
    """It takes the screen, shows what fits, and gives the screen back."""
    ebbd.guest(b"web")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 40, 0, 0))
    before = termios.tcgetattr(slave)
    top = subprocess.Popen([ebbd.ebbctl_program, "--socket", ebbd.control, "top", "-i", "0.05"],
                           stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    seen = b""

    def read_some():
        nonlocal seen
        if select.select([master], [], [], 0.1)[0]:
            seen += os.read(master, 65536)
    try:
        wait_for("three screens", lambda: read_some() or seen.count(b"GUEST") >= 3)
        assert seen.startswith(b"\033[?1049h") and b"\033[H" in seen
        assert b"DISCARDED" not in seen     # behind column 40
        if end == "q":
            os.write(master, b"t")
            wait_for("page tables", lambda: read_some() or b"COLLECTED" in seen)
            os.write(master, b"q")
        else:
            top.send_signal(signal.SIGINT)
        wait_for("the end", lambda: read_some() or top.poll() is not None)
        read_some()
    finally:
        top.kill()
        top.wait()
    assert top.returncode == 0
    assert seen.rstrip().endswith(b"\033[?1049l") and b"\033[?25h" in seen
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_output_that_cannot_be_written(ebbd):
    ebbd.guest(b"web")
    with open("/dev/full", "w") as full:
        done = subprocess.run([ebbd.ebbctl_program, "--socket", ebbd.control, "list"], stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1 and "cannot write: No space left" in done.stderr
