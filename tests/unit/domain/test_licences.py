import pytest

from asu_builder.domain.licences import EXCEPTIONS, LICENCES, read_licence
from sbom_rig import LICENCES as WRITTEN


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("", ""),
        ("MIT", "MIT"),
        ("mit", "MIT"),
        ("GPL-2.0", "GPL-2.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("GPL-2.0 MIT", "GPL-2.0-only AND MIT"),
        ("GPL-2.0, MIT, GPL-2.0", "GPL-2.0-only AND MIT"),
        ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("(MIT OR Apache-2.0) AND ISC", "(MIT OR Apache-2.0) AND ISC"),
        ("GPL-2.0 WITH Linux-syscall-note", "GPL-2.0-only WITH Linux-syscall-note"),
    ],
)
def test_what_packages_write_becomes_an_expression(text: str, expression: str) -> None:
    assert read_licence(text).expression == expression
    assert read_licence(text).names == {}


@pytest.mark.parametrize(
    "text",
    [
        "Public-Domain",
        "See the file LICENSE",
        "MIT OR",
        "(MIT OR ISC",
        "MIT) OR (ISC",
        "MIT ISC OR Zlib",
        "MIT WITH elephants",
        "GPL-2.0 WITH Linux-syscall-note WITH Linux-syscall-note",
        "((((((((((MIT OR ISC))))))))))",
        "GPL\u200b \u202e😀",
    ],
)
def test_what_is_no_expression_is_one_name(text: str) -> None:
    licence = read_licence(text)
    assert licence.expression.startswith("LicenseRef-") and " " not in licence.expression
    assert licence.names == {licence.expression: text}


def test_an_unknown_name_among_known_ones_stays_one() -> None:
    licence = read_licence("GPL-2.0 My_Own")
    assert licence.expression == "GPL-2.0-only AND LicenseRef-My.5f.Own"
    assert licence.names == {"LicenseRef-My.5f.Own": "My_Own"}


def test_different_texts_have_different_names() -> None:
    texts = ("a b", "a.b", "a_b", "a.20.b", "a" * 200, "a" * 201)
    assert len({read_licence(text).expression for text in texts}) == len(texts)


def test_every_licence_and_exception_is_on_spdx_lists() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from license_expression import get_spdx_licensing

    known = get_spdx_licensing()
    for name in sorted(set(LICENCES.values())):
        assert known.validate(name, strict=True).errors == [], name
        document = (
            '{"bomFormat":"CycloneDX","specVersion":"1.6","components":'
            f'[{{"type":"library","name":"x","licenses":[{{"license":{{"id":"{name}"}}}}]}}]}}'
        )
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document) is None, name
    for name in EXCEPTIONS.values():
        assert known.validate(f"GPL-2.0-only WITH {name}", strict=True).errors == [], name


def test_every_expression_is_one_for_spdx_own_reader() -> None:
    from license_expression import get_spdx_licensing

    for text in filter(None, WRITTEN):
        licence = read_licence(text)
        found = get_spdx_licensing().validate(licence.expression)
        assert set(found.invalid_symbols) <= set(licence.names), text
