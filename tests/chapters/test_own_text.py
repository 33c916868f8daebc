"""A reader's causal model and text in chapters 9, 10 and 14: the loss is its own, and what cannot be asked is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hubserver import HubServer, Repository
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import lfmlib
from lfmlib import findings
from lfmlib.chapters import ch09_text, ch10_text, ch14_bulk, ch14_text, own_text
from lfmlib.chapters.own_text import Text
from lfmlib.losses import replace

NONE = Text("", "")
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


@pytest.mark.slow
def test_findings_rest_on_the_loss_of_the_text(folder, text):
    checkpoint = lfmlib.open_checkpoint(str(folder))
    laws = findings.shown(lfmlib.laws(checkpoint, pruned=findings.PRUNED_SHARE, progress=False))
    rows = ch10_text.measured(str(folder), "", own_text.read(str(text)), laws, laws)
    about = rows[rows["what"] == "model"]
    assert len(about) == own_text.PARTS and about["prior"].to_numpy() == pytest.approx(4.159, abs=0.05)
    model, encode = own_text.loaded(str(folder))
    task = own_text.asked(own_text.read(str(text)), encode, model)
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
    assert len(set(zeroed.values())) == own_text.PARTS  # each part has draws of its own
    assert f"**{about['own'].mean():.3f}** nats a token" in ch10_text.told(rows, own_text.read(str(text)))


@pytest.fixture(scope="module")
def noisier(folder, tmp_path_factory):
    """The model with noise of half a standard deviation on every matrix: as it were, its fine-tune."""
    place = tmp_path_factory.mktemp("noisier")
    shutil.copytree(folder, place, dirs_exist_ok=True)
    model, generator = LlamaForCausalLM.from_pretrained(folder), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for w in model.model.layers.parameters():
            if w.dim() == 2:
                w.add_(0.5 * w.std() * torch.randn(w.shape, generator=generator))
    model.save_pretrained(place)
    return place


def test_the_radius_of_a_pair_on_a_text(folder, noisier, text):
    content = own_text.read(str(text))
    rows = ch09_text.measured(str(noisier), str(folder), "", content, profile="quick")
    assert rows.groupby(["which", "unit"]).size().to_dict() == {
        (which, unit): 2 for which in ("base", "tuned", "random") for unit in ("own", "base")
    }
    by = rows.set_index(["which", "unit", "draw"])["radius"].sort_index()
    assert (by["base", "own"] == by["base", "base"]).all()
    # the same draws in other units: σ of the fine-tune is √1.25 of the base's
    assert (by["tuned", "base"] / by["tuned", "own"]).to_numpy() == pytest.approx(1.25**0.5, rel=0.03)
    losses = rows.groupby("which")["own"].mean()
    assert losses["tuned"] > losses["base"] and losses["random"] > losses["base"]
    assert by.between(0.01, 3).all()
    said = ch09_text.told(rows, content)
    assert said.startswith("`count.txt`, 2 parts of 256 tokens") and "W₀ + noise / W₀ in σ of W₀" in said
    assert content.origin()["text"] == "count.txt" and len(content.origin()["text_sha256"]) == 64
    alone = ch09_text.measured(str(folder), "", "", content, profile="quick")
    assert set(alone["which"]) == {"tuned"} and "Ratios" not in ch09_text.told(alone, content)


def test_a_radius_without_text_or_model_or_kin_is_told(folder, text, tmp_path):
    content = own_text.read(str(text))
    assert "-p text file.txt" in ch09_text.told(ch09_text.measured("", "", "", NONE), NONE)
    with pytest.raises(ValueError, match="without a model: expected `-p model"):
        ch09_text.measured("", "", "", content)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    other = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), bos_token_id=None, eos_token_id=None, **sizes))
    other.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no pair: model\.layers\.0\.mlp\.down_proj\.weight is of one alone, or"):
        ch09_text.measured(str(folder), str(tmp_path), "", content)


def test_what_the_bulk_is_worth_on_a_text(folder, text):
    content = own_text.read(str(text))
    rows = ch14_text.measured(str(folder), "", content, profile="quick")
    curves = rows[rows["what"] == "curve"]
    assert curves.groupby(["stand_in", "seed"]).size().to_dict() == {
        (stand_in, part): len(ch14_text.FEW_SHARES) for stand_in in ch14_text.STAND_INS for part in range(2)
    }
    model, encode = own_text.loaded(str(folder))
    task = own_text.asked(content, encode, model)
    (part, other), weights = task.parts("quick"), dict(model.named_parameters())
    own = task.evaluate(model, **other)["loss"]
    assert rows.loc[rows["what"] == "model", "own"].tolist() == pytest.approx(
        [task.evaluate(model, **part)["loss"], own]
    )
    with torch.no_grad():  # by hand: half of the directions of every matrix gone, on the second part
        for name in ch14_text.body(model)["name"]:
            weights[name].copy_(replace.Split(weights[name]).at(0.5).kept)
        rise = task.evaluate(model, **other)["loss"] - own
    half = curves[(curves["stand_in"] == "zero") & (curves["share"] == 0.5) & (curves["seed"] == 1)]
    assert half["rise"].item() == pytest.approx(rise, abs=1e-4)
    whole = curves[(curves["stand_in"] == "noise") & (curves["share"] == 1)].set_index("seed")["rise"]
    assert (whole > 0.05 * ch14_bulk.gaps(rows)).all() and ch14_bulk.foretold(rows).between(0, 1).all()
    said = ch14_text.told(rows, content)
    assert said.startswith("`count.txt`, 2 parts of 256 tokens") and "noise can stand for **" in said


def test_the_bulk_without_text_or_model_is_told(text):
    content = own_text.read(str(text))
    assert "-p text file.txt" in ch14_text.told(ch14_text.measured("", "", NONE), NONE)
    assert "`mine` was not asked" in ch14_text.told(ch14_text.measured("mine", "", NONE), NONE, "mine")
    with pytest.raises(ValueError, match="without a model: expected `-p model"):
        ch14_text.measured("", "", content)


def test_without_a_text_nothing_is_judged_and_the_way_is_told(folder):
    laws = lfmlib.laws(str(folder), pruned=findings.PRUNED_SHARE, progress=False)
    rows = ch10_text.measured(str(folder), "", NONE, laws, laws)
    assert not len(rows) and "-p text file.txt" in ch10_text.told(rows, NONE)
    found = ch10_text.placed({"F11": [], "F12": []}, rows, "mine", {"source": "mine"}, laws)
    assert [found[name][0].value for name in ("F11", "F12")] == [None, None]
    recorded = {name: [findings.f11("mine", {})] for name in ("F11", "F12")}
    assert ch10_text.placed(recorded, rows, "mine", {"source": "mine"}, laws) == {}  # the record knows it already


@pytest.mark.slow
def test_a_model_of_a_hub_is_fetched_at_its_revision(folder, tmp_path):
    """By transformers and its own client, from a server that speaks the hub's protocol."""
    served = Repository()
    sha = served.commit({path.name: path.read_bytes() for path in folder.iterdir()})
    script = (
        "import sys; from lfmlib.chapters import own_text\n"
        "model, encode = own_text.loaded('made/model', sys.argv[1])\n"
        "print(encode('aa ab ac'), sum(p.numel() for p in model.parameters()))"
    )
    with HubServer({"made/model": served}) as hub:
        told = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        run = subprocess.run(
            [sys.executable, "-c", script, sha], env=os.environ | told, capture_output=True, encoding="utf-8"
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert any("model.safetensors" in path for _, path in hub.log)
    own, _ = own_text.loaded(str(folder))
    assert run.stdout.split("\n")[0] == f"[0, 1, 2] {sum(p.numel() for p in own.parameters())}"


def test_models_that_cannot_be_asked_are_told(folder, tmp_path):
    with pytest.raises(ValueError, match="finds no tokenizer in"):
        own_text.loaded(str(tmp_path))
    for source in ("minilm", str(folder / "model.safetensors")):
        with pytest.raises(ValueError, match="cannot be asked: expected 'smollm2-135m', a hub id, or a folder"):
            own_text.loaded(source)
    encoder = tmp_path / "encoder"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(encoder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, encoder / name)
    with pytest.raises(ValueError, match=r"lacks cls\.\S+, without which it foretells nothing"):
        own_text.loaded(str(encoder))


def test_texts_that_cannot_be_asked_are_told(folder, text, tmp_path):
    assert own_text.read("") == NONE and not NONE and NONE.origin() == {}
    (tmp_path / "empty.txt").touch()
    assert own_text.read(str(tmp_path / "empty.txt"))  # named, and told below that it is too short
    with pytest.raises(FileNotFoundError, match="is no file: expected a file of text"):
        own_text.read(str(tmp_path / "none.txt"))
    with pytest.raises(FileNotFoundError, match="is a folder: expected a file of text"):
        own_text.read(str(tmp_path))
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"binary is no text in UTF-8 \(byte 128\)"):
        own_text.read(str(tmp_path / "binary"))
    model, encode = own_text.loaded(str(folder))
    with pytest.raises(ValueError, match="the text has 3 tokens for this model: expected more than 512, and 5,121"):
        own_text.asked(Text("", "aa ab ac"), encode, model)
    with pytest.raises(ValueError, match="ids up to 64, the model 64 tokens: they do not belong together"):
        own_text.asked(NONE, lambda _: [64] * 600, model)
    laws = lfmlib.laws(str(folder), pruned=findings.PRUNED_SHARE, progress=False)
    with pytest.raises(ValueError, match="nothing that pruning could take from it"):
        ch10_text.measured(str(folder), "", Text("some", " ".join(["aa", "ba", "ab"] * 400)), laws, laws)
    with pytest.raises(ValueError, match="nothing that noise could take from it"):
        ch14_text.measured(str(folder), "", Text("some", " ".join(["aa", "ba", "ab"] * 400)))


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
        own_text.asked(NONE, lambda _: list(range(64)) * 10, Both())
