# SPDX-License-Identifier: LGPL-2.1-or-later
"""QEMU without a guest: raw bytes to its memory, ports and PCI devices over the qtest protocol.

No kernel stands between a test and the device, so a test can be a driver that no kernel would be.
"""
import base64
import select
import struct
import time

from .wait import SCALE, WaitTimeout


class Qtest:
    def __init__(self, sock):
        self.sock = sock
        self.buffer = bytearray()

    def _line(self, limit):
        end = time.monotonic() + limit * SCALE
        searched = 0
        while (at := self.buffer.find(b"\n", searched)) < 0:
            searched = len(self.buffer)
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise WaitTimeout("QEMU's qtest port did not answer")
            data = self.sock.recv(1 << 20)
            if not data:
                raise EOFError("QEMU closed its qtest port: it has ended")
            self.buffer += data
        line = self.buffer[:at].decode()
        del self.buffer[:at + 1]
        return line

    def command(self, text, limit=120):
        self.sock.sendall(text.encode() + b"\n")
        while True:
            line = self._line(limit)
            if line.startswith("IRQ"):
                continue
            words = line.split()
            if not words or words[0] != "OK":
                raise AssertionError(f"qtest: {text[:80]}: {line}")
            return words[1:]

    def outl(self, port, value):
        self.command(f"outl {port:#x} {value:#x}")

    def inl(self, port):
        return int(self.command(f"inl {port:#x}")[0], 0)

    def writeb(self, at, value):
        self.command(f"writeb {at:#x} {value:#x}")

    def writew(self, at, value):
        self.command(f"writew {at:#x} {value:#x}")

    def writel(self, at, value):
        self.command(f"writel {at:#x} {value:#x}")

    def writeq(self, at, value):
        self.command(f"writeq {at:#x} {value:#x}")

    def readb(self, at):
        return int(self.command(f"readb {at:#x}")[0], 0)

    def readw(self, at):
        return int(self.command(f"readw {at:#x}")[0], 0)

    def readl(self, at):
        return int(self.command(f"readl {at:#x}")[0], 0)

    def write(self, at, data):
        if data:
            text = base64.b64encode(data).decode()
            self.command(f"b64write {at:#x} {len(data):#x} {text}")

    def read(self, at, size):
        if not size:
            return b""
        return base64.b64decode(self.command(f"b64read {at:#x} {size:#x}")[0])

    def holds(self, at, size, value):
        """Is every byte of it this value?"""
        piece = 4 << 20
        return all(self.read(at + done, min(piece, size - done)) ==
                   bytes([value]) * min(piece, size - done) for done in range(0, size, piece))

    def memset(self, at, size, value):
        self.command(f"memset {at:#x} {size:#x} {value:#x}")


PCI_COMMAND = 0x04
PCI_BAR0 = 0x10
PCI_CAP_POINTER = 0x34
PCI_CAP_VENDOR = 9
BAR_WINDOW = 0xd0000000


class PciDevice:
    """A function on bus 0. Its memory BARs are placed by slot."""

    def __init__(self, qtest, slot):
        self.qtest = qtest
        self.slot = slot

    def config_read(self, offset):
        self.qtest.outl(0xcf8, 1 << 31 | self.slot << 11 | offset & 0xfc)
        return self.qtest.inl(0xcfc)

    def config_write(self, offset, value):
        self.qtest.outl(0xcf8, 1 << 31 | self.slot << 11 | offset & 0xfc)
        self.qtest.outl(0xcfc, value)

    def config_byte(self, offset):
        return self.config_read(offset) >> 8 * (offset & 3) & 0xff

    @property
    def ids(self):
        value = self.config_read(0)
        return value & 0xffff, value >> 16

    def enable(self):
        """Place every memory BAR and switch on memory access and bus mastering."""
        bars = {}
        at = BAR_WINDOW + self.slot * 0x1000000
        number = 0
        while number < 6:
            offset = PCI_BAR0 + 4 * number
            self.config_write(offset, 0xffffffff)
            mask = self.config_read(offset)
            if mask and not mask & 1:
                size = ~(mask & ~0xf) + 1 & 0xffffffff
                at = (at + size - 1) // size * size
                self.config_write(offset, at)
                bars[number] = at
                at += size
                if mask & 6 == 4:
                    self.config_write(offset + 4, 0)
                    number += 1
            number += 1
        self.config_write(PCI_COMMAND, 0x6)
        return bars

    def vendor_capabilities(self):
        at = self.config_byte(PCI_CAP_POINTER)
        while at:
            if self.config_byte(at) == PCI_CAP_VENDOR:
                yield at
            at = self.config_byte(at + 1)


def le(fmt, *values):
    return struct.pack("<" + fmt, *values)
