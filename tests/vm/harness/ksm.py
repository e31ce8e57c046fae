# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's KSM: one for all who test here, so whoever uses it locks it and puts it back."""
import contextlib
import fcntl
import os
import pathlib
import tempfile

DIR = pathlib.Path("/sys/kernel/mm/ksm")
LOCK = pathlib.Path(tempfile.gettempdir(), "ebb-torture.lock")
START = {"run": 0, "advisor_mode": "none", "smart_scan": 0, "use_zero_pages": 0,
         "sleep_millisecs": 20, "pages_to_scan": 4000}


def usable():
    return os.access(DIR / "run", os.W_OK)


def read(name):
    try:
        text = (DIR / name).read_text()
    except OSError:
        return None
    # A choice is shown as "[none] scan-time".
    return text.partition("[")[2].partition("]")[0] if "[" in text else text.strip()


def write(name, value):
    try:
        (DIR / name).write_text(str(value))
    except OSError:
        pass  # not in this kernel, or not while pages are merged


def number(name):
    return int(read(name) or 0)


def thread():
    """ksmd's process number, or None where it cannot be seen."""
    for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == "ksmd":
                return int(path.parent.name)
        except OSError:
            pass
    return None


@contextlib.contextmanager
def running(**settings):
    """ksmd at work, by these settings."""
    with open(LOCK, "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        saved, ksmd = {name: read(name) for name in START}, thread()
        nice = os.getpriority(os.PRIO_PROCESS, ksmd) if ksmd else 0
        try:
            if ksmd:  # it would come last on a busy machine
                os.setpriority(os.PRIO_PROCESS, ksmd, -10)
            for name, value in {**START, **settings}.items():
                write(name, value)
            if "pages_to_scan" not in settings:
                # However much others have mergeable, a scan of all takes half a second of turns.
                known = sum(number(name) for name in ("pages_shared", "pages_sharing",
                                                      "pages_unshared", "pages_volatile"))
                write("pages_to_scan", max(START["pages_to_scan"], known // 25))
            write("run", 1)
            yield
        finally:
            # The advisor may refuse values that it sets itself: it comes first, run comes last.
            for name in sorted(saved, key=lambda n: (n == "run", n)):
                if saved[name] is not None:
                    write(name, saved[name])
            if ksmd:
                os.setpriority(os.PRIO_PROCESS, ksmd, nice)


def of_process(pid):
    """ksm_stat of a process, and its merged pages."""
    proc = pathlib.Path("/proc") / str(pid)
    found = {}
    for line in (proc / "ksm_stat").read_text().splitlines():
        key, _, value = line.replace(":", " ").partition(" ")
        found[key] = value.strip()
    return found


def merged_pages(pid):
    return int((pathlib.Path("/proc") / str(pid) / "ksm_merging_pages").read_text())
