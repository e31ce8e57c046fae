# SPDX-License-Identifier: LGPL-2.1-or-later
"""/dev/ebb in a guest: its counters, a host that purges, an object that does what it is told."""
import re
import threading
import time

from . import agent as ag
from .pageout import pageout
from .wait import wait_for

MIB = 1 << 20
PAGE = 4096
COUNTERS = "/sys/class/misc/ebb/counters"


def counters(guest):
    text = guest.check(f"cd {COUNTERS} && for i in *; do echo $i $(cat $i); done")
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def unload(guest):
    """An object goes in the background, with what it has in flight, after the program has ended."""
    wait_for(lambda: guest.run("rmmod virtio_ebb")[0] == 0,
             lambda: f"the module to be in no use: {guest.check('lsmod')}")


class Again:
    """Does something again and again, in a thread of its own, while the with block lasts. rest: how
    many times as long as it took it does nothing then, where the others need the processor too."""

    def __init__(self, act, pause, rest=0):
        self.act = act
        self.pause, self.rest = pause, rest
        self.rounds = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        took = 0
        while not self.stop.wait(max(self.pause, self.rest * took)):
            start = time.monotonic()
            self.act()
            took = time.monotonic() - start
            self.rounds += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *unused):
        self.stop.set()
        self.thread.join()


class Purger(Again):
    """Has the host's kernel purge a guest's RAM."""

    def __init__(self, guest, pause=0.02, rest=0):
        start = guest.host_address(0)  # asked for here: QMP has one user
        super().__init__(lambda: pageout(guest.pid, start, guest.memory_mib * MIB), pause, rest)


class Served:
    """A guest with a volserve: one object of so many pages."""

    def __init__(self, vm, pages, unit="", options="age_msec=1", agent=None,
                 devices=(), extra=(), modules=(), env=""):
        path = f",agent={agent.path}" if agent else ""
        self.guest = vm.start(memory_mib=256, extra=extra,
                              devices=["virtio-ebb-pci,id=ebb,mode=lazy" + path, *devices])
        if agent:
            agent.accept(500)
            agent.policy(ag.MODE_KEEP, ag.STAGE_SHORT)
        self.guest.wait_boot()
        for name in modules:
            vm.insmod(self.guest, name)
        vm.insmod(self.guest, "virtio_ebb", options)
        self.pages = pages
        self.work = self.guest.spawn(f"{env} exec volserve {pages} {unit}")

    def ask(self, text):
        return self.work.ask(text)

    def query(self, *where):
        line = self.ask(" ".join(["query", *map(str, where)]))
        return {k: int(v) for k, v in re.findall(r"(\w+) (\d+)", line)}

    def unmark(self, *where):
        line = self.ask(" ".join(["unmark", *map(str, where)]))
        return int(re.search(r"purged (\d+)", line).group(1))

    def wait_offered(self, pages=None):
        """Until so many pages are with the host, and no offer is in flight."""
        wait_for(lambda: self.query()["offered"] >= (pages or self.pages),
                 lambda: f"the offer: {self.query()}, {counters(self.guest)}")

    def purge(self):
        """Until the guest has heard of it: what is offered may not be marked yet, and the kernel
        passes over pages now and then."""
        with Purger(self.guest):
            wait_for(lambda: self.query()["purged"],
                     lambda: f"a purge: {self.query()}, {counters(self.guest)}")

    def finish(self):
        self.work.write("quit\n")
        assert self.work.wait() == 0, self.work.output
        unload(self.guest)
