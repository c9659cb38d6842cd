"""The look of figures: every method has its own, further runs of it have others, color-blind readers tell them apart."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import svp
from svp.plotting import _METHODS, COLORS, COLUMN, GREY, log_scale, looks, new_figure, percent, save, style
from svp.tuners import get_methods, method_title

Array = npt.NDArray[np.float64]


def test_every_method_has_a_look_of_its_own() -> None:
    assert sorted(name for names in _METHODS.values() for name in names) == sorted(svp.list_methods())
    assert len(set(looks(svp.list_methods()))) == len(svp.list_methods())


def test_a_method_looks_the_same_in_every_company() -> None:
    alone = {method: looks([method])[0] for method in svp.list_methods()}
    for company in (svp.list_methods(), ["svp+lora", "svp+lora", "svp", "lora"], ["A", "additional_scan", "svp"]):
        assert all(look == alone[method] for method, look in zip(company, looks(company), strict=True) if method in alone)


def test_runs_of_one_method_and_combinations_are_told_apart() -> None:
    runs = ["svp", "svp", "svp", "svp+lora", "additional_scan", "A"]
    found = looks(runs)
    assert {look.color for look in found} == {looks(["svp"])[0].color}
    assert len({str(look.line) for look in found}) == len({look.marker for look in found}) == len(runs)
    assert len(looks(["svp"] * 20)) == 20


def test_a_method_registered_elsewhere_has_a_color() -> None:
    (look,) = looks(["mine"])
    assert looks(["mine"]) == [look]
    assert look.color in COLORS
    assert look not in looks(svp.list_methods())


def test_titles() -> None:
    assert method_title("svp") == "SVP"
    assert method_title("vpt_deep+lora") == "VPT-deep + LoRA"
    assert method_title("hidden_dim 8") == "hidden_dim 8"
    titles = [get_methods(name)[0].title for name in svp.list_methods()]
    assert len(set(titles)) == len(titles)
    assert not any("_" in title for title in titles)


# Machado et al., "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009, severity 1
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def to_lab(linear: Array) -> Array:
    """Linear RGB (3,) as CIELAB under D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ linear.clip(0, 1) / to_xyz.sum(axis=1)
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colors_differ_for_color_blind_readers(deficiency: str) -> None:
    """A difference of 10 in CIELAB is seen at a glance; red and green of matplotlib's cycle are 7 apart under deuteranopia."""
    shades = {}
    for color in (*COLORS, GREY, "#ffffff"):
        srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        shades[color] = to_lab(DEFICIENCIES[deficiency] @ linear)
    distances = {(a, b): float(np.linalg.norm(shades[a] - shades[b])) for a, b in combinations(shades, 2)}
    closest = min(distances, key=distances.__getitem__)
    assert distances[closest] > 10, (closest, distances[closest])


def test_a_figure_is_saved_as_png_and_pdf(tmp_path: Path) -> None:
    with style():
        figure = new_figure(COLUMN, 2)
        figure.subplots().set_title("$class_1$ with a price")
        png, pdf = save(figure, tmp_path / "v1.0")
    assert (png.name, pdf.name) == ("v1.0.png", "v1.0.pdf")
    assert Image.open(png).size == (680, 400)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/Type3" not in pdf.read_bytes()  # journals refuse these fonts
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((900, 2e6), ["1,000", "10,000", "100,000", "1,000,000"]),
        ((1e-4, 5e-2), ["0.0001", "0.001", "0.01"]),
        ((90, 250), ["100", "200"]),
    ],
)
def test_numbers_on_a_logarithmic_axis_are_plain(values: tuple[float, float], expected: list[str]) -> None:
    with style():
        figure = new_figure(COLUMN, 2)
        axis = figure.subplots()
        axis.plot(values, [1, 2])
        axis.margins(x=0)
        log_scale(axis)
        figure.draw_without_rendering()
    low, high = axis.get_xlim()
    ticks = zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
    assert [label.get_text() for place, label in ticks if low <= place <= high] == expected
    assert not any(label.get_text() for label in axis.get_xticklabels(minor=True))


def test_percent() -> None:
    assert [percent()(share, 0) for share in (0, 0.125, 1)] == ["0%", "12.5%", "100%"]
    assert [percent(signed=True)(share, 0) for share in (-0.1, 0, 0.1)] == ["\N{MINUS SIGN}10%", "0%", "+10%"]


def test_letters_that_the_font_lacks_are_no_warnings(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    with style():
        figure = new_figure(2, 1)
        figure.suptitle("\N{CJK UNIFIED IDEOGRAPH-732B}")
        save(figure, tmp_path / "figure")
    assert not recwarn.list
