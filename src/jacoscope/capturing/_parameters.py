"""Which parameters of a model are meant, whichever of their names they are asked for by."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from jacoscope.errors import nearest

__all__ = ["chosen_parameters", "first_names", "watched_parameters"]


def first_names(model: nn.Module) -> dict[str, str]:
    """By each name of each parameter, the first name of that parameter; a tied one has several."""
    first: dict[int, str] = {}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first.setdefault(id(parameter), name) for name, parameter in every}


def chosen_parameters(
    model: nn.Module,
    names: str | Iterable[str] | None,
    flaw: Callable[[Tensor], str | None],
) -> dict[str, Tensor]:
    """The parameters that are meant, each once, by first name.

    Args:
        model: The model.
        names: A name or names of parameters, a tied one's any; by default all that have no flaw.
        flaw: From a parameter to what makes it unusable, or ``None``.

    Returns:
        In the model's order by default, else in that of ``names``.

    Raises:
        ValueError: If a name is unknown, or its parameter cannot be used.
    """
    known = dict(model.named_parameters())
    if names is None:
        return {name: parameter for name, parameter in known.items() if flaw(parameter) is None}
    first = first_names(model)
    chosen: dict[str, Tensor] = {}
    for name in (names,) if isinstance(names, str) else names:
        if not isinstance(name, str):
            raise ValueError(
                f"parameters has something of type {type(name).__name__}; write names, such as "
                "those of model.named_parameters()"
            )
        if name not in first:
            usable = [each for each in first if flaw(known[first[each]]) is None]
            raise ValueError(
                f"parameters has {name!r}, which is not a parameter of the model; "
                f"{nearest(name, usable)}"
            )
        parameter = known[first[name]]
        reason = flaw(parameter)
        if reason is not None:
            raise ValueError(f"parameters has {name!r}, which {reason}; leave it out")
        chosen[first[name]] = parameter
    return chosen


def watched_parameters(
    model: nn.Module, names: str | Iterable[str] | None = None
) -> dict[str, Tensor]:
    """The parameters of a model that require a gradient, each once, by first name.

    Args:
        model: The model.
        names: A name or names of those wanted; a tied parameter answers to any of its names.

    Returns:
        In the model's order.

    Raises:
        ValueError: If a name is unknown, or its parameter requires no gradient or has no elements.
    """
    chosen = chosen_parameters(model, names, _flaw)
    if names is None:
        return chosen
    return {name: chosen[name] for name, _ in model.named_parameters() if name in chosen}


def _flaw(parameter: Tensor) -> str | None:
    if not parameter.requires_grad:
        return "requires no gradient"
    return None if parameter.numel() else "has no elements"
