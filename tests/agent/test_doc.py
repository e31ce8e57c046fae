# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the documents say is what the programs do."""
import pathlib
import re

import wire
from test_control import GUEST_KEYS
from test_ksm import KEYS as KSM_KEYS

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROTOCOL = (ROOT / "docs/agent-protocol.md").read_text()
MESSAGES = {
    "HELLO": wire.hello(), "WELCOME": wire.message(wire.WELCOME, bytes(8)),
    "SAMPLE": wire.sample(), "POLICY": wire.message(wire.POLICY, bytes(8)),
    "RELEASE_DONE": wire.release_done(1), "RELEASE": wire.message(wire.RELEASE, bytes(24)),
    "REFUSE": wire.message(wire.REFUSE, bytes(128)),
    "PURGE": wire.message(wire.PURGE, bytes(16)), "PURGE_DONE": wire.purge_done(1),
    "CONTENT": wire.content(),
    "COLLECT": wire.message(wire.COLLECT, bytes(8)), "COLLECT_DONE": wire.collect_done(1),
    "TABLES": wire.tables(), "TABLES_POLICY": wire.message(wire.TABLES_POLICY, bytes(24)),
    "MERGE": wire.message(wire.MERGE, bytes(8)), "MERGE_STATE": wire.merge_state(),
}


def test_types_and_lengths():
    table = re.findall(r"^\| (\d+) \| `(\w+)` \| \w+ \| \w+ \| (\d+) \|$", PROTOCOL, re.M)
    assert {name: (int(kind), int(length)) for kind, name, length in table} == \
        {name: (getattr(wire, name), len(packet)) for name, packet in MESSAGES.items()}


def test_fields_fill_their_messages():
    """Each message's fields follow each other without a gap, from the header to its length."""
    sections = re.findall(r"^### 2\.\d+ (\w+) \(\d+\)\n(.*?)(?=^##)", PROTOCOL, re.M | re.S)
    assert {name for name, _ in sections} == set(MESSAGES)
    for name, text in sections:
        at = 8
        for offset, size, times in re.findall(r"^\| (\d+) \| (\d+)(?: × (\d+))? \| `", text, re.M):
            assert int(offset) == at, (name, offset)
            at += int(times or "1") * int(size)
        assert at == len(MESSAGES[name]), name


def keys_of_sample():
    text = (ROOT / "host-agent/ebbd.conf").read_text()
    return re.findall(r"^#(\w+) = (.+)$", text, re.M)


def test_every_key_is_documented():
    page = (ROOT / "docs/man/ebbd.conf.5.scd").read_text()
    assert {k for k, _ in keys_of_sample()} == set(re.findall(r"^\*(\w+)\* = ", page, re.M))


def test_sample_configuration_is_good(idle_ebbd):
    """With all its lines in force, but for the paths and a group that may not be there."""
    text = re.sub(r"^#(?=\w+ = |\[)", "", (ROOT / "host-agent/ebbd.conf").read_text(), flags=re.M)
    text = re.sub(r"^socket_group = .*$", "", text, flags=re.M)
    idle_ebbd.conf.write_text(text.replace("/run/ebb", str(idle_ebbd.socket.parent)))
    idle_ebbd.start()
    assert idle_ebbd.guest(b"web1").policy.mode == wire.LAZY


def test_every_json_key_is_documented():
    page = (ROOT / "docs/man/ebbctl.1.scd").read_text()
    for key in GUEST_KEYS | KSM_KEYS:
        assert f"*{key}*" in page, key


def test_every_metric_is_documented(ebbd):
    page = (ROOT / "docs/man/ebbctl.1.scd").read_text()
    documented = set(re.findall(r"\*(ebb_(?:host|guest)_\w+)\*", page))
    told = set(re.findall(r"^# TYPE (\w+) ", ebbd.ctl("metrics").stdout, re.M))
    # Where the host's kernel does not tell of KVM's tables there is no such metric.
    assert told <= documented and documented - told <= {"ebb_host_kvm_page_table_bytes"}
