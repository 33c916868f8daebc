"""Keep a process alive that touches a page of a mapped file which cannot be read.

Where the file was truncated, or its disk or network gives an error, that is a bus error, which ends the process without
a word. A handler of that signal puts zeros in place of such pages of the memory that `guard` was told of, and `lost`
tells of them, so that what was read is refused. All other bus errors go where they went before.
The handler is compiled, since no Python may run inside one. It works on Linux, on processors of 64 bits.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import signal
import sys
import threading
import weakref
from collections.abc import Hashable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import cfunc, types
from numba.core.types import ExternalFunction
from numba.extending import intrinsic
from numba.np.numpy_support import carray

MAX_RANGES = 4096
"""Ranges of memory that are guarded at once; further ones are not."""
MAP_FLAGS = 0x02 | 0x10 | 0x20 | 0x4000  # private, fixed, anonymous, without reserve
ACTION_FLAGS = 0x4 | 0x08000000 | 0x10000000  # with the address, on the alternate stack, restarting calls
PAGE, READ_AND_WRITE = mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE
SYMBOL = "lfmlib_guarded_ranges"
SUPPORTED = sys.platform == "linux" and sys.maxsize > 2**32


class _Action(ctypes.Structure):
    """`struct sigaction` of Linux on 64 bits."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _Guarded(ctypes.Structure):
    """What the handler shares: of each range start, end (0 for a free place) and whether pages were lost; behind the
    last one how often that happened; and the action that was there before.
    """

    _fields_ = (("ranges", ctypes.c_int64 * 3 * (MAX_RANGES + 1)), ("before", _Action))


_guarded = _Guarded()
_free = list(range(MAX_RANGES))
_files: dict[int, Hashable] = {}
_lost: set[Hashable] = set()
_lock = threading.Lock()
_map = ExternalFunction("mmap", types.int64(*[types.int64] * 2, *[types.int32] * 3, types.int64))
_sigaction = ExternalFunction("sigaction", types.int32(types.int32, types.int64, types.int64))


def guard(memory: mmap.mmap, file: Hashable) -> mmap.mmap:
    """The mapping of `file`; until it is unmapped, pages of it that cannot be read are zeros."""
    with _lock:
        _install()
        place = _free.pop() if SUPPORTED and _free else None
    if place is not None:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        _files[place] = file
        _guarded.ranges[place][:] = [address, address + len(memory), 0]
        weakref.finalize(memory, _release, place).atexit = False
    return memory


def lost(file: Hashable) -> bool:
    """Whether pages of a file that was mapped read as zeros because they could not be read."""
    if not _guarded.ranges[MAX_RANGES][0]:
        return False
    return file in _lost or any(_guarded.ranges[place][2] for place, one in [*_files.items()] if one == file)


def _release(place: int) -> None:
    if _guarded.ranges[place][2]:
        _lost.add(_files[place])
    _guarded.ranges[place][:] = [0, 0, 0]
    del _files[place]
    _free.append(place)


@functools.cache
def _install() -> None:
    """Handle bus errors, from now on and once in a process."""
    if SUPPORTED:
        action = _Action(_on_bus_error.address, flags=ACTION_FLAGS)
        ctypes.CDLL(None).sigaction(int(signal.SIGBUS), ctypes.byref(action), ctypes.byref(_guarded.before))


@intrinsic
def _address_of_ranges(context):
    """Address of `_guarded`, which differs from process to process while the compiled code is cached on disk."""

    def codegen(context, builder, signature, arguments):
        known = builder.module.globals.get(SYMBOL) or ir.GlobalVariable(builder.module, ir.IntType(64), SYMBOL)
        return builder.ptrtoint(known, ir.IntType(64))

    return types.int64(), codegen


@intrinsic
def _pointer(context, address):
    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(types.int64), codegen


_ranges_address: Any = _address_of_ranges  # numba gives the first argument of both
_as_pointer: Any = _pointer


def _put_zeros(number, about, context):
    """The handler, called as sigaction says; the third integer of `about`, siginfo_t, is the address touched."""
    touched = carray(about, 3)[2]
    ranges = carray(_as_pointer(_ranges_address()), (MAX_RANGES + 1, 3))
    for i in range(MAX_RANGES):
        if ranges[i, 0] <= touched < ranges[i, 1]:
            page = touched - touched % PAGE
            ranges[i, 2] = 1
            ranges[MAX_RANGES, 0] += 1
            _map(page, ranges[i, 1] - page, READ_AND_WRITE, MAP_FLAGS, -1, 0)
            return
    _sigaction(number, _ranges_address() + 24 * (MAX_RANGES + 1), 0)  # and the access is tried again


if SUPPORTED:
    llvmlite.binding.add_symbol(SYMBOL, ctypes.addressof(_guarded))
    _on_bus_error = cfunc(types.void(types.int32, types.CPointer(types.int64), types.int64), cache=True)(_put_zeros)
