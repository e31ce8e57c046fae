# SPDX-License-Identifier: LGPL-2.1-or-later
"""ebbctl run --merge: a program all of whose memory KSM may merge, or no program."""
import ctypes
import errno
import os
import struct
import subprocess

import pytest

from conftest import built

PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
PR_SET_MEMORY_MERGE, PR_GET_MEMORY_MERGE = 67, 68
libc = ctypes.CDLL(None, use_errno=True)


def run(*args, **options):
    return subprocess.run([built("ebbctl"), *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, **options)


def needs_a_kernel_that_can():
    if libc.prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) < 0:
        pytest.skip("this kernel knows no PR_SET_MEMORY_MERGE")


def answer_prctl(option, error):
    """In the child: that prctl() fails, or does nothing (0), as on another kernel. x86-64."""
    load, jump_if, give = 0x20, 0x15, 0x06
    prctl = 157
    code = [(load, 0, 0, 0),             # the number of the call
            (jump_if, 0, 3, prctl),
            (load, 0, 0, 16),            # its first argument
            (jump_if, 0, 1, option),
            (give, 0, 0, 0x00050000 | error),
            (give, 0, 0, 0x7fff0000)]
    text = b"".join(struct.pack("<HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(text)
    program = struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(buffer))

    def install():
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
            os._exit(99)
    install.keep = buffer
    return install


def test_the_program_and_its_children_are_mergeable():
    needs_a_kernel_that_can()
    done = run("run", "--merge", "--", "sh", "-c",
               "cat /proc/self/ksm_stat; echo end; exec python3 -c '"
               "import ctypes; print(ctypes.CDLL(None).prctl(68, 0, 0, 0, 0))'")
    assert done.returncode == 0, done.stderr
    before, _, after = done.stdout.partition("end\n")
    assert after == "1\n"
    # Linux 6.17 and newer say it of the process as well.
    if "ksm_merge_any" in before:
        assert "ksm_merge_any: yes" in before


def test_arguments_and_status_are_the_programs():
    needs_a_kernel_that_can()
    done = run("run", "--merge", "--", "sh", "-c", "printf '%s|' \"$@\"; exit 7", "sh", "--json",
               "a b", "--")
    assert (done.returncode, done.stdout) == (7, "--json|a b|--|")


@pytest.mark.parametrize("error, status, words", [
    (errno.EINVAL, 1, "Linux 6.7 or newer"), (errno.EPERM, 5, "a sandbox forbids it")])
def test_where_the_kernel_refuses_nothing_is_started(tmp_path, error, status, words):
    mark = tmp_path / "started"
    done = run("run", "--merge", "--", "touch", mark, preexec_fn=answer_prctl(PR_SET_MEMORY_MERGE, error))
    assert done.returncode == status, done.stderr
    assert words in done.stderr and "touch is not started" in done.stderr
    assert not mark.exists()


def test_a_kernel_that_forgets_it_starts_nothing(tmp_path):
    """Linux 6.4 to 6.6: the program that takes ebbctl's place is not mergeable."""
    needs_a_kernel_that_can()
    mark = tmp_path / "started"
    done = run("run", "--merge", "--", "touch", mark, preexec_fn=answer_prctl(PR_GET_MEMORY_MERGE, 0))
    assert done.returncode == 1 and "Linux 6.7 or newer" in done.stderr, done.stderr
    assert not mark.exists()


def test_a_program_that_is_not_there():
    needs_a_kernel_that_can()
    done = run("run", "--merge", "--", "/nonexistent/program")
    assert done.returncode == 1
    assert "/nonexistent/program cannot be started: No such file" in done.stderr


@pytest.mark.parametrize("args", [["run"], ["run", "--merge"], ["run", "--merge", "--"],
                                  ["run", "--", "true"]])
def test_usage(args):
    done = run(*args)
    assert done.returncode == 2 and "run --merge -- COMMAND" in done.stderr
