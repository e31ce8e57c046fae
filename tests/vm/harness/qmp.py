# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small QMP client: one command at a time, events kept in order."""
import json
import select
import time

from .wait import SCALE, WaitTimeout


class QmpError(Exception):
    def __init__(self, command, error):
        super().__init__(f"{command}: {error.get('class')}: {error.get('desc')}")
        self.desc = error.get("desc", "")


class Qmp:
    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""
        self.events = []
        self.greeting = self._read_until(lambda m: "QMP" in m, 60)
        self.command("qmp_capabilities")

    def close(self):
        self.sock.close()

    def _read_message(self, end):
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                return None
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("QEMU closed its monitor: it has ended")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def _read_until(self, wanted, limit):
        end = time.monotonic() + limit * SCALE
        while True:
            message = self._read_message(end)
            if message is None:
                raise WaitTimeout("the monitor did not answer")
            if "event" in message:
                self.events.append(message)
            if wanted(message):
                return message

    def command(self, name, limit=120, **arguments):
        """arguments: '_' in a name stands for '-', as in id='x', driver='y', initial_state=1."""
        request = {"execute": name}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        answer = self._read_until(lambda m: "return" in m or "error" in m, limit)
        if "error" in answer:
            raise QmpError(name, answer["error"])
        return answer["return"]

    def hmp(self, line):
        return self.command("human-monitor-command", command_line=line)

    def wait_event(self, name, limit=120):
        """The oldest event of that name that nobody took yet."""
        for event in self.events:
            if event["event"] == name:
                self.events.remove(event)
                return event
        event = self._read_until(lambda m: m.get("event") == name, limit)
        self.events.remove(event)
        return event

    def get(self, path, prop):
        return self.command("qom-get", path=path, property=prop)

    def set(self, path, prop, value):
        return self.command("qom-set", path=path, property=prop, value=value)

    def properties(self, path):
        return {p["name"]: p["type"] for p in self.command("qom-list", path=path)}
