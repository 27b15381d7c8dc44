"""Style sheets and scripts: under names that change with them, kept for ever."""

import gzip
import json
import re
from pathlib import Path

import pytest

from asgi_client import AsgiClient
from asu_builder.domain.release import VersionList
from asu_builder.http.pages.rendering import ROOT, TEMPLATES, StaticFiles
from web_scene import DescribingUpstream, Scene


def test_a_page_names_files_that_are_there_and_never_change(tmp_path: Path) -> None:
    with AsgiClient(Scene(tmp_path).app()) as client:
        addresses = re.findall(r"/static/[^\"]+", client.get("/").body.decode())
        assert len(addresses) >= 3
        for address in addresses:
            answer = client.get(address)
            assert answer.status == 200
            assert "immutable" in (answer.header("cache-control") or "")
            assert answer.header("x-content-type-options") == "nosniff"
        assert client.get(addresses[0].replace("/static/", "/static/0")).status == 404
        assert client.get(addresses[0].rpartition("/")[0] + "/..%2fbase.html").status == 404


def test_style_and_script_are_small(tmp_path: Path) -> None:
    whole = sum(len(gzip.compress(path.read_bytes(), 9)) for path in ROOT.glob("*.[cj]s*"))
    assert whole <= 25 << 10


def test_the_form_is_painted_within_a_second_over_400_kbit_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What that needs: the page as it is sent and its style; round trips take a fifth of the second."""
    upstream = DescribingUpstream()
    versions = tuple(f"{branch}.{number}" for branch in ("25.12", "24.10", "23.05") for number in range(20))
    monkeypatch.setattr(upstream, "versions", lambda: VersionList(versions, ("25.12.19",)))
    image = {"type": "sysupgrade", "sha256": "ab" * 32, "size": 9 << 20}
    images = [
        {**image, "name": f"openwrt-25.12.19-pico-nine-acme_widget-5-{number}.bin"} for number in range(12)
    ]
    described = json.dumps({"images": images}).encode()
    monkeypatch.setattr(upstream, "described_profile", lambda *_: described)
    with AsgiClient(Scene(tmp_path, upstream=upstream).app()) as client:
        page = client.get("/build?version=25.12.19&target=pico/nine&profile=acme_widget-5").body
    assert b'id="build-form"' in page and b'id="official"' in page
    style = sum(len(gzip.compress((ROOT / name).read_bytes())) for name in ("style.css", "build.css"))
    assert len(page) + style <= 0.8 * 400_000 / 8


def test_a_changed_file_changes_every_address(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("a")
    (tmp_path / "b.js").write_text("b")
    before = StaticFiles(tmp_path)
    (tmp_path / "b.js").write_text("c")
    after = StaticFiles(tmp_path)
    assert before.address("a.css") != after.address("a.css")
    with pytest.raises(KeyError):
        before.address("c.js")


def test_scripts_and_styles_name_no_other_host_and_every_module_they_import_is_there() -> None:
    for path in ROOT.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text, path.name
        for module in re.findall(r"from \"\./([^\"]+)\"", text):
            assert (ROOT / module).is_file(), f"{path.name} imports {module}"


def test_templates_hold_nothing_inline() -> None:
    for path in TEMPLATES.glob("*.html"):
        text = path.read_text()
        assert not re.search(r"<script(?! type=\"module\" src=)|<style|\sstyle=|\son[a-z]+=", text), path.name


def test_script_and_style_of_all_pages_together_are_at_most_25_kilobytes_compressed() -> None:
    files = StaticFiles()._files
    sizes = {
        name: len(file.gzipped or file.body) for name, file in files.items() if not name.endswith(".svg")
    }
    texts = [sizes.pop(name) for name in list(sizes) if name.startswith("texts.") and name != "texts.js"]
    assert sum(sizes.values()) + max(texts) <= 25 * 1024, sizes
