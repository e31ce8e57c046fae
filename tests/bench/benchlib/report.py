# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tables, the targets and the JSON. The keys are in tests/bench/README.md."""
from .reuse import VARIANTS

PAGES = ("thp", "4k")
PAGES_WORDS = {"thp": "huge pages", "4k": "4 KiB pages"}
WAYS = ("release", "fpr", "balloon", "virtio_mem", "virtio_mem_quick")
WAYS_WORDS = {"release": "release (ebb)", "fpr": "free page reporting", "balloon": "balloon",
              "virtio_mem": "virtio-mem unplug", "virtio_mem_quick": "the same, quick zeroing"}
VARIANT_WORDS = {"never": "never reported (no device)", "rest": "ebb, host has plenty",
                 "lazy": "ebb, lazily freed", "eager": "ebb, discarded",
                 "fpr": "stock free page reporting"}


def seconds_per_gib(way):
    return way["seconds"] / way["bytes"] * (1 << 30)


def target(name, value, limit, at_most=True, error=0.0):
    if at_most:
        met = value <= limit
        close = value - 2 * error <= limit
    else:
        met = close = value >= limit
    return {"name": name, "value": value, "limit": limit, "at_most": at_most, "error": error,
            "met": met, "within_error": close}


def targets(reuse, back):
    found = []
    for pages, limit in (("4k", 0.25), ("thp", 0.1)):
        lazy, fpr = (reuse[pages][v]["kernel_ns_per_page"] for v in ("lazy", "fpr"))
        found.append(target(f"reuse after lazy / after free page reporting, {PAGES_WORDS[pages]}",
                            lazy / fpr, limit))
    for pages in PAGES:
        rest = reuse[pages]["rest"]
        found.append(target(f"reuse at rest / never reported, {PAGES_WORDS[pages]}",
                            rest["of_never"], 1.02, error=rest["of_never_error"]))
        found.append(target(f"more faults a page at rest than never, {PAGES_WORDS[pages]}",
                            rest["more_faults_per_page"], 0.001))
    thp = back["thp"]
    for other, limit in (("virtio_mem", 100), ("fpr", 300)):
        found.append(target(f"release: times as fast per GiB as {WAYS_WORDS[other]}, huge pages",
                            seconds_per_gib(thp[other]) / seconds_per_gib(thp["release"]), limit,
                            at_most=False))
    for pages, limit in (("thp", 3.0), ("4k", 1.3)):
        way = back[pages]["release"]
        found.append(target(f"release: median / bare system calls, {PAGES_WORDS[pages]}",
                            way["seconds"] / way["bare_seconds"], limit))
    found.append(target("release: MiB of huge pages split", thp["release"]["split_huge_bytes"] /
                        (1 << 20), 0.0))
    return found


def document(host, reuse, back, found):
    out = {"host": host, "reuse": {}, "return": {}, "targets": found}
    for pages in PAGES:
        flat = out["reuse"][pages] = {}
        for variant in VARIANTS:
            figures = reuse[pages][variant]
            flat[f"{variant}_ns_per_page"] = figures["kernel_ns_per_page"]
            flat[f"{variant}_min_ns_per_page"] = figures["kernel_min_ns_per_page"]
            flat[f"{variant}_wall_ns_per_page"] = figures["wall_ns_per_page"]
            flat[f"{variant}_cpu_ns_per_page"] = figures["cpu_ns_per_page"]
            flat[f"{variant}_faults_per_page"] = figures["faults_per_page"]
        for key in ("of_never", "of_never_error", "kernel_of_never", "more_faults_per_page",
                    "requests"):
            flat[f"rest_{key}"] = reuse[pages]["rest"][key]
        out["return"][pages] = back[pages]
    # What QEMU asks for itself is the rule; the other is beside it.
    out["return"].update(back["thp"])
    return out


def print_reuse(reuse):
    print("\nUsing 1 GiB again that the guest had freed, nanoseconds per page of 4 KiB\n")
    print(f"{'':28}{'huge pages on the host':>36}{'4 KiB pages':>36}")
    print(f"{'':28}" + f"{'host kernel':>12}{'(least)':>8}{'in all':>8}{'faults':>8}" * 2)
    for variant in VARIANTS:
        line = f"{VARIANT_WORDS[variant]:28}"
        for pages in PAGES:
            f = reuse[pages][variant]
            line += (f"{f['kernel_ns_per_page']:12.0f}{f['kernel_min_ns_per_page']:8.0f}"
                     f"{f['wall_ns_per_page']:8.0f}{f['faults_per_page']:8.3f}")
        print(line)
    print("""
host kernel: time that the host's kernel worked for QEMU, median (and least) of the rounds;
in all: time as the guest saw it, with its own page faults and zeroing; faults: QEMU's.""")
    for pages in PAGES:
        rest = reuse[pages]["rest"]
        print(f"At rest the device answered {rest['requests']} requests ({PAGES_WORDS[pages]}).")


def print_returns(back):
    print("\nUntil the host has it back (2 GiB guest that had used and freed 1.4 GiB)\n")
    print(f"{'':24}{'huge pages on the host':>40}{'4 KiB pages':>40}")
    print(f"{'':24}" + f"{'MiB':>7}{'seconds':>10}{'per GiB':>10}{'CPU s':>9}    " * 2)
    for way in WAYS:
        line = f"{WAYS_WORDS[way]:24}"
        for pages in PAGES:
            f = back[pages][way]
            line += (f"{f['bytes'] / (1 << 20):7.0f}{f['seconds']:10.4f}{seconds_per_gib(f):10.4f}"
                     f"{f['cpu_seconds']:9.3f}    ")
        print(line)
    print("""
quick zeroing: an emulated processor without erms and fsrm, where clearing a page, most of what
virtio-mem does, takes an eighth of the time; not what QEMU emulates by itself.""")
    for pages in PAGES:
        f = back[pages]["release"]
        ms = {key: f[key] * 1e3 for key in f if key.endswith("seconds")}
        print(f"release, {PAGES_WORDS[pages]}: median {ms['seconds']:.1f} ms, of these "
              f"{ms['call_seconds']:.1f} in system calls; worst {ms['worst_seconds']:.1f} "
              f"({ms['worst_call_seconds']:.1f} in calls); the bare calls took "
              f"{ms['bare_seconds']:.1f}" + ("" if pages == "thp" else
              f" ({ms['bare_in_order_seconds']:.1f} over pages that lie in order)"))
    print()


def print_targets(found):
    print("Targets")
    for t in found:
        verdict = "met" if t["met"] else "within the error" if t["within_error"] else "MISSED"
        error = f" +- {2 * t['error']:.3f}" if t["error"] else ""
        print(f"  {t['name']:66} {t['value']:8.3f}{error} "
              f"({'at most' if t['at_most'] else 'at least'} {t['limit']:g}): {verdict}")
