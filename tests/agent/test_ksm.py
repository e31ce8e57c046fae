# SPDX-License-Identifier: LGPL-2.1-or-later
"""ebbd steers KSM, in directories that look like the kernel's."""
import signal

import pytest

import wire
from conftest import wait_for
from wire import MIB

FOUND = dict(run=0, pages_to_scan=123, sleep_millisecs=200, use_zero_pages=0, merge_across_nodes=1)
KEYS = {"steer", "owner", "why", "run", "pages_to_scan", "sleep_msec", "use_zero_pages", "pages_shared",
        "pages_sharing", "full_scans", "profit_bytes", "ksmd_cpu_percent", "ksmd_cpu_usec"}


class Ksm:
    def __init__(self, ebbd):
        self.ebbd = ebbd
        self.dir, self.proc = ebbd.dir / "ksm", ebbd.dir / "proc"
        self.dir.mkdir()
        self.process(37, "ksmd", 2)
        for name, value in dict(FOUND, pages_shared=1, pages_sharing=2, full_scans=3,
                                general_profit=-4096).items():
            self.write(name, value)
        self.record = ebbd.state.with_name("state.ksm")
        self.configure("ksm = steer")

    def configure(self, policy):
        self.ebbd.configure(policy=f"ksm_interval_msec = 100\n{policy}")

    def process(self, pid, name, parent):
        directory = self.proc / str(pid)
        directory.mkdir(parents=True)
        (directory / "stat").write_text(f"{pid} ({name}) S {parent} 0 0 0 -1 9 0 0 0 0 5 6 0 0\n")

    def write(self, name, value):
        # As in the kernel, nobody sees a half of it.
        new = self.dir / "new"
        new.write_text(f"{value}\n")
        new.rename(self.dir / name)

    @property
    def settings(self):
        return {name: int((self.dir / name).read_text() or "-1") for name in FOUND}

    def start(self, *args):
        self.ebbd.start(*args, env=dict(EBB_KSM_DIR=str(self.dir),
                                        EBB_KSM_PROC_DIR=str(self.proc)))
        return self

    @property
    def status(self):
        return self.ebbd.ask(command="status")["ksm"]

    def wait(self, **keys):
        wait_for(f"{keys}", lambda: keys.items() <= self.status.items())

    def mergeable(self):
        """A guest that has marked something comes."""
        guest = self.ebbd.executor()
        guest.send(wire.hello(b"web", high=3))
        guest.send(wire.merge_state(wire.MERGE_HINTED, 0, (64 * MIB, 64 * MIB)))
        return guest

    def merging(self):
        """And ebbd has started KSM for it: gain may still come, so it is at its fastest, and ebbd
        writes nothing more."""
        guest = self.mergeable()
        self.wait(owner="ebbd", why="merging", run=1, pages_to_scan=5000)
        return guest


@pytest.fixture
def ksm(idle_ebbd):
    return Ksm(idle_ebbd)


def test_steer(ksm):
    ksm.start().wait(owner="ebbd", why="nobody", run=0)
    assert ksm.settings == FOUND
    guest = ksm.merging()
    assert set(ksm.status) == KEYS
    assert ksm.settings == dict(FOUND, run=1, pages_to_scan=5000, sleep_millisecs=20)
    shown = ksm.ebbd.ctl("status").stdout
    assert "KSM: run 1" in shown and "pages_sharing 2; steered by ebbd: merging" in shown
    # What is marked goes, and so does what another guest had not marked but made mergeable.
    guest.send(wire.merge_state(wire.MERGE_OFF))
    ksm.wait(why="nobody", run=0)
    guest.send(wire.sample(counters=(64 * MIB,)))
    guest.send(wire.merge_state(wire.MERGE_KEEP, wire.MERGE_WHOLE))
    ksm.wait(why="merging", run=1)
    guest.close()
    ksm.wait(why="nobody", run=0)
    assert ksm.settings == FOUND


def test_put_back_at_the_end(ksm):
    ksm.write("run", 1)
    ksm.configure("ksm = steer\nksm_zero_pages = yes")
    ksm.start().wait(owner="ebbd", run=0, use_zero_pages=1)
    ksm.merging()
    assert ksm.settings == dict(FOUND, run=1, pages_to_scan=5000, sleep_millisecs=20, use_zero_pages=1)
    ksm.ebbd.stop()
    assert ksm.settings == dict(FOUND, run=1)
    assert not ksm.record.exists()


def test_put_back_by_the_next(ksm):
    ksm.start()
    ksm.merging()
    ksm.ebbd.kill()
    assert ksm.settings["run"] == 1 and ksm.record.exists()
    ksm.configure("ksm = off")
    ksm.start()
    assert ksm.settings == FOUND and not ksm.record.exists()
    assert "an earlier ebbd was killed" in ksm.ebbd.log


def test_off_by_reload(ksm):
    ksm.start()
    ksm.merging()
    ksm.configure("")
    ksm.ebbd.process.send_signal(signal.SIGHUP)
    ksm.wait(steer="off", owner=None, why=None, run=0)
    assert ksm.settings == FOUND
    assert "not steered by ebbd" in ksm.ebbd.ctl("status").stdout


def test_off_writes_nothing(ksm):
    ksm.configure("")
    ksm.write("run", 1)
    ksm.start()
    ksm.mergeable()
    ksm.wait(steer="off", owner=None, run=1, pages_to_scan=123, profit_bytes=-4096)
    ksm.ebbd.stop()
    assert ksm.settings == dict(FOUND, run=1)


def test_somebody_else_writes(ksm):
    ksm.start()
    guest = ksm.merging()
    ksm.write("pages_to_scan", 7)
    ksm.wait(owner="other", why=None, pages_to_scan=7)
    guest.close()
    wait_for("web to go", lambda: ksm.ebbd.names() == [])
    assert "owner: other" in ksm.ebbd.ctl("status").stdout
    ksm.ebbd.stop()
    assert ksm.settings == dict(FOUND, run=1, pages_to_scan=7, sleep_millisecs=20)
    assert ksm.ebbd.log.count("somebody else has changed its settings") == 1


def test_ksmtuned(ksm):
    ksm.process(99, "ksmtuned", 1)
    ksm.start()
    ksm.mergeable()
    ksm.wait(steer="steer", owner="ksmtuned")
    ksm.ebbd.stop()
    assert ksm.settings == FOUND
    assert ksm.ebbd.log.count("ksmtuned is running") == 1


def test_dry_run(ksm):
    ksm.start("--dry-run")
    ksm.mergeable()
    ksm.ebbd.wait_log("dry run: KSM's run = 1, pages_to_scan = 500, sleep_millisecs = 20, "
                        "use_zero_pages = 0 would be")
    ksm.ebbd.stop()
    assert ksm.settings == FOUND and not ksm.record.exists()


@pytest.mark.parametrize("line, words", [
    ("ksm = on", "write off or steer"),
    ("ksm_cpu_percent = 0", "from 1 to 100"),
    ("ksm_interval_msec = 99", "from 100 to"),
    ("ksm_zero_pages = 1", "write yes or no"),
])
def test_configuration(idle_ebbd, line, words):
    idle_ebbd.configure(policy=line)
    assert idle_ebbd.spawn().process.wait() == 1
    idle_ebbd.process = None
    assert words in idle_ebbd.log
