import torch

from jacoscope.demos import ResNet


def test_logits_have_the_documented_shape() -> None:
    network = ResNet(channels=3, width=4, blocks=2, outputs=7)
    assert network(torch.rand(5, 3, 16, 16)).shape == (5, 7)


def test_stages_have_readable_names() -> None:
    names = [name for name, _ in ResNet().named_children()]
    assert names == ["stem", "stage1", "stage2", "stage3", "head"]


def test_normalisation_couples_samples_in_training_only() -> None:
    network = ResNet(width=4).double()
    images = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    together, part = network(images), network(images[:3])
    assert not torch.allclose(together[:3], part)
    network.eval()
    torch.testing.assert_close(network(images)[:3], network(images[:3]))
