"""Trains the character transformer with every step captured, and prints what is alive over time.

Usage: flat_memory_script.py STEPS SIZE FOLDER, where SIZE is ``small`` or ``real``.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.autograd.graph import Node

from jacoscope import SensitivityMonitor
from jacoscope.demos import LanguageModel, Topics, Transformer

SIZES: dict[str, dict[str, int]] = {
    "small": {"context": 16, "width": 16, "blocks": 1, "heads": 2, "batch_size": 4},
    "real": {"context": 128, "width": 96, "blocks": 3, "heads": 4, "batch_size": 32},
}
QUANTITIES = [
    *("grad_norm", "grad_rms", "update_ratio", "sample_grad_norm", "noise_scale", "pair_cosine"),
    *("output_jacobian_norm", "input_jacobian_norm", "predicted_change", "actual_change"),
]
MONITOR: dict[str, Any] = {
    "quantities": QUANTITIES,
    "schedule": {"every": 1},
    "samples": {"leaderboard": 8, "layer_leaderboard": 2, "gram_every": 10},
    "probes": {
        "schedule": {"every": 100},
        "samples": 2,
        "loss_samples": 4,
        "max_outputs": 4,
        "sketches": 2,
        "second_order": False,
        "weights": 1,
        "saliency": 1,
    },
    "on_error": "raise",
}
NOTES = 40
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
_OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


class Gauge(pl.Callback):
    """Notes now and then what the process holds.

    Args:
        every: Steps between two notes.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self.notes: list[dict[str, int]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % self._every:
            return
        gc.collect()
        if not self.notes:
            gc.freeze()  # what the libraries have made need not be gone through again
        _give_back_what_is_free()
        alive = gc.get_objects()
        tensors = [each for each in alive if issubclass(type(each), Tensor)]
        parameters = list(pl_module.parameters())
        self.notes.append(
            {
                "resident": _resident(),
                "handles": _handles(),
                "tensors": len(tensors),
                "in_a_graph": sum(each.grad_fn is not None for each in tensors),
                "nodes": sum(issubclass(type(each), Node) for each in alive),
                "module_hooks": sum(
                    len(getattr(m, name)) for m in pl_module.modules() for name in _HOOKS
                ),
                "tensor_hooks": sum(len(p._backward_hooks or ()) for p in parameters),
                "optimizer_hooks": sum(
                    len(getattr(o, name)) for o in trainer.optimizers for name in _OPTIMIZER_HOOKS
                ),
                "objects": len(alive),
            }
        )


def _resident() -> int:
    """Bytes of memory that are this process's own and resident."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status does not say how much memory is resident")


def _handles() -> int:
    """Files that are open; matplotlib's fonts, which it opens when it first needs them, apart."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own is closed by now
            count += link.readlink().suffix != ".ttf"
    return count


def _give_back_what_is_free() -> None:
    """Let the allocator give back what is free, where it can be told to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def main(steps: int, size: str, folder: str) -> None:
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    given = dict(SIZES[size])
    batch_size = given.pop("batch_size")
    context = given["context"]
    data = Topics(batch_size=batch_size, context=context, windows=batch_size * steps)
    network = Transformer(vocabulary_size=106, tie_head=True, **given)
    gauge = Gauge(max(steps // NOTES, 1))
    monitor = SensitivityMonitor(**{**MONITOR, "output": {"directory": folder}})
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor, gauge],
    )
    begun = time.perf_counter()
    trainer.fit(LanguageModel(network), data)
    seconds = time.perf_counter() - begun
    captures = monitor.state_dict()["captures"]
    print(json.dumps({"seconds": seconds, "captures": captures, "notes": gauge.notes}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
