# SPDX-License-Identifier: LGPL-2.1-or-later
"""A memory control group of a test's own, version 1 or 2, whichever controls memory here."""
import errno
import os
import pathlib
import signal
import time

PREFIX = "ebb-test-"


def _mounts(kind):
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, where, fstype, options, *_ = line.split()
        if fstype == kind:
            yield pathlib.Path(where), options.split(",")


def _own_path(controller):
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path.lstrip("/")
    return ""


def find_parent():
    """(version, directory) below which groups with a memory controller can be made; or None and
    the reason."""
    for where, options in _mounts("cgroup"):
        if "memory" in options:
            parent = where / _own_path("memory")
            parent = parent if parent.is_dir() else where
            if os.access(parent, os.W_OK):
                return 1, parent
    for where, _ in _mounts("cgroup2"):
        control = where / "cgroup.subtree_control"
        if "memory" not in (where / "cgroup.controllers").read_text().split():
            continue
        if "memory" not in control.read_text().split():
            try:
                control.write_text("+memory")
            except OSError:
                continue
        return 2, where
    return None, "no writable memory control group (neither version 1 nor version 2)"


def sweep(parent):
    """Remove what test runs that were killed have left behind."""
    for path in parent.glob(PREFIX + "*"):
        pid = path.name[len(PREFIX):].split("-")[0]
        if pid.isdigit() and not pathlib.Path("/proc", pid).exists():
            remove(path)


def remove(path):
    """Kill who is left in it and remove it."""
    for _ in range(200):
        try:
            for pid in (path / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            pass
        try:
            path.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            time.sleep(0.05)
    raise RuntimeError(f"cannot remove {path}: still busy")


class MemoryCgroup:
    count = 0

    def __init__(self, limit_bytes=None):
        self.version, parent = find_parent()
        if self.version is None:
            raise RuntimeError(parent)
        sweep(parent)
        MemoryCgroup.count += 1
        self.path = parent / f"{PREFIX}{os.getpid()}-{MemoryCgroup.count}"
        self.path.mkdir()
        self.procs = self.path / "cgroup.procs"
        if limit_bytes:
            self.set_limit(limit_bytes)

    def _write(self, v1, v2, value):
        (self.path / (v1 if self.version == 1 else v2)).write_text(str(value))

    def _read(self, v1, v2):
        return (self.path / (v1 if self.version == 1 else v2)).read_text()

    def _fields(self, v1, v2):
        """A file of lines "key number"."""
        return dict(line.split() for line in self._read(v1, v2).splitlines())

    def set_limit(self, limit_bytes):
        """A lower limit makes the kernel reclaim; EBUSY when it cannot get there."""
        self._write("memory.limit_in_bytes", "memory.max", limit_bytes)

    def usage_bytes(self):
        return int(self._read("memory.usage_in_bytes", "memory.current"))

    def inactive_file_bytes(self):
        """What stands on the list of inactive file pages, where lazily freed memory is as well."""
        return int(self._fields("memory.stat", "memory.stat")[
            "total_inactive_file" if self.version == 1 else "inactive_file"])

    def failures(self):
        """How often an allocation found the group at its limit."""
        if self.version == 1:
            return int((self.path / "memory.failcnt").read_text())
        return int(self._fields("", "memory.events")["max"])

    def oom_kills(self):
        return int(self._fields("memory.oom_control", "memory.events").get("oom_kill", 0))

    def reclaim_all(self):
        """Have the kernel take everything that it can. Partial success is success."""
        try:
            if self.version == 1:
                (self.path / "memory.force_empty").write_text("0")
            else:
                (self.path / "memory.reclaim").write_text(str(self.usage_bytes()))
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.EBUSY, errno.EINTR):
                raise

    def remove(self):
        remove(self.path)
