"""The filter of system calls, run by a small machine of our own as the kernel runs it."""

import errno
import struct

import pytest

from asu_builder.engines.local.sandbox import filter_program

_X86_64, _AARCH64 = 0xC000003E, 0xC00000B7
_ALLOWED = 0x7FFF0000
_NEW_USER = 0x10000000


def _run(program: bytes, *, architecture: int, number: int, argument: int = 0) -> int:
    """What the program says to one call: 0 when it is allowed, else the error."""
    data = struct.pack("<IIQQ", number, architecture, 0, argument)
    steps = list(struct.iter_unpack("=HBBI", program))
    at = value = 0
    while True:
        code, yes, no, operand = steps[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("<I", data, operand)
        elif code == 0x06:
            return 0 if operand == _ALLOWED else operand & 0xFFFF
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
            at += yes if holds else no


_CALLS = [
    # machine, architecture, mount, unshare, keyctl, clone, clone3, socket, read, execve, fork
    ("x86_64", _X86_64, (165, 272, 250), 56, 435, 41, (0, 59, 57, 231, 202)),
    ("aarch64", _AARCH64, (40, 97, 219), 220, 435, 198, (63, 221, 94, 98)),
]


@pytest.mark.parametrize(("machine", "architecture", "refused", "clone", "clone3", "socket", "usual"), _CALLS)
def test_what_no_build_needs_is_refused_and_the_rest_is_not(
    machine: str,
    architecture: int,
    refused: tuple[int, ...],
    clone: int,
    clone3: int,
    socket: int,
    usual: tuple[int, ...],
) -> None:
    program = filter_program(machine)

    def said(number: int, argument: int = 0) -> int:
        return _run(program, architecture=architecture, number=number, argument=argument)

    assert {said(number) for number in refused} == {errno.EPERM}
    assert {said(number) for number in usual} == {0}
    assert said(clone3) == errno.ENOSYS
    assert said(clone, 0x01200011) == 0, "as fork does it"
    assert said(clone, 0x003D0F00) == 0, "as threads are made"
    for bit in (0x00020000, 0x02000000, 0x04000000, 0x08000000, _NEW_USER, 0x20000000, 0x40000000):
        assert said(clone, 0x11 | bit) == errno.EPERM
    for family in range(64):
        assert said(socket, family) == (0 if family in (1, 2, 10, 16) else errno.EAFNOSUPPORT)
    assert _run(program, architecture=0x40000003, number=4) == errno.EPERM, "of another architecture"


def test_calls_with_short_pointers_are_refused() -> None:
    program = filter_program("x86_64")
    assert _run(program, architecture=_X86_64, number=0x40000000 | 165) == errno.EPERM
    assert _run(program, architecture=_X86_64, number=0x40000000) == errno.EPERM


def test_a_machine_that_is_not_known_has_no_filter() -> None:
    assert filter_program("riscv64") == b""
