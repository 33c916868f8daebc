"""Print each limit of speed and memory beside what this machine gives, in one run; timings vary, ratios less so.

Surveys are measured on a made bfloat16 checkpoint of Llama-like matrices in `_build/bench`: the best of five, with what
they are compared with taking turns, after one pass that brings the file into the page cache and compiles the loops.
scipy, which takes long, has one turn, and so has the sampled survey. What was made for the run is brought to the disk
before.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy import stats

import lfmlib
from lfmlib.book.speed import SAMPLE
from lfmlib.surveys import values as surveys

from . import FOLDER, best, cluster, memory, merges, rate, report, save, spectra
from .memory import SHAPES


def made_checkpoint(gigabytes: float = 2.0) -> Path:
    """A sharded bfloat16 checkpoint of made Gaussian matrices; kept for the next run."""
    folder = FOLDER / f"bf16-{gigabytes:g}GB"
    done = folder / "config.json"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    layers = max(1, round(gigabytes * 1e9 / sum(2 * a * b for a, b in SHAPES.values())))
    for layer in range(layers):
        tensors = {
            f"model.layers.{layer}.{name}_proj.weight": (0.02 * torch.randn(shape, generator=generator)).bfloat16()
            for name, shape in SHAPES.items()
        }
        save_file(tensors, folder / f"model-{layer:05d}.safetensors")
    done.write_text(json.dumps({"model_type": "llama", "made": True}), encoding="utf-8")
    return folder


def summed(checkpoint, word: type) -> int:
    """One NumPy pass over the same mapped bytes that only sums them, taken as unsigned words."""
    total = 0
    for info in checkpoint.tensors:
        for chunk in checkpoint.chunks(info.name):
            total += int(chunk.view(torch.uint8).numpy().view(word).sum())
    return total


def scipy_figures(checkpoint) -> None:
    """What a careful person would type: kstest, skew and kurtosis of each tensor in float64."""
    for info in checkpoint.tensors:
        values = checkpoint.read(info.name).double().numpy().ravel()
        stats.kstest(values, "norm", args=(values.mean(), values.std()))
        stats.skew(values)
        stats.kurtosis(values)


def compared(one) -> None:
    """Time of a comparison beside that of reading both checkpoints, in one thread."""
    base, tuned, _ = map(lfmlib.open_checkpoint, merges.made())
    os.sync()
    whole, read = best(
        lambda: lfmlib.compare(base, tuned, executor=one, progress=False),
        lambda: [summed(each, np.uint16) for each in (base, tuned)],
    )
    print(f"compare, one thread: {whole:.2f} s; numpy sum of both: {read:.2f} s")
    report("compare / numpy sums of both, one thread", f"{whole / read:.2f} ×", "≤ 2.5 ×", whole <= 2.5 * read)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    folder = made_checkpoint()
    checkpoint = lfmlib.open_checkpoint(folder)
    size = sum(path.stat().st_size for path in checkpoint.files)
    print(
        f"made checkpoint: {len(checkpoint.tensors)} bfloat16 matrices, {size / 1e9:.2f} GB; {os.cpu_count()} cores\n"
    )

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:

        def surveyed(source, executor):
            return lambda: lfmlib.survey(source, executor=executor, progress=False)

        surveyed(checkpoint, two)()  # page cache, compilation
        os.sync()
        single, pair, by16, by64 = best(
            surveyed(checkpoint, one),
            surveyed(checkpoint, two),
            lambda: summed(checkpoint, np.uint16),
            lambda: summed(checkpoint, np.uint64),
        )
        print(f"survey, one thread: {single:.2f} s, {size / single / 1e9:.1f} GB/s; two: {pair:.2f} s")
        print(f"numpy sum: {by16:.2f} s as uint16 words, {by64:.2f} s as uint64 words\n")
        rate("survey, bytes/s of a core", size / single)
        surveys.WHOLE_BYTES = 0  # what is at hand would be read whole
        (sampled,) = best(lambda: lfmlib.survey(checkpoint, sample=SAMPLE, executor=one, progress=False), repeats=1)
        rate("sampled survey, s a matrix", sampled / len(checkpoint.tensors))
        ratio = single / by16
        report(
            "survey / numpy sum of the same bytes as 16-bit words, one thread",
            f"{ratio:.2f} ×",
            "≤ 1.25 ×",
            ratio <= 1.25,
        )
        print(f"{'  … as 64-bit words, the fastest pass there is (no limit set)':<66} {single / by64:>14.2f} ×")

        some = checkpoint.select(r"layers\.0\.")
        (theirs,) = best(lambda: scipy_figures(some), repeats=1)
        (ours,) = best(surveyed(some, one))
        ratio = theirs / ours
        report(
            "scipy.stats kstest, skew, kurtosis in float64 / survey, one layer",
            f"{ratio:.0f} ×",
            "≥ 300 ×",
            ratio >= 300,
        )
        report("two workers against one", f"{single / pair:.2f} ×", "≥ 1.8 ×", single >= 1.8 * pair)
        halves = [checkpoint.only([info.name for info in checkpoint.tensors[part::2]]) for part in (0, 1)]
        apart, together = best(
            lambda: summed(checkpoint, np.uint16), lambda: list(two.map(summed, halves, [np.uint16] * 2))
        )
        print(f"{'  … and of NumPy’s sum, which does nothing else (no limit set)':<66} {apart / together:>14.2f} ×")

        compared(one)
    memory.main()
    cluster.main()
    spectra.main()
    merges.main()
    save(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "results.json")


if __name__ == "__main__":
    main()
