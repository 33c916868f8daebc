"""What an accelerator and many cores give: counting where the tensor is, spectra, threads and workers of a survey.

python -m tests.benchmarks.device
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import lfmlib
from lfmlib.structure.spectra import spectrum

from . import FOLDER, cluster, memory, rate, repeated, save


def main() -> None:
    """Measure and print."""
    threads()
    cluster.main(tuple(count for count in (1, 2, 4, 8, 16) if count <= max(2, os.cpu_count() or 1)))
    if torch.cuda.is_available():
        sketches()
        spectra()
    else:
        print("no CUDA device: counting and spectra on one were not measured")
    save(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "device.json")


def threads(layers: int = 12) -> None:
    """A survey of about 4 GB with 1, 2, 4 … threads; all give the same table."""
    shapes = {
        f"model.layers.{i}.{name}_proj.weight": shape for i in range(layers) for name, shape in memory.SHAPES.items()
    }
    path = repeated(FOLDER / "threads.safetensors", shapes)
    size, first, tables = path.stat().st_size, 0.0, set()
    counts = [count for count in (1, 2, 4, 8, 16, 32, 64) if count <= (os.cpu_count() or 1)]
    for count in (counts[-1], *counts):  # once for the page cache
        with ThreadPoolExecutor(count) as pool:
            started = time.perf_counter()
            table = lfmlib.survey(path, executor=pool, progress=False)
            seconds = time.perf_counter() - started
        tables.add(table.to_csv(index=False))
        first = seconds if count == 1 else first
        if first:
            print(f"survey of {size / 1e9:.1f} GB, {count} threads: {seconds:.2f} s, {size / seconds / 1e9:.1f} GB/s, "
                  f"{first / seconds:.1f} ×", flush=True)  # fmt: skip
            rate(f"survey {count} threads, GB/s", size / seconds / 1e9)
    print(f"  tables: {'the same' if len(tables) == 1 else 'DIFFERENT'}")


def sketches(values: int = 1 << 28) -> None:
    """Counting on the device: the same integers as here, and how fast."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn):
        w = (0.02 * torch.randn(values, generator=torch.Generator("cuda").manual_seed(0), device="cuda")).to(dtype)
        here = lfmlib.Sketch.of(w[: 1 << 24].cpu())
        same = lfmlib.Sketch.of(w[: 1 << 24]) == here
        there = _best(lambda w=w: lfmlib.Sketch.of(w))
        size = w.numel() * w.element_size()
        print(f"sketch on {torch.cuda.get_device_name()}, {dtype}: {size / there / 1e9:.0f} GB/s, "
              f"{'the same integers' if same else 'OTHER INTEGERS'} as on the processor", flush=True)  # fmt: skip
        rate(f"sketch cuda {dtype}, GB/s".replace("torch.", ""), size / there / 1e9)


def spectra() -> None:
    """`spectrum` of made noise there, and here where that takes seconds."""
    for rows, columns in ((4096, 4096), (4096, 11008), (8192, 28672)):
        w = (0.02 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))).bfloat16()
        for exact in (False, True):
            _spectrum(w, exact)


def _spectrum(w: torch.Tensor, exact: bool) -> None:
    moved = w.cuda()
    there = _best(lambda: spectrum(moved, exact=exact), 2)
    found = spectrum(moved, exact=exact)
    what = f"spectrum of {w.shape[0]} × {w.shape[1]}, {'every eigenvalue' if exact else 'estimated'}"
    print(f"{what}: {there:.2f} s there, top_ratio {found.top_ratio:.6f}, ks {found.ks:.5f}", flush=True)
    rate(f"{what}, s on the device", there)
    if w.numel() > 1 << 26:
        return
    hidden, torch.cuda.is_available = torch.cuda.is_available, lambda: False
    try:
        started = time.perf_counter()
        found = spectrum(w, exact=exact)
        seconds = time.perf_counter() - started
    finally:
        torch.cuda.is_available = hidden
    print(f"  on {os.cpu_count()} cores: {seconds:.2f} s ({seconds / there:.0f} ×), top_ratio {found.top_ratio:.6f}, "
          f"ks {found.ks:.5f}", flush=True)  # fmt: skip


def _best(call, repeats: int = 3) -> float:
    call()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
