# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ebbd does with each message, good and bad, on the executors' socket."""
import array
import os
import signal
import socket
import struct
import time

import pytest

import wire
from conftest import wait_for
from wire import MIB


def test_handshake(ebbd):
    guest = ebbd.guest(b"web1")
    assert guest.welcome == wire.Welcome(1, 100)
    assert guest.policy == wire.Policy(wire.KEEP, wire.PLENTY)
    shown = ebbd.show("web1")
    assert shown["label"] == "web1" and shown["front"] == "ebb"
    assert shown["mode"] is None and shown["device"] is None and shown["guest"] is None
    assert shown["mode_wanted"] == "keep" and shown["stage_wanted"] == "plenty"


def test_version_is_negotiated(ebbd):
    assert ebbd.guest(low=1, high=9).welcome.version == 3
    assert ebbd.guest(low=1, high=2).welcome.version == 2
    assert ebbd.guest(low=1, high=1).welcome.version == 1


@pytest.mark.parametrize("low, high", [(4, 4), (4, 65535)])
def test_version_mismatch(ebbd, low, high):
    guest = ebbd.executor()
    guest.send(wire.hello(low=low, high=high))
    assert guest.expect_refused() == \
        f"it speaks protocol versions {low} to {high}, this ebbd 1 to 3"


BAD = {
    "empty header": (b"\x01", "message length does not match"),
    "header only": (wire.message(wire.HELLO, b""), "message length does not match"),
    "one byte short": (wire.hello()[:-1], "message length does not match"),
    "one byte long": (wire.hello() + b"\0", "message length does not match"),
    "length says less": (wire.hello(length=8), "message length does not match"),
    "length says more": (wire.hello(length=1 << 31), "message length does not match"),
    "type 0": (wire.message(0, b"\0" * 64), "type is not known"),
    "type 7": (wire.message(7, b"\0" * 64), "type is not known"),
    "type 65535": (wire.message(65535, b"\0" * 64), "type is not known"),
    "reserved in the header": (wire.hello(reserved=1), "reserved field is not zero"),
    "version 0": (wire.hello(low=0, high=1), "value without meaning"),
    "versions reversed": (wire.hello(low=2, high=1), "value without meaning"),
    "front 0": (wire.hello(front=0), "value without meaning"),
    "front 3": (wire.hello(front=3), "value without meaning"),
    "no name": (wire.hello(b""), "not NUL-terminated printable"),
    "name without end": (wire.hello(b"x" * 64), "not NUL-terminated printable"),
    "name with a slash": (wire.hello(b"../state"), "not NUL-terminated printable"),
    "name with a space": (wire.hello(b"a b"), "not NUL-terminated printable"),
    "name with a control": (wire.hello(b"a\x1b[2J"), "not NUL-terminated printable"),
    "name in UTF-8": (wire.hello("grün".encode()), "not NUL-terminated printable"),
    "bytes behind the name": (wire.hello(b"a\0b"), "reserved field is not zero"),
    "longer than any": (wire.message(wire.HELLO, b"\0" * 1017), "none is longer than 1024"),
    "much longer than any": (wire.message(wire.HELLO, b"\0" * 60000), "none is longer than 1024"),
    "WELCOME": (wire.message(wire.WELCOME, struct.pack("<LL", 1, 100)), "type is not known"),
    "POLICY": (wire.message(wire.POLICY, struct.pack("<LL", 1, 1)), "type is not known"),
    "RELEASE": (wire.message(wire.RELEASE, struct.pack("<QQLL", 1, 1, 0, 0)), "type is not known"),
    "REFUSE": (wire.message(wire.REFUSE, b"x" + b"\0" * 127), "type is not known"),
    "CONTENT before HELLO": (wire.content(), "type is not known"),
    "COLLECT": (wire.message(wire.COLLECT, struct.pack("<Q", 1)), "type is not known"),
    "TABLES before HELLO": (wire.tables(), "type is not known"),
    "PURGE": (wire.message(wire.PURGE, struct.pack("<QQ", 1, 1)), "type is not known"),
    "MERGE": (wire.message(wire.MERGE, struct.pack("<LL", 1, 0)), "type is not known"),
    "SAMPLE before HELLO": (wire.sample(), "came before HELLO"),
    "RELEASE_DONE before HELLO": (wire.release_done(1), "came before HELLO"),
}

BAD_AFTER_HELLO = {
    "CONTENT in version 1": (wire.content(), "type is not known"),
    "MERGE_STATE in version 1": (wire.merge_state(), "type is not known"),
    "PURGE_DONE in version 1": (wire.purge_done(1), "type is not known"),
    "TABLES in version 1": (wire.tables(), "type is not known"),
    "COLLECT_DONE in version 1": (wire.collect_done(1), "type is not known"),
    "second HELLO": (wire.hello(), "a second HELLO"),
    "mode keep": (wire.sample(mode=wire.KEEP), "value without meaning"),
    "mode 5": (wire.sample(mode=5), "value without meaning"),
    "stage 0": (wire.sample(stage=0), "value without meaning"),
    "stage 4": (wire.sample(stage=4), "value without meaning"),
    "unknown flag": (wire.sample(flags=32), "reserved field is not zero"),
    "reserved in SAMPLE": (wire.sample(reserved=1), "reserved field is not zero"),
    "short SAMPLE": (wire.sample()[:-8], "message length does not match"),
    "id 0": (wire.release_done(0), "value without meaning"),
    "status 19": (wire.release_done(1, status=19), "value without meaning"),
    "reserved in the header": (wire.sample(reserved=0, length=None)[:2] + b"\x01\0" +
                               wire.sample()[4:], "reserved field is not zero"),
}


def refused_alone(ebbd, packet, words, greet):
    """The bad one is refused in words, once in the log, and nobody else notices."""
    other = ebbd.guest(b"other")
    bad = ebbd.guest(b"bad") if greet else ebbd.executor()
    bad.send(packet)
    assert words in bad.expect_refused()
    assert ebbd.log.count("is refused") == 1
    wait_for("only the other", lambda: ebbd.names() == ["other"])
    other.send(wire.sample(counters=[512 * MIB]))
    wait_for("the other's sample", lambda: ebbd.show("other")["device"])


@pytest.mark.parametrize("name", BAD)
def test_bad_message(ebbd, name):
    refused_alone(ebbd, *BAD[name], greet=False)


@pytest.mark.parametrize("name", BAD_AFTER_HELLO)
def test_bad_message_after_hello(ebbd, name):
    refused_alone(ebbd, *BAD_AFTER_HELLO[name], greet=True)


def test_refusal_is_read_before_the_end(ebbd):
    """Also by a peer whose further messages ebbd has not read."""
    bad = ebbd.executor()
    ebbd.process.send_signal(signal.SIGSTOP)
    for _ in range(20):
        bad.send(wire.sample())
    ebbd.process.send_signal(signal.SIGCONT)
    assert "came before HELLO" in bad.expect_refused()


def test_empty_packet_is_an_end(ebbd):
    guest = ebbd.guest()
    guest.send(b"")
    guest.expect_end()
    wait_for("no guest", lambda: ebbd.names() == [])


def test_descriptors_are_not_kept(ebbd):
    """What comes beside a message is closed, so a peer cannot fill ebbd's table."""
    guest = ebbd.guest()
    read_end, write_end = os.pipe()
    guest.sock.sendmsg([wire.sample()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                         array.array("i", [write_end]))])
    wait_for("the sample", lambda: ebbd.show()["device"])
    os.close(write_end)
    assert os.read(read_end, 1) == b""
    os.close(read_end)


def test_sample_is_shown(ebbd):
    guest = ebbd.guest()
    counters = [2048 * MIB, 1 * MIB, 11, 22, 3, 400 * MIB, 500 * MIB, 60 * MIB, 70 * MIB]
    guest.send(wire.sample(wire.F_DRIVER | wire.F_BROKEN | wire.F_INHIBITED | wire.F_MERGEABLE,
                           wire.AUTO, wire.NEARING, counters=counters,
                           guest={wire.S_TOTAL: 2000 * MIB, wire.S_FREE: 900 * MIB, wire.S_OOM: 2,
                                  wire.S_FLAGS: 3}))
    wait_for("the sample", lambda: ebbd.show()["device"])
    shown = ebbd.show()
    assert shown["mode"] == "auto" and shown["stage"] == "nearing"
    assert shown["flags"] == dict(driver=True, broken=True, inhibited=True, mergeable=True)
    device = shown["device"]
    reasons = device.pop("not_marked_bytes")
    assert list(device.values()) == counters
    assert reasons == dict(other=0, off=1, rest=2, fragment=3, inhibited=4, backing=5, poison=6, failed=7,
                           cancelled=8)
    assert shown["guest"]["free_bytes"] == 900 * MIB and shown["guest"]["oom_events"] == 2
    assert shown["guest"]["no_reporting"] and shown["guest"]["poison"]
    assert shown["sample_age_msec"] < 60000


def test_largest_numbers(ebbd):
    guest = ebbd.guest()
    top = (1 << 64) - 1
    guest.send(wire.sample(mode=wire.AUTO, counters=[top] * 9,
                           guest={tag: top for tag in range(9)}))
    wait_for("the sample", lambda: ebbd.show()["device"])
    assert ebbd.show()["device"]["marked_bytes"] == top
    assert ebbd.ctl("show", "guest").stdout and ebbd.ctl("list").stdout


def test_own_reading_of_proc(ebbd, child):
    guest = child().hello()
    guest.hold(200 * MIB)
    wait_for("what it holds", lambda: (ebbd.show()["resident_bytes"] or 0) > 200 * MIB)
    shown = ebbd.show()
    assert shown["pid"] == guest.pid
    assert shown["held_bytes"] == shown["resident_bytes"] - shown["reclaimable_bytes"]
    assert shown["page_table_bytes"] > 0
    guest.hold(1)
    wait_for("that it let go", lambda: ebbd.show()["resident_bytes"] < 150 * MIB)


def test_names_are_unique(ebbd, child):
    one, two = child(), child()
    one.hello(b"web")
    two.hello(b"web")
    three = ebbd.guest(b"web")
    assert sorted(ebbd.names()) == sorted(["web", f"web~{two.pid}", f"web~{os.getpid()}"])
    # A second one of the same process
    ebbd.guest(b"web")
    assert f"web~{os.getpid()}.2" in ebbd.names()
    # The name is free again for who comes next.
    one.close()
    wait_for("the first to go", lambda: "web" not in ebbd.names())
    three.close()
    child().hello(b"web")
    assert "web" in ebbd.names()


def test_flood(ebbd):
    other = ebbd.guest(b"other")
    guest = ebbd.guest()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(100000):
            guest.send(wire.sample())
    assert guest.expect_refused() == "more than 50 messages a second"
    assert ebbd.log.count("is refused") == 1
    other.send(wire.sample())
    wait_for("the other's sample", lambda: ebbd.show("other")["device"])


def test_steady_samples_are_no_flood(ebbd):
    """Twice the interval that ebbd asked for is well within the rate."""
    guest = ebbd.guest()
    for _ in range(60):
        guest.send(wire.sample())
        time.sleep(0.05)
    assert ebbd.names() == ["guest"]


def test_reconnect_flood_is_bounded_in_the_log(ebbd):
    for _ in range(300):
        bad = ebbd.executor()
        bad.send(b"\0" * 8)
        bad.expect_refused()
        bad.close()
    assert 20 <= ebbd.log.count("is refused") < 150
    guest = ebbd.guest()
    assert guest.welcome.version == 1


def test_no_hello_in_time(idle_ebbd):
    idle_ebbd.configure(ebbd="hello_timeout_msec = 200")
    idle_ebbd.start()
    early = idle_ebbd.guest(b"early")
    assert idle_ebbd.executor().expect_refused() == "no HELLO within 200 ms"
    early.send(wire.sample())
    wait_for("who was in time", lambda: idle_ebbd.show("early")["device"])


def test_connections_in_all(idle_ebbd):
    idle_ebbd.configure(ebbd="max_connections = 3")
    idle_ebbd.start()
    guests = [idle_ebbd.guest(b"g%d" % i) for i in range(3)]
    assert "there are 3 connections already" in idle_ebbd.executor().expect_refused()
    guests[1].close()
    wait_for("a place", lambda: len(idle_ebbd.names()) == 2)
    idle_ebbd.guest(b"g3")


def test_connections_of_one_user(idle_ebbd, child, need_root):
    idle_ebbd.configure(ebbd="max_connections_per_uid = 2")
    idle_ebbd.start()
    idle_ebbd.guest(b"a")
    idle_ebbd.guest(b"b")
    assert "uid 0 has 2 connections" in idle_ebbd.executor().expect_refused()
    stranger = child(uid=65534).hello(b"c")
    assert stranger.policy
    assert idle_ebbd.show("c")["uid"] == 65534
    # root reads the figures of processes of other users
    assert idle_ebbd.show("c")["resident_bytes"] > 0


def test_peer_that_does_not_read(idle_ebbd):
    idle_ebbd.configure(ebbd="stuck_timeout_msec = 500")
    idle_ebbd.start()
    stuck = idle_ebbd.guest(b"stuck")
    other = idle_ebbd.guest(b"other")
    modes = ["lazy", "eager"]

    def push():
        modes.reverse()
        if "stuck" not in idle_ebbd.names():
            return True
        for name in ("stuck", "other"):
            idle_ebbd.ask(command="set", guest=name, key="mode", value=modes[0])
        got = other.expect(wire.Policy)
        assert got.mode == (wire.LAZY if modes[0] == "lazy" else wire.EAGER)
        return False
    wait_for("the stuck one to be let go", push)
    assert "it has not read for 500 ms" in idle_ebbd.log
    assert idle_ebbd.names() == ["other"]


def test_full_socket_gets_the_newest_policy(idle_ebbd):
    """What could not be sent is sent when there is room, not when the next round comes, and only
    the last of it."""
    idle_ebbd.configure(ebbd="sample_interval_msec = 3600000")
    ebbd = idle_ebbd.start()
    guest = ebbd.guest()
    for i in range(300):
        ebbd.ask(command="set", guest="guest", key="mode", value=["lazy", "eager"][i % 2])
    ebbd.ask(command="set", guest="guest", key="mode", value="off")
    got = []
    while not got or got[-1].mode != wire.OFF:
        got.append(guest.expect(wire.Policy))
    assert 1 < len(got) < 300


def test_late_answer_is_no_fault(ebbd):
    guest = ebbd.guest()
    guest.send(wire.release_done(12345))
    guest.send(wire.sample())
    wait_for("the sample", lambda: ebbd.show()["device"])
