"""The curves of a run: which points are read, how they are drawn, and what is said of them."""

import math
import random
import re
import sys
from subprocess import run
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpo.report.curves import run_figures
from orpo.report.page import Figure
from orpo.report.series import read_curves, smoothed, thinned
from orpo.runs.curves import Series
from tests.report.runs import held_out_lines, training_lines

SVG = "{http://www.w3.org/2000/svg}"


def series(values: list[float]) -> Series:
    return Series("loss", None, {float(i): v for i, v in enumerate(values)})


def drawn(lines: list[dict[str, Any]]) -> dict[str, Figure]:
    return {figure.name: figure for figure in run_figures(read_curves(lines))}


def texts(figure: Figure) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(figure.inline).iter(f"{SVG}text")]


def dots(figure: Figure) -> int:
    """Held-out points, without those of the legend."""
    uses = ElementTree.fromstring(figure.inline).iter(f"{SVG}use")
    marks = [use for use in uses if "paper" in use.get("style", "")]
    return len(marks) - sum(text.startswith("held out") for text in texts(figure))


def test_names_of_evaluation_sets() -> None:
    both = {"loss": 3.0, "nll_loss": 2.0, "eval_loss": 2.9, "eval_nll_loss": 1.9}
    named = {"eval_hh_loss": 2.8, "eval_hh_nll_loss": 1.8, "eval_my_set_logps/chosen": -1}
    others = {"eval_training_loss": 9.0, "eval_runtime": 4.0, "train_loss": 7.0}
    curves = read_curves([{"step": 1, **both}, {"step": 2, **named}, {"step": 3, **others}])
    found = {(one.metric, one.source): one.points for one in curves.every}
    assert found == {
        ("loss", None): {1: 3.0},
        ("nll_loss", None): {1: 2.0},
        ("loss", ""): {1: 2.9},
        ("nll_loss", ""): {1: 1.9},
        ("loss", "hh"): {2: 2.8},
        ("nll_loss", "hh"): {2: 1.8},
        ("logps/chosen", "my_set"): {2: -1.0},
        ("loss", "training"): {3: 9.0},
    }


def test_a_step_logged_twice_counts_once_and_what_is_no_number_not_at_all() -> None:
    curves = read_curves(
        [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
    )
    assert list(curves.training["loss"].points.items()) == [(1.0, 3.0), (2.0, 2.0)]
    for bad in (math.nan, math.inf, -math.inf, 1e200, 10**400):
        one = read_curves([{"step": 1, "loss": 2.0}, {"step": 2, "loss": bad}]).training["loss"]
        assert (one.points, one.broken) == ({1.0: 2.0}, (2.0,))
    odd: list[object] = [3, None, "loss", [1], {}, {"loss": 1.0}, {"step": "4", "loss": 1}]
    odd += [{"step": math.nan}, *({"step": 1, "loss": value} for value in (True, "2.0", None, [2]))]
    assert read_curves(odd).training == {}


def test_the_trend_sees_through_noise() -> None:
    draw = random.Random(7)
    noise = [draw.gauss(0, 0.1) for _ in range(300)]
    down = series([2 - i / 300 + noise[i] for i in range(300)]).trend
    assert down is not None
    assert (down.direction, down.pairs) == ("fell", 30)
    assert (down.first, down.last) == pytest.approx((1.95, 1.05), abs=0.06)
    flat = series([2 + one for one in noise]).trend
    assert flat is not None
    assert flat.direction == "held"
    beside = [flat.against(level) for level in (1.5, flat.last + flat.noise, 2.5)]
    assert beside == ["above", "", "below"]
    trends = [series([draw.gauss(0, 1) for _ in range(100)]).trend for _ in range(200)]
    assert sum(trend is not None and trend.direction != "held" for trend in trends) < 20
    assert series([]).trend is series([1.0]).trend is None
    for few in ([1.0, 2.0], [1.0, 2.0, 3.0]):  # what could be noise is called no trend
        trend = series(few).trend
        assert trend is not None
        assert (trend.known, trend.direction) == (False, "held")


def test_a_last_line_of_few_steps_is_not_taken_for_a_whole_one() -> None:
    """Three steps of ten: they count by their pairs, together with the line before them."""
    steps, shares = [*range(10, 101, 10), 103], [0.5, *[0.7] * 9, 0.2]
    lines = [{"step": n, "rewards/accuracies": s} for n, s in zip(steps, shares, strict=True)]
    trend = read_curves(lines, pairs=4).training["rewards/accuracies"].trend
    assert trend is not None
    assert (trend.first, trend.last) == (0.5, pytest.approx((40 * 0.7 + 12 * 0.2) / 52))
    assert (trend.pairs, trend.against(0.9), trend.against(0.5)) == (52, "below", "")


@pytest.mark.parametrize(
    ("share", "pairs", "beside"),
    [(1.0, 4, ""), (1.0, 6, "above"), (0.0, 6, "below"), (0.7, 20, ""), (0.7, 60, "above")],
)
def test_a_share_knows_how_many_pairs_it_is_of(share: float, pairs: int, beside: str) -> None:
    lines = [{"step": step, "rewards/accuracies": share} for step in range(1, 9)]
    trend = read_curves(lines, pairs).training["rewards/accuracies"].trend
    assert trend is not None
    assert trend.against(0.5) == beside


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(4, 60))
def test_thinning_invents_nothing_and_loses_no_extreme(values: list[float], limit: int) -> None:
    points = series(values).points
    kept = thinned(points, limit)
    assert len(kept) <= max(limit, 4)
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert all(points[step] == value for step, value in kept)
    assert [kept[0], kept[-1]] == [list(points.items())[i] for i in (0, -1)]
    shown = [value for _, value in kept]
    assert (min(shown), max(shown)) == (min(values), max(values))


def test_the_running_mean_is_the_mean_of_the_neighbours() -> None:
    draw = random.Random(3)
    values = [draw.random() for _ in range(240)]
    mean = smoothed(series(values))
    assert mean is not None
    for i in (0, 1, 100, 239):
        window = values[max(0, i - 4) : i + 5]
        assert mean.points[float(i)] == pytest.approx(sum(window) / len(window))
    assert smoothed(series(values[:59])) is None


# Figures


def dotted(figure: Figure) -> list[str]:
    """The lines between held-out points."""
    paths = ElementTree.fromstring(figure.inline).iter(f"{SVG}path")
    found = (one for one in paths if "stroke-dasharray: 0.9,1.8" in one.get("style", ""))
    return [one.get("d", "") for one in found]


@pytest.mark.parametrize(("missing", "strokes"), [((), 1), ((80,), 1), ((80, 120), 1), ((120,), 2)])
@pytest.mark.parametrize("broken", [False, True], ids=["absent", "NaN"])
def test_no_line_is_drawn_through_what_was_not_measured(
    missing: tuple[int, ...], strokes: int, broken: bool
) -> None:
    """Of evaluations at 40, 80, 120, 160 and 200; a point between two gaps stands alone."""
    tested = []
    for line in held_out_lines():
        if line["step"] not in missing:
            tested.append(line)
        elif broken:
            tested.append(line | {"eval_log_odds_chosen": math.nan})
    (path,) = dotted(drawn([*training_lines(), *tested])["odds"])
    lines = [part for part in path.split("M") if "L" in part]
    assert len(lines) == strokes
    assert dots(drawn([*training_lines(), *tested])["odds"]) == 5 - len(missing)


def test_a_training_curve_ends_where_it_is_no_number() -> None:
    lines = training_lines()
    for line in lines[100:150]:
        line["loss"] = math.inf
    whole, parted = (drawn(some)["loss"].inline for some in (training_lines(), lines))
    assert parted.count("M ") > whole.count("M ")


def test_all_figures_of_a_full_run() -> None:
    figures = drawn([*training_lines(), *held_out_lines()])
    assert list(figures) == ["loss", "logps", "odds", "accuracy", "rate", "norm"]
    colours = {"loss": {"ink", "nll"}, "logps": {"chosen", "rejected"}}
    seen: set[str] = set()
    for name, figure in figures.items():
        assert {"optimizer step", "200"} <= set(texts(figure))
        assert dots(figure) == {"loss": 10, "logps": 10, "odds": 5, "accuracy": 5}.get(name, 0)
        found = set(re.findall(r"stroke: var\(--(\w+)\)", figure.inline))
        assert colours.get(name, set()) <= found
        assert re.findall(r"#[0-9a-fA-F]{6}\b", figure.inline) == []  # light and dark both work
        ids = re.findall(r' id="([^"]+)"', figure.inline)
        assert len(ids) == len(set(ids) - seen)
        seen |= set(ids)
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', figure.inline)) <= set(ids)


def test_the_legend_names_metrics_and_evaluation_sets() -> None:
    sets = [held_out_lines(name=name) for name in ("$x_1$", "b", "c", "d", "e", "f", "g")]
    figure = drawn([*training_lines(), *(line for lines in sets for line in lines)])["odds"]
    for name in ("log odds ratio", "held out: $x_1$", *(f"held out: {one}" for one in "bcde")):
        assert name in texts(figure)
    assert "held out: f" not in texts(figure)
    assert "2 further evaluation sets not drawn." in figure.seen
    assert dots(figure) == 25


def test_one_point_is_a_dot_and_what_is_not_finite_nothing() -> None:
    figures = drawn(training_lines(1))
    for figure in figures.values():
        assert list(ElementTree.fromstring(figure.inline).iter(f"{SVG}use"))
    assert "Only step 1 was logged" in figures["loss"].seen
    assert "no trend to see" in figures["accuracy"].seen
    for value in (math.nan, math.inf):
        assert drawn([{"step": step, "loss": value} for step in range(5)]) == {}
        lines = training_lines(20)
        lines[5]["loss"] = value
        assert "nan" not in drawn(lines)["loss"].inline.lower()


@pytest.mark.parametrize("values", [(9e99, -9e99), (0.0, 0.0), (1e-300, 2e-300), (5.0, 5.0)])
def test_extreme_values(values: tuple[float, float]) -> None:
    lines = [
        {"step": step, "loss": value, "grad_norm": abs(value), "rewards/accuracies": value}
        for step, value in enumerate(values)
    ]
    figures = drawn(lines)
    assert set(figures) == {"loss", "norm", "accuracy"}
    assert all(figure.inline for figure in figures.values())


def test_a_gradient_norm_with_spikes_gets_a_logarithmic_axis() -> None:
    lines = [{"step": step, "grad_norm": 1.0 + step % 3} for step in range(1, 40)]
    figure = drawn([*lines, {"step": 40, "grad_norm": 5000.0}])["norm"]
    assert {"1", "10", "100", "1000"} & set(texts(figure))
    assert "highest 5,000 at step 40" in figure.seen


# What is said of them


@pytest.mark.parametrize(
    ("chosen", "rejected", "nll", "said"),
    [
        ((-1, -1.5), (-1, -3), (1, 0.9), "their distance grew from 0.06 to 1.44."),
        ((-1, -1.5), (-1, -3), (1, 0.9), "Both fell while their distance grew: this is normal."),
        ((-1, -1.5), (-1, -3), (1, 2), "a lower orpo_alpha or learning rate is worth a try"),
        ((-1, -1), (-3, -2), (1, 1), "not learned more strongly"),
        ((-2, -1), (-2, -1.8), (1, 0.5), "Both rose while their distance grew"),
    ],
)
def test_what_is_seen_of_the_two_answers(
    chosen: tuple[float, float], rejected: tuple[float, float], nll: tuple[float, float], said: str
) -> None:
    names = {"logps/chosen": chosen, "logps/rejected": rejected, "nll_loss": nll}
    lines = [
        {"step": step, **{n: a + step / 49 * (b - a) for n, (a, b) in names.items()}}
        for step in range(50)
    ]
    assert said in drawn(lines)["logps"].seen


def test_what_is_seen_of_loss_odds_and_accuracy() -> None:
    rising = [
        {"step": s, "loss": 1 + s / 20, "log_odds_chosen": -1 - s / 20, "rewards/accuracies": 0.4}
        for s in range(40)
    ]
    figures = drawn(rising)
    assert "learning rate is too high" in figures["loss"].seen
    assert "The log odds ratio fell from" in figures["odds"].seen
    assert "At the end it is below zero" in figures["odds"].seen
    coin = "The last 4 training pairs are too few to tell that from a coin toss."
    assert coin in figures["accuracy"].seen
    scored = [
        {"step": 10, "eval_rewards/accuracies": 0.5, "eval_logps/chosen": -2.0},
        {"step": 20, "eval_rewards/accuracies": 0.75, "eval_logps/chosen": -1.0},
    ]
    healthy = drawn([*training_lines(), *scored])
    assert "clearly" not in healthy["odds"].seen + healthy["accuracy"].seen
    seen = healthy["accuracy"].seen.replace("\u00a0", " ")
    assert "Held out, steps 10 to 20: 50.0 % → 75.0 %." in seen
    assert "Held out, steps 10 to 20: chosen −2 → −1." in healthy["logps"].seen


def test_matplotlib_and_jinja_are_loaded_only_to_write() -> None:
    code = (
        "import sys; from orpo.report.write import write_report; "
        "print([m for m in ('matplotlib', 'jinja2', 'torch') if m in sys.modules])"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
