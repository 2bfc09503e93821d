import pytest
import torch

from jacoscope.demos import Transformer


def _network(dropout: float = 0.0, tie_head: bool = True) -> Transformer:
    return Transformer(
        vocabulary_size=11,
        context=8,
        width=8,
        blocks=2,
        heads=2,
        dropout=dropout,
        tie_head=tie_head,
    ).double()


def test_logits_have_the_documented_shape() -> None:
    assert _network()(torch.randint(11, (3, 8))).shape == (3, 8, 11)
    assert _network()(torch.randint(11, (3, 5))).shape == (3, 5, 11)


@pytest.mark.parametrize("changed", range(8))
def test_later_token_never_changes_an_earlier_output(changed: int) -> None:
    network, tokens = _network(), torch.randint(11, (3, 8))
    others = tokens.clone()
    others[:, changed] = (others[:, changed] + 1) % 11
    before, after = network(tokens), network(others)
    torch.testing.assert_close(before[:, :changed], after[:, :changed], rtol=0, atol=1e-12)
    assert (before[:, changed:] != after[:, changed:]).any(-1).all()


def test_tied_head_is_the_embedding() -> None:
    network = _network()
    assert network.head.weight is network.token_embedding.weight
    assert "head.weight" not in dict(network.named_parameters())


def test_untied_head_is_a_parameter_of_its_own() -> None:
    network = _network(tie_head=False)
    assert network.head.weight is not network.token_embedding.weight
    assert "head.weight" in dict(network.named_parameters())


def test_dropout_acts_in_training_only() -> None:
    network, tokens = _network(dropout=0.5), torch.randint(11, (3, 8))
    assert not torch.equal(network(tokens), network(tokens))
    network.eval()
    assert torch.equal(network(tokens), network(tokens))


def test_parameters_have_readable_names() -> None:
    names = dict(_network().named_parameters())
    assert "blocks.0.attention.query_key_value.weight" in names
    assert "blocks.1.feed_forward.contract.bias" in names


def test_first_prediction_is_nearly_uniform() -> None:
    probabilities = _network()(torch.randint(11, (3, 8))).softmax(-1)
    torch.testing.assert_close(
        probabilities, torch.full_like(probabilities, 1 / 11), rtol=0.3, atol=0
    )


def test_input_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match=r"9 tokens, more than context=8.*context=9"):
        _network()(torch.randint(11, (3, 9)))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="heads=3 must divide width=8"):
        Transformer(width=8, heads=3)
