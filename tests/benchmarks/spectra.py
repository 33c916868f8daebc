"""Spectra beside WeightWatcher's, alone and with both controls (`analyze(randomize=True)`); the arrangement of large
matrices beside torch's singular values; the spectrum of a large matrix, estimated and exact; and the arrangement of
one eighth of a Llama 7B.

    python -m tests.benchmarks.spectra
    python -m tests.benchmarks.spectra llama

WeightWatcher 0.7.7 is installed from PyPI into an environment of its own, below `_build/bench`, the first time. Both
measure the same matrices of MiniLM, each in a fresh process with the threads it chooses, taking turns; the best counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from lfmlib.structure import made_matrices

from . import FOLDER, best, repeated, report
from .memory import anonymous, peak

WEIGHTWATCHER = "weightwatcher==0.7.7"
THEIRS = """
import json, logging, sys, time, warnings
warnings.simplefilter("ignore"); logging.disable(logging.CRITICAL)
import torch, weightwatcher
from safetensors.torch import load_file
weights = load_file(sys.argv[1])
names = json.loads(sys.argv[2])
model = torch.nn.Sequential(*(torch.nn.Linear(*reversed(weights[name].shape), bias=False) for name in names))
for layer, name in zip(model, names):
    layer.weight.data = weights[name]
watcher = weightwatcher.WeightWatcher(model=model)
started = time.perf_counter()
found = watcher.analyze(randomize=sys.argv[3] == "controls", plot=False)
print(json.dumps([time.perf_counter() - started, len(found)]))
"""
_THREE = ("rescaled", "permuted", "fresh")
OURS = """
import json, sys, time
import lfmlib
from lfmlib import spectrum
checkpoint, names = lfmlib.open_checkpoint("minilm"), json.loads(sys.argv[1])
started = time.perf_counter()
controls = ["fresh", "permuted"] if sys.argv[2] == "controls" else []
found = [spectrum(checkpoint.read(name), controls=controls) for name in names]
print(json.dumps([time.perf_counter() - started, len(found)]))
"""


def main(turns: int = 2) -> None:
    """Measure and print."""
    import lfmlib
    from lfmlib import findings

    checkpoint = lfmlib.open_checkpoint("minilm")
    names = [info.name for info in findings.judged(checkpoint).tensors]
    python = _environment(FOLDER / "weightwatcher")
    file, asked = str(checkpoint.files[0]), json.dumps(names)
    for how, what, limit in (
        ("controls", "analyze(randomize=True) / spectrum with both controls", 20),
        ("alone", "analyze() / spectrum alone", 3),
    ):
        theirs, ours = [], []
        for _ in range(turns):
            ours.append(_seconds([sys.executable, "-c", OURS, asked, how], len(names)))
            theirs.append(_seconds([python, "-c", THEIRS, file, asked, how], len(names)))
        print(f"{len(names)} matrices of MiniLM, {how}: ours {min(ours):.2f} s, {WEIGHTWATCHER} {min(theirs):.2f} s")
        ratio = min(theirs) / min(ours)
        report(what, f"{ratio:.1f} ×", f"≥ {limit} ×", ratio >= limit)
    for columns in (4096, 11008):
        arranged(4096, columns)
    large()
    llama()


def arranged(rows: int, columns: int) -> None:
    """Time of `iid` and `spectrum` of a made bfloat16 matrix beside that of all its singular values, alone and with
    three controls; and memory beside the size of the matrix in float32."""
    code = f"from tests.benchmarks.spectra import arrangement_of_one; arrangement_of_one({rows}, {columns})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, encoding="utf-8")
    values, alone, controlled, size = json.loads(run.stdout.strip().splitlines()[-1])
    what = f"{rows} × {columns} bfloat16"
    report(f"iid + spectrum / svdvals, {what}", f"{alone / values:.2f} ×", "≤ 1.5 ×", alone <= 1.5 * values)
    report("  … with three controls", f"{controlled / values:.2f} ×", "≤ 4 ×", controlled <= 4 * values)
    report("  … memory above it / the matrix in float32", f"{size:.1f} ×", "≤ 3 ×", size <= 3)


def arrangement_of_one(rows: int, columns: int) -> None:
    """Print the seconds of singular values, of `iid` and `spectrum`, and of these with three controls; and the peak of
    memory, in float32 matrices."""
    import lfmlib
    from lfmlib.surveys.arrangements import figures

    w = (0.02 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))).bfloat16()
    some = w[:640, :1024].clone()
    lfmlib.arrangement({"w": some}, controls=_THREE, progress=False)  # what is compiled and set up once
    torch.linalg.svdvals(some.float())
    values, alone, controlled = best(
        lambda: torch.linalg.svdvals(w.float()),
        lambda: figures(w),
        lambda: lfmlib.arrangement({"w": w}, controls=_THREE, progress=False),
        repeats=2,
    )
    base = anonymous()
    highest, _ = peak(lambda: figures(w))
    print(json.dumps([values, alone, controlled, (highest - base) / (4 * w.numel())]))


LLAMA_LAYERS, LLAMA_WEIGHTS = 32, 6_476_005_376
"""Layers of a Llama 7B, and weights of the matrices in them."""
LLAMA = {f"self_attn.{one}_proj": (4096, 4096) for one in "qkvo"} | {
    "mlp.gate_proj": (11008, 4096), "mlp.up_proj": (11008, 4096), "mlp.down_proj": (4096, 11008),
}  # fmt: skip


def llama(layers: int = 4) -> None:
    """Time and memory of the arrangement, fast, of some layers of a Llama 7B, and by arithmetic of all."""
    import lfmlib

    shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in LLAMA.items()}
    path = repeated(FOLDER / f"llama-{layers}.safetensors", shapes)
    some = {"w": torch.randn(1100, 1200).bfloat16()}
    lfmlib.arrangement(some, effort="fast", controls=("permuted", "fresh"), progress=False)  # what is compiled once
    base, started, cpu = anonymous(), time.perf_counter(), time.process_time()
    highest, table = peak(lambda: lfmlib.arrangement(path, effort="fast"))
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    factor = LLAMA_WEIGHTS / table["numel"].sum()
    words = f"{len(table)} matrices, {table['numel'].sum() / 1e9:.2f} G weights: {wall:.0f} s, {cpu:.0f} s of cores"
    print(f"arrangement, fast, of {layers} layers of a Llama 7B: {words}")
    print(f"  noise: {table['outliers'].sum()} values beyond the edge; row_alike {table['row_alike'].mean():.3f}")
    minutes = wall * factor / 60
    report(
        f"arrangement, fast, of a Llama 7B: all {LLAMA_LAYERS} layers by arithmetic",
        f"{minutes:.1f} min",
        "≤ 15 min",
        minutes <= 15,
    )
    above = (highest - base) / 2**30
    report("  … memory above the interpreter", f"{above:.2f} GiB", "≤ 1 GiB", above <= 1)


def large(rows: int = 4096, columns: int = 11008) -> None:
    """Time, memory and agreement of estimated and exact spectrum of a made bfloat16 matrix with ten spikes."""

    path = FOLDER / f"spikes-{rows}x{columns}.safetensors"
    if not path.exists():
        made = made_matrices.matrix("spikes", 10, (rows, columns), np.random.default_rng(0))
        save_file({"w": torch.tensor(made).bfloat16()}, path)
    print(f"{rows} × {columns} bfloat16, a made matrix with ten directions 5 % beyond the edge")
    for what in ("estimated", "every eigenvalue"):
        code = f"from tests.benchmarks.spectra import one; one({str(path)!r}, {what == 'every eigenvalue'})"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, encoding="utf-8")
        print(f"  {what}: {run.stdout.strip()}")
    _agreement(load_file(path)["w"])


def one(path: str, exact: bool) -> None:
    """Measure the spectrum of a file's matrix in this process and print time, memory and figures."""
    from lfmlib.structure.spectra import spectrum

    w = load_file(path)["w"]
    spectrum(w[:1100, :1200], exact=exact)  # what is imported and set up once
    base = anonymous()
    started = time.perf_counter()
    highest, found = peak(lambda: spectrum(w, exact=exact))
    seconds = time.perf_counter() - started
    print(
        f"{seconds:.1f} s, {(highest - base) / 2**20:.0f} MiB above the matrix; {found.outliers} outliers, top_ratio "
        f"{found.top_ratio:.6f}, ks {found.ks:.5f}, effective rank {found.effective_rank:.2f}"
    )


def _agreement(w: torch.Tensor) -> None:
    """Print how far an estimated distribution of eigenvalues is from that of all of them."""
    from lfmlib.structure.lanczos import density
    from lfmlib.structure.spectra import singular_values

    started = time.perf_counter()
    estimate = density(w)
    seconds = time.perf_counter() - started
    s = singular_values(w)
    exact = np.searchsorted(s**2 * len(s) / np.square(s).sum(), estimate.x, side="right") / len(s)
    off = np.abs(estimate.cdf - exact)
    inside = (off <= 2 * estimate.error + estimate.resolution).mean()
    print(f"  density: {seconds:.1f} s; largest difference to the exact function {off.max():.5f}, ", end="")
    print(f"{inside:.1%} within two standard errors and the resolution")


def _environment(folder: Path) -> str:
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing {WEIGHTWATCHER} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for packages in (["torch==2.13.0"], [WEIGHTWATCHER, "safetensors"]):  # torch alone, so that its pin decides
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return str(python)


def _seconds(command: list[str], matrices: int) -> float:
    run = subprocess.run(command, capture_output=True, check=True, encoding="utf-8")
    seconds, measured = json.loads(run.stdout.strip().splitlines()[-1])
    if measured != matrices:
        raise RuntimeError(f"{measured} of {matrices} matrices were measured")
    return seconds


if __name__ == "__main__":
    llama() if sys.argv[1:] == ["llama"] else main()
