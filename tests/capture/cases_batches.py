"""Batches whose rows and samples are not the same thing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from capture.case import Batch, Case, Net, along, integers, normal, wave

# --- losses that pick a subset of rows


def masked_tokens(model: nn.Module, batch: Batch) -> Tensor:
    x, y, mask = batch
    return functional.cross_entropy(model(x)[mask], y[mask])


def masked_share(model: nn.Module, batch: Batch, i: int) -> Tensor:
    """The mean runs over all tokens that are masked, so a sample with more of them weighs more."""
    x, y, mask = (part[i : i + 1] for part in batch)
    return functional.cross_entropy(model(x)[mask], y[mask], reduction="sum") / batch[2].sum()


def ignoring(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def ignoring_share(model: nn.Module, batch: Batch, i: int) -> Tensor:
    total = functional.cross_entropy(
        model(batch[0][i : i + 1]).flatten(0, 1), batch[1][i : i + 1].flatten(), reduction="sum"
    )
    return total / (batch[1] != -100).sum()


def mask(n: int, length: int) -> Tensor:
    """Unequal counts of tokens; the last sample has one."""
    return torch.arange(length) < torch.tensor([length, 2, length - 1, 1, 3])[:n, None]


def tagger() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(7, 4),
        nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True),
        nn.Linear(4, 5),
    )


def labelled(n: int, length: int) -> Batch:
    labels = integers(5, n, length)
    labels[~mask(n, length)] = -100
    return integers(7, n, length), labels


def last_step(m: Net, x: Tensor, lengths: Tensor) -> Tensor:
    outputs = m.rnn(x)[0]
    return m.head(outputs[torch.arange(len(x)), lengths - 1])


def only_some(model: nn.Module, batch: Batch) -> Tensor:
    """Only samples with a label take part; the others contribute nothing."""
    x, y = batch
    known = y >= 0
    return functional.cross_entropy(model(x[known]), y[known])


def some_share(model: nn.Module, batch: Batch, i: int) -> Tensor:
    x, y = batch
    if y[i] < 0:
        return 0 * model(x[i : i + 1]).sum()
    return functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]) / (y >= 0).sum()


SUBSETS = (
    Case("masked tokens", tagger, lambda n: (integers(7, n, 6), integers(5, n, 6), mask(n, 6)),
         n=4, loss=masked_tokens, share=masked_share),
    Case("labels to ignore", tagger, lambda n: labelled(n, 5), n=5, loss=ignoring,
         share=ignoring_share),
    Case("labels to ignore, Linear alone",
         lambda: nn.Linear(4, 5), lambda n: (normal(n, 6, 4), labelled(n, 6)[1]), n=3,
         loss=ignoring, share=ignoring_share),
    Case("last step of unequal lengths",
         lambda: Net(last_step, rnn=nn.GRU(4, 3, batch_first=True), head=nn.Linear(3, 2)),
         lambda n: (normal(n, 5, 4), torch.tensor([5, 2, 4, 1])[:n]), n=4),
    Case("some samples without a label, chosen before the model",
         lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)),
         lambda n: (normal(n, 5), torch.tensor([1, -1, 0, 2, -1])[:n]), n=5, loss=only_some,
         share=some_share, options={"samples": torch.tensor([0, 2, 3])}),
    Case("some samples without a label, chosen before the model, rows not told",
         lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)),
         lambda n: (normal(n, 5), torch.tensor([1, -1, 0, 2, -1])[:n]), n=5, loss=only_some,
         share=some_share, xfail="the model never sees as many rows as there are samples"),
    Case("some samples without a label, chosen after the model",
         lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)),
         lambda n: (normal(n, 5), torch.tensor([1, -1, 0, 2, -1])[:n]), n=5,
         loss=lambda m, b: functional.cross_entropy(m(b[0])[b[1] >= 0], b[1][b[1] >= 0]),
         share=some_share),
)  # fmt: skip

# --- rows in another order


def sequence_first(m: Net, x: Tensor) -> Tensor:
    """Batch first outside, sequence first inside."""
    h = m.embed(x).transpose(0, 1)
    h = m.attend(h, h, h, need_weights=False)[0] + h
    h = m.rnn(m.norm(h))[0]
    return m.head(h).transpose(0, 1)


def flattened(m: Net, x: Tensor) -> Tensor:
    """(B·T, d) all through."""
    rows = x.reshape(-1, x.shape[2])
    return m.head(m.norm(m.body(rows).tanh()))


def time_flattened(m: Net, x: Tensor) -> Tensor:
    """(T·B, d) all through: row r belongs to sample r modulo B."""
    rows = x.transpose(0, 1).reshape(-1, x.shape[2])
    return m.head(m.norm(m.body(rows).tanh()))


def reversed_inside(m: Net, x: Tensor) -> Tensor:
    return m.head(m.body(x.flip(0)).tanh()).flip(0)


def sorted_inside(m: Net, x: Tensor, lengths: Tensor) -> Tensor:
    order = lengths.argsort(descending=True)
    h = m.body(x[order]).tanh()
    return m.head(h)[order.argsort()]


def repeated_inside(m: Net, x: Tensor, noise: Tensor) -> Tensor:
    """Three draws per sample, one after another."""
    h = m.body(x).repeat_interleave(3, 0) + noise.flatten(0, 1)
    return m.head(h.tanh()).view(len(x), 3, -1)


def tiled_inside(m: Net, x: Tensor, noise: Tensor) -> Tensor:
    """Three draws per sample, the whole batch repeated."""
    h = m.body(x).repeat(3, 1) + noise.transpose(0, 1).flatten(0, 1)
    return m.head(h.tanh()).view(3, len(x), -1).transpose(0, 1)


def frames(m: Net, x: Tensor) -> Tensor:
    """A video: frames go through a convolution as a batch of B·T, then over time."""
    maps = m.conv(x.flatten(0, 1)).relu().mean((2, 3))
    return m.rnn(maps.view(*x.shape[:2], -1))[0]


def axial(m: Net, x: Tensor) -> Tensor:
    """Rows attend, then columns: (B·H, W, d) and (B·W, H, d)."""
    n, height, width, d = x.shape
    rows = x.reshape(n * height, width, d)
    x = x + m.rows(rows, rows, rows, need_weights=False)[0].view(n, height, width, d)
    columns = x.transpose(1, 2).reshape(n * width, height, d)
    y = m.columns(columns, columns, columns, need_weights=False)[0]
    return x + y.view(n, width, height, d).transpose(1, 2)


def body(**more: nn.Module) -> dict[str, nn.Module]:
    return {"body": nn.Linear(4, 5), "head": nn.Linear(5, 2), **more}


def inside(n: int) -> Batch:
    return (normal(n, 5, 4),)


ORDERS = (
    *(
        Case(f"sequence first inside, N = {n}",
             lambda: Net(sequence_first, embed=nn.Linear(4, 4), attend=nn.MultiheadAttention(4, 2),
                         norm=nn.LayerNorm(4), rnn=nn.GRU(4, 3), head=nn.Linear(3, 2)),
             inside, n=n)
        for n in (2, 3, 5)
    ),
    *(
        Case(f"{name}, {told}, N = {n}", lambda run=run: Net(run, **body(norm=nn.LayerNorm(5))),
             inside, n=n, options={"samples": rows} if told == "rows told" else {},
             xfail="" if told == "rows told" else "only the user knows which rows are a sample's")
        for n in (3, 5)
        for name, run, rows in (
            ("(B T, d) all through", flattened, torch.arange(n).repeat_interleave(5)),
            ("(T B, d) all through", time_flattened, torch.arange(n).repeat(5)))
        for told in ("rows told", "rows not told")
    ),
    Case("batch reversed inside", lambda: Net(reversed_inside, **body()), inside, n=3),
    Case("batch reversed inside, two-dimensional", lambda: Net(reversed_inside, **body()),
         lambda n: (normal(n, 4),), n=4),
    Case("batch sorted inside", lambda: Net(sorted_inside, **body()),
         lambda n: (normal(n, 4), torch.tensor([2, 5, 3, 4])[:n]), n=4),
    Case("several draws per sample, interleaved", lambda: Net(repeated_inside, **body()),
         lambda n: (normal(n, 4), normal(n, 3, 5)), n=4),
    Case("several draws per sample, batch repeated", lambda: Net(tiled_inside, **body()),
         lambda n: (normal(n, 4), normal(n, 3, 5)), n=4),
    Case("several draws per sample, as many as samples", lambda: Net(tiled_inside, **body()),
         lambda n: (normal(n, 4), normal(n, 3, 5)), n=3),
    Case("frames of a video",
         lambda: Net(frames, conv=nn.Conv2d(1, 3, 3), rnn=nn.GRU(3, 2, batch_first=True)),
         lambda n: (normal(n, 4, 1, 5, 5),), n=3),
    Case("frames of a video, N equals their number",
         lambda: Net(frames, conv=nn.Conv2d(1, 3, 3), rnn=nn.GRU(3, 2, batch_first=True)),
         lambda n: (normal(n, 3, 1, 5, 5),), n=3),
    Case("attention along rows and along columns",
         lambda: Net(axial, rows=nn.MultiheadAttention(4, 2, batch_first=True),
                     columns=nn.MultiheadAttention(4, 2, batch_first=True)),
         lambda n: (normal(n, 3, 2, 4),), n=3),
    Case("batch as last dimension",
         lambda: Net(lambda m, x: m.W @ (m.V @ x).tanh(), W=nn.Parameter(torch.randn(2, 5)),
                     V=nn.Parameter(torch.randn(5, 4))),
         lambda n: (normal(4, n),), n=3, take=along(1)),
    Case("losses summed over a loop over samples",
         lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)),
         lambda n: (normal(n, 4),), n=3,
         loss=lambda m, b: sum(wave(m(row)) for row in b[0]) / len(b[0]),
         xfail="each sample has a graph of its own; no tensor holds the batch"),
    Case("accumulated over halves of the batch in one loss",
         lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)),
         lambda n: (normal(n, 4),), n=4,
         loss=lambda m, b: sum(wave(m(x)) * len(x) for x in b[0].split(2)) / len(b[0]),
         xfail="the batch comes in two parts; no tensor holds all of it"),
)  # fmt: skip

# --- several rows per sample, told by `samples`


def encoder() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 3))


def pair_distance(model: nn.Module, batch: Batch) -> Tensor:
    a, b, same = batch
    distance = (model(a) - model(b)).square().sum(1)
    return (same * distance + (1 - same) * functional.softplus(1 - distance)).mean()


def views_distance(model: nn.Module, batch: Batch) -> Tensor:
    """The first views of all samples, then the second views, through the model at once."""
    a, b = model(batch[0]).chunk(2)
    return functional.cosine_similarity(a, b).square().mean() + wave(a)


def views_of(batch: Batch, i: int) -> Batch:
    n = len(batch[0]) // 2
    return (batch[0][[i, n + i]],)


def interleaved_views(model: nn.Module, batch: Batch) -> Tensor:
    a, b = model(batch[0]).unflatten(0, (-1, 2)).unbind(1)
    return functional.cosine_similarity(a, b).square().mean() + wave(a)


SIZES = (3, 1, 4, 2)
GRAPH_OF_NODE = torch.repeat_interleave(torch.arange(4), torch.tensor(SIZES))


def ring(size: int, start: int) -> Tensor:
    nodes = torch.arange(size)
    return torch.stack((nodes, (nodes + 1) % size)) + start


def graphs(n: int) -> Batch:
    """Nodes of all graphs, edges, graph of each node."""
    starts = (0, 3, 4, 8)[:n]
    edges = torch.cat([ring(s, start) for s, start in zip(SIZES[:n], starts, strict=True)], 1)
    return normal(sum(SIZES[:n]), 4), edges, GRAPH_OF_NODE[: sum(SIZES[:n])]


def one_graph(batch: Batch, i: int) -> Batch:
    nodes, _, graph = batch
    inside = graph == i
    return nodes[inside], ring(SIZES[i], 0), torch.zeros(SIZES[i], dtype=torch.long)


def message_passing(m: Net, nodes: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
    for layer, own in zip(m.messages, m.own, strict=True):
        messages = layer(nodes[edges[0]]).relu()
        received = nodes.new_zeros(len(nodes), messages.shape[1])
        nodes = own(nodes) + received.index_add(0, edges[1], messages)
    n = int(graph.max()) + 1
    count = torch.bincount(graph, minlength=n).to(nodes.dtype)
    pooled = nodes.new_zeros(n, nodes.shape[1]).index_add(0, graph, nodes) / count[:, None]
    return m.head(pooled)


def per_node(m: Net, nodes: Tensor, graph: Tensor) -> Tensor:
    """Loss of each node, averaged within its graph, without pooled features."""
    return m.head(m.body(nodes).tanh())


def mean_per_graph(model: nn.Module, batch: Batch) -> Tensor:
    nodes, graph = batch
    cost = model(nodes, graph).square().sum(1)
    count = torch.bincount(graph).to(nodes.dtype)
    return (cost / count[graph]).sum() / len(count)


def patches(m: Net, rows: Tensor) -> Tensor:
    """Bags of three instances: rows through the body, then their mean."""
    return m.head(m.body(rows).tanh().view(-1, 3, 5).mean(1))


ROWS = (
    Case("siamese on two inputs", encoder, lambda n: (
        normal(n, 4), normal(n, 4), torch.tensor([1.0, 0.0, 1.0, 0.0]).double()[:n]), n=4,
        loss=pair_distance),
    Case("two views, one after the other", encoder, lambda n: (normal(2 * n, 4),), n=3,
         loss=views_distance, take=views_of, options={"samples": torch.arange(3).repeat(2)}),
    Case("two views, interleaved", encoder, lambda n: (normal(2 * n, 4),), n=3,
         loss=interleaved_views, take=lambda b, i: (b[0][2 * i : 2 * i + 2],),
         options={"samples": torch.arange(3).repeat_interleave(2)}),
    Case("two views of images, one after the other",
         lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)),
         lambda n: (normal(2 * n, 1, 4, 4),), n=2, loss=views_distance, take=views_of,
         options={"samples": torch.arange(2).repeat(2)}),
    Case("graphs of unequal sizes",
         lambda: Net(message_passing, messages=nn.ModuleList((nn.Linear(4, 5), nn.Linear(5, 5))),
                     own=nn.ModuleList((nn.Linear(4, 5), nn.Linear(5, 5, bias=False))),
                     head=nn.Linear(5, 2)),
         graphs, n=4, take=one_graph, options={"samples": GRAPH_OF_NODE}),
    Case("nodes of graphs, mean per graph", lambda: Net(per_node, **body()),
         lambda n: (normal(10, 4), GRAPH_OF_NODE), n=4, loss=mean_per_graph,
         take=lambda b, i: (b[0][b[1] == i], b[1][b[1] == i] * 0),
         options={"samples": GRAPH_OF_NODE}),
    Case("nodes of graphs in mixed order", lambda: Net(per_node, **body()),
         lambda n: (normal(7, 4), torch.tensor([2, 0, 1, 0, 2, 2, 0])), n=3, loss=mean_per_graph,
         take=lambda b, i: (b[0][b[1] == i], b[1][b[1] == i] * 0),
         options={"samples": torch.tensor([2, 0, 1, 0, 2, 2, 0])}),
    Case("bags of instances", lambda: Net(patches, **body()), lambda n: (normal(3 * n, 4),), n=4,
         take=lambda b, i: (b[0][3 * i : 3 * i + 3],),
         options={"samples": torch.arange(4).repeat_interleave(3)}),
)  # fmt: skip

CASES = (*SUBSETS, *ORDERS, *ROWS)
