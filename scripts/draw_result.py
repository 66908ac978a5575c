"""Draws docs/figures/demo.svg: what `orpo demo` changed, from a run that was taken.

orpo demo
python scripts/draw_result.py orpo-demo        # cuts docs/figures/demo.json out of it, draws
python scripts/draw_result.py                  # draws again from docs/figures/demo.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ink import Drawing

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
NUMBERS, PICTURE = FIGURES / "demo.json", FIGURES / "demo.svg"

_TASKS = {
    "count": "count words",
    "pick": "pick a word",
    "translate": "translate words",
    "reverse": "reverse a list",
    "repeat": "repeat n times",
    "smaller": "the smaller number",
    "sort": "sort",
    "larger": "the larger number",
}
_FAULTS = {
    "refused": "refused",
    "wrong format": "wrong format",
    "rambling": "rambled",
    "wrong result": "wrong result",
}
_SCALE, _LEFT = 3.4, 190.0
_BARS, _PER_ANSWER = 690.0, 2.6


def cut(run: Path) -> dict[str, Any]:
    """What the picture shows, out of a run folder of the demo."""
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    return {
        "command": "orpo demo",
        **{
            moment: {
                "prompts": int(found["prompts"]),
                "correct_answers": found["correct_answers"],
                "preference_accuracy": found["preference_accuracy"],
                "by_task": {task: found["by_task"][task]["correct_answers"] for task in _TASKS},
                "faults": {
                    fault: found["by_verdict"].get(fault, {}).get("answers", 0) for fault in _FAULTS
                },
            }
            for moment, found in evaluation.items()
        },
    }


def picture(numbers: dict[str, Any]) -> str:
    """The SVG's text."""
    before, after = numbers["before"], numbers["after"]
    whole = f"{_percent(before['correct_answers'])} to {_percent(after['correct_answers'])}"
    drawing = Drawing(
        900,
        392,
        "What orpo demo changed",
        f"Of {before['prompts']} held-out instructions, {whole} of the greedy answers are checked "
        "correct after training; shares by task on the left, answers by fault on the right.",
    )
    _head(drawing, before["prompts"])
    _dumbbells(drawing, before, after)
    _faults(drawing, before["faults"], after["faults"])
    return drawing.svg()


def _head(drawing: Drawing, prompts: int) -> None:
    drawing.text(28, 38, "Greedy answers checked correct", size=17, bold=True)
    drawing.text(_BARS, 38, "What was wrong", size=17, bold=True)
    drawing.text(28, 60, f"{prompts} held-out instructions, by task", size=13, colour="muted")
    drawing.text(_BARS, 60, "number of answers", size=13, colour="muted")
    drawing.dot(400, 55.5, 5, fill="card", edge="orange")
    drawing.text(411, 60, "before", size=13, colour="orange")
    drawing.dot(476, 55.5, 6, fill="blue")
    drawing.text(488, 60, "after one stage of ORPO", size=13, colour="blue", anchor="start")


def _dumbbells(drawing: Drawing, before: dict[str, Any], after: dict[str, Any]) -> None:
    top, step = 92, 30
    for share in (0.5, 0.75, 1.0):
        x = _x(share)
        drawing.line((x, top - 12), (x, top + 9 * step - 10))
        drawing.text(
            x, top + 9 * step + 8, f"{100 * share:.0f} %", size=12, colour="muted", anchor="middle"
        )
    rows = [("all tasks", before["correct_answers"], after["correct_answers"])]
    rows += [(name, before["by_task"][t], after["by_task"][t]) for t, name in _TASKS.items()]
    for number, (name, old, new) in enumerate(rows):
        y = top + number * step
        drawing.text(_LEFT - 14, y + 4.5, name, size=14, anchor="end", bold=number == 0)
        drawing.line((_x(old), y), (_x(new), y), colour="blue", thick=5 if number == 0 else 3)
        drawing.dot(_x(old), y, 5, fill="card", edge="orange")
        drawing.dot(_x(new), y, 6, fill="blue")
        if number == 0:
            drawing.text(_x(old) - 12, y + 4.5, _percent(old), colour="orange", anchor="end")
            drawing.text(_x(new) + 13, y + 4.5, _percent(new), colour="blue", bold=True)


def _faults(drawing: Drawing, before: dict[str, int], after: dict[str, int]) -> None:
    for number, (fault, name) in enumerate(_FAULTS.items()):
        y = 92 + number * 68
        drawing.text(_BARS, y + 2, name)
        for row, (count, colour) in enumerate(((before[fault], "orange"), (after[fault], "blue"))):
            below = y + 12 + row * 17
            drawing.box(_BARS, below, max(count * _PER_ANSWER, 1.5), 12, fill=colour, round_=2)
            end = _BARS + count * _PER_ANSWER + 8
            drawing.text(end, below + 10.5, str(count), size=13, colour=colour)


def _x(share: float) -> float:
    return _LEFT + (share - 0.4) * _SCALE * 200


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def main() -> None:
    """Cut the numbers out of a run if one is given; draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", nargs="?", type=Path, help="run folder of `orpo demo`")
    run = parser.parse_args().run
    if run is not None:
        NUMBERS.write_text(json.dumps(cut(run), indent=1) + "\n", encoding="utf-8")
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8"))
    PICTURE.write_text(picture(numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
