"""Held-out pairs scored by a model, and by the one that it is compared with."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from transformers import PrinterCallback

from orpo.audit.findings import amount
from orpo.audit.views import view
from orpo.config import ORPOConfig
from orpo.data.reading import PairReaders, ReadOnce, is_tokenised
from orpo.data.sources import Mixture, Source, open_source
from orpo.data.split import hold_out
from orpo.data.types import Dropped, Row
from orpo.errors import ConfigError, DataError, ModelError, UserError
from orpo.evaluate.loading import Answerer, load_answerer, recipe_of
from orpo.evaluate.preference.measures import compare, measure, told
from orpo.evaluate.preference.pairs import (
    ScoredPairs,
    recall_scores,
    row_facts,
    score_pairs,
    write_scores,
)
from orpo.evaluate.results import (
    Distribution,
    PreferenceResult,
    Preferences,
    ScoredModel,
    WorstPair,
)
from orpo.runs.files import EVALUATION, write_json
from orpo.runs.reading import read_object
from orpo.runs.typed import plain, typed
from orpo.setting_types import as_declared
from orpo.train.identity import data_fingerprint
from orpo.train.trainer import ORPOTrainer
from orpo.train.weights import weights_digest

Say: TypeAlias = Callable[[str], None]

_OF_THE_RUN = (
    "max_length",
    "max_prompt_length",
    "truncation",
    "data_format",
    "pair_rule",
    "on_bad_row",
    "chat_template_kwargs",
)
_OF_THE_ACCOUNT = ("rows_in", "kept", "dropped", "dropped_examples", "cut", "format", "rendering")
_WORST = 8
_BINS = 30


def config_of(model: str, folder: str, **settings: Any) -> ORPOConfig:
    """The settings of reading and scoring: as given, else those of the run, else the defaults."""
    recipe = recipe_of(model)
    of_the_run = {name: recipe[name] for name in _OF_THE_RUN if recipe.get(name) is not None}
    dtype = settings.pop("dtype", None) or recipe.get("model_dtype") or "auto"
    own = {"output_dir": folder, "report_to": "none", "disable_tqdm": True, "model_dtype": dtype}
    return ORPOConfig(**{**own, **of_the_run, **settings})


def held_out_rows(model: str, dataset: str | None, config: ORPOConfig) -> tuple[Iterable[Row], str]:
    """The held-out rows, to be gone through more than once, and what they are called.

    Raises:
        ConfigError: None are named, neither here nor in the run's recipe.
        DataError: There is no such file, or nothing in it.
    """
    recipe, how = recipe_of(model), (config.format_name, config.pair_rule)
    if dataset or recipe.get("eval_dataset"):
        source, name = _there(str(dataset or recipe["eval_dataset"]), by_run=not dataset)
        return ReadOnce(source, *how), name
    if not recipe.get("held_out"):
        what = "is needed: the run held nothing out" if recipe else "is needed"
        raise ConfigError(
            what, where="--dataset", fix="Name held-out pairs: a file, a folder or a Hub id."
        )
    share = as_declared(recipe["held_out"], float, "held_out")
    names = as_declared(recipe.get("dataset") or [], list[str], "dataset")
    mix = as_declared(recipe.get("mix"), list[float] | None, "mix")
    name = " + ".join(names)
    sources = [_there(one, by_run=True)[0] for one in names]
    _, held_out = hold_out(
        ReadOnce(Mixture(sources, mix) if len(sources) > 1 else sources[0], *how),
        share,
        int(recipe.get("seed") or config.seed or 0),
        name,
        data_format=config.format_name,
        pair_rule=config.pair_rule,
    )
    return held_out, f"{100 * share:g} % of {name}"


def _there(name: str, *, by_run: bool) -> tuple[Source, str]:
    """A data set that can be opened: better known before a model is loaded."""
    try:
        open_source(name)
    except DataError as error:
        if not by_run:
            raise
        fix = "The run names it; --dataset names another."
        raise DataError(error.what, where=error.where, fix=fix) from error
    return Source(name), name


def settings_of(model: str, data: str, baseline: str | None, config: ORPOConfig) -> dict[str, Any]:
    """What the result depends on."""
    names = [name for name in _OF_THE_RUN if name != "chat_template_kwargs"]
    return {
        "model": model,
        "dataset": data,
        "baseline": baseline,
        **{name: getattr(config, name) for name in names},
        "dtype": config.model_dtype,
    }


@dataclass
class PreferenceEvaluation:
    """One evaluation: the models one after the other, so that only one is in memory.

    Attributes:
        config: How rows are read and scored.
        rows: The held-out rows.
        settings: See `settings_of`.
        folder: Keeps what each model scored: the same evaluation goes on there.
        say: Told, line by line, what happens.
        must_compare: Whether a baseline that cannot be loaded is an error.
    """

    config: ORPOConfig
    rows: Iterable[Row]
    settings: dict[str, Any]
    folder: Path
    say: Say
    must_compare: bool = False

    def run(self) -> PreferenceResult:
        """Score the pairs and measure; evaluation.json is written with each model.

        Raises:
            UserError: Data or models that cannot be read, or that are not those of before.
        """
        self.notes: list[str] = []
        self.told: list[str] = []
        self.scored: dict[str, ScoredPairs] = {}
        names = ("orpo", "torch", "transformers")
        self.result = PreferenceResult(self.settings, {name: version(name) for name in names})
        if (self.folder / EVALUATION).is_file():
            self.result = replace(self.result, models=_scored_before(self.folder))
        name = self.settings["model"]
        answerer = self._load(name)
        self.facts = row_facts(self.rows, self.config.format_name, self.config.pair_rule)
        account = self._score("after", name, answerer)
        tokenizer = answerer.tokenizer
        del answerer
        gc.collect()  # the next model needs the room
        self._score_baseline(tokenizer)
        after = self.scored["after"]
        return replace(
            self.result,
            results=self._results(),
            finished=True,
            account={**{n: account[n] for n in _OF_THE_ACCOUNT}, **after.account},
            notes=self.notes,
            distribution=_distribution(self.scored),
            worst=self._worst(),
        )

    def _load(self, name: str) -> Answerer:
        self.say(f"loading {name}")
        trusted = bool(self.config.trust_remote_code)
        return load_answerer(name, dtype=self.config.model_dtype, trust_remote_code=trusted)

    def _score_baseline(self, tokenizer: Any) -> None:
        name = self.settings["baseline"]
        if name is None:
            return
        try:
            answerer = self._load(name)
        except UserError as error:
            if self.must_compare:
                raise
            self._note(f"there is nothing to compare with: {error}")
            return
        if answerer.tokenizer.get_vocab() == tokenizer.get_vocab():
            answerer = replace(answerer, tokenizer=tokenizer)  # the same template, too
        else:
            self._note(
                "the models have different tokenizers: log-probabilities per token are of "
                "different tokens; whether the chosen answer is preferred can still be compared"
            )
        self._score("before", name, answerer)

    def _score(self, moment: str, name: str, answerer: Answerer) -> dict[str, Any]:
        """Score the pairs, or take up their scores; the account of the rows."""
        trainer = ORPOTrainer(
            model=answerer.model,
            args=self.config,
            eval_dataset=self.rows,
            tokenizer=answerer.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)  # stdout belongs to --json
        ledger = trainer.ledgers["eval_dataset"]
        account: dict[str, Any] = ledger.as_dict()
        lines = [*trainer.notes, ledger.summary()]
        for line in lines if lines != self.told else ():  # once is enough for two models
            self.say(line)
        self.told = lines
        data = data_fingerprint(trainer.eval_dataset)
        weights = weights_digest(answerer.model)
        model = ScoredModel(name, str(weights), str(data), trainer.engine.name)
        pairs = self._recalled(moment, model, trainer)
        if pairs is None:
            self.say(f"scoring {amount(account['kept'], 'pair')} with {name}")
            _, pairs = score_pairs(trainer, self.facts)
            self._keep(moment, pairs, model)
        self.scored[moment] = pairs
        if not len(pairs):
            what = f"gives no finite log-probability to any of {pairs.not_finite} pairs"
            raise ModelError(what, where=name)
        if pairs.not_finite:
            self._note(f"{name}: {pairs.not_finite} pairs have no finite log-probability")
        return account

    def _recalled(self, moment: str, model: ScoredModel, trainer: Any) -> ScoredPairs | None:
        """What an earlier call of the same evaluation has scored."""
        known = self.result.models.get(moment)
        if known is None:
            return None
        if replace(known, engine="") != replace(model, engine=""):
            what = "weights" if known.weights != model.weights else "data"
            raise ConfigError(
                f"holds an evaluation of {model.name} with other {what}",
                where=str(self.folder),
                fix="Use --overwrite, or another --output_dir.",
            )
        found = recall_scores(self.folder, moment, self.facts, trainer.eval_dataset)
        if found is not None:
            self.say(f"{amount(len(found), 'pair')} already scored with {model.name}")
        return found

    def _keep(self, moment: str, pairs: ScoredPairs, model: ScoredModel) -> None:
        """What is scored stays, whatever happens to the next model."""
        self.result = replace(self.result, models={**self.result.models, moment: model})
        self.folder.mkdir(parents=True, exist_ok=True)
        write_scores(self.folder, {**self.scored, moment: pairs})
        write_json(self.folder / EVALUATION, plain(self.result))

    def _results(self) -> dict[str, Preferences]:
        pairs = self.scored["after"]
        after = measure(pairs)
        after = replace(after, verdict=told(after.intervals["preference_accuracy"]))
        if "before" not in self.scored:
            return {"after": after}
        after = compare(after, self.scored["before"], pairs)
        lost = len(pairs) - (after.compared or 0)
        if lost:
            self._note(f"{lost} pairs were scored by one of the models only")
        return {"after": after, "before": measure(self.scored["before"])}

    def _worst(self) -> tuple[WorstPair, ...]:
        """The pairs whose rejected answer is preferred most strongly, with their texts."""
        after, before = self.scored["after"], self.scored.get("before")
        odds = after.log_odds
        places = [int(i) for i in np.argsort(odds, kind="stable")[:_WORST] if odds[i] < 0]
        old = dict(zip(before.rows.tolist(), before.log_odds, strict=True)) if before else {}
        rows = [int(after.rows[i]) for i in places]
        texts = self._texts(rows)
        return tuple(
            WorstPair(
                row=row,
                log_odds=float(odds[i]),
                log_odds_before=float(old[row]) if row in old else None,
                groups={kind: names[i] for kind, names in after.groups.items()},
                **texts.get(row, {}),
            )
            for i, row in zip(places, rows, strict=True)
        )

    def _texts(self, wanted: Sequence[int]) -> dict[int, dict[str, str]]:
        read = PairReaders(self.config.format_name, "drop", self.config.pair_rule)
        texts = {}
        for row in self.rows if wanted else ():
            if row.index not in wanted or is_tokenised(row.values):
                continue
            pair = read(row)
            if not isinstance(pair, Dropped):
                seen = view(pair)
                said = {"prompt": seen.prompt, "chosen": seen.chosen}
                said["rejected"] = seen.rejected or ""
                texts[row.index] = {"where": row.where.rsplit("/", 1)[-1], **said}
        return texts

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self.say(line)


def _scored_before(folder: Path) -> dict[str, ScoredModel]:
    """Who has scored pairs in a folder already; nobody if that cannot be read."""
    path = folder / EVALUATION
    try:
        return dict(typed(PreferenceResult, read_object(path), where=str(path)).models)
    except DataError:
        return {}


def _distribution(scored: Mapping[str, ScoredPairs]) -> Distribution:
    """Log odds ratios in bins of equal width; the outer ones hold what lies beyond, too."""
    odds = {moment: pairs.log_odds for moment, pairs in scored.items()}
    together = np.concatenate(list(odds.values()))
    low, high = np.quantile(together, (0.005, 0.995))
    edges = np.linspace(min(low, -0.5), max(high, 0.5), _BINS + 1)
    counts = {
        moment: np.histogram(np.clip(z, edges[0], edges[-1]), edges)[0].tolist()
        for moment, z in odds.items()
    }
    return Distribution(edges=edges.tolist(), **counts)
