"""Memory that several processes of one machine see, with no name that could be left behind."""

import math
import mmap
import os
import sys
import uuid
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray


class SharedBlock:
    """Bytes that processes of one machine share, zeros at first.

    On Linux it is a memory file without a name: nothing lies in ``/dev/shm``, whose size
    containers limit to 64 MB, and it is gone with the last process that holds it, however that
    one ends. On Windows it is backed by the page file and goes likewise. Memory is taken page by
    page as it is written, and given back when the block and all its arrays are gone.

    Attributes:
        ticket: by which another process attaches, while this one lives.
    """

    def __init__(self, memory: mmap.mmap, ticket: str, file: int | None) -> None:
        self.ticket = ticket
        self._memory = memory
        self._file = file

    @staticmethod
    def is_supported() -> bool:
        """Whether this system can do it; macOS cannot."""
        return sys.platform in ("linux", "win32")

    @classmethod
    def create(cls, size_bytes: int) -> Self:
        """A block of this size.

        Raises:
            OSError: the system cannot do it.
        """
        if sys.platform == "linux":
            file = os.memfd_create("liver3d")
            os.ftruncate(file, size_bytes)
            ticket = f"/proc/{os.getpid()}/fd/{file}"
            return cls(mmap.mmap(file, size_bytes), ticket, file)
        if sys.platform == "win32":
            name = f"liver3d-{uuid.uuid4()}"
            return cls(mmap.mmap(-1, size_bytes, name), f"{size_bytes} {name}", None)
        raise OSError(f"{sys.platform} has no memory to share without a name")

    @classmethod
    def attach(cls, ticket: str) -> Self:
        """The block that another process of this user and machine has made.

        Raises:
            OSError: that process is gone.
        """
        if sys.platform == "win32":
            size, name = ticket.split(" ")
            return cls(mmap.mmap(-1, int(size), name), ticket, None)
        file = os.open(ticket, os.O_RDWR)
        return cls(mmap.mmap(file, 0), ticket, file)

    def array(self, offset: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array that lies in the block from this byte on; it keeps the memory alive."""
        count = math.prod(shape)
        return np.frombuffer(self._memory, dtype, count, offset).reshape(shape)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)  # the memory stays as long as an array is there
