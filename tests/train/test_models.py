"""Models: how they are loaded, adapted and prepared, and which are refused."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from orpo import ConfigError, ModelError, ORPOConfig, ORPOTrainer
from orpo.train.models import disable_dropout, fit_positions
from tests.train.one_step import Capture, step_gradients
from tests.train.oracle_fp64 import in_fp64, orpo, pairs_of, relative_difference
from tests.train.small import byte_tokenizer, text_rows, tiny_llama

Make = Callable[..., ORPOTrainer]


def lora(**kwargs: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **kwargs})


def change_config(folder: Path, **values: int) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


BROKEN: list[tuple[Callable[[Path], Any], str]] = [
    (lambda f: (f / "config.json").unlink(), "holds no model (no config.json)"),
    (lambda f: (f / "model.safetensors").unlink(), "no file named model.safetensors"),
    (without_tokenizer, "the tokenizer cannot be loaded"),
    (lambda f: (f / "config.json").write_text("{"), "not a valid JSON file"),
    (lambda f: (f / "config.json").write_text('{"model_type": "nonesuch"}'), "nonesuch"),
    (cut_off, "the model cannot be loaded"),
    (
        lambda f: change_config(f, intermediate_size=96),
        "mlp.down_proj.weight has the shape (32, 64), and config.json says (32, 96)",
    ),
    # transformers would draw them at random, with a warning that scrolls by.
    (
        lambda f: change_config(f, num_hidden_layers=3),
        "9 weights are missing, the first is model.layers.2.",
    ),
]


class TestLoading:
    """What cannot be loaded is one line that names the folder and what to do."""

    def refused(self, make_config: Callable[..., ORPOConfig], model: Any, said: str) -> None:
        with pytest.raises(ModelError) as caught:
            ORPOTrainer(model=model, args=make_config(), train_dataset=text_rows())
        message = str(caught.value)
        assert "\n" not in message
        assert str(model) in message
        assert said in message

    def test_a_folder_or_a_hub_id_that_is_not_there(self, make_config: Any) -> None:
        for name in ("./none", "~/none/at/all", "some/where/else", "/no/such"):
            self.refused(make_config, name, "no such model folder")
        self.refused(make_config, "nobody/nothing", "is no folder here")

    @pytest.mark.parametrize(("spoil", "said"), BROKEN, ids=[said for _, said in BROKEN])
    def test_a_folder_that_is_broken(
        self, make_config: Any, base: Path, spoil: Callable[[Path], Any], said: str
    ) -> None:
        spoil(base)
        self.refused(make_config, base, said)

    def test_arguments_that_the_model_does_not_take(self, make_config: Any, base: Path) -> None:
        args = make_config(model_init_kwargs={"nonesuch": 1})
        with pytest.raises(ModelError, match="nonesuch"):
            ORPOTrainer(model=str(base), args=args)


class TestTokenizer:
    def test_without_padding_token_works_and_says_so(self, make_trainer: Make) -> None:
        tokenizer = byte_tokenizer()
        trainer = make_trainer(tokenizer=tokenizer, train_dataset=text_rows())
        trainer.train()
        assert tokenizer.pad_token == "</s>"
        assert any("no padding token: '</s>' is used" in note for note in trainer.notes)
        trainer = make_trainer(tokenizer=byte_tokenizer(pad_token="<unk>"))
        assert trainer.data_collator.pad_token_id == 0
        assert not any("no padding token" in note for note in trainer.notes)

    def test_padding_token_that_the_model_does_not_know(self, make_trainer: Make) -> None:
        """A new token without resized embeddings: padding is masked, so any other id does."""
        tokenizer = byte_tokenizer()
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
        model = tiny_llama(vocab_size=tokenizer.pad_token_id)
        trainer = make_trainer(tokenizer=tokenizer, model=model, train_dataset=text_rows())
        assert trainer.train().global_step == 1

    def test_that_cannot_be_trained_with(self, make_trainer: Make) -> None:
        with pytest.raises(ModelError, match=r"no end-of-sequence token.* Set tokenizer.eos_token"):
            make_trainer(tokenizer=byte_tokenizer(eos_token=None))
        message = r"train_dataset: token id \d+ is outside the model's vocabulary of 50"
        with pytest.raises(ModelError, match=message):
            make_trainer(model=tiny_llama(vocab_size=50), train_dataset=text_rows())


def t5() -> hf.PreTrainedModel:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=260, **sizes))


class TestRefused:
    def test_an_encoder_decoder(self, make_trainer: Make, tmp_path: Path) -> None:
        message = "T5 is an encoder-decoder model; orpo trains decoder-only models. Use a causal"
        t5().save_pretrained(tmp_path / "t5")
        for model in (t5(), str(tmp_path / "t5")):
            with pytest.raises(ModelError, match=message):
                make_trainer(model=model)
        with pytest.raises(ModelError, match="encoder-decoder"):
            make_trainer(model_init=t5)

    def test_a_masked_language_model(self, make_trainer: Make) -> None:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = hf.BertConfig(vocab_size=260, intermediate_size=16, **sizes)
        with pytest.raises(ModelError, match="Bert is a masked language model"):
            make_trainer(model=hf.BertForMaskedLM(config))
        config.is_decoder = True
        make_trainer(model=hf.BertLMHeadModel(config), train_dataset=text_rows()).train()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_model_is_refused(make_trainer: Make, in_place: bool) -> None:
    model: Any = tiny_llama()
    if in_place:
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    with pytest.raises(ConfigError, match="a compiled model cannot be trained"):
        make_trainer(model=model, train_dataset=text_rows())


def logits_twice(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(3, 40)[None]
    model.train()
    with torch.no_grad():
        return model(input_ids=ids).logits, model(input_ids=ids).logits


WIDTHS = {"vocab_size": 260, "hidden_size": 32}
DEEP = {"num_hidden_layers": 2, "num_attention_heads": 4}
WITH_DROPOUT: dict[str, hf.PretrainedConfig] = {
    "gpt2": hf.GPT2Config(
        vocab_size=260, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
    ),
    "opt": hf.OPTConfig(
        **{**WIDTHS, **DEEP, "ffn_dim": 32, "word_embed_proj_dim": 32},
        layerdrop=0.5,
        attention_dropout=0.1,
    ),
    "bloom": hf.BloomConfig(**WIDTHS, n_layer=2, n_head=4, hidden_dropout=0.1),
    "falcon": hf.FalconConfig(**WIDTHS, **DEEP, hidden_dropout=0.1),
    "starcoder2": hf.Starcoder2Config(
        **{**WIDTHS, **DEEP, "intermediate_size": 32, "num_key_value_heads": 2},
        residual_dropout=0.1,
        embedding_dropout=0.1,
    ),
    "gpt_neox": hf.GPTNeoXConfig(
        **WIDTHS, **DEEP, intermediate_size=32, hidden_dropout=0.1, attention_dropout=0.1
    ),
}


class TestDropout:
    @pytest.mark.parametrize("family", WITH_DROPOUT)
    def test_is_off_in_every_family(self, family: str) -> None:
        model = hf.AutoModelForCausalLM.from_config(WITH_DROPOUT[family])
        assert not torch.equal(*logits_twice(model))  # there was some
        disable_dropout(model)
        assert torch.equal(*logits_twice(model))

    @pytest.mark.parametrize("adapter", [False, True])
    def test_is_off_in_training_unless_asked(self, make_trainer: Make, adapter: bool) -> None:
        for off in (False, True):
            given: dict[str, Any] = {
                "model": hf.AutoModelForCausalLM.from_config(WITH_DROPOUT["gpt2"])
            }
            if adapter:
                given = {"peft_config": lora(lora_dropout=0.5, init_lora_weights=False)}
            trainer = make_trainer(disable_dropout=off, **given)
            assert torch.equal(*logits_twice(trainer.model)) is off
            assert any("lora_dropout" in note for note in trainer.notes) is (off and adapter)


@pytest.mark.parametrize("with_trial", [False, True])
def test_model_init_gives_a_fresh_model_to_every_run(make_trainer: Make, with_trial: bool) -> None:
    built: list[object] = []

    def plain() -> nn.Module:
        built.append(None)
        return hf.AutoModelForCausalLM.from_config(WITH_DROPOUT["gpt2"])

    def of_trial(trial: object) -> nn.Module:
        return plain()

    trainer = make_trainer(
        model_init=of_trial if with_trial else plain,
        train_dataset=text_rows(),
        peft_config=lora(target_modules=["c_attn"], fan_in_fan_out=True),
    )
    assert len(built) == 1  # the first one is not thrown away
    losses = [trainer.train().training_loss for _ in range(2)]
    assert losses[0] == losses[1]
    assert len(built) == 3
    assert isinstance(trainer.model, PeftModel)
    assert torch.equal(*logits_twice(trainer.model))  # dropout is off in these too


# Peft asks transformers by an older name where the tests use it themselves.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
class TestAdapter:
    def test_only_the_adapter_is_trained_and_saved(self, make_trainer: Make) -> None:
        llama = tiny_llama()
        before = {n: w.clone() for n, w in llama.state_dict().items()}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = {"train_dataset": text_rows(), "max_steps": 3}
            trainer = make_trainer(model=llama, peft_config=lora(), **data)
            trainable = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
            assert trainable
            assert all("lora_" in name for name in trainable)
            trainer.train()
        after = {
            name.removeprefix("base_model.model.").replace("base_layer.", ""): weight
            for name, weight in trainer.model.state_dict().items()
        }
        assert all(torch.equal(after[name], weight) for name, weight in before.items())
        assert any(bool(w.any()) for n, w in after.items() if "lora_B" in n)

        trainer.save_model()
        folder = Path(trainer.args.output_dir)
        assert (folder / "adapter_model.safetensors").is_file()
        assert not (folder / "model.safetensors").exists()
        reloaded = PeftModel.from_pretrained(tiny_llama(), str(folder)).eval()
        ids = torch.arange(3, 60)[None]
        with torch.no_grad():
            ours = trainer.model.eval()(input_ids=ids).logits
            assert torch.equal(reloaded(input_ids=ids).logits, ours)

    def test_whose_base_is_gone(self, make_trainer: Make, base: Path) -> None:
        data = {"train_dataset": text_rows(), "tokenizer": None}
        trainer = make_trainer(model=str(base), peft_config=lora(), **data)
        trainer.save_model()
        shutil.rmtree(base)
        with pytest.raises(ModelError, match="no such model folder"):
            make_trainer(model=trainer.args.output_dir)

    def test_on_a_model_that_has_one(self, make_trainer: Make) -> None:
        adapted = get_peft_model(tiny_llama(), lora())
        make_trainer(model=adapted, train_dataset=text_rows()).train()
        with pytest.raises(ConfigError, match="peft_config: the model already carries an adapter"):
            make_trainer(model=adapted, peft_config=lora())
        with pytest.raises(ConfigError, match=r"^peft_config: "):
            make_trainer(peft_config=lora(target_modules=["nonesuch"]))

    def test_on_the_head_gets_its_gradient(self, tmp_path: Path) -> None:
        found = step_gradients(
            str(tmp_path / "run"),
            peft_config=lora(target_modules=["lm_head", "embed_tokens"]),
            per_device_train_batch_size=8,
        )
        assert any(bool(g.any()) for n, g in found.items() if "lm_head" in n)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("adapter", [False, True])
def test_what_saves_memory_does_not_change_the_gradient(tmp_path: Path, adapter: bool) -> None:
    def run(name: str, **settings: Any) -> dict[str, torch.Tensor]:
        peft_config = lora(init_lora_weights=False) if adapter else None
        batch = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        return step_gradients(str(tmp_path / name), peft_config=peft_config, **batch, **settings)

    plain = run("plain")
    ways: list[dict[str, Any]] = [{"gradient_checkpointing": True}]  # the older name
    for reentrant in (True, False):
        kwargs = {"use_reentrant": reentrant}
        ways.append({"activation_checkpointing": True, "activation_checkpointing_kwargs": kwargs})
    for number, way in enumerate(ways):
        assert relative_difference(run(str(number), **way), plain) < 1e-6


class TestPrecision:
    def test_autocast_to_bf16(self, make_trainer: Make) -> None:
        data = {"train_dataset": text_rows(), "eval_dataset": text_rows(), "max_steps": 2}
        exact, half = make_trainer(**data), make_trainer(**data, bf16=True)
        assert half.model.dtype == torch.float32
        for trainer in (exact, half):
            trainer.train()
        for ours, theirs in zip(half.state.log_history, exact.state.log_history, strict=True):
            for name in ("loss", "nll_loss", "log_odds_ratio", "grad_norm"):
                if name in theirs:
                    assert ours[name] == pytest.approx(theirs[name], rel=2e-2), name
        found, expected = half.evaluate(), exact.evaluate()
        assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-2)

    def test_weights_in_bf16(self, make_trainer: Make) -> None:
        """The loss is taken in float32 whatever the model computes in."""
        half = make_trainer(model=tiny_llama().to(torch.bfloat16), train_dataset=text_rows())
        capture = Capture()
        half.add_callback(capture)
        half.train()
        exact = in_fp64(tiny_llama().to(torch.bfloat16))
        with torch.no_grad():
            oracle = orpo(exact, pairs_of(half.train_dataset))
        assert half.state.log_history[0]["loss"] == pytest.approx(float(oracle.loss), rel=1e-2)
        assert all(bool(torch.isfinite(g).all()) for g in capture.gradients.values())


def mixture(family: str, coefficient: float) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    sizes = {
        **{**WIDTHS, **DEEP, "intermediate_size": 32, "num_key_value_heads": 2},
        **{"num_experts_per_tok": 2, "router_aux_loss_coef": coefficient},
        "output_router_logits": True,
    }
    if family == "mixtral":
        config: Any = hf.MixtralConfig(**sizes, num_local_experts=4)
    else:
        config = hf.Qwen3MoeConfig(
            **sizes, num_experts=4, moe_intermediate_size=16, head_dim=8, norm_topk_prob=True
        )
    return hf.AutoModelForCausalLM.from_config(config)


def router_loss(model: nn.Module, sequences: list[list[int]], experts: int, top: int) -> float:
    """Eqs. 4-6 of the Switch Transformer over the real tokens of all layers, in float64.

    experts * sum_e f_e P_e, with f_e the share of choices that went to expert e (times the number
    of choices) and P_e the mean probability that the router gave it.
    """
    probabilities = []
    for ids in sequences:
        output = model(input_ids=torch.tensor([ids]), output_router_logits=True)
        probabilities += [logits.double().softmax(-1) for logits in output.router_logits]
    p = torch.cat(probabilities)
    chosen = torch.nn.functional.one_hot(p.topk(top, dim=-1).indices, experts).double()
    share = chosen.sum(1).mean(0)
    return float(experts * (share * p.mean(0)).sum())


class TestMixtureOfExperts:
    @pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
    def test_the_router_loss_is_added(self, make_trainer: Make, family: str) -> None:
        coefficient = 0.37
        results = {}
        for weight in (0.0, coefficient):
            data = {"train_dataset": text_rows(), "eval_dataset": text_rows()}
            batch = {f"per_device_{what}_batch_size": 8 for what in ("train", "eval")}
            trainer = make_trainer(model=mixture(family, weight), **data, **batch)
            evaluation = trainer.evaluate()
            trainer.train()
            (logged,) = (line for line in trainer.state.log_history if "loss" in line)
            results[weight] = (evaluation["eval_loss"], logged["loss"])
        pairs = pairs_of(trainer.train_dataset)
        exact = in_fp64(mixture(family, 0.0))
        exact.set_experts_implementation("eager")  # the grouped product knows no float64
        with torch.no_grad():
            sequences = [p + c for p, c, _ in pairs] + [p + r for p, _, r in pairs]
            aux = router_loss(exact, sequences, experts=4, top=2)
            oracle = orpo(exact, pairs)
        for without, with_it in zip(results[0.0], results[coefficient], strict=True):
            assert without == pytest.approx(float(oracle.loss), rel=1e-6)
            assert with_it - without == pytest.approx(coefficient * aux, rel=1e-5)
        assert evaluation["eval_aux_loss"] == pytest.approx(aux, rel=1e-5)
        assert logged["aux_loss"] == pytest.approx(aux, rel=1e-5)

    def test_not_unless_the_config_asks_for_it(self, make_trainer: Make) -> None:
        model = mixture("mixtral", 0.37)
        model.config.output_router_logits = False
        trainer = make_trainer(model=model, eval_dataset=text_rows())
        metrics = trainer.evaluate()
        expected = metrics["eval_nll_loss"] - 0.1 * metrics["eval_log_odds_ratio"]
        assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-9)
        assert "eval_aux_loss" not in metrics


GPT: dict[str, Any] = {"vocab_size": 260, "n_embd": 32, "n_layer": 2, "n_head": 4}
OPT: dict[str, Any] = {**WIDTHS, **DEEP, "ffn_dim": 48, "word_embed_proj_dim": 32}
MPT: dict[str, Any] = {"vocab_size": 260, "d_model": 32, "n_layers": 2, "n_heads": 4}
FEW_POSITIONS: dict[str, tuple[int, Callable[[int], hf.PretrainedConfig]]] = {
    "hardly any": (20, lambda n: hf.GPT2Config(**GPT, n_positions=n)),
    "one short": (223, lambda n: hf.GPT2Config(**GPT, n_positions=n)),
    "learned, with an offset": (100, lambda n: hf.OPTConfig(**OPT, max_position_embeddings=n)),
    "a table of sines": (64, lambda n: hf.GPTJConfig(**GPT, n_positions=n, rotary_dim=4)),
    "sines in an attribute": (64, lambda n: hf.CTRLConfig(**GPT, dff=48, n_positions=n)),
    "ALiBi": (64, lambda n: hf.MptConfig(**MPT, max_seq_len=n)),
}


@pytest.mark.parametrize("name", FEW_POSITIONS)
def test_a_model_with_few_positions_is_trained_and_measured_within_them(
    make_trainer: Make, name: str
) -> None:
    limit, config = FEW_POSITIONS[name]
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config(limit))
    rows = [
        {"prompt": "Q?", "chosen": " yes" * n, "rejected": " no" * (n + 1)}
        for n in (1, 1, 1, 1, 1, 1, 1, 1, 90)
    ]
    trainer = make_trainer(model=model, train_dataset=rows, eval_dataset=rows, max_steps=2)
    trainer.train()
    trainer.evaluate()
    said = f"max_length is {limit}: the model has no more positions"
    assert any(said in note for note in trainer.notes)


def test_rotary_positions_only_warn() -> None:
    llama = tiny_llama(max_position_embeddings=64)
    limit, note = fit_positions(llama, ORPOConfig(max_length=1024))
    assert limit == 1024
    assert "--max_length 64" in (note or "")
    assert fit_positions(llama, ORPOConfig(max_length=64)) == (64, None)


# bitsandbytes' own kernels without a GPU have no autograd registration; torch says so.
@pytest.mark.filterwarnings("ignore:bitsandbytes")
def test_both_engines_give_an_adapter_on_four_bits_the_same_gradient(tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 4}
    tiny_llama(**sizes, vocab_size=320).save_pretrained(tmp_path / "base")
    how = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    four_bits = hf.BitsAndBytesConfig(load_in_4bit=True, **how)
    found = []
    for engine in ("shared", "padded"):
        given = {"quantization_config": four_bits}
        model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "base", **given)
        layer = model.model.layers[0].mlp.up_proj
        assert isinstance(layer, bitsandbytes.nn.Linear4bit)
        assert layer.weight.dtype == torch.uint8
        adapter = lora(target_modules="all-linear", task_type="CAUSAL_LM")
        batch = {"engine": engine, "per_device_train_batch_size": 8}
        folder = str(tmp_path / engine)
        found.append(step_gradients(folder, model=model, peft_config=adapter, **batch))
    assert all("lora_" in name for name in found[0])
    assert relative_difference(*found) < 1e-4
