"""Plain, seeded training of a lab model: bit-reproducible on one machine, resumable, cached.

Everything random is a function of the seed and the step, so a training that was killed goes on where it last saved and
ends in the same bits as one that was not.
"""

from __future__ import annotations

import copy
import io
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save
from torch import nn
from tqdm.auto import tqdm

from .. import cache
from . import models, starts
from .adapters import ADAPTERS, adapt, merged
from .problems import problem
from .snapshots import trace
from .tuning import LABELS, TIMID, fit_head, inherit, jittered, labelled

OPTIMIZERS = {
    "adamw": lambda p, lr, decay: torch.optim.AdamW(p, lr=lr, weight_decay=decay, betas=(0.9, 0.98), fused=True),
    "sgd": lambda p, lr, decay: torch.optim.SGD(p, lr=lr, weight_decay=decay, momentum=0.9),
    "adagrad": lambda p, lr, decay: torch.optim.Adagrad(p, lr=lr, weight_decay=decay),
}
SNAPSHOTS = 9
FORMAT = 2  # of what is cached; raised when code changes what a training leaves
HEAD = 2  # the same of heads that are fitted and kept
SAVE_EVERY = 20.0  # seconds between states a killed training can resume from


@dataclass(frozen=True)
class Config:
    """Everything a training depends on besides its data.

    Attributes:
        model: one of `lfmlib.lab.models.MODELS`.
        task: what it learns, one of `lfmlib.lab.problems.PROBLEMS` for that model.
        start: law of its matrices before training, one of `lfmlib.lab.starts.STARTS`; "library" keeps what transformers
            draws, and of a pre-trained model the weights it has: there it is the only one.
        gain: scale of the start (see `lfmlib.lab.starts.initialize`).
        optimizer: one of `OPTIMIZERS`.
        lr, weight_decay: of the optimizer; the decay is on matrices only.
        warmup: share of the steps over which the rate rises linearly; then it falls to a tenth along a cosine.
        steps, batch: how long, and how many examples a step.
        seed: of start and data order.
        base: the training to go on from, of the same model: its weights replace the start, except for a head of another
            shape. None: none, or for a pre-trained model its checkpoint.
        adapter: "" to train all weights, or one of `lfmlib.lab.adapters.ADAPTERS`.
        rank: of the adapter; of one built from noise, its number of random matrices; of the head alone, 0.
        samples: share of the training data that batches are drawn from.
        labels: "real"; "shuffled", exchanged within every batch; or "own", for texts: drawn from what the start itself
            predicts, so that there is nothing to learn (see `lfmlib.lab.tuning`).
        head_lr: learning rate of a head for classes, if it is to have its own; 0: the same.
        jitter: Gaussian noise added to the matrices of the start, in units of each one's standard deviation.
        frozen_head: whether a head for classes is fitted to the start, kept small (`lfmlib.lab.tuning.TIMID`), and then
            not trained.

    Raises:
        ValueError: a pre-trained model with another start than "library"; a base of another model; an unknown adapter,
            or one without a rank; unknown labels; a share outside (0, 1]; a jitter below 0.
    """

    model: str
    task: str
    start: str = "gaussian"
    gain: float = 1.0
    optimizer: str = "adamw"
    lr: float = 3e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    steps: int = 250
    batch: int = 32
    seed: int = 0
    base: Config | None = None
    adapter: str = ""
    rank: int = 0
    samples: float = 1.0
    labels: str = "real"
    head_lr: float = 0.0
    jitter: float = 0.0
    frozen_head: bool = False

    def __post_init__(self):
        if self.model in models.PRETRAINED and self.start != "library":
            raise ValueError(
                f"start={self.start!r} was given for {self.model!r}, which is pre-trained: drawing its matrices anew "
                'would throw away what it knows. Expected start="library", which keeps them: pass it.'
            )
        if self.base is not None and self.base.model != self.model:
            raise ValueError(
                f"base is a {self.base.model}, and model a {self.model}: a training goes on from its own kind"
            )
        if self.adapter not in ("", *ADAPTERS):
            raise ValueError(f"unknown adapter {self.adapter!r}: expected one of {', '.join(ADAPTERS)}, or none")
        if (self.adapter not in ("", "head")) != (self.rank > 0):
            raise ValueError(
                f"adapter={self.adapter!r} with rank={self.rank}: an adapter needs a rank of at least 1, "
                "and the head alone, or no adapter, a rank of 0"
            )
        if self.labels not in LABELS:
            raise ValueError(f"unknown labels {self.labels!r}: expected one of {', '.join(LABELS)}")
        if not 0 < self.samples <= 1:
            raise ValueError(f"samples={self.samples}: expected a share of the training data, above 0 and at most 1")
        if self.jitter < 0:
            raise ValueError(f"jitter={self.jitter}: expected a size of noise, 0 or more")


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        config: what was trained.
        model: the trained model, in evaluation mode.
        weights: SHA-256 of its weights file: equal for equal bits.
        history: step, loss and learning rate of every tenth step.
        snapshots: the matrices at step 0, at growing intervals, and at the end: ``step``, and for each matrix the
            columns of `lfmlib.lab.snapshots.trace`.
        scores: held-out figures (see `lfmlib.lab.problems`), and those of the trivial baseline; empty where they were
            not wanted.
    """

    config: Config
    model: nn.Module
    weights: str
    history: pd.DataFrame
    snapshots: pd.DataFrame
    scores: dict[str, float]


def train(
    config: Config,
    progress: bool = True,
    snapshots: int | None = None,
    folder: str | Path | None = None,
    *,
    scored: bool = True,
) -> Trained:
    """Train, or fetch from the cache.

    Args:
        config: what to train.
        progress: show a bar with the loss and the time left.
        snapshots: how often to survey the weights on the way, step 0 and the end included; 0 for not at all; by default
            `SNAPSHOTS` times, fewer in less than 240 steps.
        folder: where to look and to keep, instead of the user's cache; an empty one makes sure that it is trained.
        scored: whether the held-out figures are wanted, which take a large model a quarter as long as its training.

    Raises:
        ValueError: a name in the configuration is unknown.
        FloatingPointError: the loss is not finite any more; lower the learning rate or the gain.
    """
    task = problem(config.model, config.task)
    if snapshots is None:
        snapshots = min(SNAPSHOTS, 3 + config.steps // 40)
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {config.optimizer!r}: expected one of {', '.join(OPTIMIZERS)}")
    description = {"config": asdict(config), "snapshots": snapshots, "data": task.data_hash, "format": FORMAT}
    description |= {} if scored else {"scored": False}
    description |= {"head": HEAD} if config.frozen_head else {}
    place = cache.artefact(description, lambda part: _train(config, task, part, progress, snapshots, scored), folder)
    model = models.build(config.model, config.seed, task.classes)
    model.load_state_dict(load_file(place / "model.safetensors"))
    figures = pd.read_json(place / "scores.json", typ="series").to_dict()
    return Trained(
        config=config,
        model=model.eval(),
        weights=cache.file_hash(place / "model.safetensors"),
        history=pd.read_csv(place / "history.csv"),
        snapshots=pd.read_csv(place / "snapshots.csv") if snapshots else pd.DataFrame(),
        scores=figures,
    )


def start_of(config: Config) -> nn.Module:
    """The model before its first step."""
    task = problem(config.model, config.task)
    model = models.build(config.model, config.seed, task.classes)
    if config.base is not None:
        inherit(model, train(config.base, progress=False, snapshots=0).model.state_dict())  # only its end is asked for
    elif config.start != "library":
        starts.initialize(model, config.start, config.gain, config.seed)
    if config.jitter:
        jittered(model, config.jitter, config.seed)
    if config.frozen_head:
        fit_head(model.eval(), task, (TIMID,))
        model.classifier.requires_grad_(False)
    return adapt(model, config.adapter, config.rank, config.seed) if config.adapter else model


def optimizer_of(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """The optimizer of a training, on what is trained of a model."""
    return OPTIMIZERS[config.optimizer](_groups(model, config), config.lr, config.weight_decay)


def rate(config: Config, step: int) -> float:
    """Learning rate at a step, counted from 0: linear warm-up, then a cosine down to a tenth."""
    rise = max(1, round(config.warmup * config.steps))
    if step < rise:
        return config.lr * (step + 1) / rise
    done = (step - rise) / max(1, config.steps - rise)
    return config.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def left_by_decay(config: Config) -> float:
    """Share of a weight that weight decay alone would leave of it: the optimizer's own steps, without any gradient.

    Raises:
        ValueError: Adagrad, which divides the decay, too, by the gradients it has seen.
    """
    if config.optimizer == "adagrad":
        raise ValueError("Adagrad's decay depends on the gradients: it leaves no share that could be told beforehand")
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = OPTIMIZERS[config.optimizer]([weight], config.lr, config.weight_decay)
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = rate(config, step)
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    return weight.item()


def snapshot_steps(steps: int, count: int = SNAPSHOTS) -> set[int]:
    """Steps before which the weights are surveyed: 0, the end, and in equal ratios between a 64th of the way and it."""
    if count == 0:
        return set()
    return {0, steps} | {int(step) for step in np.geomspace(max(1, steps / 64), steps, count - 1)}


def _train(config: Config, task, part: Path, progress: bool, snapshots: int, scored: bool) -> None:
    """Train and leave everything in ``part``; what is found there is resumed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order: the same bits whatever the machine's load
    try:
        model = start_of(config).to(device)
        start = {name: value.detach().clone() for name, value in model.named_parameters() if value.dim() == 2}
        before = copy.deepcopy(model).eval() if config.labels == "own" else None
        optimizer = optimizer_of(model, config)
        state = _State(part / "state.pt")
        step = state.load(model, optimizer)
        wanted = snapshot_steps(config.steps, snapshots)
        bar = tqdm(total=config.steps, initial=step, desc=_title(config), disable=not progress, leave=False, delay=1)
        whole = True
        with bar:
            try:
                while True:
                    if step in wanted and step not in state.taken():
                        matrices = {name: value for name, value in model.named_parameters() if name in start}
                        rows = trace(matrices, start).assign(step=step)
                        state.snapshots += rows.astype(object).where(rows.notna(), None).to_dict("records")
                    if step == config.steps:
                        break
                    whole = False
                    loss = _step(model, optimizer, task, config, step, before)
                    if step % 10 == 0:
                        state.history.append({"step": step, "loss": loss, "lr": rate(config, step)})
                        bar.set_postfix(loss=f"{loss:.3f}")
                    step += 1
                    whole = True
                    bar.update()
                    state.save(step, model, optimizer, after=SAVE_EVERY)
            except KeyboardInterrupt:
                if whole:  # in the middle of a step, model and number would not belong together
                    state.save(step, model, optimizer)
                raise
        model = merged(model).eval() if config.adapter else model.eval()
        scores = task.evaluate(model) if scored else {}
    finally:
        torch.set_num_threads(threads)
    # a copy each: of tied weights, safetensors would refuse the second
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    (part / "model.safetensors").write_bytes(save(weights))
    pd.DataFrame(state.history).to_csv(part / "history.csv", index=False)
    pd.DataFrame(state.snapshots).to_csv(part / "snapshots.csv", index=False)
    pd.Series(scores).to_json(part / "scores.json", double_precision=15)
    for left in ("state.pt", "state.new"):
        (part / left).unlink(missing_ok=True)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, task, config: Config, step: int, before=None) -> float:
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * rate(config, step)
    model.train()
    batch = task.batch(config.seed, step, config.batch, config.samples)
    loss = task.loss(model, labelled(batch, config.labels, 1_000_003 * config.seed + step, before))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if not math.isfinite(value := loss.item()):
        raise FloatingPointError(f"the loss of {_title(config)} is {value} at step {step}: lower lr or gain")
    return value


def _groups(model: nn.Module, config: Config) -> list[dict]:
    """Decay for matrices, none for vectors; the head apart, where it has a rate of its own."""
    groups = []
    for head in (False, True):
        some = [p for name, p in model.named_parameters() if p.requires_grad and name.startswith("classifier.") == head]
        factor = config.head_lr / config.lr if head and config.head_lr else 1.0
        for decay, matrices in ((config.weight_decay, True), (0.0, False)):
            listed = [p for p in some if (p.dim() >= 2) == matrices]
            groups.append({"params": listed, "weight_decay": decay, "factor": factor})
    return [group for group in groups if group["params"]]


class _State:
    """What a killed training resumes from: one file, replaced whole."""

    def __init__(self, path: Path):
        self.path, self.saved, self.cost = path, time.monotonic(), 0.0
        self.history: list[dict] = []
        self.snapshots: list[dict] = []

    def taken(self) -> set[int]:
        return {row["step"] for row in self.snapshots}

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Restore what is there; the number of steps already done."""
        if not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, weights_only=True)
        except Exception:  # cut short by a kill or a full disk: begin anew
            self.path.unlink()
            return 0
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        self.history, self.snapshots = state["history"], state["snapshots"]
        return state["step"]

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, after: float = 0.0) -> None:
        """Save, unless the last time was less than ``after`` seconds ago, or less than what makes saving a twentieth
        of the time; 0: save in any case."""
        started = time.monotonic()
        if after and started - self.saved < max(after, 20 * self.cost):
            return
        state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        content = io.BytesIO()  # torch.save itself does not say that a disk is full
        torch.save(state | {"history": self.history, "snapshots": self.snapshots}, content)
        partial = self.path.with_suffix(".new")
        partial.write_bytes(content.getbuffer())
        partial.replace(self.path)
        self.saved = time.monotonic()
        self.cost = self.saved - started


def _title(config: Config) -> str:
    origin = "its base" if config.base else f"{config.start} × {config.gain:g}"
    return f"{config.model} {config.task} from {origin}, {config.adapter or config.optimizer}, seed {config.seed}"
