import pytest
import torch

from jacoscope.demos import Topics
from jacoscope.demos.data._topics import read_topics


def _loaded(seed: int = 0) -> Topics:
    topics = Topics(batch_size=8, context=32, windows=100, seed=seed)
    topics.setup("fit")
    return topics


def test_text_is_python_s_help() -> None:
    text = read_topics()
    assert len(text) > 300_000
    assert 'The "for" statement' in text


def test_batch_has_the_documented_shapes_and_shift() -> None:
    topics = _loaded()
    tokens, next_tokens = next(iter(topics.train_dataloader()))
    assert tokens.shape == next_tokens.shape == (8, 32)
    assert tokens.dtype == next_tokens.dtype == torch.int64
    assert torch.equal(tokens[:, 1:], next_tokens[:, :-1])
    assert topics.vocabulary.decode(tokens[0]) in read_topics()


def test_parts_together_are_the_text_in_order() -> None:
    topics = _loaded()
    parts = torch.cat([topics.train_dataset.text, topics.val_dataset.text])
    assert torch.equal(parts, topics.vocabulary.encode(read_topics()))


def test_last_windows_end_inside_their_part() -> None:
    topics = Topics(context=32, windows=1)
    topics.setup("fit")
    places = len(topics.train_dataset.text) - 32
    everything = Topics(context=32, windows=places)
    everything.setup("fit")
    for dataset in (everything.train_dataset, everything.val_dataset):
        last = dataset.starts.index(max(dataset.starts))
        assert dataset[last][1].shape == (32,)


def test_validation_windows_do_not_overlap() -> None:
    starts = _loaded().val_dataset.starts
    assert starts == list(range(0, starts[-1] + 1, 32))


def test_windows_follow_the_seed() -> None:
    assert _loaded(0).train_dataset.starts == _loaded(0).train_dataset.starts
    assert _loaded(0).train_dataset.starts != _loaded(1).train_dataset.starts


@pytest.mark.parametrize(
    ("topics", "message"),
    [
        (Topics(windows=10**9), r"windows=1000000000 is more than the \d+ places"),
        (Topics(context=10**6), r"context=1000000 does not fit into the training text"),
        (Topics(val_fraction=1e-4), r"context=128 does not fit into the validation text"),
        (Topics(val_fraction=1.5), r"val_fraction=1\.5 must lie between 0 and 1"),
    ],
    ids=["windows", "context", "validation", "fraction"],
)
def test_impossible_requests_are_refused(topics: Topics, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        topics.setup("fit")
