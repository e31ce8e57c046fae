#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The demo behind ./demo: three guests, too little memory for all, and not one page lost."""
import argparse
import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "bench"), str(HERE.parent / "vm")]
sys.dont_write_bytecode = True

import guests as guests_mod  # noqa: E402
import show  # noqa: E402
from benchlib.lab import MIB, Lab, rss_bytes  # noqa: E402
from harness import cgroup as cgroup_mod  # noqa: E402
from harness import guest as guest_mod  # noqa: E402
from harness.wait import wait_for  # noqa: E402

LIMIT_MIB = 1180
PAUSE_SEC = 30
NEEDED_MIB = 2200
# The group is small and an emulated guest fills it in seconds: look often, and have free memory
# marked while there is still half of it. An operator's host keeps the defaults.
EBBD_CONF = """[ebbd]
socket = {dir}/ebbd.sock
control_socket = {dir}/control.sock
state_file = {dir}/state
sample_interval_msec = 250
[policy]
nearing_percent = 50
short_percent = 1
hysteresis_percent = 1
calm_msec = 60000
"""


def say(text=""):
    print(text, flush=True)


class Host:
    """ebbd, ebbctl and the control group of the guests."""

    def __init__(self, lab, stack):
        self.lab = lab
        self.dir = lab.work
        self.ctl = [str(lab.need("host-agent/ebbctl")), "-s", f"{self.dir}/control.sock"]
        self.cgroup = cgroup_mod.MemoryCgroup(LIMIT_MIB * MIB)
        stack.callback(self.cgroup.remove)
        (self.dir / "ebbd.conf").write_text(EBBD_CONF.format(dir=self.dir))
        self.log_path = self.dir / "ebbd.log"
        with open(self.log_path, "wb") as log:
            self.ebbd = subprocess.Popen(
                [lab.need("host-agent/ebbd"), "-c", self.dir / "ebbd.conf"], stdout=log,
                stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        stack.callback(self.end, self.ebbd)
        wait_for((self.dir / "control.sock").exists, "ebbd's socket", 30, 0.02, self.check)

    def end(self, process):
        process.terminate()
        process.wait()

    def check(self):
        if self.ebbd.poll() is not None:
            raise RuntimeError(f"ebbd ended with {self.ebbd.returncode}:\n"
                               f"{self.log_path.read_text()}")

    def ebbctl(self, *words):
        done = subprocess.run([*self.ctl, "--json", *words], text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode:
            raise RuntimeError(f"ebbctl {' '.join(words)}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def top(self):
        """ebbctl top: the screen on a terminal, else a block of plain lines now and then."""
        live = sys.stdout.isatty()
        top = subprocess.Popen([*self.ctl, "-i", "1" if live else "10", "top"],
                               stdin=subprocess.DEVNULL)
        try:
            yield (lambda text: None) if live else say
        finally:
            self.end(top)


def boot(lab, stack, prefix, host=None):
    """The three guests, with ebb (host is given) or without."""
    workers = []
    for name in guests_mod.NAMES:
        options = {"extra": ["-name", name]}
        if host:
            options |= {"ebb": True, "modules": ["virtio_ebb"], "cgroup": host.cgroup,
                        "devices": [f"virtio-ebb-pci,agent={host.dir}/ebbd.sock"]}
        guest = stack.enter_context(
            lab.boot(f"{prefix}-{name}", "thp", guests_mod.GUEST_MIB, **options))
        workers.append(guests_mod.Worker(name, guest))
    return workers


def without_ebb(lab):
    say(f"1. Without ebb: three guests of {guests_mod.GUEST_MIB} MiB and no limit, for comparison.")
    with contextlib.ExitStack() as stack:
        workers = boot(lab, stack, "plain")
        guests_mod.work(workers, lambda text: say(f"   {text}"), lambda worker, target: None)
        return [worker.result() for worker in workers]


def until_given(worker, target_bytes):
    """A peak is over: the guest idles until its kernel has reported what it freed, which Linux
    does by and by, every two seconds."""
    end = time.monotonic() + PAUSE_SEC
    while worker.guest.sample().held_kib * 1024 > target_bytes and time.monotonic() < end:
        time.sleep(0.1)


def release(host, workers):
    """What is free in the guests, now: the host's answer to need that cannot wait."""
    size_bytes = usec = 0
    for worker in workers:
        answer = host.ebbctl("--anew", "release", worker.name, "all")["release"]
        size_bytes += answer["discarded_bytes"]
        usec += answer["usec"]
    return {"bytes": size_bytes, "seconds": usec / 1e6,
            "resident_after_bytes": sum(rss_bytes(w.guest.pid) for w in workers)}


def with_ebb(lab):
    touched = guests_mod.PEAK_MIB * len(guests_mod.NAMES)
    say(f"2. With ebb: the same guests and work in a control group of {LIMIT_MIB} MiB, although\n"
        f"   their programs touch {touched} MiB. Freed memory is marked volatile, and the kernel\n"
        "   takes it when the next guest needs it. ebbctl top shows it:")
    with contextlib.ExitStack() as stack:
        host = Host(lab, stack)
        workers = boot(lab, stack, "ebb", host)
        with host.top() as progress:
            guests_mod.work(workers, lambda text: progress(f"   {text}"), until_given)
        found = [worker.result() for worker in workers]
        released = release(host, workers)
        for worker in workers:
            worker.ask("verify")
        for guest, worker in zip(found, workers):
            guest["checked_pages"], guest["bad_pages"] = worker.checked, worker.bad
        host.check()
        kills = host.cgroup.oom_kills()
        if kills:
            raise RuntimeError(f"the kernel killed {kills} processes of the control group")
        return found, released, host.cgroup.failures()


def run(build):
    start = time.monotonic()
    with Lab(build) as lab:
        plain = without_ebb(lab)
        say()
        found, released, failures = with_ebb(lab)
    return {"accel": guest_mod.accelerator(),
            "seconds": time.monotonic() - start,
            "limit_bytes": LIMIT_MIB * MIB,
            "limit_hits": failures,
            "guests": found,
            "release": released,
            "baseline": {"held_bytes": show.total(plain, "held_bytes"), "guests": plain}}


def stop(number, frame):
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    parser.add_argument("--build", required=True, help="the meson build directory")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    version, reason = cgroup_mod.find_parent()
    if version is None:
        sys.exit(f"demo: {reason}: run as root on a host that lets root make control groups")
    available = int(pathlib.Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
    if available < NEEDED_MIB << 10:
        sys.exit(f"demo: the guests without ebb take {NEEDED_MIB} MiB, {available >> 10} are "
                 "available")
    result = run(args.build)
    show.table(result)
    show.summary(result)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    bad = show.total(result["guests"], "bad_pages")
    bad += show.total(result["baseline"]["guests"], "bad_pages")
    if bad:
        sys.exit(f"demo: {bad} bad pages: memory was lost")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("demo: ended early; guests, daemon, control group and files are gone")
