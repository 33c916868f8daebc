"""A reader's causal model and text: the loss is its own, findings judge it, and what cannot be asked is told."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

import lfmlib
from lfmlib import findings
from lfmlib.chapters import ch10_text

WORDS = [chr(97 + first) + chr(97 + second) for first in range(8) for second in range(8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Llama that counts to 64, with its tokenizer."""
    place = tmp_path_factory.mktemp("causal")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(place / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": WORDS[0]}
    (place / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), bos_token_id=None, eos_token_id=None, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = (torch.arange(65)[None] + torch.arange(0, 64, 4)[:, None]) % 64
    for _ in range(40):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "count.txt"
    path.write_text(" ".join(WORDS[i % 64] for i in range(3_000)), encoding="utf-8")
    return path


def test_findings_rest_on_the_loss_of_the_text(folder, text):
    checkpoint = lfmlib.open_checkpoint(str(folder))
    laws = findings.shown(lfmlib.laws(checkpoint, pruned=findings.PRUNED_SHARE, progress=False))
    rows = ch10_text.measured(str(folder), "", str(text), laws, laws)
    about = rows[rows["what"] == "model"]
    assert len(about) == ch10_text.PARTS and about["prior"].to_numpy() == pytest.approx(4.159, abs=0.05)
    model, encode = ch10_text.loaded(str(folder))
    task = ch10_text.asked(str(text), encode, len(WORDS))
    windows = task.held_out[:2]
    with torch.no_grad():
        own = torch.stack([model(input_ids=one[None], labels=one[None]).loss for one in windows]).mean().item()
    assert about["own"].iloc[0] == pytest.approx(own, abs=1e-5) and own < 2
    curves = rows[rows["what"] == "curve"]
    assert set(curves["arm"]) == set(ch10_text.ARMS) and not curves["rise"].isna().any()
    f11, f12 = ch10_text.findings_of(rows, "mine", {"source": "mine"}, laws)
    assert (f11.id, f12.id) == ("F11", "F12") and f11.value is not None and f12.value is not None
    assert f"**{about['own'].mean():.3f}** nats a token" in ch10_text.told(rows, str(text))


def test_without_a_text_nothing_is_judged_and_the_way_is_told(folder):
    laws = lfmlib.laws(str(folder), pruned=findings.PRUNED_SHARE, progress=False)
    rows = ch10_text.measured(str(folder), "", "", laws, laws)
    assert not len(rows) and "-p text file.txt" in ch10_text.told(rows, "")
    assert {one.verdict for one in ch10_text.findings_of(rows, "mine", {"source": "mine"}, laws)} == {"undecided"}


def test_what_cannot_be_asked_is_told(folder, tmp_path):
    with pytest.raises(ValueError, match="no causal model and tokenizer that transformers can load"):
        ch10_text.loaded(str(tmp_path))
    _, encode = ch10_text.loaded(str(folder))
    with pytest.raises(FileNotFoundError, match="text is a file of plain text"):
        ch10_text.asked(str(tmp_path / "none.txt"), encode, 64)
    (tmp_path / "short.txt").write_text("aa ab ac", encoding="utf-8")
    with pytest.raises(ValueError, match=r"short\.txt has 3 tokens for this model: expected more than 512, and 5,120"):
        ch10_text.asked(str(tmp_path / "short.txt"), encode, 64)
