# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands in the guest, over a serial port: the other end of tests/guest/agent.c."""
import base64
import itertools
import select
import threading
import time

from .wait import wait_for


class GuestGone(AssertionError):
    """The guest was reset or ended while a command ran in it."""


class CommandFailed(AssertionError):
    pass


class Command:
    """A command that runs in the guest. status is None until it has ended."""

    def __init__(self, channel, number, text):
        self.channel = channel
        self.number = number
        self.text = text
        self.raw = b""
        self.status = None
        self.error = None
        self.lost = False
        self.taken = 0

    @property
    def output(self):
        return self.raw.decode(errors="replace")

    def write(self, text):
        self.channel.send("IN", self.number, text.encode())

    def close_input(self):
        self.channel.send_line(f"~ebb EOF {self.number}")

    def kill(self, signal=15):
        self.channel.send_line(f"~ebb KILL {self.number} {signal}")

    def _check_running(self):
        if self.error:
            raise CommandFailed(f"{self.text}: {self.error}")
        if self.lost:
            raise GuestGone(f"the guest was reset or ended while it ran: {self.text}")
        self.channel.alive()

    def wait(self, limit=300):
        """Wait for the end; returns the exit status."""
        def ended():
            return self.status is not None
        wait_for(ended, lambda: f"'{self.text}' in the guest; so far it said:\n{self.output}",
                 limit, 0.01, self._check_running)
        return self.status

    def read_line(self, limit=300):
        """The next line of output."""
        def line():
            end = self.raw.find(b"\n", self.taken)
            if end < 0:
                return None
            found = self.raw[self.taken:end]
            self.taken = end + 1
            return (found.decode(errors="replace"),)
        def alive():
            self._check_running()
            if self.status is not None and b"\n" not in self.raw[self.taken:]:
                raise CommandFailed(f"{self.text}: ended with {self.status}: {self.output}")
        return wait_for(line, f"a line from '{self.text}' in the guest", limit, 0.01, alive)[0]

    def ask(self, request, limit=300):
        """Send one line and take the answer: the next line that begins with ok or error."""
        self.write(request + "\n")
        while True:
            line = self.read_line(limit)
            if line.startswith("ok"):
                return line
            if line.startswith("error"):
                raise CommandFailed(f"{self.text}: {request}: {line}")


class Channel:
    def __init__(self, sock, alive):
        self.sock = sock
        self.alive = alive
        self.boots = 0
        self.numbers = itertools.count(1)
        self.running = {}
        self.lock = threading.Lock()
        self.buffer = b""
        self.reading = threading.Lock()  # of the socket, together with the buffer
        self.ended = False
        self.before = None
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def close(self):
        self.sock.close()

    def send_line(self, line):
        try:
            self.sock.sendall(line.encode() + b"\n")
        except OSError as e:
            raise GuestGone(f"the guest's channel is closed: {e}") from e

    def send(self, kind, number, data):
        # Pieces that the guest's tty takes without loss.
        for at in range(0, max(len(data), 1), 1024):
            piece = base64.b64encode(data[at:at + 1024]).decode()
            self.send_line(f"~ebb {kind} {number} {piece}")

    def run(self, text):
        if len(text) > 2000:
            raise ValueError("a command is at most 2000 bytes long")
        command = Command(self, next(self.numbers), text)
        with self.lock:
            self.running[command.number] = command
        self.send_line(f"~ebb RUN {command.number} {base64.b64encode(text.encode()).decode()}")
        return command

    def follow(self, source):
        """The guest at source's channel will move here, with what runs in it. Call it before the
        guest can run here: what it says at once is heard, a line that was begun there ends here."""
        with source.lock:
            self.running = dict(source.running)
        self.numbers = source.numbers
        self.before = source

    def copy_of(self, command):
        """The same command in a copy of its guest, which talks here."""
        copy = Command(self, command.number, command.text)
        with self.lock:
            self.running[command.number] = copy
        return copy

    def _leftover(self):
        """The begin of a line whose rest is said elsewhere."""
        while not self.ended and select.select([self.sock], [], [], 0)[0]:
            time.sleep(0.01)  # the reader takes it
        with self.reading:
            rest, self.buffer = self.buffer, b""
            return rest

    def _read(self):
        while True:
            try:
                select.select([self.sock], [], [])
                with self.reading:
                    data = self.sock.recv(65536)
                    self._take(data)
            except (OSError, ValueError):  # closed
                data = b""
            if not data:
                self.ended = True
                self._lose_all()
                return

    def _take(self, data):
        if self.before and data:
            self.buffer = self.before._leftover()
            self.before = None
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            try:
                self._frame(line)
            except (ValueError, IndexError):
                pass  # cut short by a reset; what ran is lost with it

    def _lose_all(self):
        with self.lock:
            for command in self.running.values():
                # What only followed, to a target that then ended, runs on where it was.
                if command.channel is self:
                    command.lost = True
            self.running.clear()

    def _frame(self, line):
        # A reset in the middle of a line leaves a piece of the old frame before the new one.
        _, marker, frame = line.rpartition(b"~ebb ")
        fields = frame.split()
        if not marker or len(fields) < 2:
            return
        kind = fields[0]
        if kind == b"HELLO":
            self._lose_all()
            self.boots += 1
            return
        command = self.running.get(int(fields[1]))
        if not command:
            return
        if kind == b"OUT":
            command.raw += base64.b64decode(fields[2])
        elif kind == b"ERR":
            command.error = base64.b64decode(fields[2]).decode()
        elif kind == b"EXIT":
            with self.lock:
                self.running.pop(command.number, None)
            command.status = int(fields[2])
