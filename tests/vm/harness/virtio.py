# SPDX-License-Identifier: LGPL-2.1-or-later
"""A driver for modern virtio-pci devices, over qtest: as correct or as hostile as a test wants."""
import struct

from .qtest import PciDevice, le
from .wait import wait_for

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 0x40, 0x80
F_VERSION_1 = 32
DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4

CFG_COMMON, CFG_NOTIFY, CFG_ISR, CFG_DEVICE = 1, 2, 3, 4


class Memory:
    """Hands out guest-physical memory for rings and requests."""

    def __init__(self, start=1 << 20, end=8 << 20):
        self.next = start
        self.end = end

    def take(self, size, align=16):
        at = (self.next + align - 1) // align * align
        self.next = at + size
        if self.next > self.end:
            raise MemoryError("the test's memory for rings and requests is used up")
        return at


class VirtioPci:
    def __init__(self, qtest, slot, memory):
        self.qtest = qtest
        self.memory = memory
        self.pci = PciDevice(qtest, slot)
        self.queues = {}
        bars = self.pci.enable()
        self.places = {}
        for cap in self.pci.vendor_capabilities():
            kind, bar = self.pci.config_byte(cap + 3), self.pci.config_byte(cap + 4)
            if bar in bars and kind not in self.places:
                self.places[kind] = bars[bar] + self.pci.config_read(cap + 8)
                if kind == CFG_NOTIFY:
                    self.notify_multiplier = self.pci.config_read(cap + 16)
        self.common = self.places[CFG_COMMON]
        self.config = self.places[CFG_DEVICE]

    @property
    def status(self):
        return self.qtest.readb(self.common + 20)

    @status.setter
    def status(self, value):
        self.qtest.writeb(self.common + 20, value)

    @property
    def broken(self):
        return bool(self.status & NEEDS_RESET)

    def reset(self):
        self.status = 0
        wait_for(lambda: self.status == 0, "the device's reset")
        self.queues = {}

    def device_features(self):
        value = 0
        for select in (0, 1):
            self.qtest.writel(self.common, select)
            value |= self.qtest.readl(self.common + 4) << 32 * select
        return value

    def negotiate(self, wanted):
        """wanted: bit numbers besides VERSION_1. Returns those that both have."""
        features = self.device_features() & (1 << F_VERSION_1 | sum(1 << bit for bit in wanted))
        self.status = ACKNOWLEDGE | DRIVER
        for select in (0, 1):
            self.qtest.writel(self.common + 8, select)
            self.qtest.writel(self.common + 12, features >> 32 * select & 0xffffffff)
        self.status = ACKNOWLEDGE | DRIVER | FEATURES_OK
        assert self.status & FEATURES_OK, "the device refused its own features"
        return {bit for bit in wanted if features >> bit & 1}

    def setup_queue(self, index):
        self.qtest.writew(self.common + 22, index)
        size = self.qtest.readw(self.common + 24)
        assert size, f"the device has no queue {index}"
        queue = Queue(self, index, size)
        for offset, value in ((32, queue.desc), (40, queue.avail), (48, queue.used)):
            self.qtest.writel(self.common + offset, value & 0xffffffff)
            self.qtest.writel(self.common + offset + 4, value >> 32)
        queue.notify_at = (self.places[CFG_NOTIFY] +
                           self.qtest.readw(self.common + 30) * self.notify_multiplier)
        self.qtest.writew(self.common + 28, 1)
        self.queues[index] = queue
        return queue

    def driver_ok(self):
        self.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK

    def start(self, features, queues):
        """Reset, negotiate, set up these queues, go."""
        self.reset()
        got = self.negotiate(features)
        for index in queues:
            self.setup_queue(index)
        self.driver_ok()
        return got

    def config_read(self, fmt):
        fmt = "<" + fmt
        return struct.unpack(fmt, self.qtest.read(self.config, struct.calcsize(fmt)))


class Queue:
    """A split virtqueue."""

    def __init__(self, device, index, size):
        self.device = device
        self.qtest = device.qtest
        self.index = index
        self.size = size
        take = device.memory.take
        self.desc = take(16 * size, 4096)
        self.avail = take(6 + 2 * size, 4096)
        self.used = take(6 + 8 * size, 4096)
        self.qtest.memset(self.desc, 16 * size, 0)
        self.qtest.memset(self.avail, 6 + 2 * size, 0)
        self.qtest.memset(self.used, 6 + 8 * size, 0)
        self.avail_index = 0
        self.seen = 0
        self.next_desc = 0
        self.notify_at = None

    def write_desc(self, slot, address, length, flags, following, table=None):
        self.qtest.write((table or self.desc) + 16 * slot,
                         le("QLHH", address, length, flags, following))

    def make_available(self, head):
        self.qtest.writew(self.avail + 4 + 2 * (self.avail_index % self.size), head)
        self.avail_index = self.avail_index + 1 & 0xffff
        self.qtest.writew(self.avail + 2, self.avail_index)

    def kick(self):
        self.qtest.writew(self.notify_at, self.index)

    def add(self, parts):
        """parts: (address, length, device writes it). Returns the head's slot."""
        slots = [(self.next_desc + i) % self.size for i in range(len(parts))]
        self.next_desc = (self.next_desc + len(parts)) % self.size
        for i, (address, length, writable) in enumerate(parts):
            flags = DESC_WRITE if writable else 0
            following = 0
            if i + 1 < len(parts):
                flags |= DESC_NEXT
                following = slots[i + 1]
            self.write_desc(slots[i], address, length, flags, following)
        self.make_available(slots[0])
        return slots[0]

    def used_count(self):
        return self.qtest.readw(self.used + 2)

    def wait_used(self, limit=120):
        """The next used element: (head, bytes written)."""
        wait_for(lambda: self.used_count() != self.seen,
                 f"queue {self.index} to use a buffer", limit, 0.001)
        at = self.used + 4 + 8 * (self.seen % self.size)
        self.seen = self.seen + 1 & 0xffff
        return struct.unpack("<LL", self.qtest.read(at, 8))
