# SPDX-License-Identifier: LGPL-2.1-or-later
"""A libvirtd of a test's own: in a mount name space where libvirt's directories are the test's.

Whatever libvirt the host runs is not touched, and nothing has to be configured on it. It has a
process name space of its own as well, so that its guests end with it, whatever ends the test.
"""
import os
import pathlib
import shutil
import signal
import subprocess

from .wait import wait_for

PRIVATE = ["/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt",
           "/run/libvirt"]
QEMU_CONF = """user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = [ ]
namespaces = [ ]
"""
LIBVIRTD_CONF = """auth_unix_ro = "none"
auth_unix_rw = "none"
"""
# libvirt's QEMU driver does not start without this user and these groups.
USERS = {"passwd": "libvirt-qemu:x:64055:{gid}::/var/lib/libvirt:/usr/sbin/nologin\n",
         "group": "kvm:x:{gid}:\nlibvirt-qemu:x:64055:\n"}


def missing_programs():
    return [name for name in ("libvirtd", "virsh", "unshare") if not shutil.which(name)]


class Libvirtd:
    def __init__(self, root):
        self.root = root
        self.log = root / "libvirtd.log"
        self.socket = root / "run-libvirt" / "libvirt-sock"
        self.uri = f"qemu+unix:///system?socket={self.socket}"
        self.process = None
        mounts = ["mount --make-rprivate /"]
        for path in PRIVATE:
            ours = root / path[1:].replace("/", "-")
            if path.startswith("/run"):
                ours = root / "run-libvirt"
            ours.mkdir(parents=True)
            mounts.append(f"mkdir -p {path} && mount --bind {ours} {path}")
        for name, lines in USERS.items():
            mounts.append(f"mount --bind {self._with_users(name, lines)} /etc/{name}")
        (root / "etc-libvirt/qemu.conf").write_text(QEMU_CONF)
        (root / "etc-libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF)
        # The shell stays: as the name space's first process it buries the QEMUs that libvirtd
        # has let go, for whose end libvirtd waits.
        self.script = " && ".join(mounts) + f" && {{ libvirtd -p {root}/libvirtd.pid & wait $!; }}"

    def _with_users(self, name, lines):
        text = pathlib.Path("/etc", name).read_text()
        known = {line.split(":")[0]: line.split(":") for line in text.splitlines()}
        gid = known["kvm"][2] if name == "group" and "kvm" in known else "64056"
        if name == "passwd":
            groups = pathlib.Path("/etc/group").read_text().splitlines()
            gid = next((g.split(":")[2] for g in groups if g.startswith("kvm:")), gid)
        for line in lines.format(gid=gid).splitlines(keepends=True):
            if line.split(":")[0] not in known:
                text += line
        path = self.root / name
        path.write_text(text)
        return path

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork",
                 "--kill-child", "--mount-proc", "sh", "-c", self.script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        wait_for(lambda: self.virsh("version", check=False)[0] == 0,
                 lambda: f"libvirtd to answer; it says:\n{self.log.read_text()}", 120, 0.2,
                 self._check)

    def _check(self):
        if self.process.poll() is not None:
            raise AssertionError(f"libvirtd ended:\n{self.log.read_text()}")

    def virsh(self, *args, check=True):
        """(status, output); with check a failure is an error."""
        done = subprocess.run(["virsh", "-c", self.uri, *args], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if check and done.returncode:
            raise AssertionError(f"virsh {' '.join(args)}: {done.stdout}\n{self.log.read_text()}")
        return done.returncode, done.stdout

    def qemu_log(self, name):
        path = self.root / "var-log-libvirt/qemu" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def qemu_pid(self, name):
        """The pid outside of libvirtd's name space."""
        inside = (self.root / "run-libvirt/qemu" / f"{name}.pid").read_text().strip()
        for status in pathlib.Path("/proc").glob("[0-9]*/status"):
            try:
                pids = [line.split()[1:] for line in status.read_text().splitlines()
                        if line.startswith("NSpid:")][0]
                command = (status.parent / "cmdline").read_bytes()
            except (OSError, IndexError):
                continue
            if pids[1:] == [inside] and f"guest={name},".encode() in command:
                return int(pids[0])
        raise AssertionError(f"no QEMU of {name} runs: {self.qemu_log(name)}")

    def stop(self):
        """The daemon and all that it has started."""
        if not self.process:
            return
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
