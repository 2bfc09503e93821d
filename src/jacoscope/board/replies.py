"""Responses with the headers that all of them have."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from werkzeug import Request, Response

from jacoscope.board.wire import json_body

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from werkzeug.datastructures import Headers

__all__ = ["ARRAYS", "JSON", "error_reply", "sent", "unchanged"]

JSON = "application/json"
ARRAYS = "application/octet-stream"
_COMPRESSED_FROM = 1024
_COMPRESSED_TYPES = (JSON, "text/", "image/svg+xml")
_COMPRESSION = 5


def error_reply(status: int, sentence: str) -> Response:
    """A response that says what went wrong."""
    response = Response(json_body({"error": sentence}), status=status, content_type=JSON)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    if status == 405:
        response.headers["Allow"] = "GET, HEAD"
    return response


def unchanged(request: Request, content_type: str, tag: str) -> Response | None:
    """The response to one who has this version already, or ``None``."""
    # Weak comparison: a compressed and a plain reply say the same.
    if not request.if_none_match.contains_weak(tag):
        return None
    response = _Unchanged(status=304, content_type=content_type)
    _describe(response, tag)
    return response


class _Unchanged(Response):
    """A response without content that says of what type that would be.

    Werkzeug takes the type away, and TensorBoard warns of every response without one.
    """

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        headers = super().get_wsgi_headers(environ)
        headers["Content-Type"] = self.headers["Content-Type"]
        return headers


def sent(request: Request, body: bytes, content_type: str, tag: str) -> Response:
    """The response with a body."""
    response = Response(content_type=content_type)
    if content_type.startswith(_COMPRESSED_TYPES):
        response.headers["Vary"] = "Accept-Encoding"
        if len(body) > _COMPRESSED_FROM and request.accept_encodings["gzip"]:
            body = gzip.compress(body, _COMPRESSION, mtime=0)
            response.headers["Content-Encoding"] = "gzip"
    response.data = body
    _describe(response, tag)
    return response


def _describe(response: Response, tag: str) -> None:
    response.set_etag(tag, weak=True)
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["X-Content-Type-Options"] = "nosniff"
