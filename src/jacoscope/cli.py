"""The command line.

``jacoscope fit --config …`` trains, ``jacoscope inspect --config …`` says what would be watched,
``jacoscope verify --config …`` checks per-sample gradients against plain autograd,
``jacoscope board LOGDIR`` shows in TensorBoard what was recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jacoscope.errors import ConfigError

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: The arguments, without the program's name; by default those that it was called with.

    Returns:
        The exit code: 0, or 2 for a configuration or a folder that cannot be used.
    """
    given = sys.argv[1:] if args is None else args
    # Each half imports what it needs: a board neither PyTorch nor Lightning, which take seconds.
    if given[:1] == ["board"]:
        from jacoscope.board.launch import main as board

        return board(given[1:])
    return _train(args)


def _train(args: Sequence[str] | None) -> int:
    from jacoscope._lightning_cli import JacoscopeCLI
    from jacoscope._mistakes import with_source

    # As with python -m: classes and hooks of the project that one stands in can be named.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        JacoscopeCLI(args)
    except ConfigError as error:
        given = sys.argv[1:] if args is None else args
        told = error if error.source else with_source(error, given)
        print(f"jacoscope: error: {told}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "more than one stateful callback of type `SensitivityMonitor`" not in str(error):
            raise
        print(
            "jacoscope: error: the section monitor and trainer.callbacks make two monitors of the "
            "same output.group; give one of them another group, or leave one out",
            file=sys.stderr,
        )
        return 2
    return 0
