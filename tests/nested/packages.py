# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian packages, downloaded with a configuration of apt of our own and unpacked, never installed.

The mirror is the one that the machine's own package sources name, read each time."""
import os
import pathlib
import re
import shutil
import subprocess

APT_DIR = pathlib.Path("/etc/apt")


class PackageError(Exception):
    pass


def codename():
    text = pathlib.Path("/etc/os-release").read_text()
    return re.search(r"^VERSION_CODENAME=(\w+)", text, re.M).group(1)


def _of_suite(text, suite, wanted):
    """One-line sources with 'suite' as their suite, changed to 'wanted'."""
    found = []
    for line in text.splitlines():
        parts = re.fullmatch(r"\s*deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
        if parts and parts.group(3) == suite:
            found.append(f"deb {parts.group(1) or ''}{parts.group(2)} {wanted} {parts.group(4)}\n")
    return "".join(found)


def _of_suite_deb822(text, suite, wanted):
    found = []
    for stanza in re.split(r"\n\s*\n", re.sub(r"^#.*\n?", "", text, flags=re.M)):
        types = re.search(r"^Types:(.*)$", stanza, re.M | re.I)
        suites = re.search(r"^Suites:(.*)$", stanza, re.M | re.I)
        off = re.search(r"^Enabled:\s*no", stanza, re.M | re.I)
        if off or not types or "deb" not in types.group(1).split() or not suites:
            continue
        if suite in suites.group(1).split():
            found.append(stanza[:suites.start()] + f"Suites: {wanted}" + stanza[suites.end():])
    return "\n\n".join(s.strip("\n") for s in found) + "\n" if found else ""


class Apt:
    """suite None: the machine's own sources as they are. Else those of its release, with this
    suite in place of the release's name; beside: the machine's own as well."""

    def __init__(self, work, suite=None, beside=False):
        self.work = work
        for name in ("sources", "lists/partial", "cache/archives/partial"):
            (work / name).mkdir(parents=True, exist_ok=True)
        (work / "status").write_text("")  # nothing is installed: all that is needed is downloaded
        self._copy_sources(suite)
        if suite and beside:
            self._copy_sources(None, "own-")
        self.run("apt-get", "update")

    def _copy_sources(self, suite, prefix=""):
        lists = [APT_DIR / "sources.list", *APT_DIR.glob("sources.list.d/*.list")]
        stanzas = list(APT_DIR.glob("sources.list.d/*.sources"))
        written = 0
        for path, change in [(p, _of_suite) for p in lists] + [(p, _of_suite_deb822) for p in stanzas]:
            if not path.exists():
                continue
            text = path.read_text()
            if suite:
                text = change(text, codename(), suite)
            if text.strip():
                (self.work / "sources" / (prefix + path.name)).write_text(text)
                written += 1
        if not written:
            raise PackageError(f"the package sources in {APT_DIR} have no line for {codename()}")

    def run(self, *command):
        work = self.work
        options = {"Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": work / "sources",
                   "Dir::State::lists": work / "lists", "Dir::State::status": work / "status",
                   "Dir::Cache": work / "cache", "APT::Sandbox::User": "root",
                   "APT::Install-Recommends": "0", "Acquire::Retries": "2"}
        line = [command[0], "-q"]
        for key, value in options.items():
            line += ["-o", f"{key}={value}"]
        done = subprocess.run(line + list(command[1:]), capture_output=True, text=True, cwd=work,
                              env={**os.environ, "LC_ALL": "C.UTF-8"})
        if done.returncode:
            raise PackageError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def names(self, prefix):
        return self.run("apt-cache", "pkgnames", prefix).split()

    def versions(self, package):
        text = self.run("apt-cache", "show", package)
        return re.findall(r"^Version: (\S+)$", text, re.M)

    def download(self, packages):
        """Only these; returns their files."""
        folder = self.work / "debs"
        folder.mkdir(exist_ok=True)
        for package in packages:
            self.run("apt-get", "-o", f"Dir::Cache::archives={folder}", "download", package)
        files = sorted(self.work.glob("*.deb"))
        return files

    def download_with_needs(self, packages):
        """These and all that they depend on; returns the files."""
        self.run("apt-get", "install", "-y", "--download-only", *packages)
        return sorted((self.work / "cache/archives").glob("*.deb"))


def unpack(files, root):
    root.mkdir(parents=True, exist_ok=True)
    for path in files:
        subprocess.run(["dpkg-deb", "-x", path, root], check=True)


def work_dir(beside):
    """An empty directory for apt, which the caller removes."""
    path = beside.with_name(beside.name + f".part-{os.getpid()}")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
