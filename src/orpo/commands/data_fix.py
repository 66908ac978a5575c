"""`orpo data fix`."""

from dataclasses import dataclass
from typing import Any

from orpo.audit.repair import Repair
from orpo.commands.console import say
from orpo.data.sources import open_source
from orpo.errors import ConfigError
from orpo.options import option, training_settings

EXAMPLES = """\
examples:
  orpo data fix pairs.jsonl clean.jsonl
  orpo data fix pairs.json clean.parquet --deduplicate near
  orpo data fix pairs.jsonl clean.jsonl.gz --balance length --seed 1
  orpo data fix pairs.jsonl clean.jsonl --balance category --balance_ratio 2
  orpo data fix pairs.jsonl train.jsonl --held_out 0.05 --held_out_output test.jsonl
  orpo data fix pairs.jsonl clean.jsonl --model ./model --max_length 1024
  orpo data fix pairs.jsonl clean.jsonl --min_score_margin 1 --drop malformed,empty,low_margin

Rows keep their order and all of their columns. The data set is never changed in place."""


@dataclass(frozen=True)
class Options(Repair):
    """The data set, the copy, what is to be mended, and whose tokens are counted."""

    model: str | None = option(
        None, help="measure in its tokens, and drop what is longer than --max_length"
    )
    tokenizer: str | None = option(None, help="the tokenizer, if not the model's")
    settings: dict[str, Any] = training_settings(
        *("columns", "data_format", "pair_rule", "max_length", "max_prompt_length"),
        *("chat_template", "chat_template_kwargs", "trust_remote_code"),
    )

    def __post_init__(self) -> None:
        """Check what can be checked without reading anything."""
        for name in ("max_length", "max_prompt_length"):
            if name in self.settings and not (self.tokenizer or self.model):
                raise ConfigError(
                    "needs --model or --tokenizer: tokens are a tokenizer's", where=f"--{name}"
                )
        super().__post_init__()


def run(options: Options) -> dict[str, Any]:
    """Write the copy, and account for every row."""
    options.check_targets()
    open_source(options.dataset)  # refuses what is not there before anything is loaded
    from orpo.audit.fix import fix_dataset  # noqa: PLC0415 - loads pyarrow
    from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch
    from orpo.data.lengths import LengthPolicy  # noqa: PLC0415
    from orpo.data.reading import PairReader  # noqa: PLC0415
    from orpo.train.models import pair_tokenizer  # noqa: PLC0415 - loads transformers

    config = ORPOConfig(**{"max_length": None, **options.settings})
    name = options.tokenizer or options.model
    tokenize = pair_tokenizer(name, config) if name else None
    lengths = LengthPolicy(config.max_length, config.max_prompt_length, "drop")
    reader = PairReader(config.format_name, "drop", config.pair_rule)
    result = fix_dataset(options, reader, tokenize, lengths, config.column_names)
    for line in result.summary():
        say(line)
    return result.as_dict()
