# SPDX-License-Identifier: LGPL-2.1-or-later
"""One group of guests is mergeable at a time."""
import wire
from conftest import wait_for

MIB = wire.MIB


def told(guest, mode):
    assert guest.expect(wire.Merge) == wire.Merge(mode)


def state(guest, mode, marked=0, flags=0):
    guest.send(wire.merge_state(mode, flags, (marked, marked)))


def waits(ebbd, name):
    return ebbd.show(name)["merge_waits"]


def configure(ebbd, *groups):
    ebbd.configure(policy="merge = hinted", rest="".join(
        f'[guest "{name}"]\nmerge_group = {group}\n' for name, group in groups))
    ebbd.start()


def test_each_guest_is_a_group_of_its_own(idle_ebbd):
    ebbd = idle_ebbd
    configure(ebbd)
    first = ebbd.guest(b"first", low=1, high=3)
    told(first, wire.MERGE_HINTED)
    state(first, wire.MERGE_HINTED, 64 * MIB)
    second = ebbd.guest(b"second", low=1, high=3)
    told(second, wire.MERGE_OFF)
    assert ebbd.show("second")["merge_group"] == "own/second" and waits(ebbd, "second")
    assert "another group's turn" in ebbd.ctl("show", "second").stdout
    assert not waits(ebbd, "first")
    # Its turn comes when the first one wants it no more and has nothing left.
    state(second, wire.MERGE_OFF)
    ebbd.ctl("set", "first", "merge", "off")
    told(first, wire.MERGE_OFF)
    state(first, wire.MERGE_OFF, 32 * MIB, wire.MERGE_PENDING)
    wait_for("the figures", lambda: ebbd.show("first")["merge"]["marked_bytes"] == 32 * MIB)
    assert waits(ebbd, "second")
    state(first, wire.MERGE_OFF)
    told(second, wire.MERGE_HINTED)
    assert not waits(ebbd, "second")


def test_the_larger_group_takes_over(idle_ebbd):
    ebbd = idle_ebbd
    configure(ebbd, ("a1", "red"), ("b1", "host"), ("b2", "host"))
    a1 = ebbd.guest(b"a1", low=1, high=3)
    told(a1, wire.MERGE_HINTED)
    state(a1, wire.MERGE_HINTED, 8 * MIB)
    b1 = ebbd.guest(b"b1", low=1, high=3)
    told(b1, wire.MERGE_OFF)
    state(b1, wire.MERGE_OFF)
    b2 = ebbd.guest(b"b2", low=1, high=3)
    told(b2, wire.MERGE_OFF)
    told(a1, wire.MERGE_OFF)
    state(b2, wire.MERGE_OFF)
    # What is mergeable by the VMM's own hand counts as well.
    state(a1, wire.MERGE_OFF, 0, wire.MERGE_WHOLE)
    wait_for("the flag", lambda: ebbd.show("a1")["merge"]["whole"])
    assert waits(ebbd, "b1") and waits(ebbd, "b2") and waits(ebbd, "a1")
    state(a1, wire.MERGE_OFF)
    told(b1, wire.MERGE_HINTED)
    told(b2, wire.MERGE_HINTED)
    assert waits(ebbd, "a1")


def test_who_has_not_said_what_it_holds(idle_ebbd):
    """It may be merged still, by the word of an ebbd before this one: nobody is admitted beside it,
    and nobody who is has to go for it."""
    ebbd = idle_ebbd
    configure(ebbd, ("a", "red"), ("b1", "blue"), ("b2", "blue"), ("b3", "blue"))
    b1, b2 = (ebbd.guest(name, low=1, high=3) for name in (b"b1", b"b2"))
    told(b1, wire.MERGE_HINTED)
    told(b2, wire.MERGE_HINTED)
    a = ebbd.guest(b"a", low=1, high=3)
    told(a, wire.MERGE_OFF)
    b3 = ebbd.guest(b"b3", low=1, high=3)
    told(b3, wire.MERGE_OFF)
    assert waits(ebbd, "b3") and not waits(ebbd, "b1") and not waits(ebbd, "b2")
    state(a, wire.MERGE_HINTED, 64 * MIB)  # as it was when it heard of us
    wait_for("the figures", lambda: ebbd.show("a")["merge"])
    assert waits(ebbd, "b3")
    state(a, wire.MERGE_OFF)
    told(b3, wire.MERGE_HINTED)
    ebbd.ctl("set", "b1", "merge", "off")
    told(b1, wire.MERGE_OFF)  # and nothing before it


def test_keep_is_left_alone(idle_ebbd):
    ebbd = idle_ebbd
    configure(ebbd)
    keep = ebbd.guest(b"keep", low=1, high=3)
    told(keep, wire.MERGE_HINTED)
    ebbd.ctl("set", "keep", "merge", "keep")
    told(keep, wire.MERGE_KEEP)
    state(keep, wire.MERGE_ALL, 64 * MIB)
    other = ebbd.guest(b"other", low=1, high=3)
    told(other, wire.MERGE_HINTED)
