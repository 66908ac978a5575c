import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpo.report.series import Series, read_curves, smoothed, thinned


def series(values: list[float]) -> Series:
    return Series("loss", None, {float(i): v for i, v in enumerate(values)})


def test_names_of_evaluation_sets() -> None:
    curves = read_curves(
        [
            {"step": 1, "loss": 3.0, "nll_loss": 2.0, "eval_loss": 2.9, "eval_nll_loss": 1.9},
            {
                "step": 2,
                "eval_hh_loss": 2.8,
                "eval_hh_nll_loss": 1.8,
                "eval_my_set_logps/chosen": -1,
            },
            {"step": 3, "eval_training_loss": 9.0, "eval_runtime": 4.0, "train_loss": 7.0},
        ]
    )
    assert {name: one.points for name, one in curves.training.items()} == {
        "loss": {1: 3.0},
        "nll_loss": {1: 2.0},
    }
    found = {
        (metric, one.source): one.points for metric, sets in curves.held_out.items() for one in sets
    }
    assert found == {
        ("loss", ""): {1: 2.9},
        ("nll_loss", ""): {1: 1.9},
        ("loss", "hh"): {2: 2.8},
        ("nll_loss", "hh"): {2: 1.8},
        ("logps/chosen", "my_set"): {2: -1.0},
        ("loss", "training"): {3: 9.0},
    }


def test_a_step_logged_twice_counts_once_and_steps_are_put_in_order() -> None:
    curves = read_curves(
        [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
    )
    assert list(curves.training["loss"].points.items()) == [(1.0, 3.0), (2.0, 2.0)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200, 10**400])
def test_unusable_values_are_kept_apart(bad: float) -> None:
    one = read_curves([{"step": 1, "loss": 2.0}, {"step": 2, "loss": bad}]).training["loss"]
    assert (one.points, one.broken) == ({1.0: 2.0}, (2.0,))


@pytest.mark.parametrize(
    "line", [3, None, "loss", [1], {}, {"loss": 1.0}, {"step": "4", "loss": 1}, {"step": math.nan}]
)
def test_lines_that_say_nothing_are_passed_over(line: object) -> None:
    assert read_curves([line]).training == {}


@pytest.mark.parametrize("value", [True, "2.0", None, [2.0]])
def test_what_is_no_number_is_no_point(value: object) -> None:
    assert read_curves([{"step": 1, "loss": value}]).training == {}


def test_the_trend_sees_through_noise() -> None:
    draw = random.Random(7)
    noise = [draw.gauss(0, 0.1) for _ in range(300)]
    down = series([2 - i / 300 + noise[i] for i in range(300)]).trend
    assert down is not None
    assert (down.direction, down.window) == ("fell", 30)
    assert down.first == pytest.approx(1.95, abs=0.06)
    assert down.last == pytest.approx(1.05, abs=0.06)
    flat = series([2 + one for one in noise]).trend
    assert flat is not None
    assert flat.direction == "held"
    assert flat.clearly_above(1.5)
    assert not flat.clearly_above(2.0 + 0.05)


def test_noise_alone_rarely_looks_like_a_trend() -> None:
    draw = random.Random(0)
    trends = [series([draw.gauss(0, 1) for _ in range(100)]).trend for _ in range(200)]
    assert sum(trend is not None and trend.direction != "held" for trend in trends) < 20


def test_one_point_has_no_trend() -> None:
    assert series([]).trend is None
    assert series([1.0]).trend is None
    two = series([1.0, 2.0]).trend
    assert two is not None
    assert two.direction == "rose"


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400),
    st.integers(4, 60),
)
def test_thinning_invents_nothing_and_loses_no_extreme(values: list[float], limit: int) -> None:
    points = series(values).points
    kept = thinned(points, limit)
    assert len(kept) <= max(limit, 4)
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert all(points[step] == value for step, value in kept)
    assert kept[0] == next(iter(points.items()))
    assert kept[-1] == list(points.items())[-1]
    shown = [value for _, value in kept]
    assert (min(shown), max(shown)) == (min(values), max(values))


def test_the_running_mean_is_the_mean_of_the_neighbours() -> None:
    draw = random.Random(3)
    values = [draw.random() for _ in range(240)]
    mean = smoothed(series(values))
    assert mean is not None
    half = 240 // 60
    for i in (0, 1, 100, 239):
        window = values[max(0, i - half) : i + half + 1]
        assert mean.points[float(i)] == pytest.approx(sum(window) / len(window))
    assert smoothed(series(values[:59])) is None
