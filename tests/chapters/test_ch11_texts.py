"""Texts with labels for transformers' Trainer: what is read, what is refused, and an adapter that learns from them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from lfmlib.chapters import ch11_texts
from lfmlib.noise_adapter import NoiseConfig


def written(folder, rows: pd.DataFrame):
    rows.to_csv(folder / "texts.csv", index=False)
    return str(folder / "texts.csv")


def colours(count: int = 60) -> pd.DataFrame:
    """Two classes that a single word tells apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=count)
    fillers = rng.choice(["the", "a", "of", "and"], size=(count, 3))
    texts = [f"{' '.join(words)} {('red', 'blue')[label]}" for words, label in zip(fillers, labels, strict=True)]
    return pd.DataFrame({"text": texts, "label": np.where(labels, "cold", "warm")})


def test_a_fifth_is_held_out_and_classes_are_in_order(tmp_path):
    rows = colours()
    found = ch11_texts.read(written(tmp_path, rows), seed=1)
    assert found.classes == ("cold", "warm") and found.name == "texts.csv"
    assert (len(found.train.texts), len(found.test.texts)) == (48, 12)
    assert sorted(found.train.texts + found.test.texts) == sorted(rows["text"])
    assert all(
        ("blue" in text) == (label == 0) for text, label in zip(found.test.texts, found.test.labels, strict=True)
    )
    again, other = (ch11_texts.read(written(tmp_path, rows), seed=seed) for seed in (1, 2))
    assert again.test.texts == found.test.texts != other.test.texts


def test_numbers_may_be_labels_and_gaps_are_left_out(tmp_path):
    rows = colours().assign(label=np.arange(60) % 3)
    rows.loc[:2, "text"] = None
    found = ch11_texts.read(written(tmp_path, rows))
    assert found.classes == ("0", "1", "2") and len(found.train.texts) + len(found.test.texts) == 57


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (colours().rename(columns={"label": "class"}), "has the columns text, class, and not label"),
        (colours(10), "10 texts with a label.*expected 20 texts or more"),
        (colours().assign(label="one"), "in 1 classes.*two classes"),
        (colours().assign(label=["odd"] + 59 * ["even"]), "the smallest has 1.*two texts in each"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path, rows, words):
    with pytest.raises(ValueError, match=words):
        ch11_texts.read(written(tmp_path, rows))


def test_a_missing_file_says_what_is_expected():
    with pytest.raises(FileNotFoundError, match="CSV file with the columns text and label"):
        ch11_texts.read("nowhere.csv")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    """A BERT that fits this file, with a tokenizer of whole words."""
    folder, words = tmp_path_factory.mktemp("bert"), ["[PAD]", "[UNK]", "the", "a", "of", "and", "red", "blue"]
    state = {
        "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {word: at for at, word in enumerate(words)}, "unk_token": "[UNK]"},
    }  # fmt: skip
    (folder / "raw.json").write_text(json.dumps(state), encoding="utf-8")
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "raw.json"), pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def test_trainer_trains_an_adapter_that_is_saved_and_merged(tmp_path, tiny):
    """What chapter 11 shows, on texts that can be learned."""
    ch11_texts.quiet()
    texts = ch11_texts.read(written(tmp_path, colours(200)))
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    train, test = (ch11_texts.encoded(part, tokenizer) for part in (texts.train, texts.test))
    model = ch11_texts.fresh(AutoModelForSequenceClassification, tiny, texts, seed=0)
    assert torch.equal(
        model.classifier.weight,
        ch11_texts.fresh(AutoModelForSequenceClassification, tiny, texts, seed=0).classifier.weight,
    )
    model = get_peft_model(model, NoiseConfig(task_type="SEQ_CLS", target_modules="all-linear"))
    plan = TrainingArguments(tmp_path / "log", max_steps=40, lr_scheduler_type="constant",
                             per_device_train_batch_size=16, use_cpu=True, **ch11_texts.SILENT)  # fmt: skip
    rates = ch11_texts.optimizer(model, "noise-built")
    scales, head = ({id(one) for one in group["params"]} for group in rates.param_groups)
    names = {id(one): name for name, one in model.named_parameters() if one.requires_grad}
    assert scales | head == set(names) and all("classifier" in names[one] for one in head)
    assert [group["lr"] for group in rates.param_groups] == [ch11_texts.RATES["noise-built"], 0.01]
    trainer = Trainer(model, plan, train_dataset=train, processing_class=tokenizer, optimizers=(rates, None))
    trainer.train()
    score = ch11_texts.accuracy(trainer.predict(test))
    assert score > 0.9, "a word tells the classes apart"
    model.save_pretrained(tmp_path / "noise-built")
    kept = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "noise-built", num_labels=2)
    said = ch11_texts.answers(kept, test, tokenizer)
    assert torch.allclose(said, ch11_texts.answers(model, test, tokenizer), atol=1e-5)
    kept.merge_and_unload().save_pretrained(tmp_path / "merged")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    apart = said - ch11_texts.answers(plain, test, tokenizer)
    assert apart.abs().max() < 1e-4
    assert "answers as the adapter did" in ch11_texts.sizes(tmp_path, apart)
    assert f"**{100 * score:.1f} %**" in ch11_texts.compared({"noise-built": score}, texts)


def test_the_default_is_docstrings_and_minilm():
    texts = ch11_texts.read("")
    assert texts.classes == ("class", "function", "method") and len(texts.test.texts) == ch11_texts.MAX_TESTED
    assert (ch11_texts.read("").test.labels == texts.test.labels).all()
    assert AutoTokenizer.from_pretrained(ch11_texts.source("")).vocab_size == 30522
    assert ch11_texts.source("some/model") == "some/model"
