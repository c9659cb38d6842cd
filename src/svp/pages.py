"""HTML pages that open from a file, without a network: templates of ``assets/pages``, one style, every value escaped."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from svp.paths import write_atomically

_TEMPLATES = Path(__file__).resolve().parent / "assets" / "pages"


def write_page(target: Path, template: str, **values: Any) -> None:
    """Fill in a template and write the page.

    Args:
        target: File that is written.
        template: Name of the template, such as "study.html".
        values: Everything that the template names; ``title`` and ``facts`` (lines under the title) belong to each.

    Raises:
        jinja2.UndefinedError: A value that the template names is missing.
    """
    text = _environment().get_template(template).render(**values)
    # names of files need not be text
    write_atomically(target, lambda path: path.write_text(text, encoding="utf-8", errors="backslashreplace"))


def emphasized(text: str) -> Markup:
    """HTML of a text whose ``**parts**`` are bold."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(text))))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
