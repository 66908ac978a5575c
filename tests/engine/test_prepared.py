"""A prepared model does with ordinary inputs what it did before."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from orpo.engine.attention import PREFIX, packed_masks, prepare_attention, restore_attention
from orpo.engine.backends import attend, watched_attention
from orpo.engine.layout import pack_pairs
from orpo.engine.padded import PaddedEngine
from orpo.engine.shared import SharedEngine
from tests.engine.families import collate, model_of, orpo_like, random_pairs

FAMILIES = [
    *((family, base) for family in ("llama", "mistral", "gemma3", "gpt2", "opt")
      for base in ("sdpa", "eager")),
    ("gemma2", "eager"),
    ("gpt_oss", "eager"),
]  # fmt: skip


def twins(family: str, base: str) -> tuple[Any, Any]:
    """A model with an implementation of attention, and the same prepared."""
    plain = model_of(family)
    plain.set_attn_implementation(base)
    ready = copy.deepcopy(plain)
    prepare_attention(ready)
    assert ready.config._attn_implementation == PREFIX + base
    return plain, ready


def padded(left: bool) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 97, (3, 14), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row, pads in enumerate((0, 3, 9)):
        if pads:
            mask[row, slice(0, pads) if left else slice(14 - pads, 14)] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(("family", "base"), FAMILIES)
def test_logits_and_generation_are_the_same_bits(family: str, base: str) -> None:
    plain, ready = twins(family, base)
    left, right = padded(left=True), padded(left=False)
    for inputs in (left, right, {"input_ids": left["input_ids"]}):
        with torch.no_grad():
            expected, found = (m(**inputs, use_cache=False).logits for m in (plain, ready))
        assert torch.equal(found, expected)
    asked = {**left, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected, found = (m.generate(**asked) for m in (plain, ready))
    assert torch.equal(found, expected)
    assert found.shape == (3, 20)


def test_padding_would_matter() -> None:
    """A mask that went missing on the way would be noticed above."""
    model, inputs = model_of("llama"), padded(left=True)
    with torch.no_grad():
        found, ignored = (
            model(input_ids=inputs["input_ids"], attention_mask=mask).logits[1, -1]
            for mask in (inputs["attention_mask"], None)
        )
    assert not torch.allclose(found, ignored, rtol=1e-2)


def test_the_engine_gives_the_model_back_as_it_was() -> None:
    model, batch = model_of("llama"), collate(random_pairs(1, [(4, 3, 2)]))
    before = model.config._attn_implementation
    restore_attention(model)  # nothing to restore yet
    engine = SharedEngine()
    for _ in range(2):
        engine(model, batch, orpo_like)
        prepare_attention(model)  # twice is once
        assert model.config._attn_implementation == PREFIX + before
        engine.release(model)
        assert model.config._attn_implementation == before
    PaddedEngine().release(model)
    assert model.config._attn_implementation == before


def test_the_saved_model_knows_nothing_of_it(tmp_path: Path) -> None:
    _, ready = twins("llama", "sdpa")
    ready.save_pretrained(tmp_path)
    for file in tmp_path.glob("*.json"):
        assert PREFIX not in file.read_text(encoding="utf-8"), file
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["vocab_size"] == 97
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not again.config._attn_implementation.startswith(PREFIX)


def test_masks_are_left_out_within_a_packed_pass_only() -> None:
    _, ready = twins("llama", "sdpa")
    inputs = padded(left=True)
    with torch.no_grad():
        before = ready(**inputs).logits
        with packed_masks():
            within = ready(**inputs).logits
        after = ready(**inputs).logits
    assert torch.equal(before, after)
    assert not torch.allclose(before[1, -1], within[1, -1], rtol=1e-2)
    with pytest.raises(RuntimeError), packed_masks():
        raise RuntimeError
    with torch.no_grad():
        assert torch.equal(ready(**inputs).logits, before)


@pytest.mark.parametrize(
    ("settings", "tokens", "what"),
    [
        ({"dropout": 0.1}, 9, "dropout"),
        ({"is_causal": False}, 9, "both directions"),
        ({}, 8, "instead of 9 tokens"),
    ],
)
def test_what_packed_rows_cannot_give_is_refused(
    settings: dict[str, Any], tokens: int, what: str
) -> None:
    layout = pack_pairs(collate(random_pairs(1, [(4, 3, 2)])), "sequence").layout
    qkv = [torch.randn(1, 2, tokens, 4) for _ in range(3)]
    with watched_attention() as used, pytest.raises(ValueError, match=what):
        attend(torch.nn.Identity(), *qkv, layout, settings)
    assert used == set()


@pytest.mark.parametrize(("family", "backend"), [("gemma2", "segmented"), ("llama", "tiles")])
def test_layers_say_which_back_end_they_use(family: str, backend: str) -> None:
    model = model_of(family)
    prepare_attention(model)
    packed = pack_pairs(collate(random_pairs(1, [(4, 3, 2)])), "sequence")
    inputs = {
        "input_ids": packed.input_ids,
        "position_ids": packed.position_ids,
        "pair_layout": packed.layout,
        "use_cache": False,
    }
    with torch.no_grad(), packed_masks(), watched_attention() as used:
        model(**inputs)
    assert {call.backend for call in used} == {backend}
    with torch.no_grad(), packed_masks():
        model(**inputs)
    with watched_attention() as used:
        pass
    assert used == set()
