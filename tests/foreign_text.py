"""Every parser of text that a container, a mirror or a client wrote: the one list, and hostile text for it.

A parser that is not listed here fails `tests/unit/test_foreign_text.py`.
"""

import asyncio
import contextlib
import tarfile
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from starlette.requests import Request

from asu_builder.client import builds, server
from asu_builder.core import imagebuilder
from asu_builder.domain import (
    addresses,
    comparison,
    diagnosis,
    licences,
    make,
    packages,
    profiles_json,
    provenance,
    release,
    repositories,
    request,
    sbom,
    search,
)
from asu_builder.domain.errors import FailureReason
from asu_builder.domain.make import Circumstances
from asu_builder.domain.package_index import PackageManager
from asu_builder.domain.request import BuildRequest
from asu_builder.engines.podman import runtime, unpacking
from asu_builder.http import callers, representations, rules_service, texts
from asu_builder.http.api import body
from asu_builder.http.pages import build_page, form_fields, form_offer, official, session, words
from asu_builder.signing import attestation, fwtool
from asu_builder.store.bucket import failure_of
from asu_builder.upstream import formats, lenient, package_index
from asu_builder.upstream.lenient import Notes
from factories import a_request
from package_changes import versions

REQUEST = a_request(
    packages=("vim",), repositories={"mine": "https://feed.example.org/x"}, filesystem="squashfs"
)
FOUND = Circumstances(REQUEST)


def _lines(text: str) -> None:
    lines = make.Lines()
    for start in range(0, len(text), 1 << 16):
        list(lines.feed(1, text[start : start + (1 << 16)].encode()))
    list(lines.end())


def _built(text: str) -> None:
    profiles_json.parse_built(text.encode(), "acme_widget-5")


def _statement(text: str) -> None:
    with contextlib.suppress(provenance.BadStatement):
        provenance.parse_statement(text.encode())


def _envelope(text: str) -> None:
    with contextlib.suppress(attestation.BadEnvelope):
        attestation.parse_envelope(text.encode())


def _member(text: str) -> None:
    for name, target in ((text, ""), ("top/link", text)):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = (tarfile.SYMTYPE if target else tarfile.REGTYPE), target
        with contextlib.suppress(unpacking.Refused):
            unpacking.require_member(member, "top", {"top/folder"})


def _trailers(text: str) -> None:
    with contextlib.suppress(fwtool.BrokenTrailer):
        fwtool.read_trailers(text.encode() + b"FWx0\0\0\0\0\0\0\0\0\0\0\0\x10")


def _mirror(parse: Callable[[bytes, Notes], Any]) -> Callable[[str], Any]:
    return lambda text: parse(text.encode(), Notes())


def _packages(text: str) -> None:
    package_index.read_index(PackageManager.OPKG, text.encode(), Notes())


def _adb(text: str) -> None:
    """Any bytes for a block of values, as `tests/unit/upstream/test_package_index.py` has more of."""
    payload = bytes(4) + (0xE0000008).to_bytes(4, "little") + text.encode()
    head = (len(payload) + 4).to_bytes(4, "little")
    package_index.read_index(PackageManager.APK, b"ADB.indx" + head + payload, Notes())


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
    # headers and fields of a client
    "http.representations.prefers_page": lambda text: representations.prefers_page(
        text.encode("utf-8", "replace")
    ),
    "http.texts.preferred_language": texts.preferred_language,
    "http.pages.form_offer.has_web_interface": lambda text: form_offer.has_web_interface([text]),
    "http.pages.build_page._address_of": lambda text: build_page._HOST.fullmatch(text),
    # what upstream says of its own images
    "http.pages.official._image": lambda text: official._image(
        dict.fromkeys(("name", "type", "sha256"), text)
    ),
    # text that a build printed or left
    "signing.fwtool.read_trailers": _trailers,
    "domain.make.parse_info": make.parse_info,
    "core.imagebuilder.StepMarks.read": lambda text: imagebuilder.StepMarks(lambda _: None, None).read(
        1, text.encode("utf-8", "replace")
    ),
    "domain.make.parse_manifest": make.parse_manifest,
    "domain.packages.explain_selection": packages.explain_selection,
    "domain.packages.find_too_big": packages.find_too_big,
    "domain.packages.explain_script": packages.explain_script,
    "domain.diagnosis.repository_problems": diagnosis.repository_problems,
    "domain.diagnosis.undelivered_packages": diagnosis.undelivered_packages,
    "domain.diagnosis.is_disk_full": diagnosis.is_disk_full,
    "domain.diagnosis.refuses_a_file": diagnosis.refuses_a_file,
    "domain.diagnosis.is_lasting": diagnosis.is_lasting,
    "domain.diagnosis.blame_repository": lambda text: diagnosis.blame_repository(REQUEST, text),
    "domain.diagnosis.blame_feed": lambda text: diagnosis.blame_feed(REQUEST, text),
    "domain.diagnosis.blame_make": lambda text: diagnosis.blame_make(
        FOUND, text, otherwise="Error: no", reason=FailureReason.MAKE_FAILED
    ),
    "domain.diagnosis.parse_available_filesystems": diagnosis.parse_available_filesystems,
    "domain.make.require_revision": lambda text: make.require_revision(
        Circumstances(a_request(version_code="r1-a")), text
    ),
    "domain.profiles_json.parse_built": _built,
    "domain.profiles_json.filesystems_of": lambda text: profiles_json.filesystems_of(text.encode()),
    "domain.make.Lines": _lines,
    "domain.repositories.render_repositories": lambda text: repositories.render_repositories(
        text, REQUEST.repositories, mode="append", file=repositories.OPKG
    ),
    "domain.repositories.listed_repositories": lambda text: [
        repositories.listed_repositories(text[:1000], file) for file in (repositories.APK, repositories.OPKG)
    ],
    "engines.podman.runtime._numbers": lambda text: runtime._numbers(text, "buildbot"),
    "domain.profiles_json.signature_length": lambda text: profiles_json.signature_length(
        text.encode()[-16:], len(text)
    ),
    "domain.comparison.version_order": comparison.version_order,
    "domain.licences.read_licence": licences.read_licence,
    "domain.sbom.cpe_with_version": lambda text: sbom.cpe_with_version(text, text[:256]),
    "domain.sbom.upstream_version": lambda text: sbom.upstream_version("kernel", text),
    # a file that whoever checks it was given
    "domain.provenance.parse_statement": _statement,
    "signing.attestation.parse_envelope": _envelope,
    # text of a mirror
    "domain.release.find_archive": lambda text: release.find_archive(
        text, release.parse_release("24.10.5"), "pico/nine"
    ),
    "engines.podman.unpacking.require_member": _member,
    "upstream.lenient.decode_object": lambda text: lenient.decode_object(text.encode()),
    "upstream.formats.parse_versions": _mirror(formats.parse_versions),
    "upstream.formats.parse_targets": _mirror(formats.parse_targets),
    "upstream.formats.parse_feeds": _mirror(formats.parse_feeds),
    "upstream.formats.parse_overview": _mirror(formats.parse_overview),
    "upstream.formats.parse_profiles_json": _mirror(formats.parse_profiles_json),
    "upstream.formats.parse_index": _mirror(formats.parse_index),
    "upstream.formats.parse_packages": _mirror(formats.parse_packages),
    "upstream.formats.check_packages": _mirror(formats.check_packages),
    "upstream.formats.check_foreign_packages": _mirror(formats.check_foreign_packages),
    "upstream.formats.lift_profile": lambda text: formats.lift_profile(
        text.encode(), "acme_widget-5", {"target": "pico/nine"}
    ),
    "upstream.package_index.read_index": _packages,
    "upstream.package_index._AdbReader": _adb,
    # text of a client
    "domain.request.BuildRequest": lambda text: BuildRequest(text, text, text, packages=(text,)),
    "domain.request.whole_hash": lambda text: request.whole_hash(text, lambda _: ()),
    "domain.addresses.parse_address": addresses.parse_address,
    "domain.addresses.plain_address": addresses.plain_address,
    "domain.repositories.require_allowed": _allow,
    "domain.repositories.is_allow_list_entry": repositories.is_allow_list_entry,
    "domain.repositories.key_files": lambda text: repositories.key_files([text]),
    "domain.search.without_abi": lambda text: list(search.without_abi(f"lib{text}")),
    "domain.repositories._parse_usign": lambda text: repositories._parse_usign(text, 0),
    "domain.release.parse_release": release.parse_release,
    "domain.search.words": lambda text: search._SEPARATORS.split(text[:200]),
    "http.api.body.parse_request": lambda text: body.parse_request(text.encode()),
    "http.api.body.client_from_user_agent": body.client_from_user_agent,
    "http.api.body.explain": body.explain,
    "http.api.body._explained": lambda text: body._explained(text[:2000], b"{}"),
    "http.callers._address": callers._address,
    "http.pages.form_fields.body": lambda text: form_fields.read_fields(
        {"packages": text, "repository_keys": text}
    ).body("x"),
    "http.pages.words.sentence": lambda text: words.sentence(text[:8000]),
    "http.pages.session.form": _form,
    "http.pages.session.cookie_of": _cookie,
    "http.rules_service.parse_body": lambda text: rules_service.parse_body(text.encode()),
    "package_changes.versions.version_order": versions.version_order,
    "package_changes.versions.branch_of": versions.branch_of,
    # what object storage says when it fails
    "store.bucket.failure_of": lambda text: failure_of("s3://images", ValueError(text)),
    # text of a server, read by the command line
    "client.server.json_object": lambda text: server.json_object(text.encode()),
    "client.builds.parse_events": lambda text: list(builds.parse_events([text.encode()])),
}

COVERED: Mapping[str, str] = {
    "upstream.package_index._last_label": "upstream.package_index.read_index",
    "store.bucket._explain": "store.bucket.failure_of",
    "domain.addresses._is_host": "domain.addresses.parse_address",
    "domain.addresses._with_port": "domain.addresses.plain_address",
    "domain.diagnosis._is_chosen": "domain.diagnosis.blame_make",
    "domain.profiles_json._is_plain": "domain.profiles_json.parse_built",
    "domain.diagnosis._apk_problem": "domain.diagnosis.repository_problems",
    "domain.diagnosis._opkg_problem": "domain.diagnosis.repository_problems",
    "domain.diagnosis._undelivered_package": "domain.diagnosis.undelivered_packages",
    "domain.make.Lines.feed": "domain.make.Lines",
    "domain.packages._Block.read": "domain.packages.explain_selection",
    "domain.packages._explain_apk": "domain.packages.explain_selection",
    "domain.packages._explain_opkg": "domain.packages.explain_selection",
    "domain.packages.without_version": "domain.packages.explain_selection",
    "domain.request.BuildRequest.__post_init__": "domain.request.BuildRequest",
    "domain.request.BuildRequest._require_repositories": "domain.request.BuildRequest",
    "domain.request.BuildRequest._require_options": "domain.request.BuildRequest",
    "domain.request._require_place": "domain.request.BuildRequest",
    "domain.request._require_each": "domain.request.BuildRequest",
    "domain.request.require_package_names": "domain.request.BuildRequest",
    "domain.release.Release.order": "domain.release.parse_release",
    "http.pages.form_fields.Fields.body": "http.pages.form_fields.body",
    "http.pages.form_fields.Fields.names": "http.pages.form_fields.body",
    "http.pages.words.linked": "http.pages.words.sentence",
    "domain.search.plain": "domain.search.words",
    "domain.search._alphabetically": "domain.search.words",
    "upstream.lenient.Reader.text": "upstream.formats.parse_profiles_json",
    "upstream.lenient.Reader.texts": "upstream.formats.parse_profiles_json",
    "upstream.lenient._brief": "upstream.formats.parse_profiles_json",
    "upstream.lenient.is_text": "upstream.formats.parse_profiles_json",
    "upstream.formats._take_profile": "upstream.formats.parse_profiles_json",
    "core.images.describe_images": "domain.profiles_json.signature_length",
    "domain.preflight.differing_packages": "domain.make.parse_manifest",
    "domain.sbom._component": "domain.licences.read_licence",
    "signing.attestation._decoded": "signing.attestation.parse_envelope",
    "upstream.package_index._is_cut_off": "upstream.package_index.read_index",
    **dict.fromkeys(
        (
            "upstream.package_index._AdbReader.packages",
            "upstream.package_index._AdbReader._package",
            "upstream.package_index._AdbReader._relation",
            "upstream.package_index._AdbReader._word",
            "upstream.package_index._AdbReader._text",
        ),
        "upstream.package_index._AdbReader",
    ),
    **dict.fromkeys(
        (
            "upstream.package_index._read_packages",
            "upstream.package_index._PackagesReader.package",
            "upstream.package_index._PackagesReader._one",
            "upstream.package_index._PackagesReader._text",
            "upstream.package_index._PackagesReader._number",
        ),
        "upstream.package_index.read_index",
    ),
    # tests/unit/upstream/test_lenient.py feeds it packed text
    "upstream.formats.parse_packed_packages": "upstream.formats.parse_packages",
}
"""Functions that are reached only by way of a listed parser, and by which."""

NOT_FOREIGN: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "core.refusals.Refusals.adopt",
            "http.shared_answers.SharedAnswers.find",
            "upstream.memory.DocumentMemory.take_confirmed",
        ),
        "what another node of this program has written, by way of the database or sealed",
    ),
    **dict.fromkeys(
        (
            "database.moving._read_mark",
            "database.retention.SqlRetention.image_digests",
            "database.retention.SqlRetention.name_files",
        ),
        "a row that this program has written",
    ),
    "database.retention.SqlRetention.stored_files": "a result that this program has written",
    "domain.access.parse_rates": "a setting of the operator",
    **dict.fromkeys(
        (
            "signing.pem.parse_public_key",
            "signing.pem.parse_secret_key",
            "signing.usign._data",
            "signing.usign.parse_public_key",
            "signing.usign.parse_secret_key",
            "signing.usign.parse_signature",
            "signing.usign.read_public_half",
            "signing.ucert.parse_container",
        ),
        "a key, certificate or program of the operator, of which 4 KiB are read",
    ),
    "signing.usign.is_key_id": "a file's name; the pattern is anchored and bounded",
    "engines.local.sandbox.confined": "what this machine's own bubblewrap says",
    "upstream.documents.UpstreamDocuments.look": "a path that this program makes, or an allowed address",
    "upstream.documents.UpstreamDocuments.start": "a path that this program makes",
    "upstream.documents.UpstreamDocuments.want": "a path that this program makes",
    "upstream.server.UpstreamServer._request": "a path that this program makes",
    "http.fast_path._plain_path": "an address; cut by the server",
    "engines.transfer.Collection.add": "a file's name; the pattern is anchored and bounded",
    "engines.transfer.unpack": "a member's name, as above",
    "engines.podman.container.PodmanContainer._kernel_has_killed": "the kernel's own counters",
    "engines.podman.images.pull_failed": "the engine's message, of which one line is kept",
    "store.local.LocalStore.locate": "a name in an address; the pattern is anchored and bounded",
    "client.builds._stretch": "a header; the pattern is anchored; a document as in client.server.json_object",
    "domain.profiles_json.unprintable": "makes a pattern",
    "http.api.comparison.read_from_version": "a body that was read; the pattern is anchored and bounded",
    "http.fast_path._head_and_ids": "the head of an answer of this program",
    "cli.search._SearchUnlessNamed.parse_args": "the user's own arguments",
    "client.downloads.is_file_name": "a name in a document; the pattern is anchored and bounded",
    "client.downloads.announced_images": "a name in a document; the pattern is anchored and bounded",
    "core.images.write_sbom": "a name in a document that was read; the pattern is anchored and bounded",
    "domain.preflight.manifest_of": "names that were read; the pattern is anchored and bounded",
    "domain.make.make_arguments": "the arguments that this program itself makes",
    "domain.packages._opkg": "makes a pattern",
    "http.api.configuration._plain": "settings, written by the operator",
    "http.fast_path.FastPath.__call__": "an address or a header; anchored, or single characters",
    "http.fast_path.FastPath._open": "an address, as above",
    "http.fast_path.FastPath._dispatch": "an address, as above",
    "http.fast_path.bind_log_context": "an address, as above",
    "http.api.body._whole": "makes a pattern",
    "http.openapi.Operation.address": "the routes of this program",
    "http.openapi._tidied": "words of this program",
    "http.openapi.describe": "words of this program",
    "http.api.streams.LiveStreams.answer_socket": "an address, as above",
    "http.api.store.Downloads._take": "a name in an address; the pattern is anchored and bounded",
    "http.representations.prefers_gzip": "a header of at most 256 bytes; the pattern is anchored",
    "http.api.store._meant_range": "a header; the pattern is anchored and bounded",
    "database.preflight.SqlPreflightRecords.carried": "what this program has written itself",
    "cli.provenance._key_of": "names in an answer, and a key, of which 4 KiB are read",
    "database.dialect._translated": "a statement of this program",
    "database.dialect.translate": "a statement of this program",
    "core.handover._read": "what this program has written itself; `test_handover` reads it damaged",
    "database.nodes.to_nodes": "what this program has written itself",
    "store.scratch.ScratchSpace.take_over": "a name of this program; the pattern is anchored and bounded",
    "store.scratch.ScratchSpace.discard": "a name of this program; the pattern is anchored and bounded",
    "store.objects.ObjectStore._handed_over": "a name of this program; the pattern is anchored and bounded",
    "database.retention.SqlRetention.names_handed_over": "what this program has written itself",
    "database.rows.to_job": "what this program has written itself",
    "database.secrets.Secrets.unseal": "what this program has written itself",
    "database.secrets.read_keys": "the operator's own file, cut to 4,096 bytes",
    "upstream.documents.UpstreamDocuments._restore": "what this program has written itself",
    "engines.local.runtime._labels": "what this program has written itself",
    "package_rules.RemotePackageChanges.apply": "a service that the operator names",
    "engines.podman.calls.ContainerCalls.is_plain_file": "the engine's answer",
    "engines.podman.images.pull_error": "the engine's answer",
    "engines.podman.streams.Stream.refusal": "the engine's answer",
    "http.pages.build_form.see_build": "an answer of this program",
    "http.pages.official.official_images": "a profile that `lift_profile` has written anew",
    "http.openapi.command_of": "addresses of this program",
    "domain.repositories.split_keys": "a setting, or a field of a form whose body `max_body_size` bounds",
    "http.pages.interface._anchor": "words of this program",
    "http.pages.rendering.texts_of_scripts": "scripts of this program",
    "http.texts.Language.plural": "a catalogue of this program",
    "http.pages.queue.QueuePage.act": "a field of a form that was read, cut to 1,000 characters",
    "cli.build._read_request": "the user's own file",
    "cli.admin.import_settings_command": "the user's own file",
    "cli.log_lines._shortened": "the log of this program, read by the user's own command",
    "cli.build.suggestion": "a body that this program makes",
    "package_changes.schema._pattern": "rules: the operator's file, or their service",
    "package_changes.schema.read_header": "rules, as above",
    "package_changes.schema.read_rules": "rules, as above",
    "package_changes.schema._targets": "rules, as above",
    "package_changes.schema._names": "rules, as above",
    "package_changes.schema._additions": "rules, as above",
    "package_changes.rules.parse_rules": "rules, as above",
    "cli.build._build": "words of this program",
    "cli.serving.listen_at": "what this machine's kernel says",
    "cli.manual._paragraphs": "words of this program",
    "package_changes.versions.branch_order": "rules, as above",
    "package_changes.versions.parse_range": "rules, as above",
    "settings.checks.parse_duration": "a setting, written by the operator",
    "settings.checks.parse_size": "a setting, written by the operator",
    "http.pages.words.contact": "the setting `contact`, by the operator",
}
"""Functions that look like parsers, and why no text of others can keep them busy."""
