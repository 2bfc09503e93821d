import torch

from jacoscope.demos import LSTM


def test_logits_have_the_documented_shape() -> None:
    network = LSTM(vocabulary_size=11, embedding=4, width=6, layers=2)
    assert network(torch.randint(11, (3, 5))).shape == (3, 5, 11)


def test_later_token_never_changes_an_earlier_output() -> None:
    network = LSTM(vocabulary_size=11, embedding=4, width=6).double()
    tokens = torch.randint(11, (3, 5))
    others = tokens.clone()
    others[:, 3] = (others[:, 3] + 1) % 11
    before, after = network(tokens), network(others)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).any(-1).all()
