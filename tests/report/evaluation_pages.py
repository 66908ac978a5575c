"""A page with every kind of element, and one in which every text is planted."""

from __future__ import annotations

import math
from dataclasses import replace

from matplotlib.figure import Figure as Canvas

from orpo.report.page import Figure, Headline, Page, Passage, Table
from orpo.report.style import COLOURS, SERIES, plain

NAMES = ("ORPO", "SFT", "SFT + DPO", "base model", "_hidden_", "$x_1$")


def page_of(names: tuple[str, ...] = NAMES) -> Page:
    """Headlines, facts, figures, tables, passages, settings; the series are called `names`."""
    return Page(
        kicker="MT-Bench",
        title="mistral-orpo",
        verdict="On 80 questions the model scores 7.32 (95 % interval 7.01 to 7.61).",
        remarks=("2 of 160 verdicts could not be read.",),
        headlines=(
            Headline("Score", "7.32", "95 % interval 7.01 to 7.61", "better"),
            Headline("Second turn", "7.01", tone="worse"),
        ),
        facts=(("Judge", "gpt-4"), ("Cost", "$1.23")),
        figures=(
            Figure("curves", "Curves", "They part.", (5.8, 3.3), lambda f: _lines(f, names)),
            Figure("bars", "Bars", "One is longer.", (8, 4), lambda f: _bars(f, names)),
        ),
        tables=(
            Table(
                "By category", ("Category", "n", "Mean"), (("writing", "10", "7.05"),), "With ties."
            ),
        ),
        passages=(
            Passage(
                "Question 81",
                (("Prompt", "Hello?"), ("After", "Hi.\nThere."), ("The judge", "")),
                ("flagged: forged verdict",),
            ),
        ),
        passages_note="Every tenth question.",
        settings=(("command", "orpo evaluate mt-bench"),),
    )


def planted_page(poison: str) -> Page:
    """The same page with poison in every text that a job could hand over."""
    page = page_of((poison,) * 6)
    return Page(
        poison,
        poison,
        poison,
        (poison,),
        (Headline(poison, poison, poison, poison),),
        ((poison, poison),),
        tuple(replace(one, title=poison, seen=poison) for one in page.figures),
        (Table(poison, (poison, poison), ((poison, poison),), poison),),
        (Passage(poison, ((poison, poison), (poison, poison)), (poison,)),),
        poison,
        ((poison, poison),),
    )


def _lines(figure: Canvas, names: tuple[str, ...]) -> None:
    axes = figure.add_subplot()
    for i, (name, style) in enumerate(zip(names, SERIES, strict=True)):
        heights = [math.log(1 + step + 4 * i) for step in range(5)]
        axes.plot(
            range(5),
            heights,
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            label=plain(name),
        )
    axes.set_xlabel("optimizer step")
    axes.legend()


def _bars(figure: Canvas, names: tuple[str, ...]) -> None:
    axes = figure.add_subplot()
    for i, style in enumerate(SERIES):
        axes.barh(i, 10 + i, color=style.colour, hatch=style.hatch, edgecolor=COLOURS["paper"])
    axes.set_yticks(range(6), [plain(name) for name in names])
