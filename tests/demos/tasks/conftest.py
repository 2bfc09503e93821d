"""What the tests of the tasks share: a trainer that leaves nothing behind."""

from pathlib import Path

import pytest
from lightning import Trainer


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """Return a silent trainer for one epoch on the processor."""
    return Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
