"""What every view of the tab has to keep to, checked on the page as it is drawn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from board_browser import Tab

_NAMED = (
    *("button", "checkbox", "combobox", "link", "listbox", "menuitem", "option", "radio"),
    *("searchbox", "slider", "spinbutton", "switch", "tab", "textbox", "treeitem"),
    *("dialog", "figure", "grid", "img", "table", "tabpanel", "tree", "progressbar"),
)
_LINE = re.compile(
    rf"^\s*- '?(?:{'|'.join(_NAMED)})\b(?: \"(.*?)\")?(?: \[[^\]]*\])*'?:?", re.MULTILINE
)
_SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


def nameless(tab: Tab) -> list[str]:
    """Controls and pictures that a screen reader has no name for, or a sign alone."""
    tree = tab.frame.locator("body").aria_snapshot()
    named = [(line[0].strip(), line[1] or "") for line in _LINE.finditer(tree)]
    assert len(named) > 20, tree
    return [line for line, name in named if not re.search(r"\w", name)]


def unreadable(tab: Tab) -> list[dict[str, Any]]:
    """Texts that are smaller than 12 pixels, or fainter than 4.5 to 1."""
    texts = _ask(tab, "texts")
    assert len(texts) > 10
    return [text for text in texts if text["size"] < 12 or text["contrast"] < 4.5]


def overflowing(tab: Tab) -> list[str]:
    """What does not fit the width of the window."""
    return _ask(tab, "wide")


def unfocused(tab: Tab) -> list[str]:
    """Controls that cannot have the focus, or do not show that they have it."""
    return _ask(tab, "unfocused")


def _ask(tab: Tab, name: str) -> list[Any]:
    code = _SCRIPT.partition("\n")[2].rstrip().rstrip(";")
    found: list[Any] = tab.frame.locator(":root").evaluate(f"() => {code}.{name}()")
    return found
