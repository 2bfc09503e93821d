"""Which number per sample finds wrong labels: digits, of which 5 % get a wrong label on purpose.

    python scripts/mislabelled_digits.py                 # as shipped: ten epochs, dropout 0.5
    python scripts/mislabelled_digits.py --epochs 20 --dropout 0    # learns them by heart

Every ranking puts the samples of the run's record in order; its figure is the share of the wrong
labels among as many first places as there are wrong labels. Rankings are made from the last row of
each sample in ``read_run(…).samples``, so that those can be had that are not boards.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything

from jacoscope import Run, Schedule, SensitivityMonitor, read_run
from jacoscope.config import Output, QuantityName, Samples
from jacoscope.demos import Classifier, ConvNet, Digits

CLASSES = 10
QUANTITIES: tuple[QuantityName, ...] = (
    "grad_norm",
    "sample_grad_norm",
    "sample_alignment",
    "stiffness_within",
)
"""The last one needs the Gram matrix, without which samples are not compared with their class."""

RANKINGS = {
    "loss, last epoch": ("loss", -1),
    "gradient norm": ("norm", -1),
    "gradient norm, last layer alone": ("last_layer_norm", -1),
    "alignment, lowest first": ("alignment", 1),
    "alignment, largest first": ("alignment", -1),
    "alignment with class, lowest first": ("class_alignment", 1),
    "running mean of the loss": ("mean_loss", -1),
    "running mean of the gradient norm": ("mean_norm", -1),
    "running mean of the alignment with class, lowest first": ("mean_class_alignment", 1),
}
"""By name of a ranking, its column of ``run.samples``; 1 if the lowest comes first, −1 if not."""


@dataclass(frozen=True)
class Options:
    """How to train.

    Args:
        epochs: Epochs.
        dropout: Dropout of the network.
        lr: Highest learning rate.
        batch_size: Samples in a batch.
        share: Share of the labels that are made wrong.
    """

    epochs: int = 10
    dropout: float = 0.5
    lr: float = 5e-3
    batch_size: int = 64
    share: float = 0.05


@dataclass(frozen=True)
class Trial:
    """One training on wrong labels.

    Args:
        run: Its record.
        wrong: Ids of the samples whose labels are wrong.
    """

    run: Run
    wrong: frozenset[int]


def train(seed: int, options: Options, folder: Path) -> Trial:
    """Train on digits, some of which have a wrong label.

    Args:
        seed: Seed of everything.
        options: How to train.
        folder: Where the record goes.
    """
    seed_everything(seed, verbose=False)
    digits = Digits(batch_size=options.batch_size, seed=seed)
    digits.setup("fit")
    wrong = mislabel(digits, options.share, seed)
    samples = Samples(leaderboard=len(wrong))
    output = Output(directory=str(folder), headline=False, pictures=(), card=False)
    monitor = SensitivityMonitor(
        quantities=QUANTITIES,
        schedule=Schedule(every=1),
        samples=samples,
        output=output,
        on_error="raise",
    )
    trainer = Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Classifier(ConvNet(dropout=options.dropout), lr=options.lr)
    trainer.fit(model, train_dataloaders=digits.train_dataloader())
    return Trial(read_run(folder), wrong)


def mislabel(digits: Digits, share: float, seed: int) -> frozenset[int]:
    """Give a share of the training samples another class; their indices."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.tensor(digits.train_dataset.indices)
    count = round(share * len(places))
    chosen = torch.randperm(len(places), generator=generator)[:count]
    labels = digits.train_dataset.dataset.tensors[1]  # type: ignore[attr-defined]
    offsets = torch.randint(1, CLASSES, (count,), generator=generator)
    labels[places[chosen]] = (labels[places[chosen]] + offsets) % CLASSES
    return frozenset(chosen.tolist())


def board_shares(run: Run, wrong: frozenset[int]) -> dict[str, float]:
    """By board of the last epoch over all watched parameters, the share of wrong labels on it."""
    boards = run.leaderboards
    last = boards[(boards.epoch == boards.epoch.max()) & boards.layer.isna()]
    first = last[last["rank"] <= len(wrong)]
    return {
        str(name): len(wrong.intersection(group.id)) / len(wrong)
        for name, group in first.groupby("board")
    }


def column_shares(run: Run, wrong: frozenset[int]) -> dict[str, float]:
    """By ranking, the share of the wrong labels in the first places."""
    last = run.samples.sort_values(["epoch", "id"]).drop_duplicates("id", keep="last")
    found = {}
    for name, (column, sign) in RANKINGS.items():
        ranked = (sign * last.set_index("id")[column]).sort_values(kind="stable")  # nan comes last
        found[name] = len(wrong.intersection(ranked.index[: len(wrong)])) / len(wrong)
    return found


def main() -> None:
    """Print the figures over seeds, and write the figures as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5, help="trainings, with seeds 0, 1, …")
    parser.add_argument("--epochs", type=int, default=Options.epochs)
    parser.add_argument("--dropout", type=float, default=Options.dropout)
    parser.add_argument("--lr", type=float, default=Options.lr, help="highest learning rate")
    parser.add_argument("--batch-size", type=int, default=Options.batch_size)
    parser.add_argument("--share", type=float, default=Options.share, help="of wrong labels")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = vars(parser.parse_args())
    seeds, path = given.pop("seeds"), given.pop("json")
    options = Options(**given)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    boards: list[dict[str, float]] = []
    columns: list[dict[str, float]] = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            trial = train(seed, options, Path(folder))
            boards.append(board_shares(trial.run, trial.wrong))
            columns.append(column_shares(trial.run, trial.wrong))
    print(f"Share of the wrong labels in the first places, {seeds} seeds: mean (lowest–highest)")
    print(f"{options}\n")
    for heading, shares in (("ranked by", columns), ("board of the last epoch", boards)):
        print(f"| {heading} | found |\n|---|---|")
        for name in shares[0]:
            print(f"| {name} | {summary([found[name] for found in shares])} |")
        print()
    if path:
        figures = {"options": vars(options), "boards": boards, "columns": columns}
        path.write_text(json.dumps(figures, indent=2))


def summary(values: Sequence[float]) -> str:
    """Mean and range, in percent."""
    low, mean, high = (100 * f(values) for f in (min, statistics.mean, max))
    return f"{mean:.0f} % ({low:.0f}–{high:.0f})"


if __name__ == "__main__":
    main()
