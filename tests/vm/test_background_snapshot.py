# SPDX-License-Identifier: LGPL-2.1-or-later
"""A background snapshot write-protects the guest's memory and copies it while the guest runs. What the
kernel takes meanwhile loses its protection: what is written there later would get into the snapshot."""
import contextlib
import os
import threading

import pytest

from harness.ebb import BLOCK, MIB, PAGE
from harness.qmp import QmpError
from harness.wait import wait_for
from test_content import BASE, fill, purge, start, stats

BULK = 4 * MIB  # more than the pipes take: it is copied before the rest
MARKED, ALL = 2 * BLOCK, 3 * BLOCK


class Slowly:
    """The snapshot waits in a pipe until go()."""

    def __init__(self, folder):
        self.fifo, self.file = folder / "fifo", folder / "snapshot"
        os.mkfifo(self.fifo)
        self.may_go = threading.Event()
        self.thread = threading.Thread(target=self._copy, daemon=True)
        self.thread.start()

    def _copy(self):
        with open(self.fifo, "rb") as source, open(self.file, "wb") as out:
            self.may_go.wait()
            while data := source.read(1 << 20):
                out.write(data)

    def go(self):
        self.may_go.set()


@contextlib.contextmanager
def snapshot(guest, folder):
    """The guest runs in it, and hardly anything is copied before go()."""
    try:
        guest.qmp.command("migrate-set-capabilities", capabilities=[
            {"capability": "background-snapshot", "state": True}])
    except QmpError as e:
        pytest.skip(f"no background snapshots here: {e}")
    slowly = Slowly(folder)
    guest.qmp.command("migrate", uri=f"exec:cat >{slowly.fifo}")
    wait_for(lambda: guest.qmp.command("query-migrate").get("status") == "active" and
             guest.qmp.command("query-status")["running"], "the snapshot to be under way")
    try:
        yield slowly
    finally:
        slowly.go()
    wait_for(lambda: guest.qmp.command("query-migrate")["status"] == "completed",
             lambda: f"the snapshot's end: {guest.qmp.command('query-migrate')}")
    slowly.thread.join()


@pytest.mark.parametrize("offer", ["free", "volatile"])
def test_what_is_written_later_is_not_in_it(vm, tmp_path, offer):
    """Memory that was marked before is as it was or zero there: a guest with init_on_free=1 that
    goes on from the snapshot relies on it."""
    guest, dev = start(vm)
    fill(guest, BASE - BULK, BULK, 0x11)
    fill(guest, BASE, ALL)
    verdict, = getattr(dev, offer)([(BASE, MARKED)])
    assert verdict.bytes == MARKED
    with snapshot(guest, tmp_path) as slowly:
        purge(guest, BASE, MARKED)
        # A write to what is protected waits for the copy; to anything else it does not.
        threading.Timer(2, slowly.go).start()
        fill(guest, BASE, ALL, 0x77)
    assert guest.qtest.read(BASE, ALL) == b"\x77" * ALL

    copy = vm.start(qtest=True, memory_mib=guest.memory_mib, extra=["-incoming", "defer"],
                    devices=["virtio-ebb-pci,id=ebb,addr=4,mode=lazy,agent="])
    copy.qmp.command("migrate-incoming", uri=f"exec:cat {slowly.file}")
    wait_for(lambda: copy.qmp.command("query-status")["status"] == "running", "the copy")
    data = copy.qtest.read(BASE, ALL)
    pages = [data[at:at + PAGE] for at in range(0, ALL, PAGE)]
    marked = pages[:MARKED // PAGE]
    later = sum(page not in (b"\xa5" * PAGE, bytes(PAGE)) for page in marked)
    assert later == 0, f"{later} of {len(marked)} pages hold what was written after the snapshot"
    assert set(pages[len(marked):]) == {b"\xa5" * PAGE}
    assert stats(copy)["violations"] == 0
