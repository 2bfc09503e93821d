import torch

from jacoscope.demos.data._windows import Windows


def test_targets_are_the_inputs_one_character_later() -> None:
    windows = Windows(torch.arange(10), torch.tensor([6, 0]), context=3)
    assert len(windows) == 2
    assert [part.tolist() for part in windows[0]] == [[6, 7, 8], [7, 8, 9]]
    assert [part.tolist() for part in windows[1]] == [[0, 1, 2], [1, 2, 3]]
