"""The pages' texts: one catalogue, complete in each language, and the language that a reader asks for."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest
from babel.messages.extract import extract_from_dir
from deploy import catalogues

from asgi_client import Answer, AsgiClient
from asu_builder.domain.job import STAGE_WORDS
from asu_builder.http import texts
from asu_builder.http.api.statistics import TABLES
from asu_builder.http.errors import ERRORS
from asu_builder.http.pages import words
from asu_builder.http.pages.rendering import ROOT, TEMPLATES, texts_of_scripts
from asu_builder.http.texts import LANGUAGES, LOCALE, choose_language, gettext, ngettext, speak
from web_scene import Scene

CATALOGUES = sorted(LOCALE.glob("*.po"))
FORM = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
_VALUE = re.compile(r"%\(\w+\)s|%%")
_MARKUP = re.compile(r"<[^>]+>")
_NOT_TRANSLATED = {"MiB", "ASU Builder", "ASU&nbsp;Builder", "API", "SHA-256", "CycloneDX", "SPDX", "OpenWrt"}


@pytest.fixture
def german() -> Iterator[None]:
    """A request whose sender reads German."""
    former = texts.current()
    speak(LANGUAGES["de"])
    yield
    speak(former)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[AsgiClient]:
    with AsgiClient(Scene(tmp_path).app()) as running:
        yield running


def forms(text: object) -> tuple[str, ...]:
    """A text in its plural forms, or the one that it has."""
    return tuple(text) if isinstance(text, tuple | list) else (str(text),)


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_a_catalogue_has_every_text_of_the_source_and_no_other_and_is_compiled(path: Path) -> None:
    catalogue = catalogues.updated(path, catalogues.extracted())
    assert path.read_bytes() == catalogues.as_text(catalogue), "run: make texts"
    assert path.with_suffix(".mo").read_bytes() == catalogues.compiled(catalogue), "run: make texts"
    untranslated = [message.id for message in catalogue if message.id and not all(forms(message.string))]
    assert untranslated == []


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_a_translation_has_the_values_and_the_markup_of_its_text(path: Path) -> None:
    for message in catalogues.read(path):
        if not message.id:
            continue
        for found in (_VALUE, _MARKUP):
            wanted = {part for form in forms(message.id) for part in found.findall(form)}
            for form in forms(message.string):
                # The singular may write its number as a word.
                assert set(found.findall(form)) <= wanted, message.id
            assert wanted == set(found.findall(forms(message.string)[-1])), message.id


def test_no_text_of_a_template_is_outside_the_catalogue() -> None:
    marked = re.compile(
        r"{%-?\s*trans\b.*?endtrans\s*-?%}|{#.*?#}|{%.*?%}|{{.*?}}|<(code|pre)\b.*?</\1>", re.S
    )
    spoken = re.compile(r'(?:aria-label|placeholder|title|alt)="([^"]*)"')
    for path in sorted(TEMPLATES.glob("*.html")):
        plain = marked.sub("\0", path.read_text())
        left = re.sub(r"<[^>]*>", "\n", plain).splitlines() + spoken.findall(plain)
        for name in _NOT_TRANSLATED:
            left = [line.replace(name, "") for line in left]
        # A macro may write attributes.
        left = [line for line in left if '="' not in line]
        assert [line for line in left if re.search("[A-Za-z]{2}", line)] == [], path.name


def test_texts_that_other_rooms_word_are_in_the_catalogue() -> None:
    shown = {words_ for words_, _ in STAGE_WORDS.values()} | {table.title for table in TABLES.values()}
    assert shown == set(words.ELSEWHERE)
    titles = {title.capitalize() for _, title, _ in ERRORS.values()} | {
        "Internal error",
        "Method not allowed",
    }
    assert titles == set(words.TITLES)


def test_scripts_find_each_of_their_texts() -> None:
    sources = [path.read_text() for path in sorted(ROOT.glob("*.js"))]
    script = texts_of_scripts(LANGUAGES["de"], sources)
    extracted = list(extract_from_dir(ROOT, [("**.js", "javascript")]))
    assert len(extracted) > 20
    for _, _, message, _, _ in extracted:
        one = forms(message)[0]
        assert f'"{one}":' in script.replace('\\"', '"'), one
    assert '"Add a package":"Paket hinzufügen"' in script
    assert '"%(ahead)s build ahead":["%(ahead)s Build davor","%(ahead)s Builds davor"]' in script
    assert script.endswith("(n) => Number((n != 1)));\n")


@pytest.mark.parametrize(
    ("query", "cookie", "accepted", "code"),
    [
        ("", "", "", "en"),
        ("", "", "de", "de"),
        ("", "", "de-AT,de;q=0.9,en;q=0.8", "de"),
        ("", "", "fr,de;q=0.5,en;q=0.4", "de"),
        ("", "", "en;q=0.4,de;q=0.5", "de"),
        ("", "", "de;q=0", "en"),
        ("", "", "fr", "en"),
        ("", "", "*", "en"),
        ("", "", ";;q=,,\0", "en"),
        ("", "", "x" * 5000 + ",de", "en"),
        ("", "de", "en", "de"),
        ("en", "de", "de", "en"),
        ("DE_ch", "", "en", "de"),
        ("xx", "", "de", "de"),
        ("../../etc", "de\0", "en", "en"),
    ],
)
def test_the_address_decides_before_the_cookie_before_the_browser(
    query: str, cookie: str, accepted: str, code: str
) -> None:
    assert choose_language(query, cookie, [accepted]).code == code


def test_plurals_numbers_and_dates_are_those_of_the_language(german: None) -> None:
    assert ngettext("%(count)s day", "%(count)s days", 1, count=1) == "1 Tag"
    assert ngettext("%(count)s day", "%(count)s days", 30, count=30) == "30 Tage"
    assert words.size(9.4 * 1024 * 1024) == "9,4 MiB"
    assert words.span(timedelta(seconds=3.24)) == "3,2 s"
    assert ">01.12.2026 09:05 UTC<" in words.moment(datetime(2026, 12, 1, 9, 5, tzinfo=UTC))
    assert words.percent(1, 3) == "33,3 %"
    assert gettext("No such text, anywhere") == "No such text, anywhere"


def test_a_sentence_that_is_not_translated_is_marked_as_english(german: None) -> None:
    assert words.english("<b>") == '<span lang="en" dir="ltr">&lt;b&gt;</span>'
    assert words.english("") == ""


def test_a_catalogue_that_has_only_been_begun_is_not_offered(tmp_path: Path) -> None:
    path = tmp_path / "fr.po"
    path.write_text("")
    path.with_suffix(".mo").write_bytes(catalogues.compiled(catalogues.updated(path, catalogues.extracted())))
    assert list(texts._load(tmp_path)) == ["en"]


def get(client: AsgiClient, path: str, language: str, **headers: str) -> Answer:
    return client.get(path, headers={"accept-language": language, **headers})


@pytest.mark.parametrize(
    "path",
    ["/", "/status", "/nowhere", "/queue", "/queue?fragment=1", "/statistics", "/docs", "/build/" + "0" * 64],
)
def test_a_page_speaks_the_language_of_its_reader(client: AsgiClient, path: str) -> None:
    english, german, again = (get(client, path, code, accept="text/html") for code in ("en", "de", "en"))
    assert english.body == again.body != german.body
    for answer in (english, german):
        assert answer.header("vary") == "Accept-Language, Cookie, Accept, Accept-Encoding"
    if "fragment" not in path:
        assert b'<html lang="de" dir="ltr">' in german.body
        assert "Zum Inhalt springen" in german.body.decode()
    if etag := german.header("etag"):
        assert get(client, path, "de", **{"if-none-match": etag}).status == 304
        fresh = get(client, path, "en", **{"if-none-match": etag})
        assert (fresh.status, fresh.body) == (200, english.body)


def test_a_language_is_chosen_by_a_form_or_an_address_and_kept_in_a_cookie(client: AsgiClient) -> None:
    body = urlencode({"lang": "de", "next": "/queue?x=1"}).encode()
    answer = client.post("/language", body, headers=FORM)
    assert (answer.status, answer.header("location")) == (303, "/queue?x=1")
    cookie = (answer.header("set-cookie") or "").partition(";")[0]
    assert cookie == "asu_language=de"
    assert b'lang="de"' in client.get("/", headers={"cookie": cookie}).body
    linked = client.get("/?lang=de", headers={"cookie": "asu_language=en"})
    assert b'<html lang="de"' in linked.body
    assert (linked.header("set-cookie") or "").startswith(cookie)
    assert linked.header("cache-control") == "no-store"
    assert client.get("/?lang=xx").header("set-cookie") is None
    elsewhere = urlencode({"lang": "xx", "next": "//elsewhere.example"}).encode()
    answer = client.post("/language", elsewhere, headers=FORM)
    assert (answer.header("location"), answer.header("set-cookie")) == ("/", None)


def test_errors_and_documents_for_programs_stay_english(client: AsgiClient) -> None:
    for path in ("/api/v1/build/" + "0" * 64, "/health", "/api/v1/devices?version=1.2.3"):
        english, german = (get(client, path, code) for code in ("en", "de"))
        assert english.body == german.body, path


class CachingProxy:
    """What a shared cache may do (RFC 9111): keep answers by address and the headers they vary with."""

    def __init__(self, client: AsgiClient) -> None:
        self._client = client
        self._kept: dict[str, list[tuple[dict[str, str], Answer]]] = {}
        self.answered = 0

    def get(self, path: str, headers: dict[str, str]) -> Answer:
        """The kept answer if the server says that it is still right, else a fresh one."""
        for asked, answer in self._kept.get(path, []):
            varies = [name.strip().lower() for name in (answer.header("vary") or "").split(",")]
            if all(asked.get(name, "") == headers.get(name, "") for name in varies):
                check = self._client.get(
                    path, headers={**headers, "if-none-match": answer.header("etag") or ""}
                )
                if check.status == 304:
                    self.answered += 1
                    return answer
        answer = self._client.get(path, headers=headers)
        if answer.header("cache-control") != "no-store":
            self._kept.setdefault(path, []).append((headers, answer))
        return answer


def test_two_languages_in_turn_behind_a_caching_proxy(client: AsgiClient) -> None:
    proxy = CachingProxy(client)
    for round_ in range(3):
        for code in ("de", "en"):
            page = proxy.get("/", {"accept-language": code, "accept-encoding": "gzip" if round_ == 2 else ""})
            if round_ < 2:
                assert f'<html lang="{code}"'.encode() in page.body
        chosen = proxy.get("/", {"accept-language": "en", "cookie": "asu_language=de"})
        assert b'<html lang="de"' in chosen.body
    assert proxy.answered >= 4
