"""LightningCLI with the monitor switched on, and with ``inspect`` and ``verify``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from jacoscope._mistakes import MONITOR_KEYS, check_files, mistake_in_options
from jacoscope._verifying import VerifyingCallback
from jacoscope._version import __version__
from jacoscope.alerts import check_alerts
from jacoscope.callback import SensitivityMonitor
from jacoscope.errors import nearest
from jacoscope.inspection import report
from jacoscope.probe_plan import probe_plan
from jacoscope.quantities import is_per_sample, is_probed
from jacoscope.selection import select

__all__ = ["InspectingTrainer", "JacoscopeCLI"]


class InspectingTrainer(Trainer):
    """A Trainer that can also say what its monitor would watch."""

    def inspect(
        self, model: LightningModule, datamodule: LightningDataModule | None = None
    ) -> None:
        """Print what would be watched, by which rule, and what it would cost; nothing is run.

        Args:
            model: The model.
            datamodule: Its data, which are not touched.
        """
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SensitivityMonitor):
                model.configure_model()
                selection = select(model, callback.config)
                check_alerts(selection, callback.config)
                probe_plan(selection, callback.config, model)  # what it cannot use is told here too
                print(report(selection, callback.config))

    def verify(self, model: LightningModule, datamodule: LightningDataModule | None = None) -> None:
        """Check per-sample gradients on one batch against plain autograd; print the table.

        One training step is run and thrown away.

        Args:
            model: The model.
            datamodule: Its data.

        Raises:
            SystemExit: With code 1, if a watched parameter's per-sample gradients cannot be had.
        """
        monitor = next(c for c in self.callbacks if isinstance(c, SensitivityMonitor))  # type: ignore[attr-defined]
        check = VerifyingCallback(monitor.config)
        trainer = Trainer(
            accelerator="cpu" if isinstance(self.accelerator, CPUAccelerator) else "auto",
            devices=1,
            precision=self.precision,
            callbacks=[check],
            fast_dev_run=True,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, datamodule=datamodule)
        if check.result is None:
            print("jacoscope: nothing to verify, since no loss went backward", file=sys.stderr)
            raise SystemExit(1)
        print(check.result)
        if not check.result.ok:
            raise SystemExit(1)


class _Parser(LightningArgumentParser):
    """A parser whose errors are one sentence, without pages of usage before it."""

    # What the command line was given; parsers of subcommands share it, to explain their errors.
    given: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        if message.startswith("unrecognized arguments:"):
            given = message.partition(":")[2].split()[0].partition("=")[0]
            hint = nearest(
                given, (option for option in self._option_names() if option.count(".") < 4)
            )
            message = f"{given} is not an option; {hint}"
        elif re.search(r"required: \S*model", message):
            message = "no model is given; name an experiment's file with --config"
        else:
            about = re.search(r'[Pp]arser key "(\w+)', message)
            ours = about is None or about[1] in ("monitor", *MONITOR_KEYS)
            mistake = mistake_in_options(self.given) if ours else None
            message = str(mistake) if mistake else " ".join(message.split())
        print(f"jacoscope: error: {message}", file=sys.stderr)
        sys.exit(2)

    def _option_names(self) -> list[str]:
        parsers: list[Any] = [self]
        for action in self._actions:
            if isinstance(action.choices, dict):
                parsers += list(action.choices.values())
        return [name for parser in parsers for name in parser._option_string_actions]


class JacoscopeCLI(LightningCLI):
    """LightningCLI with a ``monitor`` section: the options of :class:`SensitivityMonitor`."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(
            args=list(args) if args is not None else None,
            trainer_class=InspectingTrainer,
            seed_everything_default=0,
            parser_kwargs={
                "prog": "jacoscope",
                "description": "Train a Lightning model and watch its sensitivities; "
                "jacoscope board LOGDIR then shows in TensorBoard what was recorded.",
                "version": __version__,
            },
            parser_class=_Parser,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the section ``monitor``."""
        parser.add_lightning_class_args(SensitivityMonitor, "monitor")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The Trainer's subcommands, ``inspect`` and ``verify``."""
        return {
            **LightningCLI.subcommands(),
            "inspect": {"model", "datamodule"},
            "verify": {"model", "datamodule"},
        }

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Check the monitor's sections first, whose errors are clearer than a parser's."""
        given = sys.argv[1:] if args is None else args
        check_files(given)
        _Parser.given = given
        super().parse_arguments(parser, args)

    def after_fit(self) -> None:
        """Say where to look."""
        monitor = next(c for c in self.trainer.callbacks if isinstance(c, SensitivityMonitor))  # type: ignore[attr-defined]
        captures = monitor.state_dict().get("captures", 0)
        if monitor.run_dir is None or not captures or not self.trainer.is_global_zero:
            return
        group = monitor.config.output.group
        asked = monitor.config.quantities
        rules = [rule.quantities or () for rule in monitor.config.layers]
        ranked = any(is_per_sample(name) for names in (asked, *rules) for name in names)
        probed = any(is_probed(name) for names in (asked, *rules) for name in names)
        is_drawn = bool(monitor.config.output.pictures)
        tabs = "Text, Images" if is_drawn else "Text       "
        images = f"  Images      {group}_layers_by_step/: every layer over the run\n" * is_drawn
        samples = f"  {tabs} {group}_samples…: the samples that stand out\n" * ranked
        probes = f"  {tabs} {group}_all_else_equal, {group}_outputs: probes\n" * probed
        print(
            f"\nRecorded in {monitor.run_dir}\n"
            f"Look at it:   tensorboard --logdir {Path(monitor.run_dir).parent}\n"
            "  Sensitivity what was found, layer by layer and sample by sample\n"
            f"  Scalars     {group}/: the whole model at a glance\n"
            f"{images}"
            f"  Text        {group}/about: what each number means\n"
            f"{samples}{probes}"
            f"In Python:    jacoscope.read_run({monitor.run_dir!r})"
        )
