"""The tab in a real browser, watched for everything that must not happen."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    FrameLocator,
    Locator,
    Page,
    Request,
    Response,
)

from board_server import Board

VIEWS = ("overview", "layers", "samples", "agreement", "outputs", "all_else_equal", "compare")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
]
SIZE = {"width": 1280, "height": 720}

_PATIENCE_MS = 45_000
# What TensorBoard's own page does, with and without the tab: it has a library twice, says so, and
# looks for its fonts above the path prefix.
_OF_TENSORBOARD = re.compile(r"Multiple instances of Three\.js|/font-roboto/\w+\.woff2")
_REPORT_VIOLATIONS = """
  addEventListener("securitypolicyviolation", (event) =>
    reportViolation(`${event.violatedDirective}: ${event.blockedURI} ${event.sourceFile}`));
"""


def chromium() -> str | None:
    """Where a Chromium is, if there is one."""
    return os.environ.get("CHROMIUM_PATH") or shutil.which("chromium")


# A browser stops a page that hands it more than ten files; these are taken before it has them.
_TAKE = """async (button) => {
  const { createObjectURL } = URL;
  const { click } = HTMLAnchorElement.prototype;
  const handed = new Promise((done) => {
    let content = null;
    URL.createObjectURL = (blob) => createObjectURL.call(URL, (content = blob));
    HTMLAnchorElement.prototype.click = function () { done([this.download, content]); };
  });
  button.click();
  const [name, content] = await handed;
  Object.assign(URL, { createObjectURL });
  Object.assign(HTMLAnchorElement.prototype, { click });
  const reader = new FileReader();
  await new Promise((done) => { reader.onload = done; reader.readAsDataURL(content); });
  return [name, reader.result];
}"""


class Problems:
    """What a page did that no page of ours may do.

    Args:
        context: A fresh browser context; all its pages are watched.
        host: The only ``host:port`` that may be asked for anything.
    """

    def __init__(self, context: BrowserContext, host: str) -> None:
        self.found: list[str] = []
        self._host = host
        context.expose_binding("reportViolation", lambda _, what: self._note("policy", what))
        context.add_init_script(_REPORT_VIOLATIONS)
        context.on("console", self._console)
        context.on("weberror", lambda error: self._note("error", error.error.stack))
        context.on("request", self._request)
        context.on("requestfailed", self._failed)
        context.on("response", self._response)
        context.on(
            "dialog", lambda dialog: (self._note("dialog", dialog.message), dialog.dismiss())
        )

    def take(self) -> list[str]:
        """What was found; it is then forgotten."""
        found, self.found = self.found, []
        return found

    def _note(self, kind: str, what: str | None) -> None:
        if not _OF_TENSORBOARD.search(str(what)):
            self.found.append(f"{kind}: {what}")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._note(message.type, f"{message.text} ({message.location.get('url')})")

    def _request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != self._host:
            self._note("external request", request.url)

    def _failed(self, request: Request) -> None:
        # A view that is left gives up what it was waiting for.
        if request.failure != "net::ERR_ABORTED":
            self._note("failed request", f"{request.url} {request.failure}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self._note("refused request", f"{response.url} {response.status}")


class Tab:
    """The Sensitivity tab on a page of its own.

    Args:
        browser: The browser.
        board: The server.
        options: More options of the browser's context.
    """

    def __init__(self, browser: Browser, board: Board, **options: Any) -> None:
        options = {"viewport": SIZE, "reduced_motion": "reduce", **options}
        self._context = browser.new_context(**options)
        self._context.set_default_timeout(_PATIENCE_MS)
        self.board = board
        self.problems = Problems(self._context, urlsplit(board.url).netloc)
        self.page: Page = self._context.new_page()

    @property
    def frame(self) -> FrameLocator:
        """What is inside TensorBoard's frame."""
        return self.page.frame_locator("iframe")

    def open(self, view: str = "overview", *runs: str, **state: Any) -> Locator:
        """Go where a link leads: a view, on some runs, with more of its state.

        Returns:
            The view, drawn.
        """
        shown = {"runs": [f"{run}|sensitivity" for run in runs]} if runs else {}
        self.follow(view=view, **shown, **state)
        return self.view(view)

    def follow(self, **state: Any) -> None:
        """Follow a link with any state at all."""
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in state.items()}
        pairs = (f"&p.jacoscope.{key}={quote(text)}" for key, text in texts.items())
        self.page.goto(f"{self.board.url}#jacoscope{''.join(pairs)}")

    def view(self, name: str) -> Locator:
        """A view, once it is drawn."""
        found = self.frame.locator(f"[data-view={name}][data-ready=true]")
        found.wait_for()
        return found

    def heat_map(self) -> Locator:
        """The cells of the view of layers."""
        return self.frame.locator("[data-view=layers] canvas.heat-canvas").first

    def figure(self, inside: str) -> Locator:
        """The first figure with something in it, such as ``canvas.heat-canvas``."""
        return self.frame.locator("figure", has=self.page.locator(inside)).first

    def run(self, name: str) -> Locator:
        """A run's entry in the side bar."""
        return self.frame.locator(f'aside [data-run="{name}|sensitivity"]')

    def settle(self) -> None:
        """Wait until what is due to be drawn is drawn."""
        self.frame.locator(":root").evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def allow_clipboard(self) -> None:
        """Let the page use the clipboard."""
        self._context.grant_permissions(["clipboard-read", "clipboard-write"])

    def set_theme(self, name: str) -> None:
        """Choose ``light`` or ``dark`` in TensorBoard's own menu."""
        self.page.get_by_label("Menu for changing light or dark theme").click()
        self.page.get_by_role("menuitem", name=name.capitalize()).click()
        self.page.get_by_role("menu").wait_for(state="detached")
        self.frame.locator(f":root[data-theme={name}]").wait_for(state="attached")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression within the frame."""
        return self.frame.locator(":root").evaluate(f"() => {expression}")

    def state(self) -> dict[str, str]:
        """What the address says is shown."""
        pieces = urlsplit(self.page.evaluate("location.href")).fragment.split("&")
        pairs = (piece.split("=", 1) for piece in pieces if "=" in piece)
        return {key.removeprefix("p.jacoscope."): value for key, value in pairs}

    def take(self, button: Locator) -> tuple[str, bytes]:
        """The name and the content of the file that a button hands to the browser."""
        name, address = button.evaluate(_TAKE)
        return name, base64.b64decode(address.partition("base64,")[2])

    def numbers(self, figure: Locator) -> list[dict[str, str]]:
        """The rows of a figure's CSV."""
        return rows_of(self.take(figure.get_by_role("button", name="Download as CSV").first)[1])

    def check(self) -> None:
        """Fail if the page has done what it must not since it was last asked."""
        found = self.problems.take()
        assert not found, "\n".join(found)

    def close(self) -> None:
        """Close the page."""
        self._context.close()


def rows_of(content: bytes) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))


Open = Callable[..., Tab]
"""Opens the tab of a server on a page of its own."""
