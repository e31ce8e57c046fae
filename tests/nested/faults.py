# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults of the emulated processor, known by what they leave behind: no guest, driver or executor can
cause them. README.md says how each comes about. A case in which one is seen is run again, once."""
import re

FAULTS = {
    # What KVM found as being delivered (EXITINTINFO) was delivered long before.
    "KVM took an event for undelivered": r"KVM internal error\. Suberror: 3\n",
    # In the first instructions of the timer's handler, with interrupts off.
    "an interrupt came twice": r"ENTRY_TRAMPOLINE stack guard page was hit"
                               r"(?s:.*)asm_sysvec_apic_timer_interrupt\+0x3/",
}


def find(text):
    """The fault that a case's report tells of, or None."""
    for name, pattern in FAULTS.items():
        if re.search(pattern, text):
            return name
    return None
