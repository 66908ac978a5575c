"""Intervals: known values from elsewhere, exact coverage, and a thousand simulated evaluations."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from orpo.evaluate import intervals
from orpo.evaluate.intervals import Interval, auc_interval, mean_interval, paired_interval


def coverage_script() -> ModuleType:
    """benchmarks/interval_coverage.py, which also prints the table."""
    path = Path(__file__).parents[2] / "benchmarks" / "interval_coverage.py"
    spec = importlib.util.spec_from_file_location("interval_coverage", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SCRIPT = coverage_script()
CASES = {case.name: case for case in SCRIPT.cases()}


EXACT = [name for name in CASES if name.count(",") == 1 and name.startswith("share 0")]
LONG = [
    pytest.param(n, marks=pytest.mark.slow) if "mean" in n else n for n in CASES if n not in EXACT
]


@pytest.mark.parametrize("name", LONG)
def test_95_percent_intervals_hold_the_truth_in_93_to_97_percent(name: str) -> None:
    """Of 1,000 evaluations; that many tell a coverage to 0.7 points, hence the slack of one.

    Shares of independent pairs are summed exactly below; of means, which take long, there are 250.
    Of 50 prompts at 97 % one or two fail, so that the steps between counts are large.
    """
    most = 0.98 if name.startswith("share 0.97, 50 prompts") else 0.97
    count, slack = (250, 0.014) if "mean" in name else (1000, 0.007)
    assert 0.93 - slack <= CASES[name].coverage(count, seed=3) <= most + slack


def test_the_simulation_tells_intervals_that_are_too_narrow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted: pairs taken for independent, and the percentile bootstrap's small-sample error."""
    by_prompt = CASES["share 0.7, 200 prompts of 1-7, alike 0.5"]
    plain = mean_interval

    def by_pair(values: Any, clusters: Any = None, **how: Any) -> Interval:
        return plain(values, None, **how)

    monkeypatch.setattr(SCRIPT, "mean_interval", by_pair)
    assert by_prompt.coverage(400, seed=0) < 0.88


def test_exact_coverage_of_shares() -> None:
    """Summed over the binomial distribution: no other choice of end points is nearer to 95 %."""
    for n in (50, 100, 200, 400):
        ends = [mean_interval([1.0] * k + [0.0] * (n - k)) for k in range(n + 1)]
        for p in (0.5, 0.7, 0.9, 0.97):
            chance = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
            covered = sum(c for c, i in zip(chance, ends, strict=True) if i.low <= p <= i.high)
            assert 0.93 <= covered <= 0.9705, (n, p, covered)


def test_wilson_without_ties_and_prompts() -> None:
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    found = mean_interval([1.0] * 81 + [0.0] * (263 - 81))
    assert found.low == pytest.approx(0.2553, abs=5e-5)
    assert found.high == pytest.approx(0.3662, abs=5e-5)


def test_tango_for_paired_shares() -> None:
    """Fagerland, Lydersen and Laake 2014: 1, 1, 7, 12 of 21 gives -0.517 to -0.026."""
    before = [1.0] + [0.0] + [1.0] * 7 + [0.0] * 12
    after = [1.0] + [1.0] + [0.0] * 7 + [0.0] * 12
    found = paired_interval(before, after)
    assert found.value == pytest.approx(-6 / 21)
    assert (found.low, found.high) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_the_score_error_is_that_of_the_constrained_maximum() -> None:
    """Against a grid search for the likeliest share of losses at a given difference."""
    up, down, pairs = 0.3, 0.1, 40.0
    for delta in (-0.3, 0.0, 0.25, 0.6):
        losing = np.linspace(max(0.0, -delta), (1 - delta) / 2, 200_001)[1:-1]
        likely = (
            up * np.log(losing + delta)
            + down * np.log(losing)
            + (1 - up - down) * np.log(1 - 2 * losing - delta)
        )
        best = losing[np.argmax(likely)]
        expected = math.sqrt((2 * best + delta - delta**2) / pairs)
        assert intervals._score_error(up, down, pairs, delta) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("freedom", "quantile"), [
    (1, 12.706205), (2, 4.302653), (3, 3.182446), (9, 2.262157), (30, 2.042272),
])  # fmt: skip
def test_students_quantile(freedom: int, quantile: float) -> None:
    """Published tables."""
    assert intervals.student_quantile(0.95, freedom) == pytest.approx(quantile, abs=1e-6)


def test_all_right_is_not_all_there_is() -> None:
    found = mean_interval([1] * 30)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(30 / (30 + 1.959964**2), abs=1e-6)
    same = paired_interval([1] * 30, [1] * 30)
    assert same.low == pytest.approx(-same.high)
    assert 0.1 < same.high < 0.13
    tied = mean_interval([0.5] * 30)
    assert 0.3 < tied.low < 0.5 < tied.high < 0.7
    few = mean_interval([1] * 120, [i % 30 for i in range(120)])
    assert few.low == pytest.approx(found.low, abs=0.01)  # prompts count, not pairs


def test_equal_prompts_are_one() -> None:
    """Every prompt four times over tells no more than once."""
    once = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0] * 4
    names = [f"p{i}" for i in range(40)]
    single, copied = mean_interval(once), mean_interval(once * 4, names * 4)
    assert copied.clusters == 40
    assert copied.n == 160
    assert copied.high - copied.low == pytest.approx(single.high - single.low, rel=0.05)
    pairs = mean_interval(once * 4)
    assert pairs.high - pairs.low < 0.6 * (single.high - single.low)
    numbers = np.random.default_rng(0).exponential(size=40)
    one, four = mean_interval(numbers), mean_interval(np.tile(numbers, 4), names * 4)
    assert (four.low, four.high) == pytest.approx((one.low, one.high))


def test_skewness_shows() -> None:
    """The longer end lies where the longer tail is."""
    found = mean_interval(np.random.default_rng(0).lognormal(0, 1, 60))
    assert found.high - found.value > 1.3 * (found.value - found.low)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 5)), min_size=1),
    st.integers(0, 3),
)
def test_whatever_the_data(rows: list[tuple[int, int, int]], seed: int) -> None:
    before, after = ([row[i] / 2 for row in rows] for i in (0, 1))
    clusters = [row[2] for row in rows]
    share = mean_interval(after, clusters, seed=seed)
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert share.low < share.high
    change = paired_interval(before, after, clusters)
    assert -1 <= change.low <= change.value <= change.high <= 1
    back = paired_interval(after, before, clusters)
    assert (back.low, back.high) == pytest.approx((-change.high, -change.low), abs=1e-9)
    number = mean_interval([3 * v for v in after], clusters, draws=50, seed=seed, share=False)
    assert number.low <= number.value <= number.high
    assert number == mean_interval(
        [3 * v for v in after], clusters, draws=50, seed=seed, share=False
    )


def test_one_prompt_says_nothing_of_others() -> None:
    found = mean_interval([0.3, 2.5], ["p", "p"])
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.as_dict() == {
        "value": 1.4, "low": None, "high": None, "n": 2, "clusters": 1, "level": 0.95,
    }  # fmt: skip
    share = mean_interval([1])
    assert 0 < share.low < 0.3
    assert mean_interval([2.5, 2.5, 2.5]).low == 2.5


@pytest.mark.parametrize(("values", "clusters", "how", "says"), [
    ([], None, {}, "at least one"),
    ([math.nan], None, {}, "finite"),
    ([1.0], ["a", "b"], {}, "1 values and 2 clusters"),
    ([1.5], None, {"share": True}, "between 0 and 1"),
    ([1.0], None, {"level": 1.0}, "level"),
])  # fmt: skip
def test_what_is_no_evaluation(values: Any, clusters: Any, how: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        mean_interval(values, clusters, **how)
    if "level" not in how:
        with pytest.raises(ValueError, match=says):
            paired_interval(values, values, clusters, **how)
    with pytest.raises(ValueError, match="before and"):
        paired_interval([1.0], [1.0, 2.0])


VALUES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=20)


@given(VALUES, VALUES)
def test_auc(positives: list[float], negatives: list[float]) -> None:
    found = auc_interval(positives, negatives)
    assert found is not None
    labels = [1] * len(positives) + [0] * len(negatives)
    assert found.value == pytest.approx(roc_auc_score(labels, positives + negatives))
    assert 0 <= found.low <= found.value <= found.high <= 1
    mirrored = auc_interval(negatives, positives)
    assert mirrored is not None
    assert mirrored.low == pytest.approx(1 - found.high, abs=1e-9)


def test_auc_is_not_sure_of_itself_at_the_border() -> None:
    found = auc_interval([2.0] * 10, [1.0] * 10)
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.6 < found.low < 0.95
    assert auc_interval([], [1.0]) is None


@pytest.mark.parametrize(("shift", "counts"), [(0.0, (30, 40)), (1.0, (40, 40)), (2.0, (25, 60))])
def test_auc_intervals_cover(shift: float, counts: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    truth = stats.norm.cdf(shift / np.sqrt(2))
    inside = 0
    for _ in range(1000):
        wins, losses = rng.normal(shift, 1, counts[0]), rng.normal(0, 1, counts[1])
        found = auc_interval(wins.tolist(), losses.tolist())
        assert found is not None
        inside += found.low <= truth <= found.high
    assert 930 <= inside <= 975
