# SPDX-License-Identifier: LGPL-2.1-or-later
"""Of pytest: writes the collected tests and what each says of itself."""
import json


def pytest_addoption(parser):
    parser.addoption("--collection", help="where the list goes")


def pytest_collection_finish(session):
    found = []
    for item in session.items:
        text = (item.function.__doc__ or "").strip().split("\n\n")[0]
        found.append((item.nodeid, " ".join(text.split()), list(item.fixturenames)))
    with open(session.config.getoption("--collection"), "w", encoding="utf-8") as out:
        json.dump(found, out)
