"""`orpo chat`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from transformers import TextStreamer

from orpo.cli.console import console, say
from orpo.cli.generate import add_sampling, sampling
from orpo.data import has_chat_template
from orpo.errors import DataError
from orpo.evaluate import Answerer, Sampling, encode_prompt, generation_config, load_answerer

EXAMPLES = """\
examples:
  orpo chat run
  orpo chat run --system "Answer in one sentence."
  echo "Which number is larger, 318 or 381?" | orpo chat run
in the chat: /reset forgets the conversation, /exit leaves"""


def configure(parser: argparse.ArgumentParser) -> None:
    """A model and how it speaks."""
    parser.add_argument("model", metavar="MODEL", help="model folder, adapter folder or Hub id")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument("--dtype", default="auto", help="dtype of the weights")
    add_sampling(parser)


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Talk until the input ends."""
    answerer = load_answerer(
        given.model, dtype=given.dtype, trust_remote_code=given.trust_remote_code
    )
    opening = [{"role": "system", "content": given.system}] if given.system else []
    turns: list[dict[str, str]] = list(opening)
    interactive = sys.stdin.isatty()
    if interactive:
        say(f"{given.model}: /reset forgets the conversation, /exit leaves")
    torch.manual_seed(given.seed)
    while (said := _listen(interactive=interactive)) is not None:
        if said == "/exit":
            break
        if said == "/reset":
            turns = list(opening)
            continue
        if said:
            turns.append({"role": "user", "content": said})
            answer = _answer(answerer, turns, sampling(given), show=not given.json)
            turns.append({"role": "assistant", "content": answer})
    return {"messages": turns}


def _listen(*, interactive: bool) -> str | None:
    try:
        if interactive:
            return console.input("[bold]you[/bold] ").strip()
        line = sys.stdin.readline()
        return line.strip() if line else None
    except (EOFError, KeyboardInterrupt):
        return None


def _answer(answerer: Answerer, turns: list[dict[str, str]], how: Sampling, *, show: bool) -> str:
    """One answer, streamed to stdout as it is made."""
    model: Any = answerer.model
    tokenizer = answerer.tokenizer
    ids = encode_prompt(tokenizer, turns if has_chat_template(tokenizer) else _transcript(turns))
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and len(ids) >= limit:
        raise DataError(
            f"the conversation is {len(ids)} tokens long, the model sees {limit}",
            where="chat",
            fix="Start again with /reset.",
        )
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if show else None
    device = next(model.parameters()).device
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.tensor([ids], device=device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64, device=device),
            generation_config=generation_config(tokenizer, how),
            streamer=streamer,
        )
    text: str = tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
    return text.strip()


def _transcript(turns: list[dict[str, str]]) -> str:
    """A base model without a chat template continues plain text."""
    return "".join(f"{turn['content']}\n" for turn in turns)
