"""Every parser of text that a container, a mirror or a client wrote: the one list, and hostile text for it.

A parser that is not listed here fails `tests/unit/test_foreign_text.py`.
"""

import asyncio
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from starlette.requests import Request

from asu_builder.adapters import lenient, podman_users, upstream_formats, upstream_indexes
from asu_builder.adapters.lenient import Notes
from asu_builder.client import events, server
from asu_builder.domain import (
    addresses,
    announced,
    blame,
    built,
    device_search,
    downloads,
    fwtool,
    log_text,
    make,
    packages,
    release,
    repositories,
    spelling,
)
from asu_builder.domain.announced import Circumstances
from asu_builder.domain.errors import FailureReason
from asu_builder.domain.request import BuildRequest
from asu_builder.web import asker, incoming
from asu_builder.web.pages import build_fields, session, words
from factories import a_request
from package_changes import versions, wire

REQUEST = a_request(
    packages=("vim",), repositories={"mine": "https://feed.example.org/x"}, filesystem="squashfs"
)
FOUND = Circumstances(REQUEST)


def _lines(text: str) -> None:
    lines = log_text.Lines()
    for start in range(0, len(text), 1 << 16):
        list(lines.feed(1, text[start : start + (1 << 16)].encode()))
    list(lines.end())


def _built(text: str) -> None:
    built.parse_built(text.encode(), "acme_widget-5")


def _mirror(parse: Callable[[bytes, Notes], Any]) -> Callable[[str], Any]:
    return lambda text: parse(text.encode(), Notes())


def _allow(text: str) -> None:
    repositories.require_allowed({"x": text}, ["https://example.org/{version}"], places={"version": "1"})


def _form(text: str) -> None:
    class Sent(Request):
        async def body(self) -> bytes:
            return text.encode()

    kind = (b"content-type", b"application/x-www-form-urlencoded")
    app = SimpleNamespace(state=SimpleNamespace(most_fields=1000))
    asyncio.run(session.form(Sent({"type": "http", "headers": [kind], "app": app})))


def _cookie(text: str) -> None:
    sent = text.replace("\n", " ").encode()
    session.cookie_of(Request({"type": "http", "headers": [(b"cookie", sent)]}), "token")


PARSERS: Mapping[str, Callable[[str], Any]] = {
    # text that a build printed or left
    "domain.make.parse_info": make.parse_info,
    "domain.make.parse_manifest": make.parse_manifest,
    "domain.packages.explain_selection": packages.explain_selection,
    "domain.packages.find_too_big": packages.find_too_big,
    "domain.packages.explain_too_big": packages.explain_too_big,
    "domain.packages.find_failed_script": packages.find_failed_script,
    "domain.packages.explain_script": packages.explain_script,
    "domain.downloads.repository_problems": downloads.repository_problems,
    "domain.downloads.undelivered_packages": downloads.undelivered_packages,
    "domain.downloads.is_disk_full": downloads.is_disk_full,
    "domain.downloads.is_lasting": downloads.is_lasting,
    "domain.blame.blame_repository": lambda text: blame.blame_repository(REQUEST, text),
    "domain.blame.blame_feed": lambda text: blame.blame_feed(REQUEST, text),
    "domain.blame.blame_make": lambda text: blame.blame_make(
        FOUND, text, otherwise="Error: no", reason=FailureReason.MAKE_FAILED
    ),
    "domain.blame.parse_available_filesystems": blame.parse_available_filesystems,
    "domain.announced.require_revision": lambda text: announced.require_revision(
        Circumstances(a_request(version_code="r1-a")), text
    ),
    "domain.built.parse_built": _built,
    "domain.built.filesystems_of": lambda text: built.filesystems_of(text.encode()),
    "domain.log_text.Lines": _lines,
    "domain.log_text.readable": lambda text: log_text.readable(text[:8000].encode()),
    "domain.repositories.render_repositories": lambda text: repositories.render_repositories(
        text, REQUEST.repositories, mode="append", file=repositories.OPKG
    ),
    "adapters.podman_users._numbers": lambda text: podman_users._numbers(text, "buildbot"),
    "domain.fwtool.signature_length": lambda text: fwtool.signature_length(text.encode()[-16:], len(text)),
    # text of a mirror
    "adapters.lenient.decode_object": lambda text: lenient.decode_object(text.encode()),
    "adapters.upstream_formats.parse_versions": _mirror(upstream_formats.parse_versions),
    "adapters.upstream_formats.parse_targets": _mirror(upstream_formats.parse_targets),
    "adapters.upstream_formats.parse_feeds": _mirror(upstream_formats.parse_feeds),
    "adapters.upstream_formats.parse_overview": _mirror(upstream_formats.parse_overview),
    "adapters.upstream_formats.parse_profiles_json": _mirror(upstream_formats.parse_profiles_json),
    "adapters.upstream_indexes.parse_index": _mirror(upstream_indexes.parse_index),
    "adapters.upstream_indexes.parse_packages": _mirror(upstream_indexes.parse_packages),
    "adapters.upstream_formats.lift_profile": lambda text: upstream_formats.lift_profile(
        text.encode(), "acme_widget-5", {"target": "pico/nine"}
    ),
    # text of a client
    "domain.request.BuildRequest": lambda text: BuildRequest(text, text, text, packages=(text,)),
    "domain.addresses.parse_address": addresses.parse_address,
    "domain.repositories.require_allowed": _allow,
    "domain.repositories.is_allow_list_entry": repositories.is_allow_list_entry,
    "domain.repositories.key_files": lambda text: repositories.key_files([text]),
    "domain.spelling.without_abi": lambda text: list(spelling.without_abi(f"lib{text}")),
    "domain.repositories._parse_usign": lambda text: repositories._parse_usign(text, 0),
    "domain.release.parse_release": release.parse_release,
    "domain.device_search.words": lambda text: device_search._SEPARATORS.split(text[:200]),
    "web.incoming.parse_request": lambda text: incoming.parse_request(text.encode()),
    "web.incoming.client_from_user_agent": incoming.client_from_user_agent,
    "web.incoming.explain": incoming.explain,
    "web.incoming._explained": lambda text: incoming._explained(text[:2000], b"{}"),
    "web.asker._address": asker._address,
    "web.pages.build_fields.body": lambda text: build_fields.read_fields(
        {"packages": text, "repository_keys": text}
    ).body("x"),
    "web.pages.words.sentence": lambda text: words.sentence(text[:8000]),
    "web.pages.session.form": _form,
    "web.pages.session.cookie_of": _cookie,
    "package_changes.wire.parse_body": lambda text: wire.parse_body(text.encode()),
    "package_changes.versions.version_order": versions.version_order,
    "package_changes.versions.branch_of": versions.branch_of,
    # text of a server, read by the command line
    "client.server._document": lambda text: server._document("x", 200, text.encode()),
    "client.events.parse_events": lambda text: list(events.parse_events([text.encode()])),
}

COVERED: Mapping[str, str] = {
    "domain.addresses._is_host": "domain.addresses.parse_address",
    "domain.blame._is_chosen": "domain.blame.blame_make",
    "domain.built._decode": "domain.built.parse_built",
    "domain.built._describe": "domain.built.parse_built",
    "domain.built._images": "domain.built.parse_built",
    "domain.built._is_plain": "domain.built.parse_built",
    "domain.built._unknown": "domain.built.parse_built",
    "domain.downloads._apk_problem": "domain.downloads.repository_problems",
    "domain.downloads._opkg_problem": "domain.downloads.repository_problems",
    "domain.downloads._read_repositories": "domain.downloads.repository_problems",
    "domain.downloads._wget_codes": "domain.downloads.repository_problems",
    "domain.downloads._package_file": "domain.downloads.undelivered_packages",
    "domain.downloads._undelivered": "domain.downloads.undelivered_packages",
    "domain.log_text._readable": "domain.log_text.Lines",
    "domain.make._parse_profile": "domain.make.parse_info",
    "domain.make._parse_profiles": "domain.make.parse_info",
    "domain.packages._Block.read": "domain.packages.explain_selection",
    "domain.packages._Opkg.read": "domain.packages.explain_selection",
    "domain.packages._blocks": "domain.packages.explain_selection",
    "domain.packages._explain_apk": "domain.packages.explain_selection",
    "domain.packages._explain_opkg": "domain.packages.explain_selection",
    "domain.packages.without_version": "domain.packages.explain_selection",
    "domain.request.BuildRequest.__post_init__": "domain.request.BuildRequest",
    "domain.request.BuildRequest._require_repositories": "domain.request.BuildRequest",
    "domain.request.BuildRequest._require_options": "domain.request.BuildRequest",
    "domain.request._each_matches": "domain.request.BuildRequest",
    "domain.request._require_each": "domain.request.BuildRequest",
    "domain.request._require_packages": "domain.request.BuildRequest",
    "domain.request.require_package_names": "domain.request.BuildRequest",
    "domain.release.Release.order": "domain.release.parse_release",
    "web.builds._parse": "web.incoming.parse_request",
    "web.incoming._decode": "web.incoming.parse_request",
    "web.incoming._safe_client": "web.incoming.client_from_user_agent",
    "web.incoming._size": "web.incoming.parse_request",
    "web.pages.build_fields.Fields.body": "web.pages.build_fields.body",
    "web.pages.build_fields.Fields.names": "web.pages.build_fields.body",
    "web.pages.words.linked": "web.pages.words.sentence",
    "domain.device_search.plain": "domain.device_search.words",
    "domain.device_search._alphabetically": "domain.device_search.words",
    "adapters.lenient.Reader.text": "adapters.upstream_formats.parse_profiles_json",
    "adapters.lenient.Reader.texts": "adapters.upstream_formats.parse_profiles_json",
    "adapters.lenient._brief": "adapters.upstream_formats.parse_profiles_json",
    "adapters.lenient.is_text": "adapters.upstream_formats.parse_profiles_json",
    "adapters.upstream_formats._kernel_modules": "adapters.upstream_formats.parse_profiles_json",
    "adapters.upstream_formats._take_profile": "adapters.upstream_formats.parse_profiles_json",
    "adapters.upstream_formats._moment": "adapters.upstream_formats.parse_profiles_json",
    "services.images._digests": "domain.fwtool.signature_length",
    "client.builds._problem": "client.server._document",
    "package_changes.wire._explain": "package_changes.wire.parse_body",
    "package_changes.wire._require_names": "package_changes.wire.parse_body",
    # tests/unit/adapters/test_lenient.py feeds it packed text
    "adapters.upstream_indexes.parse_packed_packages": "adapters.upstream_indexes.parse_packages",
}
"""Functions that are reached only by way of a listed parser, and by which."""

NOT_FOREIGN: Mapping[str, str] = {
    "adapters.local_sandbox._can_limit_processes": "what this machine's own bubblewrap says",
    "adapters.upstream_documents.UpstreamDocuments.get": "a path that this program makes",
    "adapters.upstream_documents.UpstreamDocuments.want": "a path that this program makes",
    "adapters.upstream_server.UpstreamServer._request": "a path that this program makes",
    "web.fast_path._plain_path": "an address; cut by the server",
    "adapters.archive.Collection.add": "a file's name; the pattern is anchored and bounded",
    "adapters.archive.unpack": "a member's name, as above",
    "adapters.podman_container.PodmanContainer._kernel_has_killed": "the kernel's own counters",
    "adapters.podman_pull.pull_failed": "the engine's message, of which one line is kept",
    "adapters.stores.LocalStore.locate": "a name in an address; the pattern is anchored and bounded",
    "client.builds._stretch": "a header; the pattern is anchored",
    "client.downloads._announced": "a name in a document; the pattern is anchored and bounded",
    "domain.make.image_arguments": "the arguments that this program itself makes",
    "domain.packages._opkg": "makes a pattern",
    "web.configuration._without_secrets": "settings, written by the operator",
    "web.fast_path.FrontDoor.__call__": "an address or a header; anchored, or single characters",
    "web.fast_path.FrontDoor._open": "an address, as above",
    "web.fast_path.FrontDoor._request_id": "a header; the pattern is anchored and bounded",
    "web.fast_path.FrontDoor._see_through": "an address, as above",
    "web.fast_path.FrontDoor._tell": "an address, as above",
    "web.incoming._whole": "makes a pattern",
    "web.openapi.Operation.address": "the routes of this program",
    "web.openapi._tidied": "words of this program",
    "web.openapi.describe": "words of this program",
    "web.sockets.answer_socket": "an address, as above",
    "web.store.Downloads._take": "a name in an address; the pattern is anchored and bounded",
    "web.store._is_satisfiable": "a header; the pattern is anchored and bounded",
    "web.store._wants_part": "a header, as above",
    "adapters.job_rows.to_request": "what this program has written itself",
    "adapters.job_rows.to_history": "what this program has written itself",
    "adapters.job_rows._to_outcome": "what this program has written itself",
    "adapters.retention._scrub": "what this program has written itself",
    "adapters.upstream_documents.UpstreamDocuments._restore": "what this program has written itself",
    "adapters.local_runtime._labels": "what this program has written itself",
    "adapters.package_changes.RemotePackageChanges.apply": "a service that the operator names",
    "adapters.podman_calls.ContainerCalls.is_plain_file": "the engine's answer",
    "adapters.podman_pull._report": "the engine's answer",
    "adapters.podman_streams.Stream.refusal": "the engine's answer",
    "web.pages.build_form.see_build": "an answer of this program",
    "web.pages.queue.QueuePage.act": "a field of a form that was read, cut to 1,000 characters",
    "cli.asking._read_request": "the user's own file",
    "cli.here._reply": "an answer of this program",
    "cli.import_settings._read": "the user's own file",
    "cli.log_lines._shortened": "the log of this program, read by the user's own command",
    "cli.suggesting.suggestion": "a body that this program makes",
    "package_changes.patterns.parse_pattern": "rules: the operator's file, or their service",
    "package_changes.schema.read_header": "rules, as above",
    "package_changes.schema._read_rule": "rules, as above",
    "package_changes.schema._targets": "rules, as above",
    "package_changes.schema._names": "rules, as above",
    "package_changes.rules.parse_rules": "rules, as above",
    "cli.build._explain": "words of this program",
    "cli.listening._explained": "what this machine's kernel says",
    "cli.man_page._paragraphs": "words of this program",
    "package_changes.versions.branch_order": "rules, as above",
    "package_changes.versions.parse_range": "rules, as above",
    "settings.units.parse_duration": "a setting, written by the operator",
    "settings.units.parse_size": "a setting, written by the operator",
    "web.pages.words.contact": "the setting `contact`, by the operator",
}
"""Functions that look like parsers, and why no text of others can keep them busy."""
