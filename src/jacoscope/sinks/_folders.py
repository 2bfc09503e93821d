"""Where the record of a run is written when its folder is left to us."""

from __future__ import annotations

from pathlib import Path

__all__ = ["new_folder"]


def new_folder(within: str | Path) -> str:
    """A folder that no run has yet: ``jacoscope/version_N`` of another one."""
    root = Path(within) / "jacoscope"
    taken = [path.name.removeprefix("version_") for path in root.glob("version_*")]
    version = max((int(name) for name in taken if name.isdigit()), default=-1) + 1
    return str(root / f"version_{version}")
