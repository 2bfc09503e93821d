"""Requests for data: from a WSGI environment to a response, whatever happens on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from tensorboard import plugin_util
from tensorboard.errors import PublicError
from werkzeug import Request, Response

from jacoscope._version import __version__
from jacoscope.board.endpoint import Answer, Asked, Endpoint
from jacoscope.board.mistakes import RequestError
from jacoscope.board.query import Query
from jacoscope.board.replies import ARRAYS, JSON, error_reply, sent, unchanged
from jacoscope.board.store import Place, Store
from jacoscope.board.wire import arrays_body, entity_tag, json_body

__all__ = ["DataApp", "WsgiApp"]

WsgiApp = Callable[[Any, Any], Iterable[bytes]]

_log = logging.getLogger(__name__)


class DataApp:
    """Answers requests for one kind of data.

    Args:
        name: What its route is called.
        endpoint: How to answer.
        store: Where to read.
    """

    def __init__(self, name: str, endpoint: Endpoint, store: Store) -> None:
        self._name = name
        self._endpoint = endpoint
        self._store = store
        self._told: set[str] = set()

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        return self._answer(Request(environ))(environ, start_response)

    def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return error_reply(405, f"{request.method} is not answered here; use GET")
        try:
            return self._reply(request)
        except RequestError as error:
            return error_reply(error.status, error.sentence)
        except PublicError as error:  # such as that the experiment may not be read
            return error_reply(error.http_code, str(error))
        except Exception as error:
            self._tell(error)
            said = f"{type(error).__name__}: {error}"
            return error_reply(500, f"a fault of the tab itself in /data/{self._name}: {said}")

    def _reply(self, request: Request) -> Response:
        query = Query.parse(request.environ.get("QUERY_STRING", ""), self._endpoint.parameters)
        environ = request.environ
        place = Place(plugin_util.context(environ), plugin_util.experiment_id(environ))
        plan = self._endpoint.plan(Asked(query, self._store, place))
        tag = entity_tag([__version__, self._name, query.canonical, *plan.states])
        content_type = ARRAYS if self._endpoint.sends_arrays else JSON
        known = unchanged(request, content_type, tag)
        if known is not None:
            return known
        answer = plan.answer()
        assert (answer.arrays is not None) is self._endpoint.sends_arrays
        return sent(request, _encoded(answer), content_type, tag)

    def _tell(self, error: Exception) -> None:
        """Log a fault, the same one only once: pages ask every few seconds."""
        said = f"{type(error).__name__}: {error}"
        if said not in self._told:
            self._told.add(said)
            _log.error("/data/%s failed", self._name, exc_info=error)


def _encoded(answer: Answer) -> bytes:
    if answer.arrays is None:
        return json_body(answer.meta)
    return arrays_body(answer.meta, answer.arrays)
