"""What gathering over processes is made of, in one process."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn import functional as communicating
from torch.nn.parallel import DistributedDataParallel

import jacoscope
from jacoscope.leaderboard import Leaderboard, SampleBatch, ShownSamples, without_things
from jacoscope.processes import Processes, are_several
from sample_training import cross_entropies, perceptron, rows_of_pairs


@pytest.fixture
def group() -> Iterator[None]:
    """A group of one process, which talks to itself."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_one_process_talks_to_itself(group: None) -> None:
    state = torch.get_rng_state()
    processes = Processes()
    assert (processes.rank, processes.size) == (0, 1)
    assert processes.share({"a": 1}) == [{"a": 1}]
    own = object()
    assert processes.hand_over(own) == [own], "its own is not sent"
    assert processes.of_rank_zero([True, False]) == [True, False]
    processes.close()
    processes.close()
    assert torch.equal(torch.get_rng_state(), state)
    assert not are_several()


def test_a_closed_end_talks_no_more(group: None) -> None:
    """PyTorch would take the training's own group for one that is not there."""
    processes = Processes()
    processes.close()
    for talk in (processes.share, processes.hand_over, processes.of_rank_zero):
        with pytest.raises(RuntimeError, match="this process has closed its end"):
            talk(1)


def test_closing_is_safe_when_the_group_has_gone(group: None) -> None:
    processes = Processes()
    dist.destroy_process_group()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    processes.close()


def batch(samples: int = 8) -> tuple[Tensor, Tensor]:
    rows = rows_of_pairs(samples, torch.float64)
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])


def expected_norms(network: nn.Module, given: Any) -> dict[str, Any]:
    """By parameter, the norm of each sample's contribution to the gradient of the mean loss."""
    names = [name for name, _ in network.named_parameters()]
    losses = cross_entropies(network, given) / len(given[0])
    rows = [
        torch.autograd.grad(each, list(network.parameters()), retain_graph=True) for each in losses
    ]
    return {
        name: np.array([float(row[place].norm()) for row in rows])
        for place, name in enumerate(names)
    }


def check(jacobians: Any, expected: dict[str, Any]) -> None:
    assert not jacobians.missing
    for name, norms in expected.items():
        found = jacobians[name].row_sq_norms().sqrt().numpy()
        np.testing.assert_allclose(found, norms, rtol=1e-9, err_msg=name)


def test_the_node_of_a_search_for_unused_parameters_is_passed_over(group: None) -> None:
    """It stands between the network's outputs and the loss."""
    network, given = perceptron(torch.float64), batch()
    model = DistributedDataParallel(network, find_unused_parameters=True)
    loss = cross_entropies(model, given).mean()
    with jacoscope.capture(loss, network, batch_size=8, want=("row_sq_norms",)) as jacobians:
        loss.backward()
    check(jacobians, expected_norms(network, given))


def test_the_node_of_a_static_graph_is_not_run_twice(group: None) -> None:
    """In the first backward it tells the reducer to begin, which no other backward may do."""
    network, given = perceptron(torch.float64), batch()
    model = DistributedDataParallel(network, static_graph=True)
    for step in range(2):
        loss = cross_entropies(model, given).mean()
        with jacoscope.capture(
            loss, network, batch_size=8, want=("row_sq_norms",), custom_functions="run"
        ) as jacobians:
            assert model._static_graph_delay_allreduce_enqueued == (step > 0)
            loss.backward()
        if step == 0:
            assert len(jacobians.missing) == 4
            for reason in jacobians.missing.values():
                assert "_DDPSink, whose backward waits for the other processes" in reason
        else:
            check(jacobians, expected_norms(network, given))


class Loss(nn.Module):
    """A network that returns its loss, and more."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, given: Any) -> dict[str, Tensor]:
        logits = self.network(given[0])
        return {"logits": logits, "loss": nn.functional.cross_entropy(logits, given[1])}


@pytest.mark.parametrize("options", [{"static_graph": True}, {"find_unused_parameters": True}])
def test_nodes_right_below_the_loss_are_passed_over(options: Any, group: None) -> None:
    network, given = perceptron(torch.float64), batch()
    model = DistributedDataParallel(Loss(network), **options)
    loss = model(given)["loss"] / 2
    with jacoscope.capture(loss, network, batch_size=8, want=("row_sq_norms",)) as jacobians:
        loss.backward()
    halves = {name: norms / 2 for name, norms in expected_norms(network, given).items()}
    check(jacobians, halves)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("operation", ["all_reduce", "all_gather"])
@pytest.mark.parametrize("trust", ["withhold", "run"])
def test_what_waits_for_other_processes_is_withheld(
    operation: str, trust: Any, group: None
) -> None:
    network, (inputs, labels) = perceptron(torch.float64), batch()
    hidden = network[:2](inputs)
    shared = getattr(communicating, operation)(hidden)
    shared = shared[0] if operation == "all_gather" else shared
    loss = nn.functional.cross_entropy(network[2](shared), labels)
    with jacoscope.capture(
        loss, network, batch_size=8, want=("row_sq_norms",), custom_functions=trust
    ) as jacobians:
        loss.backward()
    assert set(jacobians.missing) == {"0.weight", "0.bias"}
    for reason in jacobians.missing.values():
        assert "whose backward waits for the other processes and so can be run only once" in reason


def random_batch(rng: np.random.Generator, ids: list[int], step: int, asked: list[int]) -> Any:
    def thing(place: int) -> str:
        asked.append(ids[place])
        return f"sample {ids[place]} at {step}"

    count = len(ids)
    return SampleBatch(
        ids=ids,
        id_source="dataset index",
        step=step,
        labels=None,
        losses=rng.gamma(1, 1, count),
        rows=("all", "layer"),
        norms_RN=rng.gamma(1, 1, (2, count)),
        alignments_RN=rng.uniform(-1, 1, (2, count)),
        class_alignments_N=rng.uniform(-1, 1, count),
        thing=thing,
    )


@pytest.mark.parametrize("seed", range(5))
def test_leaders_of_all_are_shown_by_their_own_process(seed: int) -> None:
    """Samples, that is, which lead by what they are now; in the first epoch by means as well."""
    rng = np.random.default_rng(seed)
    whole, processes = Leaderboard(size=3), [ShownSamples(3) for _ in range(3)]
    asked: list[int] = []
    for epoch in range(2):
        ids = rng.permutation(360).tolist()
        for step in range(30):
            for rank, process in enumerate(processes):
                mine = ids[12 * step + 4 * rank : 12 * step + 4 * rank + 4]
                given = random_batch(rng, mine, 100 * epoch + step, asked)
                (shown,) = process.of([given], epoch)
                travelled = pickle.loads(pickle.dumps(shown))
                np.testing.assert_array_equal(travelled.norms_RN, given.norms_RN)
                whole.add(travelled)
        boards = whole.close_epoch(epoch, 100 * epoch + 29)
        assert boards is not None
        for board in boards.boards:
            if board.layer is None and (epoch == 0 or "mean" not in board.name):
                assert len(board.entries) == 3
                for entry in board.entries:
                    assert entry.thing == f"sample {entry.id} at {entry.step}", board.name
    assert len(asked) < 720 / 2, "most are not even looked at"


def test_nothing_is_shown_where_showing_fails() -> None:
    given = random_batch(np.random.default_rng(0), [1, 2], 0, [])
    (shown,) = pickle.loads(pickle.dumps(without_things([given])))
    assert shown.thing(0) is None
    assert list(shown.ids) == [1, 2]
    assert math.isclose(shown.losses[0], given.losses[0])
