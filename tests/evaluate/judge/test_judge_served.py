"""A real server with a real, very small model: it knows no verdicts, and nothing breaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orpo.errors import ConfigError
from orpo.evaluate.judge import (
    Comparison,
    JudgeSettings,
    Single,
    compare_pairs,
    grade_answers,
)
from tests.servers import BASE, transformers_server

pytestmark = pytest.mark.slow


def test_a_small_model_as_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with transformers_server(tmp_path / "server.log") as address:
        own = JudgeSettings(
            str(BASE),
            f"{address}/v1",
            max_tokens=8,
            concurrency=2,
            price_in=1.0,
            price_out=2.0,
            cache=tmp_path / "c.jsonl",
        )
        pairs = [Comparison(f"p{n}", f"Say {n}", f"{n}", f"It is {n}.") for n in range(2)]
        compared = compare_pairs(own, pairs)
        graded = grade_answers(own, [Single("s", "Say 3", "3", reference="3")])
        with pytest.raises(ConfigError) as wrong:
            compare_pairs(JudgeSettings("no/such-model", f"{address}/v1", retries=0), pairs[:1])
    # All canaries but the constant one have two prompts, and there are no more than two.
    assert compared.spend.requests == 2 * (2 + 8)
    assert compared.spend.without_usage == 0
    assert compared.spend.cost
    assert compared.unparsed == sum(
        verdict is None for i in compared.items for verdict in i.verdicts
    )
    assert compared.unparsed > 0
    assert graded.counts["answers"] == graded.counts["graded"] + graded.counts["unparsed"] == 1
    assert not compared.trust.trusted
    json.dumps([compared.as_dict(), graded.as_dict()], allow_nan=False)
    assert "\n" not in str(wrong.value)
    again = compare_pairs(own, pairs)  # the server is gone: all of it comes from the cache
    assert again.items == compared.items
