# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/origins.md names tests that exist; ./check sees to it that they ran."""
import json
import pathlib
import subprocess

SEMANTICS = pathlib.Path(__file__).resolve().parents[1] / "semantics"
TABLE = """| wish | answer | tests |
|---|---|---|
"""


def semantics(*args, table=None, folder=None):
    """What it says of docs/origins.md, or of another table in a copy of what it reads."""
    program = SEMANTICS
    if table is not None:
        (folder / "docs").mkdir(exist_ok=True)
        (folder / "docs/origins.md").write_text(TABLE + table)
        (folder / "tests").mkdir(exist_ok=True)
        for name in ("vm", "unit", "guest", "count_reports.py"):
            if not (folder / "tests" / name).exists():
                (folder / "tests" / name).symlink_to(SEMANTICS.parent / name)
        program = folder / "tests/semantics"
        program.write_bytes(SEMANTICS.read_bytes())
        program.chmod(0o755)
    done = subprocess.run([program, *args], stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout


def test_every_test_named_exists():
    assert semantics() == (0, "")


def test_a_bad_table_is_noticed(tmp_path):
    for row, words in {
        "| a | Kept | `vm/test_volatile.py::test_of_nothing` |": "there is no test vm/test_vol",
        "| a | Kept | `vm/test_nowhere.py::test_limits` |": "there is no file",
        "| a | Kept | `unit/test_content.c::nothing` |": "there is no test unit",
        "| a | Changed | `volcheck nothing` |": "there is no test volcheck nothing",
        "| a | Kept | |": "no test holds it",
        "| a | Perhaps | `volcheck join` |": "begins with none of",
    }.items():
        status, said = semantics(table=row + "\n", folder=tmp_path)
        assert status == 1 and words in said, said
    assert semantics(table="", folder=tmp_path)[0] == 1
    assert semantics(table="| a | Refused | |\n", folder=tmp_path) == (0, "")


def test_what_did_not_run_is_noticed(tmp_path):
    table = ("| a | Kept | `volcheck join`, `unit/test_content.c::losses_are_told` |\n"
             "| b | Refused | |\n")
    (tmp_path / "log.json").write_text(json.dumps({"name": "content", "result": "OK"}) + "\n")
    case = '<testcase classname="test_volatile" name="test_semantics[{}]">{}</testcase>'
    cases = {
        "": 1,
        case.format("none", ""): 0,
        case.format("none", "") + case.format("ebb", '<skipped message="no"/>'): 0,
        case.format("none", '<skipped message="no"/>'): 1,
        case.format("none", "") + case.format("ebb", '<failure message="no"/>'): 1,
    }
    for inner, wanted in cases.items():
        (tmp_path / "vm.xml").write_text(f"<testsuite>{inner}</testsuite>")
        out = tmp_path / "out.xml"
        status, said = semantics("--junit", out, tmp_path / "log.json", tmp_path / "vm.xml",
                                 table=table, folder=tmp_path)
        assert status == wanted, (inner, said)
        assert out.read_text().count("<testcase") == 2
        assert out.read_text().count("<failure") == wanted
