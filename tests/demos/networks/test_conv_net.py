import pytest
import torch

from jacoscope.demos import ConvNet


def test_logits_have_the_documented_shape() -> None:
    assert ConvNet(channels=3, size=12, outputs=7)(torch.rand(5, 3, 12, 12)).shape == (5, 7)


def test_samples_do_not_touch_each_other() -> None:
    network, images = ConvNet().double(), torch.rand(6, 1, 8, 8, dtype=torch.float64)
    alone = torch.cat([network(image) for image in images.unsqueeze(1)])
    torch.testing.assert_close(network(images), alone)


def test_size_that_cannot_be_halved_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size=10 must be a multiple of 4.*pad it to 12"):
        ConvNet(size=10)
