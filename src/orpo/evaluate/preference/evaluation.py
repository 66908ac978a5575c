"""Held-out pairs scored by a model, and by the one that it is compared with."""

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PrinterCallback

from orpo.config import ORPOConfig
from orpo.data.reading import ReadOnce
from orpo.data.sources import Mixture, Source
from orpo.data.split import as_given, hold_out, pairs_of
from orpo.data.types import Row
from orpo.errors import ConfigError, DataError, ModelError, UserError
from orpo.evaluate import results
from orpo.evaluate.judge.fences import conversation
from orpo.evaluate.loading import Answerer, load_answerer
from orpo.evaluate.preference import pairs as scoring
from orpo.evaluate.preference.measures import compare, measure, told
from orpo.evaluate.verdict import judge, measured, of_pairs, remembered
from orpo.quantities import as_count
from orpo.runs.files import EVALUATION, RECIPE, found_names, read_run, short_name, write_json
from orpo.runs.reading import read_object
from orpo.runs.typed import plain, typed
from orpo.setting_types import as_declared
from orpo.terminal import Say
from orpo.train.same_run import data_fingerprint
from orpo.train.trainer import ORPOTrainer
from orpo.train.weights import weights_digest

OF_THE_RUN = (
    *("max_length", "max_prompt_length", "truncation", "data_format", "pair_rule", "on_bad_row"),
    *("columns", "chat_template_kwargs"),
)
"""Settings of reading and scoring that are a run's own where nothing else is said."""
_OF_THE_ACCOUNT = ("rows_in", "kept", "dropped", "dropped_examples", "cut", "format", "rendering")
_WORST = 8
_BINS = 30


def config_of(recipe: Mapping[str, Any], folder: str, **settings: Any) -> ORPOConfig:
    """The settings of reading and scoring: as given, else those of the run, else the defaults."""
    of_the_run = {name: recipe[name] for name in OF_THE_RUN if recipe.get(name) is not None}
    dtype = settings.pop("dtype", None) or recipe.get("model_dtype") or "auto"
    own = {"output_dir": folder, "report_to": "none", "disable_tqdm": True, "model_dtype": dtype}
    return ORPOConfig(**{**own, **of_the_run, **settings})


def held_out_rows(
    recipe: Mapping[str, Any], names: Sequence[str], share: float | None, config: ORPOConfig
) -> Iterable[Row]:
    """The rows of a data set, or what the run held out of several, for more than one reading."""
    how = {"data_format": config.format_name, "pair_rule": config.pair_rule}
    mix = as_declared(recipe.get("mix"), list[float] | None, "mix")
    sources = [Source(name, config.column_names) for name in names]
    rows = ReadOnce(Mixture(sources, mix) if sources[1:] else sources[0], *how.values())
    if share is None:
        return rows
    seed = int(recipe.get("seed") or config.seed or 0)
    return hold_out(rows, share, seed, " + ".join(names), **how)[1]


def trained_on(model: Path, dataset: str, pairs: int) -> tuple[int, int] | None:
    """Of how many pairs a run was trained on the prompts, and of how many that is known."""
    if not (model / RECIPE).is_file():
        return None
    run = read_run(model)
    recipe = found_names(run.recipe, model)
    trained = as_declared(recipe.get("dataset") or [], list[str], "dataset")
    if Path(dataset).absolute() in [Path(name).absolute() for name in trained]:
        kept = as_declared(recipe.get("held_out"), float | None, "held_out") or 0.0
        return round(pairs * (1 - kept)), pairs
    return remembered(run) if dataset == recipe.get("eval_dataset") else None


@dataclass
class PreferenceEvaluation:
    """One evaluation: the models one after the other, so that only one is in memory."""

    config: ORPOConfig  # how rows are read and scored
    rows: Iterable[Row]
    settings: dict[str, Any]  # what the result depends on, "model" and "baseline" among it
    folder: Path  # keeps what each model scored: the same evaluation goes on there
    say: Say
    must_compare: bool = False  # whether a baseline that cannot be loaded is an error
    notes: list[str] = field(default_factory=list, init=False)
    told: list[str] = field(default_factory=list, init=False)
    scored: dict[str, scoring.ScoredPairs] = field(default_factory=dict, init=False)

    def run(self) -> results.PreferenceResult:
        """Score the pairs and measure; evaluation.json is written with each model."""
        versions = {name: version(name) for name in ("orpo", "torch", "transformers")}
        path = self.folder / EVALUATION
        self.models: dict[str, results.ScoredModel] = {}
        if path.is_file():
            try:
                found = typed(results.PreferenceResult, read_object(path), where=str(path))
                self.models = dict(found.models)
            except DataError:
                pass  # nobody has scored what cannot be read
        self.result = results.PreferenceResult(self.settings, versions, self.models)
        answerer = self._load(self.settings["model"])
        how = self.config.format_name, self.config.pair_rule
        self.facts = scoring.row_facts(self.rows, *how)
        account = self._score("after", answerer)
        tokenizer = answerer.tokenizer
        del answerer
        gc.collect()  # the next model needs the room
        if self.settings["baseline"] is not None:
            self._score_baseline(tokenizer)
        after = self.scored["after"]
        return replace(
            self.result,
            models=self.models,
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
        try:
            answerer = self._load(self.settings["baseline"])
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
        self._score("before", answerer)

    def _score(self, moment: str, answerer: Answerer) -> dict[str, Any]:
        """Score the pairs, or take up what an earlier call has scored; the account of the rows."""
        name = self.settings["model" if moment == "after" else "baseline"]
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
        digests = str(weights_digest(answerer.model)), str(data_fingerprint(trainer.eval_dataset))
        model = results.ScoredModel(name, *digests, trainer.engine.name)
        found = self._recalled(moment, model, trainer.eval_dataset)
        if found is None:
            self.say(f"scoring {as_count(account['kept'], 'pair')} with {name}")
            _, found = scoring.score_pairs(trainer, self.facts)
            # What is scored stays, whatever happens to the next model.
            self.models = {**self.models, moment: model}
            self.folder.mkdir(parents=True, exist_ok=True)
            scoring.write_scores(self.folder, {**self.scored, moment: found})
            write_json(self.folder / EVALUATION, plain(replace(self.result, models=self.models)))
        self.scored[moment] = found
        if not len(found):
            what = f"gives no finite log-probability to any of {found.not_finite} pairs"
            raise ModelError(what, where=name)
        if found.not_finite:
            self._note(f"{name}: {found.not_finite} pairs have no finite log-probability")
        return account

    def _recalled(
        self, moment: str, model: results.ScoredModel, data: Any
    ) -> scoring.ScoredPairs | None:
        known = self.models.get(moment)
        if known is None:
            return None
        if replace(known, engine="") != replace(model, engine=""):
            what = "weights" if known.weights != model.weights else "data"
            raise ConfigError(
                f"holds an evaluation of {model.name} with other {what}",
                where=str(self.folder),
                fix="Use --overwrite, or another --output_dir.",
            )
        found = scoring.recall_scores(self.folder, moment, self.facts, data)
        if found is not None:
            self.say(f"{as_count(len(found), 'pair')} already scored with {model.name}")
        return found

    def _results(self) -> dict[str, results.Preferences]:
        pairs = self.scored["after"]
        after = measure(pairs)
        if "before" not in self.scored:
            return {"after": replace(after, verdict=told(after.intervals["preference_accuracy"]))}
        before = measure(self.scored["before"])
        after = compare(after, self.scored["before"], pairs)
        than = short_name(self.settings["baseline"])
        model = Path(self.settings["model"])
        seen = of_pairs(plain(before), plain(after))
        if (model / RECIPE).is_file() and not self.must_compare:  # what the run itself has seen
            own = measured(read_run(model))
            seen = replace(own, ranking=seen.ranking, chosen=seen.chosen)
        known = trained_on(model, self.settings["dataset"], len(pairs))
        after = replace(after, verdict=judge(replace(seen, remembered=known), than).says)
        lost = len(pairs) - (after.compared or 0)
        if lost:
            self._note(f"{lost} pairs were scored by one of the models only")
        return {"after": after, "before": before}

    def _worst(self) -> tuple[results.WorstPair, ...]:
        """The pairs whose rejected answer is preferred most strongly, with their texts."""
        after, before = self.scored["after"], self.scored.get("before")
        odds = after.log_odds
        places = [int(i) for i in np.argsort(odds, kind="stable")[:_WORST] if odds[i] < 0]
        old = dict(zip(before.rows.tolist(), before.log_odds, strict=True)) if before else {}
        texts = self._texts({int(after.rows[i]) for i in places})
        found = []
        for i in places:
            row = int(after.rows[i])
            groups = {kind: names[i] for kind, names in after.groups.items()}
            then = float(old[row]) if row in old else None
            said = texts.get(row, {})
            found.append(results.WorstPair(row, float(odds[i]), then, groups, **said))
        return tuple(found)

    def _texts(self, wanted: set[int]) -> dict[int, dict[str, str]]:
        how = self.config.format_name, self.config.pair_rule
        texts = {}
        for index, pair in pairs_of(self.rows, wanted, *how).items():
            given, where = as_given(pair), pair.row.where.rsplit("/", 1)[-1]
            parts = {name: given[name] or "" for name in ("chosen", "rejected")}
            texts[index] = {"where": where, "prompt": conversation(given["prompt"]), **parts}
        return texts

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self.say(line)


def _distribution(scored: Mapping[str, scoring.ScoredPairs]) -> results.Distribution:
    """Log odds ratios in bins of equal width; the outer ones hold what lies beyond, too."""
    odds = {moment: pairs.log_odds for moment, pairs in scored.items()}
    low, high = np.quantile(np.concatenate(list(odds.values())), (0.005, 0.995))
    edges = np.linspace(min(low, -0.5), max(high, 0.5), _BINS + 1)
    counts = {
        moment: np.histogram(np.clip(z, edges[0], edges[-1]), edges)[0].tolist()
        for moment, z in odds.items()
    }
    return results.Distribution(edges=edges.tolist(), **counts)
