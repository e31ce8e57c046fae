# SPDX-License-Identifier: LGPL-2.1-or-later
"""ebbd as it was built, each test with its own sockets, configuration and state."""
import array
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest

import wire

HERE = pathlib.Path(__file__).resolve().parent
DEADLINE_SEC = 60
# Whatever ends the tests, SIGKILL too, their daemons end with them.
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"]


def wait_for(what, condition):
    """Polls until condition() is true; how long that takes is no part of any test."""
    end = time.monotonic() + DEADLINE_SEC
    while time.monotonic() < end:
        got = condition()
        if got:
            return got
        time.sleep(0.02)
    raise AssertionError(f"waited {DEADLINE_SEC} s for {what}")


def built(name):
    root = os.environ.get("EBB_BUILD")
    if not root:
        pytest.skip("EBB_BUILD does not name the build directory")
    path = pathlib.Path(root) / "host-agent" / name
    if not path.exists():
        pytest.skip(f"not built: {path}")
    return path


class Ebbd:
    """One ebbd in a directory of its own. It may be stopped, killed and started again."""

    def __init__(self, directory):
        self.program = built("ebbd")
        self.ebbctl_program = built("ebbctl")
        self.dir = directory
        self.socket = directory / "run" / "ebbd.sock"
        self.control = directory / "run" / "control.sock"
        self.state = directory / "run" / "state"
        self.conf = directory / "ebbd.conf"
        self.log_path = directory / "log"
        self.process = None
        self.started = []
        self.executors = []
        self.configure()

    def configure(self, ebbd="", policy="", rest=""):
        # The host is never short in these tests: its stage would come between.
        self.conf.write_text(
            f"[ebbd]\nsocket = {self.socket}\ncontrol_socket = {self.control}\n"
            f"state_file = {self.state}\nsample_interval_msec = 100\n{ebbd}\n"
            f"[policy]\nnearing_percent = 1\nshort_percent = 0\nanswer_msec = 0\n"
            f"{policy}\n{rest}\n")

    def start(self, *args, **popen):
        self.spawn(*args, **popen)
        wait_for("ebbd's control socket", self.answers)
        return self

    def spawn(self, *args, **popen):
        env = {k: v for k, v in os.environ.items()
               if k not in ("NOTIFY_SOCKET", "JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_PID")}
        env.update(popen.pop("env", {}))
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([*DIES_WITH_US, self.program, "--debug", "--config",
                                             self.conf, *args], stderr=log, env=env, **popen)
        self.started.append(self.process)
        return self

    def answers(self):
        assert self.process.poll() is None, f"ebbd ended: {self.log}"
        try:
            return self.ask(command="status")["ok"]
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    @property
    def log(self):
        return self.log_path.read_text() if self.log_path.exists() else ""

    def wait_log(self, words):
        wait_for(f"'{words}' in the log", lambda: words in self.log)

    def stop(self):
        """SIGTERM is a clean end: status 0, no socket left, nothing said by a sanitizer."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE_SEC) == 0, self.log
        self.process = None
        assert not self.socket.exists() and not self.control.exists()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def close(self):
        """The end of a test: it must end well, and has ended whatever it does."""
        try:
            for executor in self.executors:
                executor.close()
            if self.process:
                self.stop()
        finally:
            for process in self.started:
                process.kill()
                process.wait()

    def executor(self):
        self.executors.append(wire.Executor(self.socket))
        return self.executors[-1]

    def guest(self, name=b"guest", **keys):
        return self.executor().hello(name, **keys)

    def connect_control(self):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(DEADLINE_SEC)
        sock.connect(str(self.control))
        return sock

    def ask(self, raw=None, **request):
        with self.connect_control() as sock:
            try:
                sock.send(json.dumps(request).encode() if raw is None else raw)
            except BrokenPipeError:
                pass    # refused already; why is there to read
            return json.loads(sock.recv(1 << 20))

    def show(self, name="guest"):
        reply = self.ask(command="show", guest=name)
        assert reply["ok"], reply
        return reply["guest"]

    def names(self):
        return [g["name"] for g in self.ask(command="list")["guests"]]

    def ctl(self, *args, status=0, **run):
        done = subprocess.run([self.ebbctl_program, "--socket", self.control, *map(str, args)],
                              capture_output=True, text=True, timeout=DEADLINE_SEC, **run)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done

    def ctl_json(self, *args, status=0):
        return json.loads(self.ctl("--json", *args, status=status).stdout)


@pytest.fixture
def public_dir():
    """Others may go through it, unlike pytest's own: some peers run as another user."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="ebb-agent-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def idle_ebbd(public_dir):
    """Not started yet: the test configures it first."""
    ebbd = Ebbd(public_dir)
    yield ebbd
    ebbd.close()
    for words in ("AddressSanitizer", "LeakSanitizer", "runtime error:"):
        assert words not in ebbd.log


@pytest.fixture
def ebbd(idle_ebbd):
    return idle_ebbd.start()


CHILD = """
import array, os, socket, sys
path, cgroups, uid = sys.argv[1], sys.argv[2].split(":") if sys.argv[2] else [], int(sys.argv[3])
for cgroup in cgroups:
    with open(cgroup + "/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
if uid:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(path)
back = socket.socket(fileno=0)
back.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))])
held = None
while True:
    order = back.recv(64).split()
    if not order:
        break
    if order[0] == b"hold":
        held = None
        held = bytearray(b"x") * int(order[1])
    back.send(b"done")
"""


class Child(wire.Executor):
    """A connection that belongs to another process, which dies when it is told to. The test has
    the same socket, so that the process's end is not the connection's."""

    def __init__(self, path, cgroups=(), uid=0):
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen([sys.executable, "-c", CHILD, str(path),
                                         ":".join(map(str, cgroups)), str(uid)], stdin=theirs)
        theirs.close()
        self.orders = ours
        self.orders.settimeout(DEADLINE_SEC)
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
        assert ancillary, "the child could not connect"
        fds = array.array("i")
        fds.frombytes(ancillary[0][2][:4])
        super().__init__(sock=socket.socket(fileno=fds[0]))

    @property
    def pid(self):
        return self.process.pid

    def hold(self, size):
        """Touch so much memory, and let go what was touched before."""
        self.orders.send(b"hold %d" % size)
        assert self.orders.recv(16) == b"done"

    def die(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.die()
        self.orders.close()
        super().close()


@pytest.fixture
def need_root():
    if os.getuid() != 0:
        pytest.skip("needs root")


def cgroup_mounts():
    """(mount point of the v1 memory controller or None, of v2 or None)"""
    v1 = v2 = None
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point, kind = left.split()[4], right.split()
        if kind[0] == "cgroup2":
            v2 = v2 or pathlib.Path(point)
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            v1 = v1 or pathlib.Path(point)
    return v1, v2


@pytest.fixture
def new_cgroup():
    """Makes cgroups below a mount point; they go after the test, deepest first."""
    made = []

    def make(mount, relative):
        if os.getuid() != 0:
            pytest.skip("needs root to make cgroups")
        path = mount
        for part in relative.split("/"):
            path = path / part
            if not path.exists():
                try:
                    path.mkdir()
                except OSError as e:
                    pytest.skip(f"cannot make the cgroup {path}: {e}")
                made.append(path)
        return path
    yield make
    for path in reversed(made):
        wait_for(f"{path} to be empty", lambda: not (path / "cgroup.procs").read_text())
        path.rmdir()


@pytest.fixture
def child(idle_ebbd, new_cgroup):
    """Ends its processes before the cgroups that they may be in go."""
    children = []

    def make(**keys):
        children.append(Child(idle_ebbd.socket, **keys))
        return children[-1]
    yield make
    for one in children:
        one.close()
