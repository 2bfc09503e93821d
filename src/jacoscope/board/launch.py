"""``jacoscope board LOGDIR``: TensorBoard, with the address of the Sensitivity tab."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from jacoscope.errors import nearest
from jacoscope.schema import PLUGIN_NAME

__all__ = ["main"]

_DESCRIPTION = """\
Open the records under LOGDIR in TensorBoard, on the Sensitivity tab.

Runs are found in any folder below LOGDIR, also those that begin later. LOGDIR itself has to be
there, and may be empty."""
_EPILOG = """\
Options of TensorBoard's own go after two dashes:
  jacoscope board runs -- --bind_all --reload_interval 2"""

_FIRST_PORT = 6006  # where TensorBoard begins to look for a free one
_PORTS_TRIED = 100
# A monitor describes its run before it writes a number; a file that holds no mention of it near its
# beginning is another's.
_BYTES_SEARCHED = 2**20
_FILES_SEARCHED = 500


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        if message.startswith("unrecognized arguments:"):
            given = message.partition(":")[2].split()[0]
            hint = nearest(given, self._option_string_actions)
            message = f"{given} is not an option here (TensorBoard's own go after --); {hint}"
        elif "required: LOGDIR" in message:
            message = "no LOGDIR is given; name the folder that runs are logged to, such as runs"
        raise SystemExit(_say(message))


def main(args: Sequence[str]) -> int:
    """Serve the tab until the user interrupts it.

    Args:
        args: What follows ``jacoscope board`` on the command line.

    Returns:
        The exit code: 0, or 2 for something that cannot be served.
    """
    ours, theirs = _split(args)
    options = _parser().parse_args(ours)
    problem = _problem_with_folder(options.logdir) or _problem_with_port(options.port)
    if problem:
        return _say(problem)
    try:
        return _serve(options, theirs)
    except KeyboardInterrupt:
        print()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jacoscope board",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("logdir", metavar="LOGDIR", help="the folder that runs are logged to")
    parser.add_argument(
        "--port",
        type=_port,
        metavar="N",
        help=f"the port; 0 for any (default: the first free one from {_FIRST_PORT})",
    )
    parser.add_argument("--host", help="the address to listen on (default: localhost)")
    parser.add_argument(
        "--load_fast",
        choices=("auto", "true", "false"),
        default="auto",
        help="TensorBoard's fast loader: false where it misbehaves (default: auto)",
    )
    parser.add_argument(
        "--path_prefix", metavar="/PATH", default="", help="the path to serve under, for a proxy"
    )
    parser.add_argument("--open", action="store_true", help="open the tab in a browser")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 65535")
    return int(text)


def _split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and those after ``--``, which are TensorBoard's."""
    given = list(args)
    at = given.index("--") if "--" in given else len(given)
    return given[:at], given[at + 1 :]


def _say(problem: str) -> int:
    print(f"jacoscope: error: {problem}", file=sys.stderr)
    return 2


def _problem_with_folder(logdir: str) -> str | None:
    if "://" in logdir:  # a bucket, which TensorBoard reads by itself
        return None
    folder = Path(logdir).expanduser()
    if folder.is_file():
        return f"{logdir} is a file; give the folder that it is in"
    if folder.is_dir():
        return None
    siblings = folder.parent.iterdir() if folder.parent.is_dir() else ()
    hint = nearest(folder.name, (path.name for path in siblings if path.is_dir()))
    mend = hint if hint.startswith("did you mean") else "make it first if runs are to come there"
    return f"there is no folder {logdir}; {mend}"


def _problem_with_port(port: int | None) -> str | None:
    if not port or not _is_taken(port):
        return None
    others = range(port + 1, min(port + _PORTS_TRIED, 2**16))
    free = next((other for other in others if not _is_taken(other)), 0)
    return f"port {port} is taken; give --port {free}, which is free, or leave --port out"


def _is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(("localhost", port)) == 0


def _has_records(logdir: str) -> bool:
    """Whether a monitor has written below a folder, as far as a quick look can tell."""
    if "://" in logdir:
        return True
    return any(_mentions_monitor(path) for path in islice(_event_files(logdir), _FILES_SEARCHED))


def _event_files(logdir: str) -> Iterator[Path]:
    for folder, _, names in os.walk(Path(logdir).expanduser(), followlinks=True):
        yield from (Path(folder, name) for name in names if "tfevents" in name)


def _mentions_monitor(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return f"{PLUGIN_NAME}/".encode() in file.read(_BYTES_SEARCHED)
    except OSError:
        return False


def _serve(options: argparse.Namespace, theirs: Sequence[str]) -> int:
    # TensorBoard takes a while to import; a mistake in an argument is told before that.
    from tensorboard import default, program
    from tensorboard.plugins.base_plugin import FlagsError

    from jacoscope.board.loader import SensitivityLoader

    plugins = default.get_plugins()
    if SensitivityLoader not in plugins:  # run from a source tree, without an entry point
        plugins.append(SensitivityLoader)
    board = program.TensorBoard(
        plugins=plugins, server_class=program.with_port_scanning(_server_class(options))
    )
    flags = [
        *("--logdir", options.logdir, "--load_fast", options.load_fast),
        *("--path_prefix", options.path_prefix),
        *(() if options.port is None else ("--port", str(options.port))),
        *(("--host", options.host) if options.host else ()),
    ]
    try:
        board.configure(["", *flags, *theirs])
    except FlagsError as error:
        return _say(str(error))
    return 2 if board.main() else 0


def _server_class(options: argparse.Namespace) -> type[Any]:
    from tensorboard import program

    class Server(program.WerkzeugServer):  # type: ignore[misc]
        """TensorBoard's server, but for what it says when it is ready."""

        def print_serving_message(self) -> None:
            address = f"{self.get_url()}#{PLUGIN_NAME}"
            print(f"Sensitivity tab: {address} (Ctrl-C to stop)")
            if not _has_records(options.logdir):
                print(f"{options.logdir} holds no record of a monitor yet; the tab waits for one.")
            sys.stdout.flush()
            if options.open:
                webbrowser.open(address)

    return Server
