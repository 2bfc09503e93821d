"""What the tab's page is made of: a library that is the published one, and files that are safe."""

import hashlib
import re
from pathlib import Path

import pytest

import jacoscope

_STATIC = Path(jacoscope.__file__).parent / "board" / "static"
_VENDOR = _STATIC / "vendor"
_BESIDE = {"SHA256SUMS", "README.txt"}

# A page with these in it could be made to run or to draw what a record says.
_UNSAFE = {
    "HTML from text": r"\b(innerHTML|outerHTML|insertAdjacentHTML|setHTMLUnsafe)\b"
    r"|\bdocument\s*\.\s*write|createContextualFragment|DOMParser|\bsrcdoc\b",
    "code from text": r"\beval\s*\(|\bnew\s+Function\b|\bset(Timeout|Interval)\s*\(\s*[\"'`]",
    "a handler in an attribute": r"\bsetAttribute\s*\(\s*[\"'`]on\w+|[\s\"'`]on\w+\s*=\s*[\"'`]",
    "an inline script": r"<script\b|javascript:",
}
# Names of XML vocabularies are no addresses: nothing is fetched from them.
_ELSEWHERE = r"(?<![\w.])(?:https?:|wss?:)?//(?!www\.w3\.org/(?:2000/svg|1999/xhtml)\b)[\w\[]"


def _ours(*suffixes: str) -> list[Path]:
    files = [path for path in sorted(_STATIC.rglob("*")) if path.suffix in suffixes]
    return [path for path in files if _VENDOR not in path.parents]


def _listed(sums: Path) -> dict[str, str]:
    lines = sums.read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def _code(text: str) -> str:
    """A script or style sheet without its comments, which may name addresses."""
    return re.sub(r"/\*.*?\*/|(?m:^\s*//.*$)", "", text, flags=re.DOTALL)


def test_vendored_files_are_the_published_ones() -> None:
    libraries = [path for path in _VENDOR.iterdir() if path.is_dir()]
    assert [path.name for path in libraries] == ["uPlot"]
    for library in libraries:
        listed = _listed(library / "SHA256SUMS")
        files = {path.relative_to(library).as_posix() for path in library.rglob("*")}
        assert files == {*listed, *_BESIDE}
        for name, digest in listed.items():
            assert hashlib.sha256((library / name).read_bytes()).hexdigest() == digest, name


def test_vendor_holds_libraries_alone() -> None:
    assert [path.name for path in _VENDOR.iterdir() if path.is_file()] == []


def test_vendored_files_are_readable_and_named_with_their_licence() -> None:
    library = _VENDOR / "uPlot"
    script = (library / "uPlot.esm.js").read_text(encoding="utf-8")
    assert len(script.splitlines()) > 5000
    assert "(v1.6.32)" in script
    readme = (library / "README.txt").read_text(encoding="utf-8")
    assert "1.6.32" in readme
    assert "https://github.com/leeoniya/uPlot" in readme
    assert "MIT" in (library / "LICENSE.txt").read_text(encoding="utf-8")


def test_the_vendored_library_makes_no_html_from_text() -> None:
    """Names of layers and runs reach it as labels; it must set them as text."""
    script = (_VENDOR / "uPlot" / "uPlot.esm.js").read_text(encoding="utf-8")
    found = [rule for rule, pattern in _UNSAFE.items() if re.search(pattern, _code(script))]
    assert found == []


def test_there_is_a_page_to_look_at() -> None:
    assert _STATIC / "index.js" in _ours(".js")
    assert _ours(".css")


@pytest.mark.parametrize("rule", _UNSAFE)
def test_no_script_of_ours_has(rule: str) -> None:
    found = {
        path.relative_to(_STATIC).as_posix(): match[0]
        for path in _ours(".js", ".css")
        for match in re.finditer(_UNSAFE[rule], _code(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_no_file_of_ours_names_another_host() -> None:
    found = {
        path.relative_to(_STATIC).as_posix(): match[0]
        for path in _ours(".js", ".css")
        for match in re.finditer(_ELSEWHERE, _code(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_every_import_is_relative_and_there() -> None:
    """There is no build step: what a module names is a file beside it."""
    pattern = re.compile(
        r"^\s*(?:import|export)\b[^;\"'`=()]*?\bfrom\s*[\"'](?P<named>[^\"'\n]+)[\"']"
        r"|^\s*import\s*[\"'](?P<bare>[^\"'\n]+)[\"']"
        r"|\bimport\s*\(\s*(?P<dynamic>[^)]+)\)",
        re.MULTILINE,
    )
    for path in _ours(".js"):
        for match in pattern.finditer(_code(path.read_text(encoding="utf-8"))):
            name = match["named"] or match["bare"] or match["dynamic"].strip("\"' ")
            assert name.startswith(("./", "../")), (path.name, name)
            assert (path.parent / name).resolve().is_file(), (path.name, name)


@pytest.mark.parametrize(
    ("rule", "text", "is_found"),
    [
        ("HTML from text", "node.innerHTML = name;", True),
        ("HTML from text", "node.textContent = name;", False),
        ("HTML from text", "document.write(name)", True),
        ("code from text", "eval(name)", True),
        ("code from text", "retrieval(name)", False),
        ("code from text", "setTimeout('go()', 5)", True),
        ("code from text", "setTimeout(go, 5)", False),
        ("a handler in an attribute", "node.setAttribute('onclick', name)", True),
        ("a handler in an attribute", "h('a', {on: {click: go}})", False),
        ("an inline script", "`<script>`", True),
    ],
)
def test_the_rules_themselves(rule: str, text: str, is_found: bool) -> None:
    assert bool(re.search(_UNSAFE[rule], _code(text))) is is_found


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("fetch('https://example.org/a')", True),
        ("@import '//example.org/a.css'", True),
        ("// see https://example.org/a", False),
        ("createElementNS('http://www.w3.org/2000/svg', tag)", False),
        ("x = a / b // c", False),
    ],
)
def test_the_rule_on_hosts_itself(text: str, is_found: bool) -> None:
    assert bool(re.search(_ELSEWHERE, _code(text))) is is_found
