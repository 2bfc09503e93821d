"""The plan of a run's probes: what is asked of them, on which rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import is_lazy

from jacoscope.config import MonitorConfig, Probes, QuantityName
from jacoscope.errors import ConfigError, nearest
from jacoscope.groups import ALL, Group, groups_of
from jacoscope.plan import probe_targets_of
from jacoscope.probing import REST
from jacoscope.quantities import PROBES, QUANTITIES
from jacoscope.record import Axis
from jacoscope.schedule import Timetable
from jacoscope.selection import Selection, Target, walk_parameters

__all__ = ["INPUT_ROW", "WRAPPERS", "ProbePlan", "clean_name", "probe_plan"]

INPUT_ROW = "(input)"
"""The row of what is differentiated by the input."""

WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_forward_module")
"""Names that wrappers such as ``torch.compile`` give to what they wrap."""

_ROWS_OF_PARAMETERS = ("Output Jacobian", "Tangent kernel")


@dataclass(frozen=True, eq=False)
class ProbePlan:
    """What a run's probes measure.

    Args:
        timetable: When to probe.
        asked: The quantities, in the order of the documentation.
        axes: By quantity, the rows that it is measured on.
        targets: Parameters that outputs are differentiated by.
        groups: Rows of several of these.
        layers: Names of the parameters of each layer that all else equal is about, by row.
        chain: Modules whose outputs are differentiated one by the other, in order.
        call: Path of the module and name of the method that map inputs to outputs.
    """

    timetable: Timetable
    asked: tuple[QuantityName, ...]
    axes: Mapping[QuantityName, tuple[Axis, ...]]
    targets: tuple[Target, ...]
    groups: tuple[Group, ...]
    layers: Mapping[str, tuple[str, ...]]
    chain: tuple[str, ...]
    call: tuple[str, str]

    def asks(self, *families: str) -> bool:
        """Whether a quantity of one of these families is asked for."""
        return any(name in PROBES[family] for name in self.asked for family in families)


def probe_plan(selection: Selection, config: MonitorConfig, model: nn.Module) -> ProbePlan | None:
    """The plan, or ``None`` if nothing is asked of probes.

    Args:
        selection: What is watched.
        config: The configuration.
        model: The model.

    Raises:
        ConfigError: If the model has no such module or method, or the schedule's hook cannot be
            imported.
    """
    watched = probe_targets_of(selection)
    if not watched:
        return None
    wanted = {name for target in watched for name in target.quantities}
    asked = tuple(name for name in QUANTITIES if name in wanted and _family(name) is not None)
    by_parameter = _asking(watched, *_ROWS_OF_PARAMETERS)
    by_layer = _asking(watched, "All else equal")
    rules = config.layers
    named = [None if t.rule is None else rules[t.rule].group for t in by_parameter]
    groups = groups_of(by_parameter, named) if by_parameter else ()
    moved = groups_of(by_layer, [None] * len(by_layer)) if by_layer else ()
    layers = {group.name: group.members for group in moved if group.kind == "layer"}
    between = [t for t in _asking(watched, "Layer Jacobian") if t.info.kind != "norm"]
    own = [t.info.layer for t in between if t.info.kind != "bias" and t.info.layer]
    chain = _chain(config.probes, model) or tuple(dict.fromkeys(own))
    try:
        timetable = Timetable(config.probes.schedule)
    except ConfigError as error:
        raise error.within("probes.schedule") from None
    infos = [info for info in walk_parameters(model) if not is_lazy(info.parameter)]
    sizes = {info.name: info.numel for info in infos}
    taken = {name for names in layers.values() for name in names}
    rest = tuple(name for name in sizes if name not in taken)
    all_layers = {**layers, **({REST: rest} if rest else {})}
    axes: dict[QuantityName, tuple[Axis, ...]] = {}
    for name in asked:
        family = _family(name)
        if family in _ROWS_OF_PARAMETERS:
            mine = [target for target in by_parameter if name in target.quantities]
            axes[name] = (Axis.of(mine), _group_axis(groups, by_parameter))
        elif family == "All else equal":
            only_all = name in ("interaction_change", "allocation_gap")
            axes[name] = (_layer_axis({} if only_all else all_layers, sizes),)
        elif family == "Input Jacobian":
            axes[name] = (Axis((INPUT_ROW,), (INPUT_ROW,), ("input",), (1,)),)
        else:
            axes[name] = (_chain_axis(chain),)
    return ProbePlan(
        timetable, asked, axes, tuple(by_parameter), groups, all_layers if by_layer else {}, chain,
        _call(config.probes, model),
    )  # fmt: skip


def clean_name(name: str) -> str:
    """A parameter's or module's name without the parts that wrappers insert."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _family(name: QuantityName) -> str | None:
    return next((family for family, names in PROBES.items() if name in names), None)


def _asking(targets: Sequence[Target], *families: str) -> list[Target]:
    names = {name for family in families for name in PROBES[family]}
    return [target for target in targets if names.intersection(target.quantities)]


def _group_axis(groups: Sequence[Group], targets: Sequence[Target]) -> Axis:
    sizes = {target.name: target.numel for target in targets}
    names = tuple(group.name for group in groups)
    counts = tuple(sum(sizes[name] for name in group.members) for group in groups)
    return Axis(names, names, tuple(group.kind for group in groups), counts)


def _layer_axis(layers: Mapping[str, Iterable[str]], sizes: Mapping[str, int]) -> Axis:
    rows = {ALL: tuple(sizes), **{row: tuple(names) for row, names in layers.items()}}
    names = tuple(rows)
    kinds = ("all", *["layer"] * len(layers))
    return Axis(names, names, kinds, tuple(sum(map(sizes.__getitem__, m)) for m in rows.values()))


def _chain_axis(chain: Sequence[str]) -> Axis:
    names = tuple(f"{a} → {b}" for a, b in itertools.pairwise(chain))
    return Axis(names, tuple(chain[1:]), ("between",) * len(names), (1,) * len(names))


def _chain(probes: Probes, model: nn.Module) -> tuple[str, ...]:
    """The modules that the chain names, globs expanded in the model's order."""
    modules = [name for name in _modules(model) if name]
    chain: list[str] = []
    for index, pattern in enumerate(probes.chain):
        found = [name for name in modules if fnmatchcase(name, pattern)]
        if not found:
            raise ConfigError(
                f"{pattern!r} matches no module of the model; {nearest(pattern, modules)}",
                key=f"probes.chain[{index}]",
            )
        chain += [name for name in found if name not in chain]
    if probes.chain and len(chain) < 2:
        raise ConfigError(
            f"names one module, {chain[0]!r}; name at least two, in the order that they run in",
            key="probes.chain",
        )
    return tuple(chain)


def _call(probes: Probes, model: nn.Module) -> tuple[str, str]:
    path = probes.module or ""
    modules = _modules(model)
    if path not in modules:
        raise ConfigError(
            f"the model has no module {path!r}; {nearest(path, [m for m in modules if m])}",
            key="probes.module",
        )
    module = modules[path]
    if probes.method is None:
        has_own = callable(getattr(module, "probe_forward", None))
        return path, "probe_forward" if has_own else "forward"

    if not callable(getattr(module, probes.method, None)):
        methods = [name for name in dir(module) if not name.startswith("_")]
        raise ConfigError(
            f"{type(module).__name__} has no method {probes.method!r}; "
            f"{nearest(probes.method, methods)}",
            key="probes.method",
        )
    return path, probes.method


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by name, those within a wrapper in its place."""
    return {clean_name(name): module for name, module in model.named_modules()}
