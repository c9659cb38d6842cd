"""The layer that all HTML pages share."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from svp.pages import emphasized, write_page


def test_values_are_escaped_and_what_is_emphasized_is_bold(tmp_path: Path) -> None:
    part = dict(kind="table", title=None, columns=["<i>"], rows=[["a & b", emphasized("**5 < 6** or not")]], caption='"')
    write_page(tmp_path / "a.html", "inspection.html", title="<b>", facts=["x < y"], parts=[part])
    text = (tmp_path / "a.html").read_text()
    assert "<title>&lt;b&gt;</title>" in text
    assert "<th>&lt;i&gt;</th>" in text
    assert "<td>a &amp; b</td><td><b>5 &lt; 6</b> or not</td>" in text
    assert "<li>x &lt; y</li>" in text


def test_names_that_are_no_text_are_written_nevertheless(tmp_path: Path) -> None:
    write_page(tmp_path / "a.html", "inspection.html", title="a", facts=["caf\udce9.jpg"], parts=[])
    assert "caf\\udce9.jpg" in (tmp_path / "a.html").read_text()


def test_a_value_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="parts"):
        write_page(tmp_path / "a.html", "inspection.html", title="a", facts=[])
    assert not (tmp_path / "a.html").exists()


def test_pages_need_no_network() -> None:
    for template in (Path(__file__).parent.parent / "src" / "svp" / "assets" / "pages").iterdir():
        text = template.read_text()
        assert "http" not in text
        assert "@import" not in text
