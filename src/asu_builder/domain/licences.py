"""Licences as packages name them, as SPDX expressions: what is no expression gets its own name."""

import hashlib
import re
from collections.abc import Mapping

from msgspec import Struct

_GNU = ("GPL-1.0", "GPL-2.0", "GPL-3.0", "LGPL-2.0", "LGPL-2.1", "LGPL-3.0", "AGPL-3.0", "GFDL-1.3")
"""Each has one name for itself, and one for itself and later editions."""
_OTHERS = """
0BSD AFL-2.1 AFL-3.0 AGPL-1.0-only AGPL-1.0-or-later Apache-1.0 Apache-1.1 Apache-2.0 Artistic-1.0
Artistic-1.0-Perl Artistic-2.0 BlueOak-1.0.0 BSD-1-Clause BSD-2-Clause BSD-2-Clause-Patent BSD-3-Clause
BSD-3-Clause-Clear BSD-3-Clause-LBNL BSD-4-Clause BSD-4-Clause-UC BSL-1.0 BUSL-1.1 bzip2-1.0.6 CC-BY-3.0
CC-BY-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC0-1.0 CDDL-1.0 CDDL-1.1 CECILL-2.1 CPL-1.0 curl ECL-2.0 EFL-2.0
EPL-1.0 EPL-2.0 EUPL-1.1 EUPL-1.2 FSFAP FTL HPND IBM-pibs ICU IJG ImageMagick Info-ZIP Intel IPL-1.0 ISC
JSON Latex2e libpng-2.0 Libpng libtiff LPL-1.02 MirOS MIT MIT-0 MPL-1.0 MPL-1.1 MPL-2.0 MS-PL NCSA Net-SNMP
NTP OFL-1.1 OLDAP-2.8 OpenSSL PHP-3.0 PHP-3.01 PostgreSQL PSF-2.0 Python-2.0 QPL-1.0 Ruby SGI-B-2.0 Sleepycat
SMLNJ SSH-OpenSSH SSH-short TCL TCP-wrappers Unicode-3.0 Unicode-DFS-2016 Unlicense UPL-1.0 Vim W3C WTFPL X11
XFree86-1.1 xinetd Xnet Zlib zlib-acknowledgement ZPL-2.1
"""
_EXCEPTIONS = """
Autoconf-exception-2.0 Autoconf-exception-3.0 Bison-exception-2.2 Classpath-exception-2.0 GCC-exception-2.0
GCC-exception-3.1 GPL-CC-1.0 Libtool-exception Linux-syscall-note LLVM-exception OCaml-LGPL-linking-exception
OpenJDK-assembly-exception-1.0 openvpn-openssl-exception Qt-GPL-exception-1.0 u-boot-exception-2.0
WxWindows-exception-3.1
"""


def _spellings() -> dict[str, str]:
    """Small letters to the name in SPDX's list, that of former editions of the list included."""
    known = {name.lower(): name for name in _OTHERS.split()}
    for name in _GNU:
        only, later = f"{name}-only", f"{name}-or-later"
        known |= dict.fromkeys((name.lower(), only.lower()), only)
        known |= dict.fromkeys((f"{name}+".lower(), later.lower()), later)
    return known


LICENCES: Mapping[str, str] = _spellings()
"""Those that packages of OpenWrt name or may name; any other gets its own name."""
EXCEPTIONS: Mapping[str, str] = {name.lower(): name for name in _EXCEPTIONS.split()}
_WORD = re.compile(r"[()]|[^\s()]+")
_OPERATORS = ("AND", "OR")
_DEEPEST = 8
_LONGEST = 1000
_LONGEST_NAME = 64


class Licence(Struct, frozen=True):
    """What a package says of its licence."""

    expression: str = ""
    """SPDX 2.3, Annex D; "" where nothing is said."""
    names: Mapping[str, str] = {}
    """What the package wrote, for each `LicenseRef-…` of the expression."""


def read_licence(text: str) -> Licence:
    """Any text as an expression. Names that follow each other without a word between hold all together."""
    text = text.strip()[:_LONGEST]
    if not text:
        return Licence()
    words: list[str] = _WORD.findall(text)
    plain = [word.strip(",;") for word in words if word.strip(",;")]
    if len(plain) > 1 and any(word.lower() in LICENCES for word in plain):
        if not {"(", ")", "WITH", *_OPERATORS} & {*plain}:
            plain = dict.fromkeys(plain)  # type: ignore[assignment] # the order stays
            words = [part for word in plain for part in ("AND", word)][1:]
        if (found := _read_expression(words)) is not None:
            return found
    elif len(plain) == 1 and (known := LICENCES.get(plain[0].lower())):
        return Licence(known)
    name = _reference(text)
    return Licence(name, {name: text})


def _read_expression(words: list[str]) -> Licence | None:
    """The words with their operators between them; None where they stand otherwise."""
    said: list[str] = []
    names: dict[str, str] = {}
    depth, wants_name = 0, True
    words = words[::-1]
    while words:
        word = words.pop()
        if word == "(" and wants_name and depth < _DEEPEST:
            depth += 1
        elif word == ")" and not wants_name and depth:
            depth -= 1
        elif word in _OPERATORS and not wants_name:
            wants_name = True
        elif word == "WITH" and not wants_name and said[-1] != ")":
            exception = EXCEPTIONS.get(words.pop().lower()) if words else None
            if exception is None or said[-1] in names or said[-2:-1] == ["WITH"]:
                return None
            said.append(word)
            word = exception
        elif word not in ("(", ")", "WITH", *_OPERATORS) and wants_name:
            wants_name = False
            if (known := LICENCES.get(word.lower())) is None:
                known = _reference(word)
                names[known] = word
            word = known
        else:
            return None
        said.append(word)
    if wants_name or depth:
        return None
    return Licence(" ".join(said).replace("( ", "(").replace(" )", ")"), names)


def plain_id(text: str) -> str:
    """A text in the letters that SPDX allows in names, another one for each text."""
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter == "-") else f".{ord(letter):x}."
        for letter in text
    )


def _reference(text: str) -> str:
    name = plain_id(text)
    if len(name) > _LONGEST_NAME:
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return f"LicenseRef-{name}"
