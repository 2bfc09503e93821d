"""Why a probe has no answer."""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["NoPartError", "ProbeError", "refuse_complex"]


class ProbeError(RuntimeError):
    """A probe cannot be run on this model or batch; the message says why, in one sentence."""


class NoPartError(ProbeError):
    """What is differentiated by has no part in the outputs."""


def refuse_complex(parameters: Mapping[str, Tensor]) -> None:
    """Refuse parameters that probes would leave out.

    Args:
        parameters: Parameters by name.

    Raises:
        ProbeError: If some are complex.
    """
    found = [name for name, each in parameters.items() if each.is_complex()]
    if found:
        raise ProbeError(
            f"the model has complex parameters such as {found[0]}, by which probes do not "
            "differentiate"
        )
