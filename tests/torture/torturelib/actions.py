# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the host does at random. Every choice of an action comes from a generator of its own, made
from the seed and the action's number, so that none depends on how fast the machine is."""
import collections
import errno
import heapq
import itertools
import random
import time

from harness import hold, proc
from harness.qmp import QmpError

from . import host

MIB = 1 << 20
# How often each comes in one bag of them. A bag is drawn in calm and in storms by turns: in calm the
# host takes nothing, so that marks grow old and KSM gets to what was marked.
CALM = {"mode": 7, "offer": 14, "advise": 3, "release": 4, "collect": 3, "starve": 7, "merge": 4,
        "ksm": 1, "reload": 2, "reset": 1, "ebbd": 2}
STORM = {"mode": 1, "offer": 6, "reclaim": 8, "squeeze": 4, "pageout": 8, "release": 2,
         "collect": 5, "starve": 2, "hold": 2, "stop": 2}
CALM_ACTIONS, STORM_ACTIONS = 12, 8
CALM_MOST_SEC = 15
WITHOUT_EBB = {"reclaim", "squeeze", "pageout", "advise", "stop", "merge", "ksm", "reset"}
# Whom an action is for, where not for all.
ELIGIBLE = {"offer": lambda s: s.front == "ebb", "release": lambda s: s.front == "ebb",
            "collect": lambda s: s.front == "ebb",
            "merge": lambda s: s.front != "balloon"}
MODES = ["lazy"] * 4 + ["eager"] * 2 + ["auto", "auto", "off", "default"]
MERGE_MODES = ["off", "off", "hinted", "hinted", "hinted", "keep", "all"]


class Actions:
    def __init__(self, lab):
        self.lab = lab
        self.subjects = lab.subjects
        self.done = collections.Counter()
        self.skipped = collections.Counter()
        self.purged_bytes = 0   # lazily freed before a reclaim and not after it
        self.pageout_bytes = 0  # advised
        self.log = collections.deque(maxlen=40)
        self.later = []
        self.at_rise = {}  # subject's name -> offers that wait for it
        self.order = itertools.count()
        self.start = time.monotonic()
        self.number = 0
        self.bags = {"calm": self._bag("calm", CALM), "storm": self._bag("storm", STORM)}
        self.merging = [s for s in self.subjects if s.merge]
        self.turns = 0
        self._begin_calm()

    def _bag(self, weather, weights):
        names = [name for name, weight in weights.items() for _ in range(weight)
                 if self.lab.with_ebb or name in WITHOUT_EBB]
        for number in itertools.count():
            random.Random(f"{self.lab.seed}/{weather}/{number}").shuffle(names)
            yield from names

    def _begin_calm(self):
        """Of those that merge one gives up its memory, and is asked for it; the others want theirs
        back after that."""
        self.weather, self.left = "calm", CALM_ACTIONS
        self.calm_since, self.scans_wanted = time.monotonic(), 0
        if len(self.merging) < 2 or not self.lab.ksm.usable:
            return
        self.scans_wanted = None  # known when the others begin to rise
        low = self.merging[self.turns % len(self.merging)]
        low.tell("tide 0")
        if low.front == "ebb":
            self.lab.ebbd.tell("set", low.name, "mode", "keep")
            for seconds in (1, 2, 3):
                self.after(seconds, lambda: self._offer(low, "lazy"))
        self.after(3, lambda: self._rise(low))
        self.log.append(f"{self.calm_since - self.start:7.2f} s calm; {low.name} falls")

    def _rise(self, low):
        for other in self.merging:
            if other is not low:
                other.tell("tide 100")
        self.scans_wanted = self.lab.ksm.count_scans() + 2

    def _ksm_is_through(self):
        return (self.scans_wanted is not None and
                self.lab.ksm.count_scans() >= self.scans_wanted)

    def _change_weather(self):
        """A storm waits until KSM has seen what was filled in the calm."""
        if self.weather == "storm":
            self.turns += 1
            self._begin_calm()
            return
        if not self._ksm_is_through() and time.monotonic() - self.calm_since < CALM_MOST_SEC:
            return
        self.weather, self.left = "storm", STORM_ACTIONS
        self.log.append(f"{time.monotonic() - self.start:7.2f} s storm")
        for subject in self.subjects:
            if subject.cgroup:
                self._reclaim(subject)

    def step(self):
        """One action. Returns how long to wait before the next."""
        if self.left <= 0:
            self._change_weather()
        self.left -= 1
        self.number += 1
        rng = random.Random(f"{self.lab.seed}/action/{self.number}")
        name = next(self.bags[self.weather])
        who = [s for s in self.subjects if name not in ELIGIBLE or ELIGIBLE[name](s)]
        if not who:
            return 0
        subject = rng.choice(who)
        pause = rng.choice([0, 0.05, 0.1, 0.2, 0.3, 0.5])
        what = None
        began = time.monotonic()
        if subject.running or name in ("ksm", "ebbd"):
            try:
                what = getattr(self, "do_" + name)(subject, rng)
            except (OSError, EOFError) as e:
                subject.check_alive()
                what = f"{name}: {e}"
        if what is None:
            self.skipped[name] += 1
            return 0
        self.done[name] += 1
        took = time.monotonic() - began
        self.log.append(f"{began - self.start:7.2f} s {subject.name} {name} {what} "
                        f"({took * 1000:.0f} ms)")
        return pause

    def after(self, seconds, what):
        heapq.heappush(self.later, (time.monotonic() + seconds, next(self.order), what))

    def due(self, everything=False):
        while self.later and (everything or self.later[0][0] <= time.monotonic()):
            heapq.heappop(self.later)[2]()

    # The actions. Each returns what it did, or None if it could not be done now.

    def do_mode(self, subject, rng):
        mode, by_qom = rng.choice(MODES), rng.random() < 0.7
        if by_qom and mode != "default":
            subject.guest.qmp.set("/machine/peripheral/ebb", "mode", mode)
            self.lab.ebbd.tell("set", subject.name, "mode", "keep")
            return mode + " by qom-set"
        self.lab.ebbd.tell("set", subject.name, "mode", mode)
        return mode

    def do_offer(self, subject, rng):
        """Everything that is free is offered anew, now and when the guest wants it back next."""
        mode, times = rng.choice(["lazy", "lazy", "lazy", "eager"]), rng.choice([1, 1, 3, 8])
        self.lab.ebbd.tell("set", subject.name, "mode", "keep")
        self._offer(subject, mode)
        self.at_rise[subject.name] = mode, times, rng.choice([0, 0.1, 0.2, 0.4])
        return f"everything, {mode}, and {times} times when it wants more"

    def look_for_rise(self):
        for subject in self.subjects:
            if not subject.rising:
                continue
            subject.rising = False
            mode, times, delay = self.at_rise.pop(subject.name, ("", 0, 0))
            for n in range(times):
                self.after(delay + 0.1 * n, lambda s=subject, m=mode: self._offer(s, m))

    @staticmethod
    def _offer(subject, mode):
        """Whoever goes from a mode that does not mark to one that does offers all."""
        subject.guest.qmp.set("/machine/peripheral/ebb", "mode", "off")
        subject.guest.qmp.set("/machine/peripheral/ebb", "mode", mode)

    def do_reclaim(self, subject, rng):
        everyone = rng.random() < 0.6
        if not subject.cgroup:
            return None
        return ", ".join(self._reclaim(s) for s in (self.subjects if everyone else [subject]))

    def _reclaim(self, subject):
        before = proc.sample(subject.pid).lazyfree_kib
        subject.cgroup.reclaim_all()
        taken = max(0, before - proc.sample(subject.pid).lazyfree_kib)
        self.purged_bytes += taken << 10
        return f"{taken} of {before} KiB of {subject.name} lazily freed"

    def do_squeeze(self, subject, rng):
        """A limit in the middle of what is reclaimable. It lasts only where nothing fails at it:
        at version 1's limit QEMU's own allocations would."""
        share, moment = rng.uniform(0.2, 0.8), rng.choice([0, 0.02, 0.1, 0.3])
        group = subject.cgroup
        if not group:
            return None
        lazyfree = proc.sample(subject.pid).lazyfree_kib << 10
        if not lazyfree:
            return None
        limit = group.usage_bytes() - int(lazyfree * share)
        try:
            self._limit(group, limit)
        except OSError as e:
            if e.errno not in (errno.EBUSY, errno.EINTR):
                raise
        if group.version == 2:
            self.after(moment, lambda: self._limit(group, None))
        else:
            self._limit(group, None)
        return f"to {limit >> 20} MiB, {int(lazyfree * share) >> 20} MiB less"

    @staticmethod
    def _limit(group, limit_bytes):
        if group.version == 1:
            group.set_limit(-1 if limit_bytes is None else limit_bytes)
        else:
            (group.path / "memory.high").write_text(
                "max" if limit_bytes is None else str(limit_bytes))

    def _advise(self, subject, rng, advice):
        start, end = subject.ram_range()
        size = rng.choice([2, 8, 32, 64, 4096]) * MIB
        at = start + rng.randrange(0, (end - start) // (2 * MIB)) * 2 * MIB
        size = min(size, end - at)
        error = host.process_madvise(subject.pid, at, size, advice)
        return size, f"{size >> 20} MiB at {at - start:#x}: " + errno.errorcode.get(error, "ok")

    def do_pageout(self, subject, rng):
        size, what = self._advise(subject, rng, host.MADV_PAGEOUT)
        self.pageout_bytes += size
        return what

    def do_advise(self, subject, rng):
        name = rng.choice(["COLD", "COLLAPSE"])
        return f"{name} " + self._advise(subject, rng, getattr(host, "MADV_" + name))[1]

    def do_release(self, subject, rng):
        size, anew, by_qom = rng.choice([16, 64, 4096]) * MIB, rng.random() < 0.6, rng.random() < 0.5
        if by_qom:
            try:
                subject.guest.qmp.set("/machine/peripheral/ebb",
                                      "release-anew" if anew else "release", size)
            except QmpError as e:
                return f"refused: {e.desc}"
        else:
            self.lab.ebbd.tell("release", subject.name, str(size), *["--anew"] * anew)
        return f"{size >> 20} MiB{' anew' * anew}{' by qom-set' * by_qom}"

    def do_collect(self, subject, rng):
        """Empty page tables, by hand or for a while in the background."""
        by_qom, seconds = rng.random() < 0.6, rng.choice([0, 0, 0.5, 2])
        if not by_qom:
            self.lab.ebbd.tell("collect", subject.name)
            return "by ebbctl"
        try:
            subject.guest.qmp.set("/machine/peripheral/ebb", "collect", True)
        except QmpError as e:
            return f"refused: {e.desc}"
        if seconds:
            subject.guest.qmp.set("/machine/peripheral/ebb", "page-tables", "background")
            self.after(seconds, lambda: subject.guest.qmp.set(
                "/machine/peripheral/ebb", "page-tables", "on-demand"))
        return "by qom-set" + f", background for {seconds} s" * bool(seconds)

    def do_starve(self, subject, rng):
        seconds, cpu = rng.choice([0.5, 1, 2, 3]), rng.choice(sorted(host.cpus()))
        pid = subject.pid
        host.starve_executor(pid, cpu)
        self.after(seconds, lambda: host.feed_executor(pid))
        return f"the executor for {seconds} s"

    def do_hold(self, subject, rng):
        """The executor stands still, maybe with offers in flight, while the kernel reclaims."""
        seconds, reclaim = rng.choice([0.01, 0.05, 0.15]), rng.random() < 0.5
        if len(hold.threads(subject.pid, "ebb-executor")) != 1:
            return None
        with hold.held(subject.pid, "ebb-executor"):
            if reclaim and subject.cgroup:
                subject.cgroup.reclaim_all()
            time.sleep(seconds)
        return f"the executor for {seconds} s{', reclaiming' * reclaim}"

    def do_stop(self, subject, rng):
        seconds, reclaim = rng.choice([0, 0.05, 0.3]), rng.random() < 0.5
        subject.guest.qmp.command("stop")
        if reclaim and subject.cgroup:
            subject.cgroup.reclaim_all()
        time.sleep(seconds)
        subject.guest.qmp.command("cont")
        return f"for {seconds} s{', reclaiming' * reclaim}"

    def do_merge(self, subject, rng):
        """Another way of merging for a while: of the device, or by QEMU's own switch."""
        seconds, by_qemu = rng.choice([0, 1, 3]), rng.random() < 0.3
        mode, by_ebbctl = rng.choice(MERGE_MODES), rng.random() < 0.5
        if by_qemu or subject.front == "none":
            subject.guest.qmp.set("/objects/ram", "merge", not subject.merge)
            self.after(seconds, lambda: subject.guest.qmp.set("/objects/ram", "merge",
                                                              subject.merge))
            return f"{'off' if subject.merge else 'on'} by QEMU's switch for {seconds} s"
        if by_ebbctl:
            self.lab.ebbd.tell("set", subject.name, "merge", mode)
            self.after(seconds, lambda: self.lab.ebbd.tell("set", subject.name, "merge", "default"))
            return f"{mode} by ebbctl for {seconds} s"
        subject.guest.qmp.set("/machine/peripheral/ebb", "merge", mode)
        self.after(seconds, lambda: subject.guest.qmp.set("/machine/peripheral/ebb", "merge",
                                                          subject.way))
        return f"{mode} for {seconds} s"

    def do_ksm(self, subject, rng):
        ksm = self.lab.ksm
        turns, msec = rng.choice([15, 25, 40]), rng.choice([10, 20, 20])
        unmerge, zero_pages = rng.random() < 0.1, int(rng.random() < 0.3)
        if not ksm.usable:
            return None
        if unmerge:
            ksm.write("run", 2)
        ksm.write("use_zero_pages", zero_pages)
        ksm.pace(turns)
        ksm.write("sleep_millisecs", msec)
        ksm.write("run", 1)
        return f"{'unmerge all, ' * unmerge}all in {turns} turns, one each {msec} ms, zero pages {zero_pages}"

    def do_reload(self, subject, rng):
        if not subject.reload_driver():
            return None
        return "the driver"

    def do_reset(self, subject, rng):
        # One at a time: the others go on.
        if any(not s.running for s in self.subjects):
            return None
        subject.reset()
        return "the guest"

    def do_ebbd(self, subject, rng):
        stage, gap = rng.choice(["plenty", "nearing", "nearing", "short"]), rng.random() < 0.5
        self.lab.ebbd.kill()
        if gap:
            time.sleep(0.2)
        self.lab.ebbd.start(stage)
        return f"killed and started again, with a configuration for {stage}"
