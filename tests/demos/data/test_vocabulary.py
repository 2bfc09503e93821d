import torch

from jacoscope.demos import Vocabulary
from jacoscope.demos.data._topics import read_topics


def test_help_text_survives_the_round_trip() -> None:
    vocabulary, text = Vocabulary(), read_topics()
    unknown = vocabulary.characters[0]
    expected = "".join(c if c in vocabulary.characters else unknown for c in text)
    assert vocabulary.decode(vocabulary.encode(text)) == expected
    assert expected.count(unknown) < 1e-3 * len(text)


def test_every_token_survives_the_round_trip() -> None:
    vocabulary = Vocabulary()
    tokens = torch.arange(len(vocabulary))
    assert torch.equal(vocabulary.encode(vocabulary.decode(tokens)), tokens)


def test_size_is_what_the_configs_say() -> None:
    assert len(Vocabulary()) == 106


def test_unknown_characters_share_token_zero() -> None:
    vocabulary = Vocabulary()
    assert vocabulary.encode("a\N{SNOWMAN}").tolist()[1] == 0
    assert vocabulary.decode([0]) == "\N{REPLACEMENT CHARACTER}"
