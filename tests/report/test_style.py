"""One style for all pictures: texts stay texts, colours are the page's, series are told apart."""

import io
import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import orpo.report
from orpo.report.style import COLOURS, SERIES, inline, plain, png, svg

SVG = "{http://www.w3.org/2000/svg}"
SHEET = (Path(orpo.report.__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
CANARIES = [
    "</text><script>alert(1)</script>",
    "$\\frac{1}{0}$ and $",
    "\\$5$ ]]> -->",
    "a\x00b\x07\x1b[31m\x7f",
    "\u202ereversed\u200f\u2066",
    '#010305 var(--ink) url(#clip) id="x" style=\'\' href="#y"',
    "&lt;&#x41; <!-- <![CDATA[",
    "中文 \ud800 \ufffe \U000f0000",
]


def written(text: str) -> str:
    """An SVG with a text from data as its tick, label and legend."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=COLOURS["chosen"], label=plain(text))
        axes.set_xticks([0], [plain(text)])
        axes.set_ylabel(plain(text))
        axes.legend()

    return svg("canary", (9, 6), paint, f"A title: {text}")


def texts(picture: str) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(picture).iter(f"{SVG}text")]


@pytest.mark.parametrize("canary", CANARIES, ids=range(len(CANARIES)))
def test_texts_from_data_are_texts_and_nothing_else(canary: str) -> None:
    picture, shown = written(canary), plain(canary)
    assert all(ord(c) > 31 and not 0x7F <= ord(c) < 0xA0 for c in shown)
    assert len(shown) <= 40
    assert texts(picture).count(shown) == 3  # as it stands: not escaped twice, no maths
    known = {"svg", "g", "path", "text", "use", "defs", "clipPath", "rect", "style", "title"}
    tags = {one.tag for one in ElementTree.fromstring(picture).iter()}
    assert {tag.removeprefix(SVG) for tag in tags if tag.startswith(SVG)} <= known
    assert not any("script" in tag or tag.endswith("}a") for tag in tags)
    assert len(texts(inline(picture))) == len(texts(picture))


def test_texts_are_shortened_and_stay_in_legends() -> None:
    assert plain("x" * 41) == "x" * 39 + "…"
    assert plain("x" * 40) == "x" * 40
    assert plain("a \n\t b") == "a b"
    assert len([one for one in texts(written("_hidden")) if one.endswith("hidden")]) == 3
    assert "$5 and $6" in texts(written("$5 and $6"))


def test_a_file_is_light_on_white_and_a_page_has_its_own_colours() -> None:
    bright, dark = (
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", part)) for part in SHEET.split("@media", 2)[:2]
    )
    assert {**bright, "paper": "#ffffff"} == {**bright, **COLOURS}
    assert COLOURS.keys() <= dark.keys()
    picture = written("x")
    root = ElementTree.fromstring(picture)
    assert root.findtext(f"{SVG}title") == "A title: x"
    assert root.get("width", "").endswith("pt")
    assert {COLOURS["chosen"], COLOURS["paper"]} <= set(re.findall(r"#[0-9a-f]{6}\b", picture))
    assert picture == written("x")
    assert re.findall(r"#[0-9a-f]{6}\b", inline(picture)) == []
    assert "stroke: var(--chosen)" in inline(picture)


def test_pixels_are_in_the_same_colours() -> None:
    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhspan(0, 1, color=COLOURS["violet"])
        axes.set_axis_off()

    picture = np.asarray(Image.open(io.BytesIO(png((2, 1), paint))).convert("RGB"))
    found = {"#" + bytes(pixel).hex() for pixel in picture.reshape(-1, 3)}
    assert {COLOURS["violet"], "#ffffff"} <= found


# Machado, Oliveira, Fernandes (2009), severity 1: what linear RGB looks like without red or green.
PROTANOPIA = (
    (0.152286, 1.052583, -0.204868),
    (0.114503, 0.786281, 0.099216),
    (-0.003882, -0.048116, 1.051998),
)
DEUTERANOPIA = (
    (0.367322, 0.860646, -0.227968),
    (0.280085, 0.672501, 0.047413),
    (-0.011820, 0.042940, 0.968881),
)
# Ottosson (2020): Oklab.
CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    return np.array(LAB) @ np.cbrt(np.array(CONES) @ np.clip(rgb, 0, 1))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_six_series_are_told_apart(scheme: str) -> None:
    part = SHEET.split("@media", 2)[0 if scheme == "light" else 1]
    values = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", part))
    names = [name for name in COLOURS if COLOURS[name] in {style.colour for style in SERIES}]
    for blindness in (np.eye(3), PROTANOPIA, DEUTERANOPIA):
        seen = {name: oklab(np.array(blindness) @ linear(values[name])) for name in names}
        for one, other in combinations(names, 2):
            assert np.linalg.norm(seen[one] - seen[other]) > 0.045, (one, other)
    paper = linear(values["paper"]) @ [0.2126, 0.7152, 0.0722]
    for name in names:
        bright = linear(values[name]) @ [0.2126, 0.7152, 0.0722]
        low, high = sorted((paper, bright))
        assert (high + 0.05) / (low + 0.05) >= 3, name  # WCAG 1.4.11
    for part in ("dash", "marker", "hatch"):  # and without any colour
        assert len({getattr(style, part) for style in SERIES}) == len(SERIES)
