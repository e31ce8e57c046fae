# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for a condition, never for a time.

The limits only end a test that hangs: they are many times what is ever seen, since the machines
are shared and an emulated guest may get a fraction of a core.
"""
import os
import time

SCALE = float(os.environ.get("EBB_TEST_TIMEOUT_SCALE", "1"))


class WaitTimeout(AssertionError):
    pass


def wait_for(condition, what, limit=120.0, interval=0.05, alive=None):
    """Call condition() until it returns something true, and return that.

    what: said when the limit is reached; may be a function, called then. alive: a function
    that raises when there is no point in waiting any longer (the guest died).
    """
    limit *= SCALE
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if alive:
            alive()
        if time.monotonic() > end:
            said = what() if callable(what) else what
            raise WaitTimeout(f"still waiting after {limit:.0f} s: {said}")
        time.sleep(interval)
