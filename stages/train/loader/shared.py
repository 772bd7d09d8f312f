"""Memory that several processes of one machine see, with no name that could be left behind."""

import ctypes
import math
import mmap
import os
import sys
import uuid
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

NAME = "liver3d"
CLOSE_ON_EXEC = 1  # MFD_CLOEXEC of linux/memfd.h
GONE = "the process that shares this memory is gone, or on another machine"


class SharedBlock:
    """Bytes that processes of one machine share, zeros at first.

    On Linux it is a memory file without a name: nothing lies in ``/dev/shm``, whose size
    containers limit to 64 MB, and it is gone with the last process that holds it, however that
    one ends. Memory is taken page by page as it is written. On Windows it is backed by the page
    file, which must have room for all of it, and goes likewise.

    It is given back when the block and all its arrays are gone, so there is nothing to close.

    Attributes:
        ticket: by which another process attaches, while this one lives.
    """

    def __init__(self, memory: mmap.mmap, ticket: str, file: int | None = None) -> None:
        self.ticket = ticket
        self._memory = memory
        self._file = file

    @staticmethod
    def is_supported() -> bool:
        """Whether this system can do it; macOS cannot."""
        if sys.platform == "linux":
            return hasattr(_libc(), "memfd_create")
        return sys.platform == "win32"

    @classmethod
    def create(cls, size_bytes: int) -> Self:
        """A block of this size, at least one byte.

        Raises:
            OSError: the system cannot do it.
        """
        if sys.platform == "linux":
            file = _memory_file()
            try:
                os.ftruncate(file, size_bytes)
                memory = mmap.mmap(file, size_bytes)
            except OSError:
                os.close(file)
                raise
            return cls(memory, f"/proc/{os.getpid()}/fd/{file}", file)
        if sys.platform == "win32":
            name = f"{NAME}-{uuid.uuid4()}"
            memory = mmap.mmap(-1, size_bytes + 1, name)
            memory[size_bytes] = 1  # a mark: attaching to what is gone would make new zeros
            return cls(memory, f"{size_bytes} {name}")
        raise OSError(f"{sys.platform} has no memory to share without a name")

    @classmethod
    def attach(cls, ticket: str) -> Self:
        """The block that another process of this user and machine has made.

        Raises:
            OSError: that process is gone.
        """
        if sys.platform == "win32":
            size, name = ticket.split(" ")
            memory = mmap.mmap(-1, int(size) + 1, name)
            if memory[int(size)] != 1:
                raise FileNotFoundError(f"{GONE}: {ticket}")
            return cls(memory, ticket)
        file = _opened(ticket)
        try:
            return cls(mmap.mmap(file, 0), ticket)
        finally:
            os.close(file)  # the mapping has its own

    def array(self, offset: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array that lies in the block from this byte on; it keeps the memory alive."""
        count = math.prod(shape)
        return np.frombuffer(self._memory, dtype, count, offset).reshape(shape)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)  # the memory stays as long as an array is there


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _memory_file() -> int:
    # not os.memfd_create: the Pythons of conda and uv, built for an old libc, may lack it
    file: int = _libc().memfd_create(NAME.encode(), CLOSE_ON_EXEC)
    if file < 0:
        raise OSError(ctypes.get_errno(), "the system gives no memory to share")
    return file


def _opened(ticket: str) -> int:
    try:
        # the numbers may be another file's by now, or on another machine; none is to be written to
        if not str(Path(ticket).readlink()).startswith(f"/memfd:{NAME}"):
            raise FileNotFoundError(f"{GONE}: {ticket}")
        return os.open(ticket, os.O_RDWR)
    except OSError as error:
        raise FileNotFoundError(f"{GONE}: {ticket}") from error
