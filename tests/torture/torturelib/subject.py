# SPDX-License-Identifier: LGPL-2.1-or-later
"""One guest of the run: its QEMU, the program in it over all its boots, and its accounts."""
import collections
import random
import re
import threading
import time

from harness import cgroup as cgroup_mod
from harness import guest as guest_mod
from harness.channel import CommandFailed, GuestGone

MIB = 1 << 20
WORKERS = 3
DISK_BYTES = WORKERS * 4 * MIB
# Of what the guest's kernel calls available: the rest is for copies of the children and files.
SHARE_PERCENT = 80
# Emulated, zeroing a page by bytes, as the guest's kernel does with these two, takes eight times as
# long as by words.
TCG_CPU = ["-cpu", "max,-erms,-fsrm"]
# Guests that share a processor, and are held still, wait long for their turn: no fault of theirs.
STARVED = "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=300"
MODULES = {"ebb": "virtio_ebb", "balloon": "virtio_balloon"}
DEVICES = {"ebb": "virtio-ebb-pci", "balloon": "virtio-ebb-balloon-pci"}


# Volatile objects, one kind after the other, each with a model of its own; not while /dev/ebb goes.
VOLATILE_MIB = 12
# Left free, by the device. ebb: the object, its model, what the driver keeps of its pages, and the
# one before it that has yet to go. balloon: one batch of page reporting (32 blocks of 4 MiB), which a
# starved host keeps for seconds, and for which the stock driver makes no OOM killer wait.
ROOM_MIB = {"ebb": 50, "balloon": 128, "none": 0}
VOLATILE = """n=0
while [ ! -e /tmp/enough ]; do
    [ -e /tmp/reload ] || [ ! -e /dev/ebb ] && {{ usleep 50000; continue; }}
    set -- optimistic content-free explicit; shift $((n % 3))
    n=$((n + 1))
    volwork -m {mib} -n 3000 -k $1 -s $(({seed} + n))
    case $? in 0 | 2) ;; *) exit 1 ;; esac # 2: /dev/ebb went before it had an object
done"""
# Volatile memory goes to the host soon, blocks of page cache are hinted and withdrawn at once.
SETTINGS = "; ".join(f"echo {value} >/sys/module/virtio_ebb/parameters/{name}" for name, value in {
    "age_msec": 20, "hint_rest_msec": 10, "hint_pass_msec": 200, "hint_min_pages": 64}.items())


class Trouble(Exception):
    """Something is wrong with a guest, other than a bad page."""


class Subject:
    """front: ebb, balloon, or none for the control without a device. merge: is its memory
    mergeable as a whole at the start. way: the device's mode of merging, to which it comes back."""

    def __init__(self, lab, index, front, merge, way):
        self.lab, self.index, self.front = lab, index, front
        self.merge, self.way = merge, way
        self.name = f"g{index}"
        self.cgroup = None
        self.boots = 0
        self.program = self.reload = self.volatile = None
        self.taken = 0  # of what the program has said
        self.volatile_taken = 0
        self.booting = None
        self.boot_error = None
        self.ram = None
        self.spoil = False  # the program is to change one bit, after each boot
        self.rising = False  # the program has just begun to want all memory back
        self.bad_lines = []
        self.before = collections.Counter()  # of the program's runs that are over
        self.now = collections.Counter()
        self.moved = time.monotonic()
        version, _ = cgroup_mod.find_parent()
        if version:
            self.cgroup = cgroup_mod.MemoryCgroup()
            if version == 1:
                # Whoever finds the group at its limit waits until it is raised again.
                (self.cgroup.path / "memory.oom_control").write_text("1")
        self.guest = self._start()

    def _start(self):
        memory_mib = self.lab.memory_mib
        disk = self.lab.work / f"{self.name}.disk"
        with open(disk, "wb") as f:
            f.truncate(DISK_BYTES)
        extra = ["-object", f"memory-backend-ram,id=ram,size={memory_mib}M,"
                            f"merge={'on' if self.merge else 'off'}",
                 "-drive", f"file={disk},format=raw,if=none,id=disk",
                 "-drive", f"file={self.lab.image},format=raw,if=none,id=image,readonly=on"]
        if guest_mod.accelerator() == "tcg":
            extra += TCG_CPU
        devices = ["virtio-blk-pci,drive=disk", "virtio-blk-pci,drive=image"]
        if self.front != "none":
            devices.append(f"{DEVICES[self.front]},id=ebb,label={self.name},mode=lazy,"
                           f"merge={self.way},agent={self.lab.ebbd.socket}")
        return guest_mod.Guest(binary=self.lab.qemu(self.front), kernel=self.lab.kernel,
                               initrd=self.lab.initrd, log_dir=self.lab.logs / self.name,
                               memory_mib=memory_mib, devices=devices, extra=extra,
                               machine="q35,memory-backend=ram,mem-merge=off",
                               append=STARVED,
                               cgroup=self.cgroup)

    @property
    def pid(self):
        return self.guest.pid

    @property
    def running(self):
        return self.program is not None

    def begin_boot(self):
        """Wait for the guest's init and start the program in it, in a thread of its own."""
        self.boots += 1
        self.boot_error = None
        self.booting = threading.Thread(target=self._boot, args=(self.boots,), daemon=True)
        self.booting.start()

    def _boot(self, number):
        try:
            self.guest.wait_boot(number)
            order = [*self.lab.order("virtio_blk")]
            if self.front != "none":
                order += self.lab.order(MODULES[self.front])
            self.guest.insmod(order)
            available_kib = self.guest.meminfo()["MemAvailable"]
            mib = (available_kib // 1024 - ROOM_MIB[self.front]) * SHARE_PERCENT // 100
            seed = random.Random(f"{self.lab.seed}/guest/{self.index}/{number}").getrandbits(63)
            self.moved = time.monotonic()
            self.program = self.guest.spawn(
                f"exec torture -s {seed} -S {self.lab.common_seed} -g {self.index + 1} -m {mib} "
                f"-w {WORKERS} -d /dev/vda -i /dev/vdb -c {80 if self.merge else 20}")
            if self.front == "ebb":
                self.guest.check(SETTINGS)
                self.volatile_taken = 0
                self.volatile = self.guest.spawn(
                    VOLATILE.format(mib=VOLATILE_MIB, seed=seed % 1000000))
            if self.spoil:
                self.tell("spoil")
        except (AssertionError, KeyError, OSError) as e:
            self.boot_error = e

    def _take_line(self, line):
        if line.startswith("BAD"):
            self.bad_lines.append(line)
            return
        found = re.match(r"(?:so far|total):((?: [a-z-]+ \d+)+)$", line)
        if found:
            words = found.group(1).split()
            fresh = collections.Counter(
                {words[i]: int(words[i + 1]) for i in range(0, len(words), 2)})
            if fresh["checked"] != self.now["checked"]:
                self.moved = time.monotonic()
            self.rising |= fresh["tide"] > self.now["tide"]
            self.now = fresh
        elif line:
            raise Trouble(f"{self.name}: the program says: {self.program.output[-800:]}")

    def _look_at_volatile(self):
        """What volwork has said: a line for each round, and one for each wrong answer."""
        program = self.volatile
        while program and (end := program.raw.find(b"\n", self.volatile_taken)) >= 0:
            line = program.raw[self.volatile_taken:end].decode(errors="replace").strip()
            self.volatile_taken = end + 1
            found = re.match(r"takebacks \d+, whole (\d+), purged (\d+), calls \d+, bad (\d+)", line)
            if found:
                whole, purged, bad = map(int, found.groups())
                self.before.update({"checked": whole + purged, "volatile-whole": whole,
                                    "volatile-purged": purged, "bad": bad})
            elif line.startswith("bad page"):
                self.bad_lines.append(line)
            elif line and not line.startswith("no object"):  # /dev/ebb went just now
                raise Trouble(f"{self.name}: volwork says: {line}")
        if program and program.status:
            raise Trouble(f"{self.name}: volwork ended with {program.status}")

    def check_alive(self):
        status = self.guest.process.poll()
        if status is not None:
            raise Trouble(f"{self.name}: QEMU ended with {status}; it said last:\n"
                          f"{self.guest.qemu_output()[-500:]}")
        console = self.guest.console()
        if "Kernel panic" in console:
            raise Trouble(f"{self.name}: the guest's kernel panicked:\n{console[-2000:]}")

    def look(self, ended=False):
        """Take in what the program has said. Raises Trouble if it or the guest is not well."""
        self.check_alive()
        if self.boot_error:
            raise Trouble(f"{self.name}: boot {self.boots}: {self.boot_error}")
        program = self.program
        if not program:
            return
        while (end := program.raw.find(b"\n", self.taken)) >= 0:
            line = program.raw[self.taken:end].decode(errors="replace").strip()
            self.taken = end + 1
            self._take_line(line)
        self._look_at_volatile()
        if program.error or program.lost or program.status is not None and not ended:
            raise Trouble(f"{self.name}: the program ended by itself: status {program.status}, "
                          f"{program.error or program.output[-500:]}")
        if self.reload and self.reload.status:
            raise Trouble(f"{self.name}: reloading the driver: {self.reload.output}")

    def check_moving(self, limit):
        if self.program and time.monotonic() - self.moved > limit:
            raise Trouble(f"{self.name}: no page was checked for {limit:.0f} s: the guest hangs")

    def totals(self):
        found = self.before + self.now
        del found["tide"]
        return found

    def reset(self):
        """The guest begins anew; what its program had counted so far stays counted."""
        self.look()
        self.program = self.reload = self.volatile = None
        self.before, self.now, self.taken = self.totals(), collections.Counter(), 0
        self.guest.qmp.command("system_reset")
        self.begin_boot()

    def tell(self, word):
        if self.program:
            self.program.write(word + "\n")

    def reload_driver(self):
        if self.reload and self.reload.status is None:
            return False
        module = MODULES[self.front]
        insmods = " && ".join(f"insmod /lib/modules/{name}.ko"
                              for name in self.lab.order(module)[-1:])
        # Who has an object of /dev/ebb ends first.
        self.reload = self.guest.spawn(
            f"touch /tmp/reload; until rmmod {module}; do usleep 50000; done 2>/dev/null; "
            f"{insmods} && {{ {SETTINGS if self.front == 'ebb' else 'true'}; }} && rm /tmp/reload")
        return True

    def stats(self):
        """The device's counters, with - for a device that there is not."""
        if self.front == "none":
            return {}
        return self.guest.qmp.get("/machine/peripheral/ebb", "ebb-stats")

    def ram_range(self):
        if not self.ram:
            start = self.guest.host_address(0)
            self.ram = start, start + self.lab.memory_mib * MIB
        return self.ram

    def finish(self, limit=180):
        """All is verified once more; the program's and QEMU's end."""
        if self.booting:
            self.booting.join(limit)
        if self.program:
            if self.volatile:
                self.guest.check("touch /tmp/enough")
            self.program.write("quit\n")
            try:
                status = self.program.wait(limit)
                if self.volatile:
                    self.volatile.wait(limit)
            except (CommandFailed, GuestGone) as e:
                raise Trouble(f"{self.name}: {e}") from e
            self.look(ended=True)
            if status not in (0, 1):
                raise Trouble(f"{self.name}: the program ended with {status}: "
                              f"{self.program.output[-500:]}")
            self.program = None
        self.check_kernel()

    def check_kernel(self):
        trouble = self.guest.kernel_trouble()
        if trouble:
            raise Trouble(f"{self.name}: the guest's kernel complained:\n{trouble}")

    def close(self):
        self.guest.kill()
        if self.cgroup:
            self.cgroup.remove()

