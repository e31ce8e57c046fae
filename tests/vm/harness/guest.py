# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest: QEMU's process, its monitor, its console and the commands in it."""
import os
import pathlib
import re
import signal
import socket
import subprocess

from . import channel, proc, qmp
from . import qtest as qtest_mod
from .wait import wait_for

# What a kernel says when something is wrong in it.
KERNEL_TROUBLE = re.compile(
    r"BUG:|"
    r"WARNING:|Oops|general protection|kernel BUG|Kernel panic|Call Trace|Bad page|"
    r"bad page state|list_(?:add|del) corruption|refcount_t:|UBSAN|hung_task|blocked for more than|"
    r"soft lockup|rcu: INFO|use-after-free|nobody cared|Out of memory|oom-kill|"
    r"sleeping function|scheduling while atomic", re.I)

# no_timer_check: a guest that does not get its processor in time would take its emulated timer for
# a broken one, and give up.
COMMAND_LINE = ("console=ttyS0 loglevel=5 panic=0 random.trust_cpu=on tsc=reliable "
                "no_timer_check")


def accelerator():
    """kvm only where it runs an ordinary kernel: the processor must have the extensions itself."""
    flags = re.search(r"^flags\s*:(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    if flags and {"vmx", "svm"} & set(flags.group(1).split()):
        if os.access("/dev/kvm", os.R_OK | os.W_OK):
            return "kvm"
    return "tcg"


def halt_firmware(folder):
    """Firmware that halts the processor for good: the machine runs, and the test alone acts."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "halt.bin"
    path.write_bytes(bytes(0xfff0) + b"\xfa\xf4\xeb\xfd" + bytes(12))
    return path


class QemuDied(AssertionError):
    pass


class Guest:
    """Started at once; use boot() of the vm fixture, which also waits for the guest's init.

    devices: the values of further -device options. extra: further arguments. cgroup: QEMU runs
    in it from its first instruction. log_dir: the console, QEMU's own output and the command line
    are kept there.
    """

    def __init__(self, *, binary, kernel, initrd, log_dir, memory_mib=256, devices=(), extra=(),
                 machine="q35,mem-merge=off", cpus=1, append="", cgroup=None, env=None,
                 qtest=False):
        self.log_dir = log_dir
        self.console_path = log_dir / "console.log"
        self.qemu_log = log_dir / "qemu.log"
        self.memory_mib = memory_mib
        self.channel = self.qmp = self.qtest = self.process = None
        self.sockets = []
        self.fds = []
        self.checked_console = 0
        args = [str(binary), "-machine", machine, "-m", str(memory_mib), "-smp", str(cpus),
                "-nodefaults", "-no-user-config", "-display", "none",
                "-msg", "timestamp=on,guest-name=off"]
        qmp_sock = self._chardev(args, "qmp")
        args += ["-mon", "chardev=qmp,mode=control"]
        if qtest:
            qtest_sock = self._chardev(args, "qtest")
            args += ["-accel", "tcg", "-bios", str(halt_firmware(log_dir)),
                     "-qtest", "chardev:qtest", "-qtest-log", "none"]
        else:
            accel = accelerator()
            args += ["-accel", accel, "-cpu", "host" if accel == "kvm" else "max",
                     "-kernel", str(kernel.image), "-initrd", str(initrd),
                     "-append", f"{COMMAND_LINE} {append}".strip(),
                     "-serial", f"file:{self.console_path}"]
            channel_sock = self._chardev(args, "channel")
            args += ["-serial", "chardev:channel"]
        for device in devices:
            args += ["-device", device]
        args += extra
        try:
            self._start(args, cgroup, env)
            self.qmp = qmp.Qmp(qmp_sock)
        except (EOFError, OSError) as e:
            self.kill()
            raise QemuDied(f"QEMU did not start: {self.qemu_output()}") from e
        except BaseException:
            self.kill()
            raise
        if qtest:
            self.qtest = qtest_mod.Qtest(qtest_sock)
        else:
            self.channel = channel.Channel(channel_sock, self.check_alive)

    def _chardev(self, args, name):
        """A connected pair: no path, no time at which nobody listens."""
        ours, theirs = socket.socketpair()
        self.sockets.append(ours)
        self.fds.append(theirs)
        args += ["-chardev", f"socket,id={name},fd={theirs.fileno()}"]
        return ours

    def _start(self, args, cgroup, env):
        # The shell enters the cgroup, and QEMU dies with us whatever ends us.
        enter = f"echo $$ >{cgroup.procs} && " if cgroup else ""
        line = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", f'{enter}exec "$@"', "sh", *args]
        self.log_dir.mkdir(parents=True, exist_ok=True)
        (self.log_dir / "command").write_text(" ".join(args) + "\n")
        with open(self.qemu_log, "ab") as log:
            self.process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=[s.fileno() for s in self.fds], env={**os.environ, **(env or {})})
        for theirs in self.fds:
            theirs.close()
        self.fds = []

    @property
    def pid(self):
        return self.process.pid

    def qemu_output(self):
        return self.qemu_log.read_text(errors="replace") if self.qemu_log.exists() else ""

    def console(self):
        if not self.console_path.exists():
            return ""
        return self.console_path.read_text(errors="replace")

    def check_alive(self):
        if self.process.poll() is not None:
            raise QemuDied(f"QEMU ended with {self.process.returncode}:\n{self.qemu_output()}\n"
                           f"console:\n{self.console()[-3000:]}")
        if "KVM internal error" in self.qemu_output():
            raise QemuDied(f"KVM has given the guest up:\n{self.qemu_output()}")
        if "Kernel panic" in self.console():
            raise QemuDied(f"the guest's kernel panicked:\n{self.console()[-5000:]}")

    def wait_boot(self, number=1, limit=300):
        """Wait until the guest's agent has come up for the number-th time."""
        wait_for(lambda: self.channel.boots >= number,
                 lambda: f"the guest's init; its console:\n{self.console()[-3000:]}", limit, 0.02,
                 self.check_alive)

    def spawn(self, text):
        return self.channel.run(text)

    def run(self, text, limit=300):
        """Run a shell command in the guest; returns (status, output)."""
        command = self.spawn(text)
        return command.wait(limit), command.output

    def check(self, text, limit=300):
        """Run a shell command in the guest that must succeed; returns its output."""
        status, output = self.run(text, limit)
        if status:
            raise channel.CommandFailed(f"'{text}' in the guest ended with {status}:\n{output}")
        return output

    def insmod(self, order, options=""):
        """order: modules with what they depend on first; options go to the last one."""
        loaded = {line.split()[0] for line in self.check("cat /proc/modules").splitlines()}
        for name in order:
            if name not in loaded:
                tail = options if name == order[-1] else ""
                self.check(f"insmod /lib/modules/{name}.ko {tail}")

    def meminfo(self):
        return proc.kib_fields(self.check("cat /proc/meminfo"))

    def compact(self):
        """Lay together what is free: only whole blocks are offered, and how much of what a program
        has freed lies in such is chance."""
        self.check("echo 1 >/proc/sys/vm/compact_memory")

    def sample(self):
        return proc.sample(self.pid)

    def host_address(self, gpa):
        """Where QEMU has the page of RAM at gpa."""
        said = self.qmp.hmp(f"gpa2hva {gpa:#x}")
        found = re.search(r" is (0x[0-9a-f]+)", said)
        if not found:
            raise ValueError(f"no RAM at guest-physical address {gpa:#x}: {said.strip()}")
        return int(found.group(1), 16)

    def memwork(self, mib, seed=1, rounds=None):
        """A memwork in the guest: with rounds as a plain run, else one that takes commands."""
        how = f"-r {rounds}" if rounds is not None else "-c"
        return self.spawn(f"memwork -s {seed} -m {mib} {how}")

    def reset(self):
        """QMP system_reset; returns when the guest is up again."""
        boots = self.channel.boots
        self.qmp.command("system_reset")
        self.wait_boot(boots + 1)

    def kernel_trouble(self):
        """The lines of the guest's kernel log that tell of trouble, since the last look."""
        text = self.console()
        fresh, self.checked_console = text[self.checked_console:], len(text)
        lines = fresh.splitlines()
        return "\n".join("\n".join(lines[i:i + 12]) for i, line in enumerate(lines)
                         if KERNEL_TROUBLE.search(line))

    def quit(self, limit=60):
        """End QEMU in the orderly way; returns its exit status."""
        if self.process.poll() is None:
            try:
                self.qmp.command("quit", limit=limit)
            except (EOFError, OSError):
                pass
            wait_for(lambda: self.process.poll() is not None, "QEMU's end after quit", limit)
        status = self.process.returncode
        self.close()
        return status

    def kill(self):
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.close()

    def close(self):
        for sock in self.sockets + self.fds:
            sock.close()
        self.sockets, self.fds = [], []


def parse_totals(text):
    """memwork's last accounting: (pages checked, bad pages)."""
    found = re.findall(r"pages checked (\d+), bad (\d+)", text)
    if not found:
        raise AssertionError(f"memwork gave no account of its pages:\n{text}")
    return tuple(int(n) for n in found[-1])
