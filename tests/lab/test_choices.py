"""Questions with four lines to choose from: what is asked, and that the answer is the model's own likelihood."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lfmlib.lab import choices


def bytes_of(text: str) -> list[int]:
    return list(text.encode())


def test_questions_are_many_and_do_not_tell_their_answer():
    some = choices.questions()
    assert len(some) == choices.COUNT >= 1000 and len({one.sentence for one in some}) == len(some)
    for one in some:
        names = [line.partition("(")[0].strip() for line in one.options]
        assert len(set(names)) == choices.OPTIONS and one.prompt == f"# {one.sentence}\ndef"
        told = re.sub(r"[^a-z0-9]", "", one.sentence.lower())
        assert names[one.right].replace("_", "").lower() not in told and "---" not in one.sentence
    places = Counter(one.right for one in some)
    assert set(places) == set(range(choices.OPTIONS)) and min(places.values()) > 0.8 * len(some) / choices.OPTIONS
    assert len(choices.data_hash()) == 64


def test_the_answer_is_the_likeliest_line_by_whole_passes():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, bos_token_id=None, eos_token_id=None, **sizes)).eval()
    with torch.no_grad():
        for w in model.parameters():
            w.mul_(8)  # so that lines differ
    some = choices.questions()[:3]
    found = choices.likelihoods(model, bytes_of, some)
    for place, one in enumerate(some):
        for option, line in enumerate(one.options):
            before, after = bytes_of(one.prompt), bytes_of(line)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([before + after])).logits[0].log_softmax(-1)
            each = [logits[len(before) + i - 1, token].item() for i, token in enumerate(after)]
            assert found[place, option] == pytest.approx(sum(each) / len(after), abs=1e-4)
    assert choices.right(found, some).tolist() == [
        int(np.argmax(row)) == one.right for row, one in zip(found, some, strict=True)
    ]
