"""Why a probe has no answer."""

__all__ = ["NoPartError", "ProbeError"]


class ProbeError(RuntimeError):
    """A probe cannot be run on this model or batch; the message says why, in one sentence."""


class NoPartError(ProbeError):
    """What is differentiated by has no part in the outputs."""
