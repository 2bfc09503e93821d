import torch

from jacoscope.demos import MLP


def test_pictures_are_flattened() -> None:
    assert MLP(inputs=64, hidden=(16, 8), outputs=10)(torch.rand(5, 1, 8, 8)).shape == (5, 10)


def test_without_hidden_layers_it_is_linear() -> None:
    network = MLP(inputs=3, hidden=(), outputs=2)
    samples = torch.rand(4, 3)
    torch.testing.assert_close(
        network(samples), samples @ network.head.weight.T + network.head.bias
    )


def test_parameters_have_readable_names() -> None:
    names = [name for name, _ in MLP(hidden=(4, 4)).named_parameters()]
    assert names == [
        *("hidden.0.weight", "hidden.0.bias"),
        *("hidden.1.weight", "hidden.1.bias"),
        *("head.weight", "head.bias"),
    ]
