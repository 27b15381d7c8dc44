"""The strict validators of both formats, and builds with invented packages to show them."""

import json
from collections.abc import Mapping
from random import Random

from asu_builder.domain.package_index import FoundPackage, FoundPackages, IndexedPackage, PackageManager
from asu_builder.domain.request import request_hash
from asu_builder.domain.sbom import Inventory, render_cyclonedx, render_spdx, take_inventory
from factories import a_request

LICENCES = (
    *("", "GPL-2.0", "GPL-2.0+", "MIT", "GPL-2.0-or-later BSD-3-Clause", "MIT OR (Apache-2.0 AND ISC)"),
    *("GPL-2.0-only WITH Linux-syscall-note", "Public-Domain", "See the file LICENSE", "GPL-2.0 Custom/1"),
    *("MIT AND", "((((((((((MIT))))))))))", '"<script>"', "LicenseRef-x", "MIT\u00e4\U0001f600", "(MIT", "+"),
)
CPES = (
    *("", "cpe:/a:busybox:busybox", "cpe:/o:linux:linux_kernel", "cpe:/a:a:b:1.0", "cpe:/a:a:b::beta"),
    *(
        "cpe:2.3:a:haxx:curl:*:*:*:*:*:*:*:*",
        "cpe:2.3:a:haxx:curl",
        r"cpe:2.3:a:a\:b:c\+\+:1.0",
        "cpe:/x:a:b",
    ),
    *("cpe:/a:a", "cpe:/a:a:b:c:d:e:f:g", "cpe:2.3:a:a:b:1:2:3:elephant:*:*:*:*", "no cpe", "cpe:/a:<:>"),
)
VERSIONS = ("1.36.1-r2", "6.12.67-r1", "2024.12.22~0f32416a-r1", "1:2+b-3", "13", "é\u202e", "x" * 3000, "~")
NAMES = ("busybox", "kernel", "kmod-tun", "libubus20241020", "libstdc++6", "a_b", "a.b", "A-B", "x-firmware")


def some_packages(manifest: Mapping[str, str], manager: PackageManager | None, dice: Random) -> FoundPackages:
    """What indexes say of most packages of a manifest; None says nothing."""
    found = {
        name: FoundPackage(
            IndexedPackage(
                name,
                version,
                architecture=dice.choice(("x86_64", "noarch", "", "<&>")),
                licence=dice.choice(LICENCES),
                cpe=dice.choice(CPES),
                origin=dice.choice(("", f"feeds/base/{name}", 'x"\\\n')),
                hash=dice.choice(("", f"{dice.getrandbits(256):064x}", "no digest", "AB" * 32)),
            ),
            dice.choice(("base", "x" * 300)),
            is_foreign=dice.random() < 0.1,
        )
        for name, version in manifest.items()
        if manager and dice.random() < 0.9
    }
    return FoundPackages(manager, found)


def some_inventory(seed: int, *, packages: int = 40) -> Inventory:
    """A build of some packages, most of which an index describes."""
    dice = Random(seed)
    names = {*dice.sample(NAMES, 6), *(f"package-{dice.randrange(10_000)}" for _ in range(packages - 6))}
    manifest = {name: dice.choice(VERSIONS) for name in dice.sample(sorted(names), len(names))}
    manager = dice.choice((PackageManager.APK, PackageManager.OPKG, None))
    found = some_packages(manifest, manager, dice)
    description = {
        "source_date_epoch": dice.choice((1760000000, "1760000000", None, "x", -5, 10**30)),
        "arch_packages": dice.choice(("x86_64", "", 7)),
        "version_code": dice.choice(("r1-abc", None)),
    }
    request = a_request(packages=tuple(sorted(names)[:3]))
    return take_inventory(
        request,
        request_hash(request),
        description=description,
        manifest=manifest,
        found=found,
    )


def faults(cyclonedx: bytes, spdx: bytes) -> list[str]:
    """What the validators of the formats say against two documents."""
    # They take a second to load.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from spdx_tools.spdx.parser.error import SPDXParsingError
    from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    said = []
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(cyclonedx.decode()):
        said.append(str(fault.data))
    try:
        parser = JsonLikeDictParser()  # type: ignore[no-untyped-call]
        document = parser.parse(json.loads(spdx))
    except SPDXParsingError as error:
        return [*said, str(error)]
    return [
        *said,
        *(message.validation_message for message in validate_full_spdx_document(document, "SPDX-2.3")),
    ]


def faults_of(inventory: Inventory) -> list[str]:
    """What they say against the documents of a build."""
    return faults(render_cyclonedx(inventory), render_spdx(inventory))
