"""The files of the page: found when TensorBoard starts, one fixed route each."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from werkzeug import Request, Response

from jacoscope.board.replies import error_reply, sent, unchanged
from jacoscope.board.wire import entity_tag

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from jacoscope.board.routes import WsgiApp

__all__ = ["static_apps"]

_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Fixed types: what a system's own table says may keep a browser from running a script."""


def static_apps() -> dict[str, WsgiApp]:
    """By route, what serves each file of the page."""
    root = files("jacoscope.board") / "static"
    return {f"/static/{name}": StaticApp(file) for name, file in _files(root, "")}


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for item in sorted(folder.iterdir(), key=lambda item: item.name) if folder.is_dir() else ():
        if item.is_dir():
            yield from _files(item, f"{prefix}{item.name}/")
        elif _suffix(item.name) in _TYPES:
            yield f"{prefix}{item.name}", item


def _suffix(name: str) -> str:
    return name[name.rfind(".") :] if "." in name else ""


class StaticApp:
    """Serves one file.

    Args:
        file: The file.
    """

    def __init__(self, file: Traversable) -> None:
        self._file = file
        self._type = _TYPES[_suffix(file.name)]

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Answer a request, as WSGI has it."""
        return self._answer(Request(environ))(environ, start_response)

    def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return error_reply(405, f"{request.method} is not answered here; use GET")
        # Read again each time: files of an installation that is being edited change.
        try:
            body = self._file.read_bytes()
        except OSError:
            return error_reply(404, f"{self._file.name} is gone from the installation")
        tag = entity_tag([body])
        known = unchanged(request, self._type, tag)
        return known if known is not None else sent(request, body, self._type, tag)
