"""What leaves this machine names no path of it, and holds no secret."""

from pathlib import Path

import pytest

from orpo.errors import ConfigError
from orpo.runs.public import public_config, public_recipe, refuse_leaks, scrubbed

TOKEN = "hf_" + "a" * 34


def test_paths_become_names_and_secrets_are_left_out() -> None:
    recipe = {
        "model": "/home/jo/models/base 1",
        "dataset": ["data/pairs.jsonl", "org/name@abc:train", "https://u:pw@h.org/x.jsonl?token=z"],
        "output_dir": "../runs/a",
        "chat_template": r"C:\Users\jo\t.jinja",
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "model_init_kwargs": {"token": TOKEN, "cache_dir": "~/cache", "attn": "sdpa"},
        "pad_token": None,
        "_run": {
            "id": "abc",
            "started_in": "/home/jo/secret",
            "notes": [f"chat template taken from /srv/t/x.jinja and/or {TOKEN}"],
            "data": {
                "train_dataset": {"kept": 3, "dropped_examples": {"empty": [{"where": "/a"}]}}
            },
        },
    }
    assert public_recipe(recipe) == {
        "model": "base 1",
        "dataset": ["pairs.jsonl", "org/name@abc:train", "https://h.org/x.jsonl"],
        "output_dir": "a",
        "chat_template": "t.jinja",
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "model_init_kwargs": {"cache_dir": "cache", "attn": "sdpa"},
        "pad_token": None,
        "_run": {
            "id": "abc",
            "notes": ["chat template taken from x.jinja and/or ***"],
            "data": {"train_dataset": {"kept": 3}},
        },
    }


def test_special_tokens_of_a_tokenizer_stay_as_they_are() -> None:
    config = {"eos_token": "</s>", "extra": ["/a/b", "~/c"], "name_or_path": "/home/jo/x"}
    assert public_config(config, None) == {**config, "name_or_path": "x"}
    adapter = {"base_model_name_or_path": "/home/jo/x", "r": 2}
    assert public_config(adapter, "org/x") == {"base_model_name_or_path": "org/x", "r": 2}


@pytest.mark.parametrize("place", [Path.cwd(), Path.home()])
def test_what_still_names_this_machine_is_not_sent(place: Path) -> None:
    refuse_leaks([("a", b"nothing")], None)
    with pytest.raises(ConfigError, match="names a folder of this machine"):
        refuse_leaks([("a", b"ok"), ("b", f"see {place}/x".encode())], None)


def test_a_token_is_not_sent_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (TOKEN, "secret-of-mine"):
        with pytest.raises(ConfigError, match="looks like a token") as caught:
            refuse_leaks([("b", content.encode())], "secret-of-mine")
        assert content not in str(caught.value)
    assert scrubbed(f"no {TOKEN}, no secret-of-mine", "secret-of-mine") == "no ***, no ***"
