"""The Sensitivity tab as TensorBoard knows plugins."""

from __future__ import annotations

import time
from typing import Any

from tensorboard import context as tensorboard_context
from tensorboard.plugins import base_plugin

from jacoscope.board.assets import static_apps
from jacoscope.board.endpoints import ENDPOINTS
from jacoscope.board.routes import DataApp, WsgiApp
from jacoscope.board.store import Store
from jacoscope.schema import PLUGIN_NAME

__all__ = ["SensitivityPlugin"]

_ACTIVE_FOR = 5.0
"""Seconds for which an answer of ``is_active`` stands; TensorBoard asks with every reload."""


class SensitivityPlugin(base_plugin.TBPlugin):  # type: ignore[misc] # TensorBoard has no types
    """Serves the page of the tab and the numbers it shows.

    Args:
        context: What TensorBoard tells its plugins.

    Raises:
        ValueError: If TensorBoard has no data provider, so that there is nothing to read from.
    """

    plugin_name = PLUGIN_NAME

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        if context.data_provider is None:
            raise ValueError("TensorBoard runs without a data provider")
        self._provider = context.data_provider
        self._store = Store(self._provider)
        self._active = (False, float("-inf"))

    def get_plugin_apps(self) -> dict[str, WsgiApp]:
        """A fixed route for each file of the page and each kind of data."""
        data = {
            f"/data/{name}": DataApp(name, endpoint, self._store)
            for name, endpoint in ENDPOINTS.items()
        }
        return {**static_apps(), **data}

    def is_active(self) -> bool:
        """Whether any run has a record."""
        active, since = self._active
        if time.monotonic() - since > _ACTIVE_FOR:
            active = self._has_data()
            self._active = (active, time.monotonic())
        return active

    def frontend_metadata(self) -> Any:
        """The tab's name and the module that draws it."""
        return base_plugin.FrontendMetadata(
            es_module_path="/static/index.js", tab_name="Sensitivity"
        )

    def _has_data(self) -> bool:
        try:
            context = tensorboard_context.RequestContext()
            return PLUGIN_NAME in self._provider.list_plugins(context, experiment_id="")
        except Exception:  # not every provider lists without an experiment; the tab is then idle
            return False
