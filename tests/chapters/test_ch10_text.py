"""A reader's causal model and text: the loss is its own, findings judge it, and what cannot be asked is told."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

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
    rows = ch10_text.measured(str(folder), "", ch10_text.read(str(text)), laws, laws)
    about = rows[rows["what"] == "model"]
    assert len(about) == ch10_text.PARTS and about["prior"].to_numpy() == pytest.approx(4.159, abs=0.05)
    model, encode = ch10_text.loaded(str(folder))
    task = ch10_text.asked(ch10_text.read(str(text)), encode, model)
    windows = task.held_out[:2]
    with torch.no_grad():
        own = torch.stack([model(input_ids=one[None], labels=one[None]).loss for one in windows]).mean().item()
    assert about["own"].iloc[0] == pytest.approx(own, abs=1e-5) and own < 2
    curves = rows[rows["what"] == "curve"]
    assert set(curves["arm"]) == set(ch10_text.ARMS) and not curves["rise"].isna().any()
    others = {"F11": [findings.f11("mine", {}), findings.f11("other", {})], "F12": []}
    found = ch10_text.placed(others, rows, "mine", {"source": "mine"}, laws)
    assert [one.model for one in found["F11"]] == ["mine", "other"] and found["F11"][0].value is not None
    assert [one.value is not None for one in found["F12"]] == [True]
    zeroed = {one.seed: one.rise for one in curves[curves["arm"] == "random"].itertuples()}
    assert len(set(zeroed.values())) == ch10_text.PARTS  # each part has draws of its own
    assert f"**{about['own'].mean():.3f}** nats a token" in ch10_text.told(rows, str(text))


def test_without_a_text_nothing_is_judged_and_the_way_is_told(folder):
    laws = lfmlib.laws(str(folder), pruned=findings.PRUNED_SHARE, progress=False)
    rows = ch10_text.measured(str(folder), "", "", laws, laws)
    assert not len(rows) and "-p text file.txt" in ch10_text.told(rows, "")
    found = ch10_text.placed({"F11": [], "F12": []}, rows, "mine", {"source": "mine"}, laws)
    assert [found[name][0].value for name in ("F11", "F12")] == [None, None]
    recorded = {name: [findings.f11("mine", {})] for name in ("F11", "F12")}
    assert ch10_text.placed(recorded, rows, "mine", {"source": "mine"}, laws) == {}  # the record knows it already


def test_models_that_cannot_be_asked_are_told(folder, tmp_path):
    with pytest.raises(ValueError, match="finds no tokenizer in"):
        ch10_text.loaded(str(tmp_path))
    for source in ("minilm", str(folder / "model.safetensors")):
        with pytest.raises(ValueError, match="cannot be asked: expected 'smollm2-135m', a hub id, or a folder"):
            ch10_text.loaded(source)
    encoder = tmp_path / "encoder"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(encoder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, encoder / name)
    with pytest.raises(ValueError, match=r"lacks cls\.\S+, without which it foretells nothing"):
        ch10_text.loaded(str(encoder))


def test_texts_that_cannot_be_asked_are_told(folder, text, tmp_path):
    assert ch10_text.read("") == ""
    with pytest.raises(FileNotFoundError, match="is no file: expected a file of text"):
        ch10_text.read(str(tmp_path / "none.txt"))
    with pytest.raises(FileNotFoundError, match="is a folder: expected a file of text"):
        ch10_text.read(str(tmp_path))
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"binary is no text in UTF-8 \(byte 128\)"):
        ch10_text.read(str(tmp_path / "binary"))
    model, encode = ch10_text.loaded(str(folder))
    with pytest.raises(ValueError, match="the text has 3 tokens for this model: expected more than 512, and 5,121"):
        ch10_text.asked("aa ab ac", encode, model)
    with pytest.raises(ValueError, match="ids up to 64, the model 64 tokens: they do not belong together"):
        ch10_text.asked("aa", lambda _: [64] * 600, model)
    laws = lfmlib.laws(str(folder), pruned=findings.PRUNED_SHARE, progress=False)
    with pytest.raises(ValueError, match="nothing that pruning could take from it"):
        ch10_text.measured(str(folder), "", " ".join(["aa", "ba", "ab"] * 400), laws, laws)


def test_a_model_that_sees_what_follows_is_refused(text):
    class Both(torch.nn.Module):
        """Sums over all tokens, later ones too."""

        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(64, 64)

        def get_input_embeddings(self):
            return self.table

        def forward(self, input_ids):
            return SimpleNamespace(logits=self.table(input_ids).sum(1, keepdim=True).expand(-1, input_ids.shape[1], -1))

    with pytest.raises(ValueError, match="depends on the next: expected a causal model"):
        ch10_text.asked("", lambda _: list(range(64)) * 10, Both())
