"""Style sheets and scripts: under names that change with them, kept for ever."""

import re
from pathlib import Path

import pytest

from asgi_client import AsgiClient
from asu_builder.http.pages.rendering import ROOT, TEMPLATES, StaticFiles
from web_scene import Scene


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
