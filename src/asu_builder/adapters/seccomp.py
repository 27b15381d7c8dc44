"""Which system calls a local build may not make, as the program that the kernel runs for each of them.

A list of what to refuse, as container engines have one: a package manager or make needs none of
these, and most holes of a kernel that a sandbox could not close were in them.
"""

import platform
import struct
from collections.abc import Iterable, Mapping

_X86_64, _AARCH64 = 0xC000003E, 0xC00000B7
_X32 = 0x40000000
"""Added to the numbers of x86-64's calls with short pointers, which no program uses."""

_NUMBERS: Mapping[str, tuple[int, int]] = {
    # Mounts and namespaces.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    # Other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "move_pages": (279, 239),
    # Parts of the kernel that everybody shares.
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "lookup_dcookie": (212, 18),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "nfsservctl": (180, 42),
    "syslog": (103, 116),
    # The machine.
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "vhangup": (153, 58),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
}
"""On x86-64 and on aarch64."""
_X86_ONLY = {"iopl": 172, "ioperm": 173}
_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)

_NEW_NAMESPACES = 0x7E020000
"""The bits of clone's flags that ask for one."""
_FAMILIES = (1, 2, 10, 16)
"""Unix, IPv4, IPv6 and netlink; others load modules, and one of them leads to a machine's host."""

# What the program is made of: linux/bpf_common.h and linux/seccomp.h.
_LOAD, _EQUALS, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97

_Step = tuple[int, int, int, int]


def filter_program(machine: str = "") -> bytes:
    """The program for this machine, or for one named as `uname -m` does; nothing where none is known."""
    match machine or platform.machine():
        case "x86_64":
            return _assemble(_steps(_X86_64, 0))
        case "aarch64":
            return _assemble(_steps(_AARCH64, 1))
        case _:
            return b""


def _steps(architecture: int, column: int) -> Iterable[_Step]:
    yield from ((_LOAD, 0, 0, _ARCHITECTURE), (_EQUALS, 1, 0, architecture), _refuse(_EPERM))
    yield (_LOAD, 0, 0, _NUMBER)
    if architecture == _X86_64:
        yield from ((_AT_LEAST, 0, 1, _X32), _refuse(_EPERM))
        for number in _X86_ONLY.values():
            yield from ((_EQUALS, 0, 1, number), _refuse(_EPERM))
    for numbers in _NUMBERS.values():
        yield from ((_EQUALS, 0, 1, numbers[column]), _refuse(_EPERM))
    # The flags of clone3 lie in memory, where they cannot be looked at: a C library takes clone then.
    yield from ((_EQUALS, 0, 1, _CLONE3[column]), _refuse(_ENOSYS))
    yield from ((_EQUALS, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT))
    yield from ((_ANY_BIT, 0, 1, _NEW_NAMESPACES), _refuse(_EPERM), (_RETURN, 0, 0, _ALLOW))
    yield (_EQUALS, 0, len(_FAMILIES) + 2, _SOCKET[column])
    yield (_LOAD, 0, 0, _FIRST_ARGUMENT)
    for place, family in enumerate(_FAMILIES):
        yield (_EQUALS, len(_FAMILIES) - place, 0, family)
    yield _refuse(_EAFNOSUPPORT)
    yield (_RETURN, 0, 0, _ALLOW)


def _refuse(error: int) -> _Step:
    return (_RETURN, 0, 0, _ERRNO | error)


def _assemble(steps: Iterable[_Step]) -> bytes:
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
