"""Sample leaderboards as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jacoscope.leaderboard import Board, Entry, EpochBoards
from jacoscope.sinks._words import cut, cut_name, escaped, number, one_line

__all__ = ["sample_tables"]

_NAME_LENGTH = 80
_TEXT_LENGTH = 120
_LAYERS = "largest_gradient_by_layer"
_EXTRA = {
    "mean_norm": "mean ‖g‖",
    "mean_loss": "mean loss",
    "class_alignment": "alignment with class",
    "mean_class_alignment": "mean alignment with class",
}
"""The column of a number that not every table has."""


def sample_tables(boards: EpochBoards) -> Iterator[tuple[str, str]]:
    """The name and text of each table: one per board, and one for the boards of all layers."""
    for board in boards.boards:
        if board.layer is None:
            yield board.name, _text(boards, board.title, board.explanation, _places(board))
    layers = [board for board in boards.boards if board.layer is not None]
    if layers:
        title = "Samples with the largest gradients in each layer"
        explanation = (
            "‖g_i‖, the norm of the sample's own gradient over one layer alone, largest first; a "
            "cell has a sample's id, its label in brackets where it is known, and ‖g_i‖."
        )
        yield _LAYERS, _text(boards, title, explanation, _layer_places(layers))


def _text(boards: EpochBoards, title: str, explanation: str, rows: list[list[str]]) -> str:
    samples = "1 sample" if boards.seen == 1 else f"{boards.seen:,} samples"
    seen = (
        f"Epoch {boards.epoch}, up to step {boards.step}: {samples} seen at captured steps, "
        f"each with its last values. Ids: {escaped(one_line(boards.id_source))}."
    )
    if boards.omitted:
        seen += (
            f" The record holds the numbers of the {len(boards.columns.ids):,} with the largest "
            "gradients."
        )
    for name, why in boards.unknown.items():
        seen += f" The {name} of samples is not known: {escaped(one_line(why))}."
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"### {title}\n\n{escaped(explanation)}\n\n{seen}\n\n{table}"


def _places(board: Board) -> list[list[str]]:
    columns = ["rank", "id", "label", "loss", "‖g‖", "alignment"]
    if board.ranked_by in _EXTRA:
        columns.append(_EXTRA[board.ranked_by])
    has_text = any(isinstance(entry.thing, str) for entry in board.entries)
    rows = [[*columns, "text"] if has_text else columns]
    for entry in board.entries:
        row = [str(entry.rank), _name(entry.id), _name(entry.label), number(entry.loss)]
        row += [number(entry.norm), number(entry.alignment)]
        if board.ranked_by in _EXTRA:
            row.append(number(getattr(entry, board.ranked_by)))
        if has_text:
            row.append(_snippet(entry))
        rows.append(row)
    return rows


def _layer_places(boards: Sequence[Board]) -> list[list[str]]:
    places = max(len(board.entries) for board in boards)
    rows = [["layer", *(str(place + 1) for place in range(places))]]
    for board in boards:
        cells = [_leader(entry) for entry in board.entries]
        rows.append([_name(board.layer), *cells, *[""] * (places - len(cells))])
    return rows


def _leader(entry: Entry) -> str:
    label = "" if entry.label is None else f" ({_name(entry.label)})"
    return f"**{_name(entry.id)}**{label} {number(entry.norm)}"


def _name(value: object) -> str:
    return "–" if value is None else escaped(cut_name(one_line(value), _NAME_LENGTH))


def _snippet(entry: Entry) -> str:
    # A long text is cut before it is looked at letter by letter.
    text = entry.thing[: 10 * _TEXT_LENGTH] if isinstance(entry.thing, str) else ""
    return escaped(cut(one_line(text), _TEXT_LENGTH))
