"""What TensorBoard finds by its entry point: loads the tab, or says why not and goes on.

TensorBoard imports this module without a guard, so that an import that fails here would stop it.
"""

from __future__ import annotations

import logging
from typing import Any

from tensorboard.plugins import base_plugin

__all__ = ["SensitivityLoader"]

_log = logging.getLogger(__name__)

_NAME = "jacoscope"
_ALL = 0
"""What TensorBoard takes for keeping every recorded step."""


class SensitivityLoader(base_plugin.TBLoader):  # type: ignore[misc] # TensorBoard has no types
    """Loads the Sensitivity tab; whatever goes wrong, TensorBoard starts without it."""

    def fix_flags(self, flags: Any) -> None:
        """Keep every recorded step, unless the command line says how many.

        TensorBoard would keep 100 of each tag (10 with ``--load_fast=false``).
        """
        given = getattr(flags, "samples_per_plugin", None)
        flags.samples_per_plugin = {_NAME: _ALL, **(given if isinstance(given, dict) else {})}

    def load(self, context: Any) -> Any:
        """The tab, or ``None`` with one warning where it cannot be had.

        Args:
            context: What TensorBoard tells its plugins: where to read from.
        """
        try:
            from jacoscope.board.plugin import SensitivityPlugin

            return SensitivityPlugin(context)
        except Exception as error:
            _log.warning(
                "The Sensitivity tab could not be loaded (%s: %s); TensorBoard goes on without it.",
                type(error).__name__,
                error,
            )
            return None
