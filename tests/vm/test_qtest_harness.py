# SPDX-License-Identifier: LGPL-2.1-or-later
"""The qtest driver itself, on the stock QEMU's virtio-balloon."""
from harness.virtio import Memory, VirtioPci
from harness.wait import wait_for

BALLOON_F_REPORTING = 5
BALLOON_VQ_REPORTING = 3
MIB = 1 << 20
STOCK_BALLOON = "virtio-balloon-pci,free-page-reporting=on,disable-legacy=on,addr=4"


def test_stock_balloon_discards_what_is_reported(vm):
    guest = vm.start(stock=True, qtest=True, memory_mib=256,
                     devices=[STOCK_BALLOON])
    device = VirtioPci(guest.qtest, 4, Memory())
    assert device.pci.ids == (0x1af4, 0x1045)
    features = device.start([BALLOON_F_REPORTING], range(4))
    assert features == {BALLOON_F_REPORTING}
    guest.qtest.memset(64 * MIB, 64 * MIB, 0xa5)
    full = guest.sample().rss_kib
    queue = device.queues[BALLOON_VQ_REPORTING]
    queue.add([(64 * MIB, 32 * MIB, True)])
    queue.kick()
    queue.wait_used()
    wait_for(lambda: guest.sample().rss_kib < full - 31 * 1024, "the host to get 32 MiB back")
    assert guest.qtest.read(64 * MIB, 16) == bytes(16)
    assert guest.qtest.read(96 * MIB, 16) == b"\xa5" * 16
    assert not device.broken


def test_stock_balloon_breaks_on_a_loop(vm):
    guest = vm.start(stock=True, qtest=True, memory_mib=64,
                     devices=[STOCK_BALLOON])
    device = VirtioPci(guest.qtest, 4, Memory())
    device.start([BALLOON_F_REPORTING], range(4))
    queue = device.queues[BALLOON_VQ_REPORTING]
    queue.write_desc(0, 32 * MIB, 4096, 1, 0)
    queue.make_available(0)
    queue.kick()
    wait_for(lambda: device.broken, "the device to say that it is broken")
    device.start([BALLOON_F_REPORTING], range(4))
    assert not device.broken
