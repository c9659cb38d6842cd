"""The documentation, read without building it: its pages are in the site, its links lead somewhere, its commands parse."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from svp.commands import COMMANDS
from svp.commands.train import make_parser
from svp.studies import make_search, make_set_search, make_study
from svp.tuners import list_methods
from tests.processes import printed_by

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "src/svp/assets/README.md", *PAGES]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


class _Lenient(yaml.SafeLoader):
    """Reads the file whatever tags its plugins bring."""


_Lenient.add_multi_constructor("!", lambda loader, suffix, node: None)


def pages_in(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(value, list):
                yield from pages_in(value)
            else:
                yield value


def text_of(page: Path) -> str:
    """The page, with what it takes from elsewhere in the repository."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r'^--8<-- "(.+)"$', lambda match: (ROOT / match[1]).read_text(encoding="utf-8"), text, flags=re.M)


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def anchors(text: str) -> set[str]:
    """Of the headings, as Markdown's own table of contents makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def code(language: str) -> list[Any]:
    """Fenced code of all texts, one parameter for each."""
    found = []
    for page in TEXTS:
        for number, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), flags=re.M | re.S)):
            found.append(pytest.param(block, id=f"{name(page)}-{number}"))
    return found


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Lenient)
    assert sorted(pages_in(config["nav"])) == [page.relative_to(DOCS).as_posix() for page in PAGES]


def test_the_site_needs_no_network() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "http" not in text
    config = yaml.load(text, Loader=_Lenient)
    assert config["theme"]["font"] is False
    assert config["use_directory_urls"] is False
    for file in config["extra"]["polyfills"] + config["extra_css"]:
        assert (DOCS / file).is_file()


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page))):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if DOCS in page.parents:
            assert DOCS in file.parents, f"{target} lies outside of the site"
        if anchor:
            assert anchor in anchors(text_of(file)), target


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_nobody_is_sent_to_another_package(page: Path) -> None:
    """``svp`` on the package index belongs to somebody else."""
    assert not re.search(r"install\s+(-\S+\s+)*['\"]?svp\b", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("block", code("bash"))
def test_commands_are_known(block: str) -> None:
    for line in block.replace("\\\n", " ").splitlines():
        usage = "[" in line and "'" not in line  # optional words stand in brackets
        words = shlex.split(re.sub(r"\[[^\]]*\](\.\.\.)?", "", line) if usage else line, comments=True)
        if words[:1] != ["svp"] or len(words) < 2:
            continue
        command, *rest = words[1:]
        assert command in COMMANDS, line
        if command == "train":
            make_parser(list_methods()).parse_args(rest, defaults=False)


@pytest.mark.parametrize("block", code("python"))
def test_programs_compile(block: str) -> None:
    compile(block, "docs", "exec")


@pytest.mark.parametrize("block", code("yaml"))
def test_studies_are_valid(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = yaml.safe_load(block)
    if "space" in values and "data" in values:
        (make_set_search if "methods" in values else make_search)({"name": "docs", **values})
    elif "methods" in values:
        make_study({"name": "docs", **values})


def test_the_tutorial_adds_a_method(tmp_path: Path) -> None:
    text = (DOCS / "tutorials/add_a_method.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^<!-- (?:method|use) -->\n```python\n(.*?)^```$", text, flags=re.M | re.S)
    assert len(blocks) == 2
    (tmp_path / "token_scale.py").write_text(blocks[0], encoding="utf-8")
    (tmp_path / "use.py").write_text("import token_scale\n" + blocks[1], encoding="utf-8")
    code = "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[1] + '/use.py')"
    assert printed_by(code, str(tmp_path)) == "128\n"
