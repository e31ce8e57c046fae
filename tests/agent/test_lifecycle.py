# SPDX-License-Identifier: LGPL-2.1-or-later
"""Peers that die, an ebbd that dies and comes back, reload, dry run, start and stop."""
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import subprocess

import pytest

import wire
from conftest import DIES_WITH_US, cgroup_mounts, wait_for
from wire import MIB


def test_process_dies_while_its_socket_lives(ebbd, child):
    """The connection is held open by another process: the guest goes with its own."""
    guest = child().hello(b"web")
    assert ebbd.names() == ["web"]
    guest.die()
    wait_for("the guest to go", lambda: ebbd.names() == [])
    guest.expect_end()
    assert "its process ended" in ebbd.log


def test_connection_ends_while_its_process_lives(ebbd, child):
    guest = child().hello(b"web")
    guest.sock.shutdown(socket.SHUT_RDWR)
    wait_for("the guest to go", lambda: ebbd.names() == [])
    assert guest.process.poll() is None


def test_killed_ebbd_comes_back(ebbd):
    """Stale sockets are replaced, guests found again, what ebbctl had set still stands."""
    guest = ebbd.guest(b"web")
    ebbd.ctl("set", "web", "mode", "lazy")
    assert guest.expect_policy(mode=wire.LAZY)
    ebbd.kill()
    guest.expect_end()
    assert ebbd.socket.exists() and ebbd.control.exists()
    ebbd.start()
    assert ebbd.names() == []
    again = ebbd.guest(b"web")
    assert again.policy.mode == wire.LAZY
    # It outlives the guest too, and goes when it is taken back.
    again.close()
    wait_for("the guest to go", lambda: ebbd.names() == [])
    assert ebbd.guest(b"web").policy.mode == wire.LAZY
    ebbd.ctl("set", "web", "mode", "default")
    ebbd.kill()
    ebbd.start()
    assert ebbd.guest(b"web").policy.mode == wire.KEEP


def test_broken_state_file_stops_nobody(idle_ebbd):
    idle_ebbd.state.parent.mkdir()
    idle_ebbd.state.write_text("{")
    idle_ebbd.start()
    assert "not written by ebbd" in idle_ebbd.log
    assert idle_ebbd.guest().policy.mode == wire.KEEP


def test_second_ebbd(ebbd):
    ebbd.guest(b"web")
    second = subprocess.run([ebbd.program, "--config", ebbd.conf], capture_output=True, text=True,
                            timeout=60)
    assert second.returncode == 1
    assert "another ebbd answers there" in second.stderr
    assert ebbd.names() == ["web"]


def test_path_is_no_socket(idle_ebbd):
    idle_ebbd.socket.parent.mkdir()
    idle_ebbd.socket.write_text("precious")
    done = subprocess.run([idle_ebbd.program, "--config", idle_ebbd.conf], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 1 and "exists and is no socket" in done.stderr
    assert idle_ebbd.socket.read_text() == "precious"


def test_modes_of_the_sockets(idle_ebbd):
    idle_ebbd.configure(ebbd="socket_mode = 0660")
    old = os.umask(0)
    try:
        idle_ebbd.start()
    finally:
        os.umask(old)
    assert stat.S_IMODE(idle_ebbd.socket.stat().st_mode) == 0o660
    assert stat.S_IMODE(idle_ebbd.control.stat().st_mode) == 0o600


def test_dry_run(idle_ebbd):
    idle_ebbd.configure(policy="mode = lazy")
    idle_ebbd.start("--dry-run")
    guest = idle_ebbd.executor()
    guest.send(wire.hello(b"web"))
    guest.expect(wire.Welcome)
    idle_ebbd.wait_log("dry run: POLICY mode lazy, stage plenty would be sent to web")
    guest.send(wire.sample(counters=[512 * MIB]))
    wait_for("the sample", lambda: idle_ebbd.show("web")["device"])
    idle_ebbd.ctl("set", "web", "mode", "eager")
    idle_ebbd.wait_log("dry run: POLICY mode eager, stage plenty would be sent to web")
    failed = idle_ebbd.ctl("release", "web", "all", status=1)
    assert "nothing was sent to web" in failed.stderr
    idle_ebbd.wait_log(f"dry run: RELEASE of {512 * MIB} bytes would be sent to web")
    assert idle_ebbd.ctl_json("status")["dry_run"] is True
    assert not idle_ebbd.state.exists()
    guest.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        guest.receive()


def test_reload(ebbd):
    guest = ebbd.guest(b"web")
    other = ebbd.guest(b"other")
    ebbd.ctl("set", "other", "mode", "off")
    other.expect_policy(mode=wire.OFF)
    ebbd.configure(policy="mode = eager", rest='[guest "web"]\nmode = lazy\n')
    ebbd.process.send_signal(signal.SIGHUP)
    assert guest.expect_policy(mode=wire.LAZY)
    # What ebbctl has set goes before the file, until it is taken back.
    assert ebbd.show("other")["mode_wanted"] == "off"
    ebbd.ctl("set", "other", "mode", "default")
    assert other.expect_policy(mode=wire.EAGER)


def test_bad_reload_changes_nothing(ebbd):
    guest = ebbd.guest(b"web")
    good = ebbd.conf.read_text()
    ebbd.conf.write_text(good + "nonsense = 1\n")
    ebbd.process.send_signal(signal.SIGHUP)
    ebbd.wait_log("the configuration stays as it was")
    assert "nonsense is not a key of [policy]" in ebbd.log
    assert ebbd.names() == ["web"]
    ebbd.conf.write_text(good.replace("ebbd.sock", "elsewhere.sock"))
    ebbd.process.send_signal(signal.SIGHUP)
    ebbd.wait_log("restart ebbd for that")
    guest.send(wire.sample())
    wait_for("the sample", lambda: ebbd.show("web")["device"])


def test_bad_configuration_at_the_start(idle_ebbd):
    idle_ebbd.conf.write_text("[ebbd]\nsoket = /x\n[policy]\nmode = lasy\n")
    done = subprocess.run([idle_ebbd.program, "-c", idle_ebbd.conf], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1
    assert f"{idle_ebbd.conf}:2: soket is not a key of [ebbd]" in done.stderr
    assert f"{idle_ebbd.conf}:4: mode = lasy: write lazy" in done.stderr
    done = subprocess.run([idle_ebbd.program, "-c", "/nonexistent"], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1 and "/nonexistent: No such file" in done.stderr


def test_command_line(idle_ebbd):
    def run(*args):
        return subprocess.run([idle_ebbd.program, *args], capture_output=True, text=True,
                              timeout=60)
    assert run("--help").returncode == 0 and "--dry-run" in run("--help").stdout
    assert run("--version").stdout.startswith("ebbd ")
    assert run("--nonsense").returncode == 1
    assert "is not understood" in run("extra").stderr


def test_service_manager_is_told(idle_ebbd, tmp_path):
    path = tmp_path / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind(str(path))
        idle_ebbd.start(env={"NOTIFY_SOCKET": str(path)})

        def until(words):
            while True:
                got = manager.recv(4096).decode()
                if words in got:
                    return got
        until("READY=1")
        assert "0 guests; host" in until("STATUS=")
        idle_ebbd.process.send_signal(signal.SIGHUP)
        until("RELOADING=1")
        until("READY=1")
        idle_ebbd.stop()
        until("STOPPING=1")


def activated(ebbd, paths, **keys):
    """Start ebbd with sockets that listen already, as descriptors 3 and 4."""
    ebbd.socket.parent.mkdir(exist_ok=True)
    fds = []
    for path in paths:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind(str(path))
        sock.listen(16)
        fds.append(fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 20))
        sock.close()

    def as_systemd():
        os.environ["LISTEN_PID"] = str(os.getpid())
        for i, fd in enumerate(fds):
            os.dup2(fd, 3 + i)
    shell = [*DIES_WITH_US, "/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", ebbd.program, "--config", ebbd.conf]
    with open(ebbd.log_path, "ab") as log:
        ebbd.process = subprocess.Popen(shell, stderr=log, preexec_fn=as_systemd,
                                        pass_fds=[3 + i for i in range(len(fds))],
                                        env={**os.environ, "LISTEN_FDS": str(len(fds))})
    ebbd.started.append(ebbd.process)
    for fd in fds:
        os.close(fd)


def test_sockets_from_systemd(idle_ebbd):
    activated(idle_ebbd, [idle_ebbd.socket, idle_ebbd.control])
    wait_for("ebbd", idle_ebbd.answers)
    assert idle_ebbd.guest(b"web").policy
    assert idle_ebbd.names() == ["web"]
    # They are systemd's, so they stay.
    idle_ebbd.process.send_signal(signal.SIGTERM)
    assert idle_ebbd.process.wait(60) == 0
    idle_ebbd.process = None
    assert idle_ebbd.socket.exists() and idle_ebbd.control.exists()


def test_foreign_socket_from_systemd(idle_ebbd):
    activated(idle_ebbd, [idle_ebbd.dir / "other.sock"])
    assert idle_ebbd.process.wait(60) == 1
    idle_ebbd.process = None
    assert "let the socket unit and the configuration agree" in idle_ebbd.log


def open_files(ebbd):
    return len(os.listdir(f"/proc/{ebbd.process.pid}/fd"))


def settled_files(ebbd):
    """Their number when connections that were closed are gone."""
    sockets = 1 + len(ebbd.executors)
    wait_for("ebbctl's connection to be closed", lambda: sum(
        "socket:" in os.readlink(f"/proc/{ebbd.process.pid}/fd/{fd}")
        for fd in os.listdir(f"/proc/{ebbd.process.pid}/fd")) == 1 + sockets)
    return open_files(ebbd)


def test_nothing_is_left_behind(ebbd):
    """Descriptors of those who come and go, in whatever way."""
    def come_and_go():
        ebbd.executor().close()
        ebbd.guest(b"web").close()
        bad = ebbd.executor()
        bad.send(b"bad")
        bad.close()
        ebbd.ask(command="list")
        ebbd.ask(raw=b"bad")
    come_and_go()
    wait_for("no guest", lambda: not ebbd.names())
    before = open_files(ebbd)
    for _ in range(100):
        come_and_go()
    wait_for("the descriptors to be closed", lambda: open_files(ebbd) <= before)


def test_few_descriptors_are_said_at_the_start(idle_ebbd):
    idle_ebbd.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)))
    assert "only 40 files may be open, max_connections = 512 needs" in idle_ebbd.log


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_no_descriptors_left(ebbd, spare):
    """Who comes waits or is refused; nobody who is there goes; later there is room again."""
    first = ebbd.guest(b"first")
    used = settled_files(ebbd)
    resource.prlimit(ebbd.process.pid, resource.RLIMIT_NOFILE, (used + 6 + spare, 4096))
    others = [ebbd.executor() for _ in range(2)]
    wait_for("two more", lambda: open_files(ebbd) >= used + 6)
    third = ebbd.executor()
    if spare:
        assert "cannot be held: Too many open files" in third.expect_refused()
    else:
        ebbd.wait_log("no descriptors or memory left")
    first.send(wire.sample())
    for other in others:
        other.close()
    wait_for("the first guest's sample", lambda: ebbd.show("first")["device"])
    ebbd.guest(b"later")


def machine_mount():
    v1, v2 = cgroup_mounts()
    mount = v1 or v2
    if not mount:
        pytest.skip("no cgroups are mounted")
    return mount


def test_name_of_libvirt_goes_before_a_label(ebbd, child, new_cgroup):
    """Only root makes cgroups under /machine, so that name is worth more than a label."""
    pretender = ebbd.guest(b"ebbtest")
    ebbd.ctl("set", "ebbtest", "mode", "lazy")
    pretender.expect_policy(mode=wire.LAZY)
    cgroup = new_cgroup(machine_mount(), "machine/qemu-99-ebbtest.libvirt-qemu")
    guest = child(cgroups=[cgroup]).hello(b"something-else")
    assert sorted(ebbd.names()) == ["ebbtest", f"ebbtest~{os.getpid()}"]
    shown = ebbd.show("ebbtest")
    assert shown["pid"] == guest.pid and shown["label"] == "something-else"
    # The setting goes with the name.
    assert guest.policy.mode == wire.LAZY
    assert pretender.expect_policy(mode=wire.KEEP)
    guest.close()


@pytest.fixture
def limited(new_cgroup):
    """A cgroup with a limit of 256 MiB."""
    v1, v2 = cgroup_mounts()
    if v1:
        cgroup = new_cgroup(v1, f"ebb-agent-test-{os.getpid()}")
        (cgroup / "memory.limit_in_bytes").write_text(str(256 * MIB))
        return cgroup
    if not v2:
        pytest.skip("no cgroups are mounted")
    cgroup = new_cgroup(v2, f"ebb-agent-test-{os.getpid()}")
    if not (cgroup / "memory.max").exists():
        pytest.skip(f"{v2} has no memory controller")
    (cgroup / "memory.max").write_text(str(256 * MIB))
    return cgroup


def test_stage_of_a_limited_guest(idle_ebbd, child, limited):
    """A guest in a cgroup follows its limit, others the host."""
    idle_ebbd.configure(policy="nearing_percent = 40\nshort_percent = 20\nhysteresis_percent = 2\n"
                               "calm_msec = 200")
    idle_ebbd.start()
    free = idle_ebbd.guest(b"free")
    guest = child(cgroups=[limited]).hello(b"limited")
    limit = idle_ebbd.show("limited")["limit"]
    assert limit["limit_bytes"] == 256 * MIB and limited.name in limit["cgroup"]
    assert idle_ebbd.show("free")["limit"] is None
    guest.hold(180 * MIB)
    guest.expect_policy(stage=wire.NEARING)
    guest.hold(225 * MIB)
    guest.expect_policy(stage=wire.SHORT)
    assert idle_ebbd.show("limited")["limit"]["stage"] == "short"
    guest.hold(1)
    guest.expect_policy(stage=wire.PLENTY)
    assert idle_ebbd.show("free")["stage_wanted"] == "plenty"
    status = idle_ebbd.ctl_json("status")
    assert [d["limit_bytes"] for d in status["limits"]] == [256 * MIB]
    guest.close()
    wait_for("the limit to be forgotten", lambda: not idle_ebbd.ctl_json("status")["limits"])
    free.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        free.receive()


def rich(resident, mode=wire.AUTO, flags=wire.F_DRIVER):
    """A guest that has used next to nothing of what is resident."""
    return wire.sample(flags, mode, wire.SHORT, counters=[resident],
                       guest={wire.S_TOTAL: resident, wire.S_FREE: resident - 8 * MIB})


def test_release_when_short(idle_ebbd, child, limited):
    """Guests in one limited cgroup are asked for what it misses: who has most, and only those
    that can be asked; and nobody again before that has settled."""
    idle_ebbd.configure(policy="nearing_percent = 40\nshort_percent = 30\nsettle_msec = 1000\n"
                               "guest_floor = 4M")
    idle_ebbd.start()
    most = child(cgroups=[limited]).hello(b"most")
    less = child(cgroups=[limited]).hello(b"less")
    lazy = child(cgroups=[limited]).hello(b"lazy")
    balloon = child(cgroups=[limited]).hello(b"balloon", front=wire.FRONT_BALLOON)
    most.hold(110 * MIB)
    less.hold(40 * MIB)
    lazy.hold(60 * MIB)
    less.send(rich(40 * MIB))
    lazy.send(rich(60 * MIB, mode=wire.LAZY))
    balloon.send(rich(200 * MIB))
    most.send(rich(110 * MIB))

    def next_release(guest):
        while True:
            got = guest.receive()
            if isinstance(got, wire.Release):
                return got
            assert isinstance(got, wire.Policy), got
    first = next_release(most)
    assert 1 * MIB <= first.bytes <= 110 * MIB
    most.hold(110 * MIB - first.bytes // 2)     # half of that was resident
    most.send(wire.release_done(first.id, first.bytes, first.bytes, 100))
    wait_for("the answer", lambda: idle_ebbd.show("most")["last_release"])
    assert idle_ebbd.show("most")["last_release"]["asked_bytes"] == first.bytes
    # It is still short, so it comes again; those that cannot be asked never are.
    second = next_release(most)
    assert second.id > first.id
    for guest in (lazy, balloon):
        guest.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                assert isinstance(guest.receive(), wire.Policy)
    for guest in (most, less, lazy, balloon):
        guest.close()


def test_what_no_release_brings_is_not_asked_for_again(idle_ebbd, child, limited):
    """Most of what is resident beyond what a guest uses may be its VMM's own. A release that brings
    nothing shows that: then what is volatile is purged, and free memory that is new is asked for."""
    idle_ebbd.configure(policy="nearing_percent = 40\nshort_percent = 30\nsettle_msec = 300\n"
                               "guest_floor = 4M")
    idle_ebbd.start()
    guest = child(cgroups=[limited]).hello(b"web", low=1, high=2)
    guest.hold(220 * MIB)
    free_mib = 140

    def tell():
        guest.send(wire.sample(wire.F_DRIVER, wire.AUTO, wire.SHORT, counters=[512 * MIB], guest={
            wire.S_TOTAL: 300 * MIB, wire.S_FREE: free_mib * MIB}))
        guest.send(wire.content(blocks=50 * MIB, marked=50 * MIB, guest=(50 * MIB, 0, 0)))

    def next_order():
        while True:
            tell()
            got = guest.receive()
            if isinstance(got, (wire.Release, wire.Purge)):
                return got
    first = next_order()
    assert isinstance(first, wire.Release) and first.bytes > 4 * MIB
    guest.send(wire.release_done(first.id, first.bytes, first.bytes, 100))
    second = next_order()
    assert isinstance(second, wire.Purge)
    guest.send(wire.purge_done(second.id, second.bytes))
    # It uses less now, and what it has freed is still resident.
    free_mib = 158
    third = next_order()
    while isinstance(third, wire.Purge):
        guest.send(wire.purge_done(third.id, third.bytes))
        third = next_order()
    assert third.bytes <= 30 * MIB
    guest.close()


def test_release_can_be_forbidden(idle_ebbd, child, limited):
    idle_ebbd.configure(policy="nearing_percent = 40\nshort_percent = 30\nrelease = no")
    idle_ebbd.start()
    guest = child(cgroups=[limited]).hello(b"most")
    guest.hold(220 * MIB)
    guest.send(rich(220 * MIB))
    guest.expect_policy(stage=wire.SHORT)
    # Some rounds later it has still not been asked.
    for _ in range(10):
        guest.send(rich(220 * MIB))
        wait_for("half a round", lambda: idle_ebbd.show("most")["sample_age_msec"] >= 50)
    guest.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        guest.receive()
    guest.close()


def test_json_of_the_state_file(ebbd):
    ebbd.guest(b"web")
    ebbd.ctl("set", "web", "mode", "auto")
    assert json.loads(ebbd.state.read_text()) == {"version": 1, "guests": {"web": {"mode": "auto"}}}
    assert stat.S_IMODE(ebbd.state.stat().st_mode) == 0o600
