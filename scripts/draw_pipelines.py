"""Draws docs/figures/pipelines.svg: RLHF, SFT+DPO and ORPO side by side.

    orpo compare
    python scripts/draw_pipelines.py orpo-compare  # cuts docs/figures/compare.json out of it, draws
    python scripts/draw_pipelines.py               # draws again from docs/figures/compare.json

What stands under SFT+DPO and ORPO was measured by that command. RLHF is drawn from its papers and
was not run: Ouyang et al., arXiv 2203.02155, figure 2 and section 3.5.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ink import Drawing

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
NUMBERS, PICTURE = FIGURES / "compare.json", FIGURES / "pipelines.svg"

_WIDTH, _HEIGHT = 1080, 800
_COLUMN, _GAP, _LEFT = 290.0, 20.0, 142.0
_BOX, _STEP = 86.0, 108.0
_KEPT = ("value", "low", "high")


@dataclass(frozen=True)
class Stage:
    """One training: what it is called, what it reads, and the models that it holds.

    Attributes:
        name: Its name.
        reads: Its data.
        models: (name, whether it is trained) of each that takes part.
    """

    name: str
    reads: str
    models: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Pipeline:
    """A column of the drawing."""

    name: str
    colour: str
    stages: tuple[Stage, ...]
    note: str
    aside: str = ""
    measured: bool = True


PIPELINES = (
    Pipeline(
        "RLHF (PPO)",
        "muted",
        (
            Stage("SFT", "demonstrations", (("policy", True),)),
            Stage("Reward model", "compared answers", (("reward", True),)),
            Stage(
                "PPO",
                "prompts; it samples the answers",
                (("policy", True), ("value", True), ("reward", False), ("reference", False)),
            ),
        ),
        "up to four models at once",
        measured=False,
    ),
    Pipeline(
        "SFT + DPO",
        "orange",
        (
            Stage("SFT", "chosen answers", (("policy", True),)),
            Stage("DPO", "pairs", (("policy", True), ("reference", False))),
        ),
        "two models",
        "; orpo asks it once, ahead",
    ),
    Pipeline(
        "ORPO",
        "blue",
        (Stage("ORPO", "pairs", (("policy", True),)),),
        "one model",
    ),
)


def cut(folder: Path) -> dict[str, Any]:
    """What the drawing and docs/how-it-works.md show, out of a folder of `orpo compare`."""
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    rows = [row for row in found["table"] if row["budget"] in {"", "steps"}]
    return {
        "command": "orpo compare",
        "seeds": len(found["seeds"]),
        "held_out_pairs": found["answered"],
        "steps": found["steps"],
        "batch": found["batch"],
        "machine": found["machine"],
        "versions": {name: found["versions"][name] for name in ("orpo", "torch", "transformers")},
        "methods": {row["method"]: _row(row) for row in rows},
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    values = {
        name: {key: row[name][key] for key in _KEPT}
        for name in ("preference_accuracy", "correct_answers", "chosen_logps", "rejected_logps")
    }
    if row["cost"] is None:
        return values
    kept = ("objective", "steps", "pairs", "forwards", "flops", "seconds")
    stages = [{name: stage[name] for name in kept} for stage in row["cost"]["stages"]]
    return {**values, "stages": stages}


def picture(numbers: dict[str, Any]) -> str:
    """The SVG's text."""
    drawing = Drawing(
        _WIDTH,
        _HEIGHT,
        "RLHF, SFT + DPO and ORPO side by side",
        "RLHF has three stages and holds up to four models; SFT + DPO has two stages and needs a "
        "reference; ORPO has one stage and one model. Measured figures stand below the last two.",
    )
    drawing.text(28, 42, "Three ways from pairs to an aligned model", size=20, bold=True)
    _legend(drawing)
    for y, words in (
        (124, "stages"),
        (463, "in memory"),
        (533, "forward passes"),
        (550, "for a pair"),
        (610, "operations"),
        (648, "time"),
        (686, "prefers chosen"),
        (724, "answers right"),
    ):
        drawing.text(28, y, words, size=13, colour="muted")
    for y in (436, 504, 584, 622, 660, 698):
        drawing.line((28, y), (_WIDTH - 28, y))
    for number, pipeline in enumerate(PIPELINES):
        _column(drawing, pipeline, _LEFT + number * (_COLUMN + _GAP), numbers)
    for y, words in (
        (
            _HEIGHT - 40,
            f"Measured by {numbers['command']} on the embedded model of 2 million parameters: "
            f"{numbers['steps']} steps of {numbers['batch']} rows, {numbers['seeds']} seeds, "
            f"{numbers['held_out_pairs']} held-out pairs; 95 % intervals.",
        ),
        (
            _HEIGHT - 21,
            f"Times: one processor thread each, {numbers['machine']['at_once']} runs at once. "
            "RLHF is drawn from arXiv 2203.02155.",
        ),
    ):
        drawing.text(28, y, words, size=12, colour="muted")
    return drawing.svg()


def _legend(drawing: Drawing) -> None:
    drawing.dot(660, 37, 7, fill="ink")
    drawing.text(674, 42, "trained", size=13, colour="muted")
    drawing.dot(748, 37, 6.5, fill="card", edge="ink")
    drawing.text(762, 42, "frozen, forward only", size=13, colour="muted")
    drawing.box(914, 29, 22, 16, fill="none", edge="muted", dashed=True, round_=3)
    drawing.text(944, 42, "not run by us", size=13, colour="muted")


def _column(drawing: Drawing, pipeline: Pipeline, x: float, numbers: dict[str, Any]) -> None:
    drawing.text(x, 92, pipeline.name, size=18, colour=pipeline.colour, bold=True)
    for number, stage in enumerate(pipeline.stages):
        y = 106 + number * _STEP
        if number:
            drawing.arrow_down(x + 40, y - (_STEP - _BOX), _STEP - _BOX - 2)
        _stage(drawing, pipeline, stage, x, y)
    drawing.text(x, 463, pipeline.note)
    drawing.text(x, 485, _models(pipeline) + pipeline.aside, size=13, colour="muted")
    if pipeline.measured:
        _figures(drawing, pipeline, x, numbers["methods"])
    else:
        drawing.text(x, 536, "PPO samples answers anew in each step:", size=13)
        drawing.text(x, 555, "there is no count for a pair", size=13)
        for y in (610, 648, 686, 724):
            drawing.text(x, y, "not measured", colour="muted")


def _stage(drawing: Drawing, pipeline: Pipeline, stage: Stage, x: float, y: float) -> None:
    dashed = not pipeline.measured
    fill = "none" if dashed else "tint"
    drawing.box(x, y, _COLUMN, _BOX, fill=fill, edge=pipeline.colour, dashed=dashed)
    drawing.text(x + 16, y + 28, stage.name, size=16, bold=True)
    drawing.text(x + _COLUMN - 16, y + 28, stage.reads, size=12.5, colour="muted", anchor="end")
    for number, (model, trained) in enumerate(stage.models):
        at = x + 23 + number * 70
        if trained:
            drawing.dot(at, y + 53, 7.5, fill=pipeline.colour)
        else:
            drawing.dot(at, y + 53, 7, fill="card", edge=pipeline.colour)
        drawing.text(at - 7.5, y + 74, model, size=11.5, colour="muted")


def _models(pipeline: Pipeline) -> str:
    widest = max(pipeline.stages, key=lambda stage: len(stage.models))
    trained = sum(is_trained for _, is_trained in widest.models)
    frozen = len(widest.models) - trained
    return f"{trained} trained, {frozen} frozen" if frozen else f"{trained} trained"


def _figures(drawing: Drawing, pipeline: Pipeline, x: float, methods: dict[str, Any]) -> None:
    found = methods["".join(pipeline.name.lower().split())]
    stages = found["stages"]
    passes = [stage["forwards"] / stage["pairs"] for stage in stages]
    _squares(drawing, pipeline, passes, x)
    where = ", both stages" if len(stages) > 1 else ""
    flops = sum(stage["flops"] / stage["pairs"] for stage in stages)
    drawing.text(x, 610, f"{flops / 1e9:.2f} GFLOPs a pair{where}")
    seconds = sum(stage["seconds"] / stage["pairs"] for stage in stages)
    drawing.text(x, 648, f"{1000 * seconds:.1f} ms a pair{where}")
    for y, name in ((686, "preference_accuracy"), (724, "correct_answers")):
        drawing.text(x, y, _interval(found[name]), bold=True)
        low, high = (100 * found[name][key] for key in ("low", "high"))
        drawing.text(x + 64, y, f"{low:.1f} to {high:.1f}", size=13, colour="muted")


def _squares(drawing: Drawing, pipeline: Pipeline, passes: list[float], x: float) -> None:
    """One square for each answer that goes forward; those of DPO's reference are hollow."""
    at = x
    for stage, count in zip(pipeline.stages, passes, strict=True):
        frozen = sum(not trained for _, trained in stage.models)
        hollow = round(count) * frozen // len(stage.models)
        for number in range(round(count)):
            filled = number < round(count) - hollow
            drawing.box(
                at,
                526,
                20,
                20,
                fill=pipeline.colour if filled else "card",
                edge=pipeline.colour,
                round_=3,
            )
            at += 27
        at += 16
    words = [
        f"{stage.name} {count:.0f}" for stage, count in zip(pipeline.stages, passes, strict=True)
    ]
    total = f"{sum(passes):.0f}" + (f": {', '.join(words)}" if len(words) > 1 else "")
    drawing.text(x, 569, total, size=13, colour="muted")


def _interval(found: dict[str, float]) -> str:
    return f"{100 * found['value']:.1f} %"


def main() -> None:
    """Cut the numbers out of a comparison if one is given; draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", nargs="?", type=Path, help="folder of `orpo compare`")
    folder = parser.parse_args().folder
    if folder is not None:
        NUMBERS.write_text(json.dumps(cut(folder), indent=1) + "\n", encoding="utf-8")
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8"))
    PICTURE.write_text(picture(numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
