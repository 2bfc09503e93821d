"""What a user is told about each mistake, in a file of its own, in an experiment's, in Python."""

from pathlib import Path

import pytest
import yaml

from jacoscope.config import check_section, load_config, resolve_config
from jacoscope.errors import ConfigError

# What was written, the key that the message names, what it says about it.
_UNKNOWN_KEYS = [
    ("qantities: [grad_norm]", "qantities", "no option 'qantities'; did you mean 'quantities'?"),
    ("schedule: {evry: 3}", "schedule.evry", "no option 'evry'; did you mean 'every'?"),
    ("output: {grop: x}", "output.grop", "no option 'grop'; did you mean 'group'?"),
    ("output: {EXCLUDE: x}", "output.EXCLUDE", "Output has no option 'EXCLUDE'; valid names are"),
    ("layers: [{}, {mach: x}]", "layers[1].mach", "no option 'mach'; did you mean 'match'?"),
    (
        "layers: [{schedule: {frist: 1}}]",
        "layers[0].schedule.frist",
        "Schedule has no option 'frist'; did you mean 'first'?",
    ),
    (
        "zzz: 1",
        "zzz",
        "valid names are quantities, layers, schedule, overhead, output, samples, probes, "
        "alerts, on_alert, on_error",
    ),
    ("3: 1", "3", "MonitorConfig has no option 3; valid names are"),
    ("null: 1", "None", "MonitorConfig has no option None"),
]

_MISTYPED_NAMES = [
    ("quantities: [grad_nrom]", "quantities[0]", "'grad_nrom'", "did you mean 'grad_norm'?"),
    ("quantities: [saliency, Grad_RMS]", "quantities[1]", "did you mean 'grad_rms'?"),
    ("quantities: [zzz]", "quantities[0]", "valid names are grad_norm, grad_rms"),
    (
        "layers: [{}, {quantities: [grad_max, updat_norm]}]",
        "layers[1].quantities[1]",
        "did you mean 'update_norm'?",
    ),
    ("output: {pictures: [grad_rsm]}", "output.pictures[0]", "did you mean 'grad_rms'?"),
    ("output: {layer_scalars: [salience]}", "output.layer_scalars[0]", "mean 'saliency'?"),
    ("on_error: rase", "on_error", "'rase'", "did you mean 'raise'?"),
    (
        "layers: [{kind: wieght}]",
        "layers[0].kind",
        "'wieght' is not a name that kind takes; did you mean",
    ),
    ("layers: [{kind: [bias, nrom]}]", "layers[0].kind[1]", "did you mean 'norm'?"),
]

_WRONG_TYPES = [
    ("schedule: {every: ten}", "schedule.every", "got 'ten' (str), must be a whole number"),
    ("schedule: {every: '10'}", "schedule.every", "(str), must be a whole number; write 10"),
    ("schedule: {every: 1e2}", "schedule.every", "got '1e2' (str), must be", "; write 100"),
    ("schedule: {every: 1.5e1}", "schedule.every", "got '1.5e1' (str), must be", "; write 15"),
    ("schedule: {every: true}", "schedule.every", "got True (bool), must be a whole number"),
    ("schedule: {every: 2.0}", "schedule.every", "(float), must be a whole number; write 2"),
    ("schedule: {first: null}", "schedule.first", "got None (NoneType), must be a whole number"),
    ("schedule: {per_epoch: [1]}", "schedule.per_epoch", "got [1] (list), must be a whole number"),
    (
        "schedule: {steps: 5}",
        "schedule.steps",
        "got 5 (int), must be a list of whole numbers; write [5]",
    ),
    ("schedule: {steps: [1, two]}", "schedule.steps[1]", "got 'two' (str), must be a whole number"),
    ("schedule: {steps: [false]}", "schedule.steps[0]", "got False (bool), must be a whole number"),
    ("schedule: {steps: {1: 2}}", "schedule.steps", "got {1: 2} (dict), must be a list of"),
    ("schedule: {hook: 3}", "schedule.hook", "got 3 (int), must be a callable or text"),
    (
        "schedule: 50",
        "schedule",
        "(int), must be a mapping with keys of Schedule; write {every: 50}",
    ),
    ("schedule:", "schedule", "got None (NoneType), must be a mapping with keys of Schedule"),
    ("output: [card]", "output", "got ['card'] (list), must be a mapping with keys of Output"),
    ("output: {headline: 1}", "output.headline", "got 1 (int), must be true or false"),
    ("output: {card: 'yes'}", "output.card", "got 'yes' (str), must be true or false"),
    ("output: {group: 3}", "output.group", "got 3 (int), must be text"),
    ("output: {group: null}", "output.group", "got None (NoneType), must be text"),
    ("output: {directory: 3}", "output.directory", "got 3 (int), must be text"),
    (
        "output: {pictures: grad_rms}",
        "output.pictures",
        "(str), must be a list of names",
        "['grad_rms']",
    ),
    ("layers: {match: x}", "layers", "must be a list of mappings", "; write [{match: x}]"),
    ("layers: {kind: 3}", "layers", "must be a list of mappings with keys of LayerRule"),
    ("layers: head", "layers", "got 'head' (str), must be a list of", "; write [{match: head}]"),
    ("layers: '*.bias'", "layers", "; write [{match: '*.bias'}]"),
    ("alerts: {name: a, headline: coverage, below: 1}", "alerts", "; write [{below: 1, headline"),
    (
        "layers: [head]",
        "layers[0]",
        "must be a mapping with keys of LayerRule; write {match: head}",
    ),
    ("layers: [{}, 3]", "layers[1]", "got 3 (int), must be a mapping with keys of LayerRule"),
    ("layers: [{match: 3}]", "layers[0].match", "got 3 (int), must be text or a list of text"),
    ("layers: [{match: [a, 3]}]", "layers[0].match[1]", "got 3 (int), must be text"),
    ("layers: [{match: {a: b}}]", "layers[0].match", "(dict), must be text or a list of text"),
    ("layers: [{type: true}]", "layers[0].type", "got True (bool), must be text or a list of"),
    ("layers: [{regex: [a]}]", "layers[0].regex", "got ['a'] (list), must be text"),
    ("layers: [{kind: 3}]", "layers[0].kind", "got 3 (int), must be one of weight, bias, norm"),
    ("layers: [{min_depth: deep}]", "layers[0].min_depth", "got 'deep' (str), must be a whole"),
    ("layers: [{max_depth: true}]", "layers[0].max_depth", "got True (bool), must be a whole"),
    ("layers: [{exclude: 1}]", "layers[0].exclude", "got 1 (int), must be true or false"),
    ("layers: [{schedule: 5}]", "layers[0].schedule", "must be a mapping with keys of Schedule"),
    ("layers: [{quantities: saliency}]", "layers[0].quantities", "a list of", "['saliency']"),
    (
        "quantities: grad_norm",
        "quantities",
        "got 'grad_norm' (str), must be a list of names such as grad_norm, grad_rms, grad_max; "
        "write ['grad_norm']",
    ),
    ("quantities: {grad_norm: 1}", "quantities", "(dict), must be a list of names such as"),
    ("quantities: 3", "quantities", "got 3 (int), must be a list of names such as grad_norm"),
    ("quantities: [[grad_norm]]", "quantities[0]", "['grad_norm']", "grad_norm"),
    ("overhead: 3%", "overhead", "got '3%' (str), must be a number; write 0.03"),
    ("overhead: 5e-2", "overhead", "got '5e-2' (str), must be a number; write 0.05"),
    ("overhead: little", "overhead", "got 'little' (str), must be a number"),
    (
        "alerts: [{name: a, quantity: grad_norm, above: 1e-5}]",
        "alerts[0].above",
        "got '1e-5' (str), must be a number; write 1.0e-5",
    ),
    ("overhead: true", "overhead", "got True (bool), must be a number"),
    ("on_error: true", "on_error", "True", "warn, raise"),
    ("- quantities", "", "got ['quantities'] (list), must be a mapping with keys of MonitorConfig"),
    ("grad_norm", "", "got 'grad_norm' (str), must be a mapping with keys of MonitorConfig"),
    ("3", "", "got 3 (int), must be a mapping with keys of MonitorConfig"),
]

_EMPTY = [
    ("quantities: []", "quantities", "is empty; name at least one quantity"),
    ("layers: [{}, {quantities: []}]", "layers[1].quantities", "is empty; name at least one"),
    ("layers: [{match: []}]", "layers[0].match", "is empty; name at least one, or leave"),
    ("layers: [{match: ''}]", "layers[0].match", "is empty; name at least one, or leave"),
    ("layers: [{type: []}]", "layers[0].type", "is empty; name at least one, or leave"),
    ("layers: [{type: ''}]", "layers[0].type", "is empty; name at least one, or leave"),
    ("layers: [{kind: []}]", "layers[0].kind", "is empty; name at least one, or leave"),
    ("output: {group: ''}", "output.group", "got '', must be letters, digits"),
    ("layers: [{match: [a, '']}]", "layers[0].match", "is empty"),
    ("layers: [{type: ['']}]", "layers[0].type", "is empty"),
    ("layers: [{regex: ''}]", "layers[0].regex", "is empty"),
]

_OUT_OF_RANGE = [
    ("schedule: {every: 0}", "schedule.every", "got 0, must be at least 1; write null"),
    ("schedule: {every: -5}", "schedule.every", "got -5, must be at least 1; write null"),
    ("schedule: {first: -1}", "schedule.first", "got -1, must be 0 or more"),
    ("schedule: {per_epoch: -1}", "schedule.per_epoch", "got -1, must be 0 or more"),
    ("schedule: {steps: [3, -1]}", "schedule.steps[1]", "got -1, steps count from 0"),
    ("overhead: 0", "overhead", "got 0.0, must be a share of the training time, at least 0.0001"),
    ("overhead: 1.0e-12", "overhead", "got 1e-12, must be a share", "at least 0.0001"),
    ("overhead: 3", "overhead", "got 3.0, must be a share of the training time"),
    ("overhead: .nan", "overhead", "got nan, must be a share of the training time"),
    (
        "schedule: {every: null, first: 0}",
        "schedule",
        "nothing would ever be captured; set one of them, such as every: 50",
    ),
    (
        "layers: [{schedule: {every: null, first: 0, steps: [], hook: ''}}]",
        "layers[0].schedule",
        "nothing would ever be captured",
    ),
    ("output: {group: 'a b'}", "output.group", "got 'a b', must be letters, digits, '_', '-'"),
    ("output: {group: a/b}", "output.group", "got 'a/b', must be letters, digits, '_', '-'"),
    ("output: {pictures: [grad_histogram]}", "output.pictures", "use histograms: true instead"),
    (
        "output: {layer_scalars: [grad_rms, grad_histogram]}",
        "output.layer_scalars",
        "use histograms: true instead",
    ),
]

_CONTRADICTIONS = [
    (
        "layers: [{exclude: true, quantities: [saliency]}]",
        "layers[0].quantities",
        "an excluding rule measures nothing; remove this key or exclude: true",
    ),
    (
        "layers: [{}, {exclude: true, schedule: {every: 3}}]",
        "layers[1].schedule",
        "an excluding rule measures nothing; remove this key or exclude: true",
    ),
    (
        "layers: [{min_depth: 3, max_depth: 1}]",
        "layers[0].min_depth",
        "got 3, must not exceed max_depth, which is 1",
    ),
    ("layers: [{regex: '('}]", "layers[0].regex", "'(' is not a regular expression (missing )"),
    ("layers: [{regex: '*.weight'}]", "layers[0].regex", "use match for a glob pattern"),
    ("layers: [{regex: 'a{99999999999999}'}]", "layers[0].regex", "regular expression"),
    (f"layers: [{{regex: '{'(' * 5000}'}}]", "layers[0].regex", "regular expression"),
]

_MISTAKES = [
    *(_UNKNOWN_KEYS + _MISTYPED_NAMES + _WRONG_TYPES),
    *(_EMPTY + _OUT_OF_RANGE + _CONTRADICTIONS),
]


def _case(mistake: tuple[str, ...]) -> object:
    """The case as ``(text, key, fragments)``, called by its text."""
    text, key, *fragments = mistake
    return pytest.param(text, key, fragments, id=text[:60])


cases = pytest.mark.parametrize(("text", "key", "fragments"), [_case(item) for item in _MISTAKES])


def _check(error: ConfigError, start: str, key: str, fragments: list[str]) -> None:
    said = str(error)
    assert said.startswith(start)
    assert error.key == key
    for fragment in fragments:
        assert fragment in said
    assert said.splitlines() == [said]


@cases
def test_in_a_file_of_its_own(tmp_path: Path, text: str, key: str, fragments: list[str]) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    _check(caught.value, f"{path}: {key}: " if key else f"{path}: ", key, fragments)


@cases
def test_in_an_experiments_file(tmp_path: Path, text: str, key: str, fragments: list[str]) -> None:
    path = tmp_path / "experiment.yaml"
    indented = "".join(f"  {line}\n" for line in text.splitlines())
    path.write_text(f"trainer:\n  max_epochs: 3\nmonitor:\n{indented}", encoding="utf-8")
    key = f"monitor.{key}" if key else "monitor"
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    _check(caught.value, f"{path}: {key}: ", key, fragments)


@cases
def test_in_python(text: str, key: str, fragments: list[str]) -> None:
    value = yaml.safe_load(text)
    read = check_section if isinstance(value, str) else resolve_config  # else it is a path
    with pytest.raises(ConfigError) as caught:
        read(value)
    _check(caught.value, f"{key}: " if key else "got ", key, fragments)
    assert caught.value.source is None
