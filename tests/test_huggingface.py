"""Hugging Face's Trainer: values by plain autograd, trainings bit-identical, files in order."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import fingerprint
from jacoscope import ConfigError, MonitorWarning, read_run
from jacoscope.sinks import MemorySink

transformers = pytest.importorskip("transformers", reason="needs transformers", minversion="5.0")
pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")

from jacoscope import huggingface  # noqa: E402
from jacoscope.huggingface import SensitivityCallback  # noqa: E402

QUANTITIES = ["grad_norm", "update_norm", "sample_grad_norm"]
PROBED = ["output_jacobian_norm", "actual_change", "predicted_change"]
IGNORED = -100
Patch = pytest.MonkeyPatch


@pytest.fixture
def sink(monkeypatch: Patch) -> MemorySink:
    """Where records go beside the event file."""
    made = MemorySink()

    def monitor(*arguments: Any, sinks: list[Any], **options: Any) -> Any:
        return original(*arguments, sinks=[*sinks, made], **options)

    original = huggingface.Monitor
    monkeypatch.setattr(huggingface, "Monitor", monitor)
    return made


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=13, n_positions=6, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=13, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=8, num_labels=3,
        hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
    )  # fmt: skip
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def texts(samples: int = 20) -> list[dict[str, Tensor]]:
    """Sequences some of whose tokens do not count, so that samples weigh unequally."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(13, (samples, 6), generator=generator)
    labels = tokens.clone()
    for sample in range(samples):
        labels[sample, : sample % 4] = IGNORED
    return [{"input_ids": row, "labels": to} for row, to in zip(tokens, labels, strict=True)]


def classified(samples: int = 20) -> list[dict[str, Any]]:
    return [{"input_ids": t["input_ids"], "labels": i % 3} for i, t in enumerate(texts(samples))]


class Seen(transformers.TrainerCallback):
    """Keeps the weights that each step starts from, and the batches of each window."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.windows: list[list[Any]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.windows.append([])
        model = kwargs["model"]
        self.weights.append({n: p.detach().clone() for n, p in model.named_parameters()})


def trainer_of(folder: Path, model: nn.Module, data: Any, kind: Any = None, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        str(folder),
        **{
            "per_device_train_batch_size": 4,
            "num_train_epochs": 1,
            "learning_rate": 1e-2,
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_strategy": "no",
            "seed": 3,
            **options,
        },
    )
    return (kind or transformers.Trainer)(model, arguments, train_dataset=data)


def run(
    folder: Path, watch: Any, model: Any = gpt2, data: Any = None, kind: Any = None, **options: Any
) -> tuple[str, Any, Any]:
    """The training's fingerprint, its callback and its Trainer."""
    trainer = trainer_of(folder, model(), texts() if data is None else data, kind, **options)
    callback = None
    if watch is not None:
        callback = SensitivityCallback(trainer, {"on_error": "raise", **watch})
        trainer.add_callback(callback)
    trainer.train()
    states = trainer.model.state_dict(), trainer.optimizer.state_dict(), torch.get_rng_state()
    return fingerprint(*states), callback, trainer


WATCHED = {
    "quantities": [*QUANTITIES, "noise_scale", *PROBED],
    "schedule": {"every": 2},
    "probes": {"schedule": {"every": 100}, "samples": 2, "max_outputs": 2, "sketches": 2},
}


@pytest.mark.parametrize(
    ("model", "data", "options"),
    [
        (gpt2, texts, {}),
        (bert, classified, {}),
        (gpt2, texts, {"gradient_accumulation_steps": 2}),
        (gpt2, texts, {"bf16": True}),
        (bert, classified, {"gradient_checkpointing": True}),
        (gpt2, texts, {"label_smoothing_factor": 0.1}),
    ],
    ids=lambda each: getattr(each, "__name__", None) or ", ".join(each) or "plain",
)
def test_training_is_bit_identical(
    model: Any, data: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    plain, _, _ = run(tmp_path, None, model, data(), **options)
    draws = model is gpt2 and not options
    watch = WATCHED if draws else {**WATCHED, "output": {"pictures": []}}
    watched, callback, trainer = run(tmp_path, watch, model, data(), **options)
    assert watched == plain
    assert "training_step" not in vars(trainer)
    assert "backward" not in vars(trainer.accelerator)
    found = read_run(callback.run_dir)
    assert found["grad_norm"].notna().any().any()
    assert found["output_jacobian_norm"].notna().any().any()
    assert found["actual_change"].notna().any().any()


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("clip", [0.01, 0.0])
def test_the_values_are_those_of_plain_autograd(
    window: int, clip: float, sink: MemorySink, tmp_path: Path
) -> None:
    """The token mean runs over the whole window, whose last one in the epoch is shorter."""
    seen = Seen()

    class Keeping(transformers.Trainer):  # type: ignore[misc, name-defined]
        def get_batch_samples(self, *arguments: Any) -> Any:
            batches, items = super().get_batch_samples(*arguments)
            kept.append([{k: v.clone() for k, v in batch.items()} for batch in batches])
            counts.append(float(items))
            return batches, items

    kept: list[Any] = []
    counts: list[float] = []
    trainer = trainer_of(
        tmp_path, gpt2().double(), texts(), Keeping,
        gradient_accumulation_steps=window, max_grad_norm=clip,
    )  # fmt: skip
    config = {"quantities": QUANTITIES, "schedule": {"every": 1}, "on_error": "raise"}
    trainer.add_callback(SensitivityCallback(trainer, config))
    trainer.add_callback(seen)
    trainer.train()
    steps = -(-5 // window)
    assert [record.step for record in sink.records] == list(range(steps))
    ends = [*seen.weights[1:], {n: p.detach() for n, p in trainer.model.named_parameters()}]
    steps_taken = zip(sink.records, seen.weights, ends, kept, counts, strict=True)
    for record, start, end, batches, counted in steps_taken:
        rows = contributions(start, batches, counted)
        values = {
            (each.quantity, row): value
            for each in record.records
            for row, value in zip(each.axis.names, each.values.tolist(), strict=True)
        }
        for name, row in rows.items():
            assert values["grad_norm", name] == pytest.approx(row.sum(0).norm().item(), rel=1e-6)
            moved = (end[name] - start[name]).norm().item()
            assert values["update_norm", name] == pytest.approx(moved, rel=1e-6)
            # The mean over samples of N |c_i|.
            expected = row.norm(dim=1).sum().item()
            assert values["sample_grad_norm", name] == pytest.approx(expected, rel=1e-6)
        info = record.gradient
        assert info.window == len(batches)
        assert info.full_window == window
        assert ("by norm to 0.01" in info.clipping) == bool(clip)
        assert info.clipping.startswith("before clipping")
        assert "normalised over all of the window" in info.reduction


def contributions(
    weights: dict[str, Tensor], batches: list[Any], counted: float
) -> dict[str, Tensor]:
    """Each sample's part of the window's gradient, one sample at a time; name -> (N, P)."""
    model = gpt2().double()
    model.load_state_dict(weights, strict=False)
    model.train()
    named = dict(model.named_parameters())
    rows: dict[str, list[Tensor]] = {name: [] for name in named}
    for batch in batches:
        for tokens, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            logits = model(input_ids=tokens[None]).logits[0, :-1]
            loss = nn.functional.cross_entropy(
                logits, labels[1:], ignore_index=IGNORED, reduction="sum"
            )
            grads = torch.autograd.grad(loss / counted, list(named.values()))
            for name, grad in zip(named, grads, strict=True):
                rows[name].append(grad.flatten())
    return {name: torch.stack(each) for name, each in rows.items()}


class Scaling(transformers.Trainer):  # type: ignore[misc, name-defined]
    """Trains with a gradient scaler on the CPU, which Accelerate has on a GPU alone."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        self.accelerator.scaler = scaler
        clip = self.accelerator.clip_grad_norm_

        def unscaled(*arguments: Any, **options: Any) -> Any:
            scaler.unscale_(self.optimizer.optimizer)
            return clip(*arguments, **options)

        self.accelerator.clip_grad_norm_ = unscaled


def test_a_gradient_scaler_s_scale_is_taken_out(sink: MemorySink, tmp_path: Path) -> None:
    config = {"quantities": [*QUANTITIES, "noise_scale"], "schedule": {"every": 1}}
    run(tmp_path, config, max_grad_norm=0.1)
    plain = list(sink.records)
    sink.records.clear()
    run(tmp_path, config, kind=Scaling, max_grad_norm=0.1)
    assert "divided out" in sink.records[0].gradient.scaling
    for mine, theirs in zip(sink.records, plain, strict=True):
        assert set(mine.headline) == set(theirs.headline)
        for name in ("grad_norm", "sample_grad_norm"):
            values, expected = (
                next(each.values for each in record.records if each.quantity == name)
                for record in (mine, theirs)
            )
            np.testing.assert_allclose(values, expected, rtol=1e-4)


class Failing(transformers.TrainerCallback):
    """Stops the training by an exception within its third step."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            raise RuntimeError("the training's own")


def test_what_there_is_survives_an_exception(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, gpt2(), texts())
    callback = SensitivityCallback(trainer, {"schedule": {"every": 1}, "on_error": "raise"})
    trainer.add_callback(callback)
    trainer.add_callback(Failing())
    with pytest.raises(RuntimeError, match="own"):
        trainer.train()
    first = callback.run_dir
    assert first is not None
    trainer.remove_callback(Failing)
    trainer.train()  # the session that was broken off is ended before the next begins
    assert "training_step" not in vars(trainer)
    assert len(read_run(first)["grad_norm"]) == 2
    assert callback.run_dir == str(tmp_path / "jacoscope" / "version_1")
    assert len(read_run(callback.run_dir)["grad_norm"]) == 5


def test_a_trainer_that_is_gone_leaves_its_file_whole(sink: MemorySink, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, gpt2(), texts())
    config = {"quantities": QUANTITIES, "schedule": {"every": 1}, "on_error": "raise"}
    callback = SensitivityCallback(trainer, config)
    trainer.add_callback(callback)
    trainer.add_callback(Failing())
    with pytest.raises(RuntimeError, match="own"):
        trainer.train()
    folder = callback.run_dir
    assert folder is not None
    assert not sink.boards
    del trainer, callback
    gc.collect()
    assert sink.boards  # the samples of the epoch that was broken off
    assert len(read_run(folder)["grad_norm"]) == 2


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
@pytest.mark.parametrize("place", ["_gradient_info", "_window", "_inner"])
def test_a_fault_leaves_training_as_it_was(place: str, monkeypatch: Patch, tmp_path: Path) -> None:
    def explode(*_: Any) -> Any:
        raise RuntimeError("planted")

    plain, _, _ = run(tmp_path, None)
    monkeypatch.setattr(huggingface, place, explode)
    with pytest.warns(MonitorWarning, match="planted"):
        watched, _, _ = run(tmp_path, {**WATCHED, "on_error": "warn"})
    assert watched == plain


class Own(transformers.Trainer):  # type: ignore[misc, name-defined]
    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        return super().compute_loss(*arguments, **options)


def test_a_loss_of_the_project_s_own_is_not_run_again(sink: MemorySink, tmp_path: Path) -> None:
    run(tmp_path, WATCHED, kind=Own)
    why = sink.probes[0].withheld
    assert "loss=" in why["actual_change"]
    assert "output_jacobian_norm" not in why
    sink.probes.clear()
    trainer = trainer_of(tmp_path, gpt2(), texts(), Own)
    given = {**WATCHED, "on_error": "raise"}
    callback = SensitivityCallback(trainer, given, loss=lambda model, batch: model(**batch).loss)
    trainer.add_callback(callback)
    trainer.train()
    assert not sink.probes[0].withheld


def test_several_devices_and_shards_are_withheld_with_the_reason() -> None:
    class Kind:
        value = "FSDP"

    class Fake:
        class accelerator:
            distributed_type = Kind

        class args:
            world_size, n_gpu = 2, 1

    assert "FSDP splits" in str(huggingface._withheld_reason(Fake, nn.Linear(1, 1)))  # type: ignore[arg-type]
    assert "not gathered" in str(huggingface._samples_withheld_reason(Fake))  # type: ignore[arg-type]
    assert "one alone" in str(huggingface._training_loss(Fake)[1])  # type: ignore[arg-type]
    Fake.args.world_size, Fake.args.n_gpu = 1, 2
    assert "DataParallel" in str(huggingface._samples_withheld_reason(Fake))  # type: ignore[arg-type]


def test_a_mistake_in_the_configuration_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="grad_nrm"):
        SensitivityCallback(trainer_of(tmp_path, gpt2(), texts()), {"quantities": ["grad_nrm"]})
