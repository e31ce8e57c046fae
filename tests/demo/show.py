# SPDX-License-Identifier: LGPL-2.1-or-later
"""The demo's table."""
MIB = 1 << 20


def mib(figure):
    return f"{figure / MIB:.0f} MiB"


def total(guests, key):
    return sum(g[key] for g in guests)


def mean(guests, key):
    return total(guests, key) / len(guests)


def row(head, cells, last):
    print(f"  {head:42}" + "".join(f"{c:>12}" for c in cells) + f"{last:>14}")


def nsec_row(head, guests, key):
    row(head, [f"{g[key]:.0f} ns" for g in guests], f"{mean(guests, key):.0f} ns")


def table(result):
    guests, plain = result["guests"], result["baseline"]["guests"]
    print()
    row("", [g["name"] for g in guests], "together")
    row("touched by the program in the guest", [mib(g["touched_bytes"]) for g in guests],
        mib(total(guests, "touched_bytes")))
    row("still in use by it at the end", [mib(g["in_use_bytes"]) for g in guests],
        mib(total(guests, "in_use_bytes")))
    print("\n  without ebb, no limit")
    row("held by QEMU", [mib(g["held_bytes"]) for g in plain], mib(total(plain, "held_bytes")))
    nsec_row("first use: host kernel time per page", plain, "first_use_ns_per_page")
    nsec_row("used again: host kernel time per page", plain, "reuse_ns_per_page")
    print(f"\n  with ebb, all three limited to {mib(result['limit_bytes'])}")
    row("resident", [mib(g["resident_bytes"]) for g in guests],
        mib(total(guests, "resident_bytes")))
    row("- reclaimable (the host may take it)", [mib(g["reclaimable_bytes"]) for g in guests],
        mib(total(guests, "reclaimable_bytes")))
    row("= held", [mib(g["held_bytes"]) for g in guests], mib(total(guests, "held_bytes")))
    nsec_row("used again: host kernel time per page", guests, "reuse_ns_per_page")
    row("  of these the host had taken",
        [f"{100 * g['reuse_taken_share']:.0f} %" for g in guests],
        f"{100 * mean(guests, 'reuse_taken_share'):.0f} %")
    row("pages checked", [str(g["checked_pages"]) for g in guests],
        str(total(guests, "checked_pages")))
    row("bad pages", [str(g["bad_pages"]) for g in guests], str(total(guests, "bad_pages")))


def summary(result):
    guests = result["guests"]
    held, plain = total(guests, "held_bytes"), result["baseline"]["held_bytes"]
    print(f"\n  The guests hold {mib(held)} in place of {mib(plain)}: {100 * held / plain:.0f} %.")
    released = result["release"]
    print(f"  ebbctl release: {mib(released['bytes'])} of free memory went back to the host in "
          f"{released['seconds'] * 1e3:.0f} ms;\n  afterwards the three have "
          f"{mib(released['resident_after_bytes'])} resident.")
