# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real ebbd, and ebbctl's word of what it knows."""
import json
import signal
import subprocess

from .wait import wait_for


class Ebbd:
    """ebbd with its sockets in a directory of its own."""

    def __init__(self, ebbd, ebbctl, directory):
        self.ebbd, self.ebbctl = ebbd, ebbctl
        self.dir = directory
        self.socket = directory / "run" / "ebbd.sock"
        self.control = directory / "run" / "control.sock"
        self.conf = directory / "ebbd.conf"
        self.process = None
        self.configure()

    def configure(self, policy="nearing_percent = 1\nshort_percent = 0\nanswer_msec = 0"):
        self.conf.write_text(f"[ebbd]\nsocket = {self.socket}\ncontrol_socket = {self.control}\n"
                             f"state_file = {self.dir}/run/state\nsample_interval_msec = 200\n"
                             f"[policy]\n{policy}\n")

    def start(self, *args):
        with open(self.dir / "ebbd.log", "ab") as log:
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", self.ebbd, "-d",
                                             "-c", self.conf, *args], stderr=log)
        wait_for(self.control.exists, "ebbd's control socket")
        wait_for(lambda: self.run("status", status=None).returncode == 0, "ebbd")
        return self

    def log(self):
        return (self.dir / "ebbd.log").read_text()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log()
        self.process = None

    def close(self):
        """However it was left: stopped, and if it does not end well, killed."""
        try:
            if self.process:
                self.stop()
        finally:
            if self.process:
                self.kill()

    def run(self, *args, status=0):
        done = subprocess.run([self.ebbctl, "-s", self.control, *args], capture_output=True,
                              text=True, timeout=120)
        assert status is None or done.returncode == status, (done.stdout, done.stderr, self.log())
        return done

    def json(self, *args):
        return json.loads(self.run("--json", *args).stdout)

    def names(self):
        return [g["name"] for g in self.json("list")["guests"]]

    def wait_guest(self, name, what, condition):
        """Wait until what ebbctl shows of the guest is so; returns it."""
        def look():
            if name not in self.names():
                return None
            shown = self.json("show", name)
            return shown if condition(shown) else None
        return wait_for(look, lambda: f"{what}; ebbd's log:\n{self.log()[-2000:]}")
