"""Instruction sets of a processor, which one machine can play in turn: numerical libraries take theirs from the
environment in which a process starts.

Rounding depends on them, and training magnifies rounding: a record that holds under all of them can be expected to
hold on a processor that nobody has asked. What a play leaves out is the maker: MKL picks other code on other makers'
processors, and a set of one name is not the same in every generation.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from threadpoolctl import threadpool_info

_OLDER = "AVX512_SPR AVX512_ICL X86_V4"  # NumPy's names of what an AVX2 processor lacks


@dataclass(frozen=True)
class InstructionSet:
    """How a processor of one set of instructions is played.

    Attributes:
        needs: the processor's flag without which the set cannot run here.
        torch: what PyTorch then says that it uses (`torch.backends.cpu.get_cpu_capability`).
        openblas: the core that OpenBLAS, the BLAS of NumPy and SciPy, then says that it computes for; None: any.
        variables: what a process finds in its environment when it starts.
    """

    needs: str
    torch: str
    openblas: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> str:
        """Why this processor cannot play it, in words; empty where it can."""
        return "" if self.needs in _flags() else f"this processor has no {self.needs}"

    def check(self) -> None:
        """See that the libraries of this process compute as the set says. Raises RuntimeError if one does not."""
        found = torch.backends.cpu.get_cpu_capability()
        cores = {library["architecture"] for library in threadpool_info() if library.get("internal_api") == "openblas"}
        if found != self.torch or (self.openblas and cores - {self.openblas}):
            raise RuntimeError(
                f"this process does not play its part: PyTorch computes with {found}, expected {self.torch}; OpenBLAS "
                f"for {', '.join(sorted(cores)) or 'nothing'}, expected {self.openblas or 'any'}"
            )


SETS: dict[str, InstructionSet] = {
    "AVX-512": InstructionSet("avx512f", "AVX512"),
    "AVX2": InstructionSet(
        "avx2",
        "AVX2",
        "Haswell",
        {
            "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own code
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # PyTorch's BLAS
            "ONEDNN_MAX_CPU_ISA": "AVX2",  # PyTorch's convolutions
            "OPENBLAS_CORETYPE": "Haswell",
            "NPY_DISABLE_CPU_FEATURES": _OLDER,
            "NUMBA_CPU_NAME": "haswell",
            "NUMBA_CPU_FEATURES": "",  # those of that name
            "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F",  # exp, log and powers of Python's floats
        },
    ),
    "AVX": InstructionSet(
        "avx",
        "DEFAULT",
        "Sandybridge",
        {
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",  # it has no code for AVX any more
            "ONEDNN_MAX_CPU_ISA": "AVX",
            "OPENBLAS_CORETYPE": "Sandybridge",
            "NPY_DISABLE_CPU_FEATURES": f"{_OLDER} X86_V3",
            "NUMBA_CPU_NAME": "sandybridge",
            "NUMBA_CPU_FEATURES": "",
            "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA",
        },
    ),
    "SSE": InstructionSet(
        "sse4_2",
        "DEFAULT",
        "Nehalem",
        {
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_CBWR": "COMPATIBLE",  # the code for any maker's processor
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "OPENBLAS_CORETYPE": "Nehalem",
            "NPY_DISABLE_CPU_FEATURES": f"{_OLDER} X86_V3",
            "NUMBA_CPU_NAME": "nehalem",
            "NUMBA_CPU_FEATURES": "",
            "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-AVX",
        },
    ),
}
"""Name → set, from the widest, played by a processor that has it as it is, to one that every processor has."""


def environment(name: str) -> dict[str, str | None]:
    """Variables of a process that plays a set; None: not to be set, so that nothing of another set is left."""
    every = {variable for one in SETS.values() for variable in one.variables}
    return dict.fromkeys(sorted(every)) | dict(SETS[name].variables)


def _flags() -> set[str]:
    """What Linux says the processor can; elsewhere nothing is known, and nothing is played."""
    with contextlib.suppress(OSError):
        if platform.machine() in ("x86_64", "AMD64"):
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                if line.startswith("flags"):
                    return set(line.partition(":")[2].split())
    return set()
