"""Keeping the memory that a process frees, instead of handing it back to the system."""

import ctypes
import platform

# numbers of mallopt(3), from glibc's malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8
LARGEST = 1 << 30  # bytes; larger blocks are still given back
ALL = (1 << 31) - 1  # bytes, the most that mallopt takes


def keep_freed_memory(*, most_bytes: int, one_arena: bool) -> bool:
    """Let this process keep what it frees, for what it needs next.

    The C library asks the system for every large block again, and the system clears each of its
    pages when it is first touched: a third of the time that reading a CT takes. For a training step
    on the CPU it is nearly every feature map: of 8.5 s of processor time (24 channels,
    2·1·50·96·96, channels last) it took 1.35 s, and takes 0.02 s. What is kept is less dense,
    and how densely differs from run to run: the peak rose from 1.8 to between 1.9 and 2.6 GB. Where
    every step is of another shape it rose further, within 80 steps from 1.2 to 1.75 GB (8 channels,
    sides of 32 to 80), and then no more.

    Only glibc has it; elsewhere nothing is changed. It holds for the process, and cannot be undone.

    Args:
        most_bytes: that may be free at the end of its memory; what is more goes back. A worker
            that has read a large CT leaves room for the others, a training step needs all of it
            again.
        one_arena: whether all threads share one pool; else each thread of a library keeps its own.

    Returns:
        Whether it was done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # an interpreter without a dynamic C library
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    # an older glibc takes no threshold above 32 MB; there, not even larger blocks are given back
    is_kept = mallopt(MMAP_THRESHOLD, LARGEST) == 1 or mallopt(MMAP_MAX, 0) == 1
    is_shared = not one_arena or mallopt(ARENA_MAX, 1) == 1
    return bool(is_kept and is_shared and mallopt(TRIM_THRESHOLD, most_bytes) == 1)
