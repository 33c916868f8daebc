"""Merges beside mergekit's: two made models of 1 GB, tuned from one, averaged and merged by TIES.

    python -m tests.benchmarks.merges

mergekit 0.1.5 is installed from PyPI into an environment of its own, below `_build/bench`, the first time. Both read
and write the same files, each in a fresh process with the threads it chooses, taking turns; the best counts. The
results are compared value by value, and mergekit is given ours to read.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from . import FOLDER, report

MERGEKIT = "mergekit==0.1.5"
DENSITY = 0.5
OURS = (
    "import sys, lfmlib; "
    f"lfmlib.merge(sys.argv[1], sys.argv[2:4], sys.argv[4], density={DENSITY}, out=sys.argv[5], progress=False)"
)
METHODS = {"average": "linear", "ties": "ties"}
"""Ours → mergekit's."""


def main(turns: int = 2) -> None:
    """Measure and print."""
    models = made()
    mergekit = _environment(FOLDER / "mergekit")
    size = sum(path.stat().st_size for path in models[0].glob("*.safetensors"))
    print(f"made models: {len(models) - 1} of {size / 1e9:.2f} GB, bfloat16, and their base")
    for ours, theirs in METHODS.items():
        plan = FOLDER / f"{theirs}.json"  # JSON is YAML
        plan.write_text(json.dumps(_plan(theirs, models)), encoding="utf-8")
        outs = [FOLDER / f"merged-{ours}-{whose}" for whose in ("ours", "mergekit")]
        commands = (
            [sys.executable, "-c", OURS, *map(str, models), ours, str(outs[0])],
            [mergekit, str(plan), str(outs[1]), "--no-copy-tokenizer", "--lazy-unpickle", "--quiet"],
        )
        times, peaks = [[], []], []
        for turn in range(turns + 1):
            for side, (command, out) in enumerate(zip(commands, outs, strict=True)):
                shutil.rmtree(out, ignore_errors=True)
                if turn < turns:
                    times[side].append(watched(command, look=False)[0])
                else:  # apart, since looking at a process's memory holds it up
                    peaks.append(watched(command)[1])
        (seconds, their_seconds), (memory, their_memory) = map(min, times), peaks
        print(f"{ours}: ours {seconds:.1f} s, {memory / 2**20:.0f} MiB; {MERGEKIT} {their_seconds:.1f} s, ", end="")
        print(f"{their_memory / 2**20:.0f} MiB of anonymous memory at most")
        for what, own, theirs, limit in (("time", seconds, their_seconds, 0.7), ("memory", memory, their_memory, 0.5)):
            ratio = own / theirs
            report(f"  {ours}: {what} / mergekit’s", f"{ratio:.2f} ×", f"≤ {limit:g} ×", ratio <= limit)
        print(f"  {agreement(*outs)}")
    print(f"  {MERGEKIT} reads our folder: {passed_on(mergekit, outs[0])}")


def made(gigabytes: float = 1.0) -> list[Path]:
    """A base of Llama's form and two models tuned from it, of made Gaussian weights; kept for the next run."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    folders = [FOLDER / f"llama-{gigabytes:g}GB-{name}" for name in ("base", "one", "two")]
    if all((folder / "config.json").exists() for folder in folders):
        return folders
    layers = max(1, round((gigabytes * 5e8 - 2 * 32_000 * 1536) / (4 * 1536**2 + 3 * 1536 * 6144)))
    config = LlamaConfig(
        hidden_size=1536, intermediate_size=6144, num_hidden_layers=layers, num_attention_heads=12, vocab_size=32_000,
        dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    config.architectures = ["LlamaForCausalLM"]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for place, (name, shape) in enumerate(shapes.items()):
            start = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(place))
            moved = torch.Generator().manual_seed(1000 * number + place)
            tensors[name] = (start + (0.002 * torch.randn(shape, generator=moved) if number else 0)).bfloat16()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(folder)
    return folders


def watched(command: Sequence[str], look: bool = True) -> tuple[float, int]:
    """Seconds that a command takes, and the most anonymous memory it has, in bytes, if it is looked at.

    Raises:
        RuntimeError: it failed.
    """
    os.sync()  # what the one before left to the disk would hold this one up, if it waits for its own bytes to be there
    started, most = time.perf_counter(), 0
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as said,
        subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT) as child,
    ):
        while look and child.poll() is None:
            try:
                text = Path(f"/proc/{child.pid}/smaps_rollup").read_text(encoding="utf-8")
                most = max(most, *(1024 * int(line.split()[1]) for line in text.splitlines() if "Anonymous:" in line))
            except (OSError, TypeError):
                pass  # it ended meanwhile
            time.sleep(0.02)
        child.wait()
        seconds = time.perf_counter() - started
        if child.returncode:
            said.seek(0)
            raise RuntimeError(f"{command[0]} failed: {said.read()[-2000:]}")
    return seconds, most


def agreement(ours: Path, theirs: Path) -> str:
    """How far two folders of weights are apart, in units of the last place of bfloat16."""
    one, other = (
        {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
        for folder in (ours, theirs)
    )
    if one.keys() != other.keys():
        return f"other tensors: {sorted(one.keys() ^ other.keys())[:5]}"
    count = differ = 0
    largest = 0.0
    for name, value in one.items():
        apart = (value.float() - other[name].float()).abs()
        unit = torch.maximum(value.abs(), other[name].abs()).float().clamp(min=1e-30)
        largest = max(largest, float((apart / torch.exp2(torch.floor(torch.log2(unit)) - 7)).max()))
        differ += int((apart > 0).sum())
        count += apart.numel()
    return f"{differ / count:.2%} of {count:,} values differ, by {largest:.0f} units in the last place at most"


def passed_on(mergekit: str, folder: Path) -> str:
    """What becomes of a folder that we wrote when mergekit takes it for a model, and merges it with nothing."""
    plan, out = FOLDER / "passthrough.json", FOLDER / "merged-passed-on"
    plan.write_text(json.dumps(_plan("linear", [folder, folder])), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    watched([mergekit, str(plan), str(out), "--no-copy-tokenizer", "--quiet"])
    return agreement(folder, out)


def _plan(method: str, models: Sequence[Path]) -> dict:
    """A configuration of mergekit's."""
    base, *tuned = map(str, models)
    each = {"weight": 1.0} | ({"density": DENSITY} if method == "ties" else {})
    plan = {"merge_method": method, "models": [{"model": one, "parameters": each} for one in tuned]}
    plan |= {"dtype": "float32", "out_dtype": "bfloat16"}
    return plan | ({"base_model": base} if method == "ties" else {})


def _environment(folder: Path) -> str:
    command = folder / "bin" / "mergekit-yaml"
    if not command.exists():
        print(f"installing {MERGEKIT} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for packages in (["torch==2.13.0"], [MERGEKIT]):  # torch alone, so that its pin decides
            subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *packages], check=True)
    return str(command)


if __name__ == "__main__":
    main()
