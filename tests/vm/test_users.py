# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs on volatile memory, and the clients and programs of Debian that use them."""
import contextlib
import glob
import pathlib
import re
import shutil
import socket
import subprocess

import pytest

from harness.volatile import Purger, counters
from harness.wait import wait_for

LAZY = ["virtio-ebb-pci,id=ebb,mode=lazy"]


def debian(name):
    path = shutil.which(name)
    if not path:
        pytest.skip(f"{name} is not installed (tests/packages.txt)")
    return pathlib.Path(path)


class Cache:
    """An ebb-cache in a guest."""

    def __init__(self, guest, options, enter=""):
        self.guest = guest
        guest.check("busybox ifconfig lo 127.0.0.1 up")
        self.command = guest.spawn(f"{enter} exec ebb-cache {options}")
        wait_for(lambda: "values in" in self.command.output, "the cache to listen")

    def load(self, options):
        """What cacheload counts, and what it prints."""
        status, output = self.guest.run(f"cacheload {options}")
        found = re.search(r"gets (\d+), hits (\d+), wrong (\d+), failed (\d+)", output)
        assert found, f"cacheload gave no account ({status}):\n{output}"
        return [int(n) for n in found.groups()]

    def stats(self):
        text = self.guest.check("memcstat --servers=127.0.0.1")
        return {k: int(v) for k, v in re.findall(r"^\s+(\w+): (\d+)$", text, re.M)}


@contextlib.contextmanager
def cache_here(build):
    """An ebb-cache on this machine, in whatever memory it has; it must end by us alone."""
    process = subprocess.Popen([build.need("guest-driver/users/ebb-cache"), "-p", "0", "-m", "16"],
                               stdout=subprocess.PIPE, text=True)
    try:
        yield int(re.search(r":(\d+), values in", process.stdout.readline()).group(1))
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.fixture
def cache_image(build, image_with):
    users = [build.need("guest-driver/users/ebb-cache"), build.need("tests/guest/cacheload")]
    image_with(dynamic=users + [debian(n) for n in ("memcstat", "memccp", "memccat")])


def test_cache_under_purging(vm, cache_image):
    """A client of Debian's speaks to the cache while the host purges: a hit is bit-identical."""
    guest = vm.boot(memory_mib=320, devices=LAZY)
    vm.insmod(guest, "virtio_ebb", "age_msec=1")
    cache = Cache(guest, "-m 64")
    gets, hits, wrong, failed = cache.load("-n 1500 -k 300")
    assert (wrong, failed) == (0, 0) and hits > gets / 2
    with Purger(guest) as purger:
        gets, hits, wrong, failed = cache.load("-n 1500 -k 300")
        wait_for(lambda: purger.rounds > 2, "the host to purge")
    stats = cache.stats()
    print(gets, hits, stats)
    assert (wrong, failed) == (0, 0) and hits and stats["purged_items"] > 100
    assert stats["failed_takebacks"] == 0 and stats["volatile"] == 1
    # Debian's own programs, and what they get back.
    guest.check("cp /bin/busybox /tmp/value && truncate -s 300001 /tmp/value")
    guest.check("memccp --servers=127.0.0.1 /tmp/value && "
                "memccat --servers=127.0.0.1 --file=/tmp/back value && cmp /tmp/value /tmp/back")
    assert counters(guest)["strange"] == 0


def test_cache_in_a_full_group(vm, cache_image):
    """Where a cache is killed for want of memory, the same cache in volatile memory misses more."""
    guest = vm.boot(memory_mib=256)
    vm.insmod(guest, "virtio_ebb", "huge=0")
    guest.check("mount -t cgroup2 none /cg && echo +memory >/cg/cgroup.subtree_control && "
                "mkdir /cg/full && echo 7M >/cg/full/memory.max")
    enter = "echo $$ >/cg/full/cgroup.procs &&"
    load = "-n 1700 -k 700"

    guest.check("dmesg -n 1")  # no word of the killing, which has a stack in it
    plain = Cache(guest, "-m 64 --plain", enter)
    plain.load(load)
    wait_for(lambda: "oom_kill 1" in guest.check("cat /cg/full/memory.events"),
             "the plain cache to be killed")
    assert plain.command.wait() != 0
    guest.check("dmesg -n 7")

    cache = Cache(guest, "-m 64", enter)
    gets, hits, wrong, failed = cache.load(load)
    stats = cache.stats()
    print(gets, hits, stats)
    assert (wrong, failed) == (0, 0) and hits > gets / 10
    assert stats["purged_items"] > 100 and stats["evictions"] == 0
    assert "oom_kill 1" in guest.check("cat /cg/full/memory.events")
    guest.check("echo 64M >/cg/full/memory.max")
    gets, more_hits, wrong, failed = cache.load(load)
    print(gets, more_hits)
    assert (wrong, failed) == (0, 0) and more_hits > hits


def test_cache_in_whole_blocks(vm, cache_image):
    """A host with huge pages takes only whole blocks, and gets them: values are of any size, and what
    none of them touches is volatile, too."""
    guest = vm.boot(memory_mib=320, devices=LAZY)
    vm.insmod(guest, "virtio_ebb", "age_msec=1")
    cache = Cache(guest, "-m 64")
    gets, hits, wrong, failed = cache.load("-n 800 -k 600")
    assert (wrong, failed) == (0, 0) and hits

    def marked():
        stats = guest.qmp.get("/machine/peripheral/ebb", "ebb-stats")
        return stats["content-block-bytes"] >= cache.stats()["bytes"]
    wait_for(marked, lambda: f"the marks: {cache.stats()}, {counters(guest)}")


GARBAGE = [
    b"get " + b"k" * 251 + b"\r\n", b"get " + b"k " * 40000 + b"\r\n", b"\0" * 70000, b"a" * 70000,
    b"get\r\nset\r\nset a b c d\r\nset a 0 0 -1\r\n", b"set a 0 0 4294967296\r\n",
    b"set a 0 0 99999999999999999999\r\nx\r\n", b"set a 0 0 3\r\nabcdef\r\n",
    b"set a 0 0 2000000\r\n" + b"x" * 2000002 + b"get a\r\n", b"cas a 0 0 1\r\nx\r\n",
    b"set a 0 0 1 noreply\r\nx\r\nincr a 99999999999999999999\r\ndecr a 1\r\n",
    b"set a\x01b 0 0 1\r\nx\r\n", b" \r\n\n\n\r\nget\n", b"stats " + b"x " * 500 + b"\r\n",
    b"append a 0 0 1\r\nx\r\n" * 3, b"verbosity\r\nflush_all -1\r\ntouch a b\r\n"]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_cache_takes_any_bytes(build, garbage):
    """Whatever one client sends, the others are served, and no memory is read that is not its."""
    with cache_here(build) as port, socket.create_connection(("127.0.0.1", port), 60) as other:
        with socket.create_connection(("127.0.0.1", port), 60) as client:
            try:
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 16):
                    pass
            except (ConnectionResetError, BrokenPipeError):
                pass
        other.sendall(b"set k 5 0 3\r\nabc\r\nget k nothing k\r\nquit\r\n")
        with other.makefile("rb") as answers:
            assert answers.read() == (b"STORED\r\n" + b"VALUE k 5 3\r\nabc\r\n" * 2 +
                                      b"END\r\n")


def test_cache_byte_by_byte(build):
    """A command may come in any pieces, and many at once; a client that reads nothing waits."""
    with cache_here(build) as port, socket.create_connection(("127.0.0.1", port), 60) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"set k 0 0 5\r\nab\r\nc\r\nget k  k\r\n":
            client.sendall(bytes([byte]))
        value = bytes(range(256)) * 4096
        client.sendall(b"set big 0 0 %d noreply\r\n%s\r\n" % (len(value), value))
        client.sendall(b"get " + b"big " * 20 + b"\r\nquit\r\n")
        with client.makefile("rb") as answers:
            assert answers.read() == (
                b"STORED\r\n" + b"VALUE k 0 5\r\nab\r\nc\r\n" * 2 + b"END\r\n" +
                (b"VALUE big 0 %d\r\n%s\r\n" % (len(value), value)) * 20 + b"END\r\n")


def test_cache_has_the_protocol(build):
    """Debian's test of servers of the text protocol."""
    with cache_here(build) as port:
        done = subprocess.run([debian("memccapable"), "-h", "127.0.0.1", "-p", str(port), "-a"],
                              capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "FAIL" not in done.stdout + done.stderr, done


JEMALLOC = "LD_PRELOAD='libjemalloc.so.2 libebb-jemalloc.so' MALLOC_CONF=dirty_decay_ms:0"


@pytest.fixture
def heap_image(build, image_with):
    found = [pathlib.Path(p) for p in glob.glob("/usr/lib/*/libjemalloc.so.2")]
    if not found:
        pytest.skip("libjemalloc2 is not installed (tests/packages.txt)")
    image_with(dynamic=[build.need("guest-driver/users/libebb-jemalloc.so"),
                        build.need("tests/guest/heapwork"), found[0], debian("xz")])


def test_programs_on_jemalloc(vm, heap_image):
    """Programs that know nothing of it run on volatile memory while the host purges."""
    guest = vm.boot(memory_mib=320, cpus=2, devices=LAZY)
    vm.insmod(guest, "virtio_ebb", "age_msec=1")
    with Purger(guest) as purger:
        status, output = guest.run(f"{JEMALLOC} heapwork -n 2000 -f 1000")
        assert status == 0, output
        assert re.search(r"rounds 4000, forks 4, bad 0", output), output
        heap = counters(guest)
        guest.check(f"head -c 1500000 /bin/busybox >/tmp/all && {JEMALLOC} sh -c '"
                    "/bin/xz -1 -k /tmp/all && /bin/xz -dc /tmp/all.xz | cmp - /tmp/all'")
        wait_for(lambda: purger.rounds > 2, "the host to purge")
    print(output, heap, counters(guest))
    assert heap["purged"] > 100 and counters(guest)["strange"] == 0


def test_thousands_of_ranges(vm, heap_image):
    """The kernel's trees of an object's ranges, deep and worn, are freed with it; the guest lives on."""
    guest = vm.boot(memory_mib=1024, devices=LAZY, append="slub_debug=FZPU")
    vm.insmod(guest, "virtio_ebb")
    for _ in range(2):
        status, output = guest.run(f"{JEMALLOC} heapwork -n 3000 -t 32 -f 100000")
        assert status == 0 and "bad 0" in output, output
        guest.check("usleep 300000")  # what had readers is freed when there can be none any more
