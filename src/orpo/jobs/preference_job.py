"""Held-out pairs scored by a model, and by the one that it is compared with."""

from __future__ import annotations

import gc
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import nn
from transformers import PrinterCallback

from orpo.audit.findings import amount
from orpo.audit.views import view
from orpo.config import ORPOConfig
from orpo.data import Dropped, Row
from orpo.data.reading import PairReaders
from orpo.data.token_columns import is_tokenised
from orpo.errors import ConfigError, ModelError, UserError
from orpo.evaluate import Answerer, load_answerer
from orpo.evaluate.preference import (
    RowFacts,
    ScoredPairs,
    compare,
    measure,
    row_facts,
    score_pairs,
    told,
)
from orpo.jobs.preference_inputs import PreferenceJob, baseline_of, config_of, rows_of
from orpo.jobs.scores import recall_scores, write_scores
from orpo.runs import EVALUATION, SCORES, ensure_writable, write_json
from orpo.train.identity import data_fingerprint
from orpo.train.trainer import ORPOTrainer

__all__ = ["PreferenceJob", "run_preference"]

Say: TypeAlias = Callable[[str], None]

_WORST = 8
_BINS = 30
_SAMPLES = 64  # of each tensor


def run_preference(job: PreferenceJob, *, say: Say) -> dict[str, Any]:
    """Score held-out pairs, write the folder of the evaluation, and give what it holds.

    Args:
        job: What is asked for.
        say: Told, line by line, what happens.

    Returns:
        What evaluation.json holds, see `docs/evaluation/preference.md`.

    Raises:
        UserError: Data or models that cannot be read, or a folder that holds something else.
    """
    with tempfile.TemporaryDirectory(prefix="orpo-") as scratch:
        config = config_of(job, scratch)
        rows, name = rows_of(job, config)
        settings = {
            "model": job.model,
            "dataset": name,
            "baseline": baseline_of(job),
            **{n: getattr(config, n) for n in ("max_length", "max_prompt_length", "truncation")},
            **{n: getattr(config, n) for n in ("data_format", "pair_rule", "on_bad_row")},
            "dtype": config.model_dtype,
        }
        work = _Work(job, config, rows, settings, say)
        return work.run()


@dataclass
class _Moment:
    """A model that has scored the pairs."""

    pairs: ScoredPairs
    facts: dict[str, Any]
    account: dict[str, Any]


class _Work:
    """One evaluation: the models one after the other, so that only one is in memory."""

    def __init__(
        self,
        job: PreferenceJob,
        config: ORPOConfig,
        rows: Iterable[Row],
        settings: dict[str, Any],
        say: Say,
    ) -> None:
        self.job, self.config, self.rows, self.say = job, config, rows, say
        self.folder = job.output_dir
        self.notes: list[str] = []
        self.told: list[str] = []
        self.evaluation = _begun(self.folder, settings, overwrite=job.overwrite)
        ensure_writable(self.folder / EVALUATION, fix="Give another --output_dir.")
        self.scored: dict[str, ScoredPairs] = {}
        self.facts: Mapping[int, RowFacts] = {}

    def run(self) -> dict[str, Any]:
        """Everything."""
        answerer = self._load(self.job.model)
        self.facts = row_facts(self.rows, self.config.format_name, self.config.pair_rule)
        after = self._score("after", self.job.model, answerer)
        tokenizer = answerer.tokenizer
        del answerer
        gc.collect()  # the next model needs the room
        before = self._before(tokenizer)
        self.evaluation |= self._results(before, after)
        write_json(self.folder / EVALUATION, self.evaluation)
        from orpo.report import write_evaluation_page  # noqa: PLC0415 - matplotlib loads in seconds
        from orpo.report.evaluation.preference import build_page  # noqa: PLC0415

        write_evaluation_page(build_page(self.evaluation, self.folder), self.folder)
        return self.evaluation

    def _load(self, name: str) -> Answerer:
        self.say(f"loading {name}")
        trusted = bool(self.config.trust_remote_code)
        return load_answerer(name, dtype=self.config.model_dtype, trust_remote_code=trusted)

    def _before(self, tokenizer: Any) -> _Moment | None:
        name = self.evaluation["settings"]["baseline"]
        if name is None:
            return None
        try:
            answerer = self._load(name)
        except UserError as error:
            if self.job.baseline:
                raise
            self._note(f"there is nothing to compare with: {error}")
            return None
        if answerer.tokenizer.get_vocab() == tokenizer.get_vocab():
            answerer = replace(answerer, tokenizer=tokenizer)  # the same template, too
        else:
            self._note(
                "the models have different tokenizers: log-probabilities per token are of "
                "different tokens; whether the chosen answer is preferred can still be compared"
            )
        return self._score("before", name, answerer)

    def _score(self, moment: str, name: str, answerer: Answerer) -> _Moment:
        trainer = ORPOTrainer(
            model=answerer.model,
            args=self.config,
            eval_dataset=self.rows,
            tokenizer=answerer.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)  # stdout belongs to --json
        account = trainer.ledgers["eval_dataset"].as_dict()
        lines = [*trainer.notes, trainer.ledgers["eval_dataset"].summary()]
        for line in lines if lines != self.told else ():  # once is enough for two models
            self.say(line)
        self.told = lines
        facts = {
            "name": name,
            "weights": _digest(answerer.model),
            "data": data_fingerprint(trainer.eval_dataset),
            "engine": trainer.engine.name,
        }
        pairs = self._recalled(moment, facts, trainer)
        if pairs is None:
            self.say(f"scoring {amount(account['kept'], 'pair')} with {name}")
            _, pairs = score_pairs(trainer, self.facts)
            self._keep(moment, pairs, facts)
        self.scored[moment] = pairs
        if not len(pairs):
            raise ModelError(
                f"gives no finite log-probability to any of {pairs.not_finite} pairs", where=name
            )
        if pairs.not_finite:
            self._note(f"{name}: {pairs.not_finite} pairs have no finite log-probability")
        return _Moment(pairs, facts, account)

    def _recalled(
        self, moment: str, facts: dict[str, Any], trainer: ORPOTrainer
    ) -> ScoredPairs | None:
        """What an earlier call of the same evaluation has scored."""
        known = self.evaluation["models"].get(moment)
        if known is None:
            return None
        if {**known, "engine": ""} != {**facts, "engine": ""}:
            what = "weights" if known.get("weights") != facts["weights"] else "data"
            raise ConfigError(
                f"holds an evaluation of {facts['name']} with other {what}",
                where=str(self.folder),
                fix="Use --overwrite, or another --output_dir.",
            )
        found = recall_scores(self.folder, moment, self.facts, trainer.eval_dataset)
        if found is not None:
            self.say(f"{amount(len(found), 'pair')} already scored with {facts['name']}")
        return found

    def _keep(self, moment: str, pairs: ScoredPairs, facts: dict[str, Any]) -> None:
        """What is scored stays, whatever happens to the next model."""
        self.evaluation["models"][moment] = facts
        self.folder.mkdir(parents=True, exist_ok=True)
        write_scores(self.folder, {**self.scored, moment: pairs})
        write_json(self.folder / EVALUATION, self.evaluation)

    def _results(self, before: _Moment | None, after: _Moment) -> dict[str, Any]:
        found: dict[str, Any] = {"after": measure(after.pairs)}
        shared = found["after"]["intervals"]["preference_accuracy"]
        found["after"]["verdict"] = told(shared)
        moments = {"after": after.pairs}
        if before is not None:
            found["before"] = measure(before.pairs)
            found["after"] |= compare(before.pairs, after.pairs)
            moments["before"] = before.pairs
            lost = len(after.pairs) - found["after"]["compared"]
            if lost:
                self._note(f"{lost} pairs were scored by one of the models only")
        kept = ("rows_in", "kept", "dropped", "dropped_examples", "cut", "format", "rendering")
        return {
            "finished": True,
            "account": {
                **{name: after.account[name] for name in kept},
                **after.pairs.account,
            },
            "notes": self.notes,
            "results": found,
            "distribution": _distribution(moments),
            "worst": self._worst(moments),
        }

    def _worst(self, moments: Mapping[str, ScoredPairs]) -> list[dict[str, Any]]:
        """The pairs whose rejected answer is preferred most strongly, with their texts."""
        after = moments["after"]
        odds = after.log_odds
        places = [int(i) for i in np.argsort(odds, kind="stable")[:_WORST] if odds[i] < 0]
        of_before = dict(
            zip(moments["before"].rows.tolist(), moments["before"].log_odds, strict=True)
            if "before" in moments
            else ()
        )
        texts = self._texts({int(after.rows[i]) for i in places})
        return [
            {
                **texts.get(int(after.rows[i]), {}),
                "row": int(after.rows[i]),
                "log_odds": float(odds[i]),
                "log_odds_before": _float(of_before.get(int(after.rows[i]))),
                "groups": {kind: names[i] for kind, names in after.groups.items()},
            }
            for i in places
        ]

    def _texts(self, wanted: set[int]) -> dict[int, dict[str, str]]:
        read = PairReaders(self.config.format_name, "drop", self.config.pair_rule)
        texts = {}
        for row in self.rows if wanted else ():
            if row.index not in wanted or is_tokenised(row.values):
                continue
            pair = read(row)
            if isinstance(pair, Dropped):
                continue
            seen = view(pair)
            parts = {"prompt": seen.prompt, "chosen": seen.chosen, "rejected": seen.rejected or ""}
            texts[row.index] = {"where": row.where.rsplit("/", 1)[-1], **parts}
        return texts

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self.say(line)


def _begun(folder: Path, settings: dict[str, Any], *, overwrite: bool) -> dict[str, Any]:
    """What evaluation.json says so far.

    Raises:
        ConfigError: The folder holds another evaluation.
    """
    from orpo.report.evaluation.redraw import read_evaluation  # noqa: PLC0415

    fresh = {
        "kind": "preference",
        "finished": False,
        "settings": settings,
        "versions": {name: version(name) for name in ("orpo", "torch", "transformers")},
        "models": {},
    }
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is a file, not a folder", where=str(folder), fix="Name a folder.")
    if overwrite:
        (folder / SCORES).unlink(missing_ok=True)
    if overwrite or not (folder / EVALUATION).is_file():
        return fresh
    found = read_evaluation(folder)
    if (found.get("kind"), found.get("settings")) == ("preference", settings):
        models = found.get("models")
        return {**fresh, "models": models if isinstance(models, dict) else {}}
    raise ConfigError(
        "holds another evaluation", where=str(folder), fix="Use --overwrite, or another folder."
    )


def _distribution(moments: Mapping[str, ScoredPairs]) -> dict[str, Any]:
    """Log odds ratios in bins of equal width; the outer ones hold what lies beyond, too."""
    odds = {moment: pairs.log_odds for moment, pairs in moments.items()}
    together = np.concatenate(list(odds.values()))
    low, high = np.quantile(together, (0.005, 0.995))
    edges = np.linspace(min(low, -0.5), max(high, 0.5), _BINS + 1)
    counts = {
        moment: np.histogram(np.clip(z, edges[0], edges[-1]), edges)[0].tolist()
        for moment, z in odds.items()
    }
    return {"edges": edges.tolist(), **counts}


def _digest(model: nn.Module) -> str:
    """Stands for the weights: a digest of samples of each tensor."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        samples = flat[:: max(1, flat.numel() // _SAMPLES)].float().cpu()
        digest.update(name.encode() + samples.numpy().tobytes())
    return digest.hexdigest()[:16]


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
