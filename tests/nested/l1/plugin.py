# SPDX-License-Identifier: LGPL-2.1-or-later
"""Of pytest in the nested host: tells the outer side what goes on, a JSON object a line, and looks
at the nested host's kernel log after each case."""
import json
import os
import pathlib
import time

import pytest

from harness.guest import KERNEL_TROUBLE

PORT = pathlib.Path("/dev/ttyS1")


def tell(**words):
    with open(PORT, "w", encoding="ascii") as port:
        port.write(json.dumps(words) + "\n")


class KernelLog:
    """What the kernel says from now on."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def fresh(self):
        lines = []
        while True:
            try:
                record = os.read(self.fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return lines
            except BrokenPipeError:
                continue  # overwritten before it was read; the console has it
            lines.append(record.split(";", 1)[1].split("\n")[0])

    def trouble(self):
        lines = self.fresh()
        return "\n".join("\n".join(lines[i:i + 12]) for i, line in enumerate(lines)
                         if KERNEL_TROUBLE.search(line))


LOG = KernelLog()
STARTED = {}
SAID = {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    STARTED[item.nodeid] = time.monotonic()
    tell(event="start", case=item.nodeid)
    yield


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_teardown(item):
    yield
    trouble = LOG.trouble()
    if trouble:
        pytest.fail(f"the nested host's kernel complained:\n{trouble}", pytrace=False)


def pytest_runtest_logreport(report):
    """One word for a case: the first phase that did not pass speaks for it."""
    if report.outcome != "passed" and report.nodeid not in SAID:
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        SAID[report.nodeid] = (report.outcome, text, report.capstdout + report.capstderr)
    if report.when == "teardown":
        outcome, text, output = SAID.get(report.nodeid, ("passed", "", ""))
        tell(event="done", case=report.nodeid, outcome=outcome, text=text[-20000:],
             output=output[-20000:],
             figures=[text for name, text in report.user_properties if name == "figure"],
             seconds=round(time.monotonic() - STARTED[report.nodeid], 1))
