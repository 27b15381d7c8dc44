"""Hashes that were recorded before fields were added: a field at its default changes none of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from asu_builder.domain.request import BuildRequest, request_hash
from asu_builder.http.api.body import parse_request

RECORDED = json.loads((Path(__file__).parent / "recorded_hashes.json").read_text())
_PLACE: dict[str, Any] = {"version": "24.10.4", "target": "ath79/generic", "profile": "tplink_archer-c7-v5"}


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: str(recorded["hash"][:12]))
def test_a_recorded_hash_stays(recorded: dict[str, Any]) -> None:
    fields = recorded["request"]
    for later in (
        {},
        {"on_missing": "fail", "as_of": ""},
        {"on_missing": None, "as_of": None},
        {"on_missing": "", "as_of": ""},
    ):
        request, _ = parse_request(json.dumps(fields | later).encode())
        found = request_hash(request, revision=recorded["revision"], rules=recorded["rules"])
        assert found == recorded["hash"]


def test_what_later_fields_say_is_part_of_the_hash() -> None:
    fields: tuple[dict[str, Any], ...] = (
        {},
        {"as_of": "a" * 64},
        {"as_of": "b" * 64},
        {"dropped": {"x": ""}},
        {"dropped": {"y": ""}},
    )
    names = [request_hash(BuildRequest(**_PLACE, **later)) for later in fields]
    assert len(set(names)) == len(names)
    # What is proposed in place of a name says nothing about the image.
    assert request_hash(BuildRequest(**_PLACE, dropped={"x": "z"})) == names[3]
