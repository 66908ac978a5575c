"""Data sets on their way into the trainer: messages without a template, streams, accounts."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer

from orpo import DataError, ORPOTrainer
from orpo.data.rendering import PLAIN_TEMPLATE
from orpo.train.datasets import EndlessPairs
from tests.train.small import MapStyle, Stream, byte_tokenizer, text_rows

Make = Callable[..., ORPOTrainer]
NOTE = "the tokenizer has no chat template: messages are written as"


def turn(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


MESSAGES: list[dict[str, Any]] = [
    {
        "prompt": turn("user", f"How are you, {i}?"),
        "chosen": turn("assistant", "Fine" + "!" * i),
        "rejected": turn("assistant", "Bad" + "?" * i),
    }
    for i in range(6)
]
HI = "\n\nHuman: Hi {}\n\nAssistant: "
TRANSCRIPTS = [
    {"chosen": HI.format(i) + f"Hello {i}!", "rejected": HI.format(i) + f"Go away {i}."}
    for i in range(4)
]


class TestMessagesWithoutTemplate:
    """They are written as plain transcripts, and the template is saved with the model."""

    @pytest.mark.parametrize("form", [MapStyle, Stream])
    def test_every_kind_of_data_set(self, make_trainer: Make, form: Callable[[Any], Any]) -> None:
        tokenizer = byte_tokenizer()
        trainer = make_trainer(tokenizer=tokenizer, train_dataset=form(MESSAGES), max_steps=2)
        assert tokenizer.chat_template == PLAIN_TEMPLATE
        assert sum(NOTE in note for note in trainer.notes) == 1
        trainer.train()
        trainer.save_model()
        saved = AutoTokenizer.from_pretrained(Path(trainer.args.output_dir))
        written = saved.apply_chat_template(
            turn("user", "How are you, 3?"), tokenize=False, add_generation_prompt=True
        )
        assert written == "\n\nHuman: How are you, 3?\n\nAssistant:"

    def test_the_model_sees_the_transcript(self, make_trainer: Make) -> None:
        trainer = make_trainer(train_dataset=MESSAGES)
        pair = trainer.train_dataset[2]
        decode = trainer.processing_class.decode
        assert decode(pair["prompt_ids"]) == "\n\nHuman: How are you, 2?\n\nAssistant:"
        assert decode(pair["chosen_ids"]) == " Fine!!</s>"
        assert decode(pair["rejected_ids"]) == " Bad??</s>"
        streamed = list(make_trainer(train_dataset=Stream(MESSAGES)).train_dataset)
        assert streamed == [dict(row) for row in trainer.train_dataset]

    def test_in_the_evaluation_alone_or_given_later(self, make_trainer: Make) -> None:
        trainer = make_trainer(train_dataset=text_rows(), eval_dataset={"chat": MESSAGES})
        assert trainer.processing_class.chat_template == PLAIN_TEMPLATE
        assert trainer.ledgers["train_dataset"].rendering == "plain text"
        assert trainer.ledgers["eval_dataset[chat]"].rendering == "chat template"
        trainer = make_trainer(train_dataset=text_rows())
        assert trainer.processing_class.chat_template is None
        trainer.evaluate(MESSAGES)
        assert trainer.processing_class.chat_template == PLAIN_TEMPLATE
        trainer.evaluate(MESSAGES)
        assert sum(NOTE in note for note in trainer.notes) == 1

    def test_transcripts_beside_them_stay_as_they_are(self, make_trainer: Make) -> None:
        """The template is set when all data sets are read, so that none depends on the order."""
        trainer = make_trainer(train_dataset=MESSAGES, eval_dataset=TRANSCRIPTS)
        assert trainer.ledgers["eval_dataset"].rendering == "plain text"

    @pytest.mark.parametrize("rows", [text_rows(), TRANSCRIPTS])
    def test_text_alone_needs_no_template(self, make_trainer: Make, rows: list[Any]) -> None:
        for form in (rows, Stream(rows)):
            trainer = make_trainer(train_dataset=form)
            assert trainer.processing_class.chat_template is None
            assert not any(NOTE in note for note in trainer.notes)

    def test_one_that_is_there_is_kept(self, make_trainer: Make, tmp_path: Path) -> None:
        tokenizer, file = byte_tokenizer(), tmp_path / "chat.jinja"
        tokenizer.chat_template = PLAIN_TEMPLATE.replace("Human", "User")
        file.write_text(PLAIN_TEMPLATE.replace("Human", "You"))
        own = make_trainer(tokenizer=tokenizer, train_dataset=MESSAGES)
        assert "User" in tokenizer.chat_template
        given = make_trainer(train_dataset=MESSAGES, chat_template=str(file))
        for trainer, name in ((own, "User"), (given, "You")):
            assert not any(NOTE in note for note in trainer.notes)
            decoded = trainer.processing_class.decode(trainer.train_dataset[0]["prompt_ids"])
            assert decoded.startswith(f"\n\n{name}: ")
        assert f"chat template taken from {file}" in given.notes


class TestStreams:
    def rows_of(self, trainer: ORPOTrainer, batches: int) -> list[list[int]]:
        loader = trainer.get_train_dataloader()
        return [batch["row"].tolist() for batch in islice(loader, batches)]

    def test_steps_are_whole_over_the_end_of_a_pass(self, make_trainer: Make) -> None:
        trainer = make_trainer(train_dataset=Stream(text_rows(5)), per_device_train_batch_size=2)
        assert self.rows_of(trainer, 5) == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]

    def test_every_pass_may_have_its_own_order(self, make_trainer: Make) -> None:
        rows = [{"prompt": f"Q{i}:", "chosen": " a" * (i + 1), "rejected": " b"} for i in range(8)]
        stream = datasets.Dataset.from_list(rows).to_iterable_dataset().shuffle(0, buffer_size=8)
        trainer = make_trainer(train_dataset=stream, per_device_train_batch_size=8)
        loader = trainer.get_train_dataloader()
        orders = [b["chosen_answer_mask"].sum(1).tolist() for b in islice(loader, 2)]
        assert orders[0] != orders[1]
        assert sorted(orders[0]) == sorted(orders[1])

    def test_fewer_rows_than_a_step_takes(self, make_trainer: Make) -> None:
        batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
        trainer = make_trainer(train_dataset=Stream(text_rows(1)), max_steps=2, **batch)
        assert trainer.train().global_step == 2

    # Torch counts the cores of the machine; the test is about the rows.
    @pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker:UserWarning")
    @pytest.mark.parametrize("shards", [1, 2])
    def test_in_other_processes(self, make_trainer: Make, shards: int) -> None:
        """With one shard, the second process is dealt no rows and leaves them to the first."""
        rows = datasets.Dataset.from_list(text_rows(4))
        stream = rows.to_iterable_dataset(num_shards=shards)
        trainer = make_trainer(
            train_dataset=stream, per_device_train_batch_size=2, dataloader_num_workers=2
        )
        assert trainer.train().global_step == 1

    @pytest.mark.parametrize(
        "rows", [[], [{"prompt": "Q:", "chosen": " a", "rejected": " a"}]], ids=["none", "no pair"]
    )
    def test_with_nothing_in_it(self, make_trainer: Make, rows: list[Any]) -> None:
        trainer = make_trainer(train_dataset=Stream(rows))
        with pytest.raises(DataError, match="train_dataset: no pair is left"):
            trainer.train()
        with pytest.raises(DataError, match="no pair is left"):
            make_trainer(eval_dataset=Stream(rows)).evaluate()

    def test_an_evaluation_passes_once(self, make_trainer: Make) -> None:
        trainer = make_trainer(eval_dataset=Stream(text_rows(5)), per_device_eval_batch_size=2)
        trainer.evaluate()
        assert trainer.ledgers["eval_dataset"].kept == 5
        assert not isinstance(trainer.eval_dataset, EndlessPairs)

    def test_the_trainers_own_data_set_can_be_used_again(self, make_trainer: Make) -> None:
        trainer = make_trainer(train_dataset=Stream(text_rows(5)))
        trainer.train()
        assert trainer.evaluate(trainer.train_dataset)["eval_loss"] > 0
        assert len(list(trainer.train_dataset)) == 5
        with pytest.raises(DataError, match="train_dataset row 0"):  # found at once
            make_trainer(train_dataset=Stream([{"prompt": "Q"}]))


class TestAccounts:
    def test_every_data_set_has_its_own(self, make_trainer: Make) -> None:
        bad = {"prompt": "Q:", "chosen": " ", "rejected": " no"}
        trainer = make_trainer(
            train_dataset=[*text_rows(4), bad], eval_dataset={"a": text_rows(2), "b": text_rows(3)}
        )
        kept = {name: ledger.kept for name, ledger in trainer.ledgers.items()}
        assert kept == {"train_dataset": 4, "eval_dataset[a]": 2, "eval_dataset[b]": 3}
        assert trainer.ledgers["train_dataset"].dropped == {"empty_chosen": 1}


@pytest.mark.parametrize("kind", ["list", "map", "stream", "saved"])
@pytest.mark.parametrize("spelled", [str, dict])
def test_columns_of_other_names(kind: str, spelled: Any, make_trainer: Make) -> None:
    rows = [{"q": r["prompt"], "a": r["chosen"], "b": r["rejected"]} for r in text_rows()]
    names = {"prompt": "q", "chosen": "a", "rejected": "b"}
    columns = names if spelled is dict else ",".join(f"{k}={v}" for k, v in names.items())
    kinds: dict[str, Any] = {"list": list, "map": MapStyle, "stream": Stream}
    kinds["saved"] = datasets.Dataset.from_list
    given = {"tokenizer": byte_tokenizer(), "eval_dataset": rows[:2], "columns": columns}
    trainer = make_trainer(train_dataset=kinds[kind](rows), **given)
    plain = make_trainer(train_dataset=text_rows(), tokenizer=byte_tokenizer())
    assert list(islice(iter(trainer.train_dataset), 3)) == list(
        islice(iter(plain.train_dataset), 3)
    )
    assert trainer.args.to_dict()["columns"] == names
