# SPDX-License-Identifier: LGPL-2.1-or-later
"""An ebbd of the run's own, which is killed and started again."""
import subprocess

from harness.wait import wait_for

# What available memory has to be for the stage that a start of ebbd is to see.
POLICIES = {"plenty": (1, 0), "nearing": (90, 0), "short": (90, 89)}


class Ebbd:
    def __init__(self, build, directory):
        self.ebbd, self.ebbctl = build / "host-agent/ebbd", build / "host-agent/ebbctl"
        self.dir = directory
        self.socket = directory / "ebbd.sock"
        self.control = directory / "control.sock"
        self.process = None
        self.calls = []
        self.failed_calls = 0

    def start(self, stage):
        nearing, short = POLICIES[stage]
        conf = self.dir / "ebbd.conf"
        conf.write_text(f"[ebbd]\nsocket = {self.socket}\ncontrol_socket = {self.control}\n"
                        f"state_file = {self.dir}/state\nsample_interval_msec = 200\n"
                        f"[policy]\nnearing_percent = {nearing}\nshort_percent = {short}\n"
                        "merge_group = host\n"
                        "hysteresis_percent = 0\ncalm_msec = 0\nanswer_msec = 0\n"
                        "settle_msec = 500\nguest_floor = 16M\n")
        with open(self.dir / "ebbd.log", "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", self.ebbd, "-c", conf], stderr=log,
                stdin=subprocess.DEVNULL, stdout=log)
        wait_for(self.control.exists, "ebbd's control socket", alive=self.check_alive)

    def check_alive(self):
        if self.process and self.process.poll() is not None:
            log = (self.dir / "ebbd.log").read_text()[-2000:]
            raise AssertionError(f"ebbd ended with {self.process.returncode}:\n{log}")

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.control.unlink(missing_ok=True)

    def tell(self, *args):
        """Run ebbctl; its end is not waited for. It fails where the guest is not there yet."""
        self.calls.append(subprocess.Popen(
            [self.ebbctl, "-s", self.control, *args], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def reap(self):
        left = []
        for call in self.calls:
            status = call.poll()
            if status is None:
                left.append(call)
            elif status:
                self.failed_calls += 1
        self.calls = left

    def close(self):
        for call in self.calls:
            call.kill()
            call.wait()
        self.calls = []
        self.kill()
