"""The multiple choice: items that give nothing away, and likelihoods that are the model's own."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lfmlib.lab import choices


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def encode(text: str) -> list[int]:
    return list(text.encode())


def one_by_one(model, item: choices.Item, option: str, docstrings: bool) -> float:
    """What transformers says of a docstring and one option, alone."""
    shown = [7, *encode(f"# {item.docstring}\ndef" if docstrings else "def")]
    more = encode(option)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([shown + more])).logits[0, len(shown) - 1 : -1]
    return -torch.nn.functional.cross_entropy(logits, torch.tensor(more)).item() * len(more) / len(option)


@pytest.mark.slow
@pytest.mark.parametrize("docstrings", [True, False])
def test_options_in_one_sequence_have_the_likelihoods_that_they_have_alone(model, docstrings):
    items = choices.load()[:20]
    found = choices.likelihoods(model, encode, items, first=7, docstrings=docstrings)
    expected = [[one_by_one(model, item, option, docstrings) for option in item.options] for item in items]
    assert found == pytest.approx(np.array(expected), abs=2e-6)
    assert np.ptp(found) > 0.1
    assert choices.right(found, items).tolist() == [
        row.index(max(row)) == item.right for row, item in zip(expected, items, strict=True)
    ]


def test_items_give_nothing_away():
    items = choices.load()
    assert len(items) == len({item.docstring + item.options[item.right] for item in items}) == choices.ITEMS
    for item in items:
        name = item.options[item.right].split("(")[0].strip(" _").lower()
        assert name not in item.docstring.lower()
        assert len(set(item.options)) == choices.OPTIONS
    counts = np.bincount([item.right for item in items], minlength=choices.OPTIONS)
    assert np.abs(counts - choices.ITEMS / 4).max() < 4 * np.sqrt(choices.ITEMS * 3 / 16)
    assert choices.digest(items) == choices.digest(choices.load()) != choices.digest(items[1:])
