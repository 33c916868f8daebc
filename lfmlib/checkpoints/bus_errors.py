"""Keep a process alive whose mapped file is truncated.

Touching a mapped page beyond the end of a file is a bus error, which ends the process without a word. A handler of that
signal puts zeros in place of the lost pages of the memory that `guard` was told of; whoever reads them finds afterwards
that the file was changed (`lfmlib.checkpoints.stored.Stored.check`). All other bus errors go where they went before.
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

import llvmlite.binding
from llvmlite import ir
from numba import carray, cfunc, types
from numba.extending import intrinsic

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
    """What the handler reads: start and end of each range, 0 for a free place; and the action that was there before."""

    _fields_ = (("ranges", ctypes.c_int64 * (2 * MAX_RANGES)), ("before", _Action))


_guarded = _Guarded()
_free = list(range(MAX_RANGES))
_lock = threading.Lock()
_map = types.ExternalFunction("mmap", types.int64(*[types.int64] * 2, *[types.int32] * 3, types.int64))
_sigaction = types.ExternalFunction("sigaction", types.int32(types.int32, types.int64, types.int64))


def guard(memory: mmap.mmap) -> mmap.mmap:
    """The mapping; until it is unmapped, pages of it that its file loses read as zeros."""
    with _lock:
        _install()
        place = _free.pop() if SUPPORTED and _free else None
    if place is not None:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        _guarded.ranges[2 * place + 1] = address + len(memory)
        _guarded.ranges[2 * place] = address
        weakref.finalize(memory, _release, place).atexit = False
    return memory


def _release(place: int) -> None:
    _guarded.ranges[2 * place] = _guarded.ranges[2 * place + 1] = 0
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


def _put_zeros(number, about, context):
    """The handler, called as sigaction says; the third integer of `about`, siginfo_t, is the address touched."""
    touched = carray(about, 3)[2]
    ranges = carray(_pointer(_address_of_ranges()), (MAX_RANGES, 2))
    for i in range(MAX_RANGES):
        if ranges[i, 0] <= touched < ranges[i, 1]:
            page = touched - touched % PAGE
            _map(page, ranges[i, 1] - page, READ_AND_WRITE, MAP_FLAGS, -1, 0)
            return
    _sigaction(number, _address_of_ranges() + 16 * MAX_RANGES, 0)  # and the access is tried again


if SUPPORTED:
    llvmlite.binding.add_symbol(SYMBOL, ctypes.addressof(_guarded))
    _on_bus_error = cfunc(types.void(types.int32, types.CPointer(types.int64), types.int64), cache=True)(_put_zeros)
