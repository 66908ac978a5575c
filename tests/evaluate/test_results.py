"""What was found is counted; what evaluation.json holds becomes a result again."""

import json
import math
from typing import Any

import pytest

from orpo.errors import DataError
from orpo.evaluate import Grade, grade_summary
from orpo.evaluate.intervals import mean_interval
from orpo.evaluate.results import AlpacaResult, PreferenceResult
from orpo.runs.typed import plain, typed


def again(kind: Any, values: dict[str, Any]) -> Any:
    """The result, of which nothing may be lost."""
    found = typed(kind, values, where="evaluation.json")
    assert json.loads(json.dumps(plain(found), allow_nan=False)) == values
    return found


def test_preferences_of_one_pair_know_no_end() -> None:
    one = plain(mean_interval([0.3]))
    assert one["low"] is None
    change = {**one, "verdict": "cannot be told", "prompts_needed": None, "pairs_needed": None}
    after = {
        "account": {"pairs": 1},
        "intervals": {"logps/margin": one},
        "groups": {"source": {"a": {"n": 1, "clusters": 1, "logps/margin": one}}},
        "changes": {"logps/margin": change},
        "changes_by": {"source": {"a": {"logps/margin": change}}},
        "verdict": "It is so.",
        "compared": 1,
    }
    about = plain(PreferenceResult({"model": "m"}, {}))
    found = again(PreferenceResult, {**about, "results": {"after": after}}).results["after"]
    margin = found.groups["source"]["a"].metrics["logps/margin"]
    assert (margin.low, margin.high) == (-math.inf, math.inf)
    assert found.changes["logps/margin"].low == -math.inf


def test_outputs_that_nobody_judged_have_no_rates() -> None:
    values = plain(AlpacaResult("m", {}, {"left_out": {}}, {}, {}, {}, outputs="o.json"))
    found = again(AlpacaResult, values)
    assert (found.rates, found.judged) == (None, None)
    with pytest.raises(DataError, match="lacks 'win_rate'"):
        typed(AlpacaResult, {**values, "by_length": []}, where="e")


def test_groups_and_verdicts_add_up_to_the_whole() -> None:
    grades = [
        Grade(True, "correct", {"language": "en"}),
        Grade(False, "refused", {"language": "zh"}),
        Grade(False, "refused", {"language": "en"}),
        Grade(False, "wrong"),
    ]
    assert grade_summary(grades) == {
        "correct_answers": 0.25,
        "prompts": 4,
        "by_verdict": {
            "refused": {"answers": 2},
            "correct": {"answers": 1},
            "wrong": {"answers": 1},
        },
        "by_language": {
            "en": {"correct_answers": 0.5, "n": 2},
            "zh": {"correct_answers": 0.0, "n": 1},
        },
    }
    assert grade_summary([]) == {"correct_answers": 0.0, "prompts": 0, "by_verdict": {}}
