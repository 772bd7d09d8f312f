"""Reading prepared cases: whole arrays, and patches that may leave the volume."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.backend import Arrays, Pending, Pool
from cache.case import AIR_HU, CaseInfo, Mask, Patch, Volume, Voxels
from cache.errors import StoreError
from cache.formats import backend_of
from cache.grid import Box
from cache.manifest import Entry, Manifest, read_manifest
from cache.metadata import MEND, require_metadata
from cache.writer import read_info

DECODED_BYTES = 512 << 20  # what all open cases of a store may hold decoded
FOREGROUND_CASES = 1024  # whose liver voxels are kept in memory, 48 kB each at most


class CaseStore:
    """Read-only access to the prepared cases of a folder.

    Nothing is opened before the first read, and a handle is never used outside the process that
    opened it, so a store can be pickled and sent to workers. Threads may share one.

    Example:
        >>> store = CaseStore(Path("data/cases"))
        >>> volume = store.image(store.case_ids[0])  # int16 HU, (Z, Y, X)
    """

    def __init__(self, root: Path | str, *, decoded_bytes: int = DECODED_BYTES) -> None:
        """Name a store; it is not looked at yet.

        Args:
            root: its folder.
            decoded_bytes: of chunks that may be held decoded; 0 holds none.
        """
        self.root = Path(root)
        self._decoded_bytes = decoded_bytes
        self._manifest: Manifest | None = None
        self._open: dict[str, Arrays] = {}
        self._foreground: dict[str, Voxels] = {}
        self._pool: Pool | None = None
        self._process = os.getpid()
        self._lock = RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "decoded_bytes": self._decoded_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def manifest(self) -> Manifest:
        """The list of cases; read once. Raises StoreError if there is none."""
        if self._manifest is None:
            self._manifest = read_manifest(self.root)
        return self._manifest

    @property
    def case_ids(self) -> list[str]:
        """Ids of all cases, sorted."""
        return sorted(self.manifest.cases)

    def info(self, case_id: str) -> CaseInfo:
        """What is known of a case. Raises StoreError if it is not there or damaged."""
        require_metadata(self.root, self._entry(case_id))
        return read_info(self._path(case_id))

    def image(self, case_id: str) -> Volume:
        """The whole prepared volume, int16 HU, (Z, Y, X)."""
        return self._read_whole(case_id, "image")

    def mask(self, case_id: str) -> Mask:
        """The whole prepared mask, uint8 0/1, (Z, Y, X)."""
        return self._read_whole(case_id, "mask")

    def source_mask(self, case_id: str) -> Mask:
        """The liver on the CT's own grid, uint8 0/1, array order of the CT's file."""
        return self._read(case_id, "source_mask")

    def foreground_zyx(self, case_id: str) -> Voxels:
        """The stored sample of liver voxels, int32 (N, 3) in z, y, x; may be empty.

        Kept for the next time, so it is read-only.
        """
        with self._own_lock():
            voxels = self._foreground.pop(case_id, None)
        if voxels is None:
            voxels = self._read(case_id, "foreground_zyx")
            voxels.flags.writeable = False
        with self._lock:
            self._foreground[case_id] = voxels  # the last one is the one used last
            if len(self._foreground) > FOREGROUND_CASES:
                self._foreground.pop(next(iter(self._foreground)))
        return voxels

    def read(self, patch: Patch, out: tuple[Volume, Mask] | None = None) -> tuple[Volume, Mask]:
        """Volume and mask inside a box; what lies outside the case is air and background.

        Args:
            patch: the case and the box, which may leave the volume.
            out: arrays of the box's shape to read into, int16 and uint8, contiguous or not; new
                ones without it.

        Returns:
            int16 HU and uint8 0/1, both of the box's shape, (Z, Y, X).

        Raises:
            StoreError: a chunk fails its checksum, or the case is not in the store.
            ValueError: an array of ``out`` has another shape or type, or cannot be written to.
        """
        if out is None:
            shape = patch.box.shape_zyx
            out = np.empty(shape, np.int16), np.empty(shape, np.uint8)
        self.read_all([patch], [out])
        return out

    def read_all(self, patches: Sequence[Patch], outs: Sequence[tuple[Volume, Mask]]) -> None:
        """Read several patches as ``read`` does, at the same time where the format allows it.

        When it returns or raises, nobody writes to the arrays any more.
        """
        jobs = list(zip(patches, outs, strict=True))
        for patch, out in jobs:
            _require_room(patch.box, *out)
        started: list[tuple[str, str, Pending]] = []
        try:
            for patch, (volume, mask) in jobs:
                for name, array in (("image", volume), ("mask", mask)):
                    if pending := self._prepare(patch, name, array):
                        started.append((patch.case_id, name, pending))
                        pending.begin()
            for case_id, name, pending in started:
                with self._told(case_id, name):
                    pending.result()
        finally:
            for _, _, pending in started:  # what comes behind one that failed may still be at work
                with suppress(Exception):
                    pending.result()

    def _prepare(self, patch: Patch, name: str, out: NDArray[Any]) -> Pending | None:
        inside, into = patch.box.parts(self._entry(patch.case_id).shape_zyx)
        if inside != patch.box:
            out.fill(AIR_HU if name == "image" else 0)
        if min(inside.shape_zyx) == 0:
            return None
        with self._told(patch.case_id, name):
            return self._arrays(patch.case_id).prepare(name, inside, out[into.slices])

    def close(self) -> None:
        """Give all files back; the next read opens them again."""
        with self._own_lock():
            for arrays in self._open.values():
                arrays.close()
            self._open.clear()
            self._foreground.clear()

    def _read(self, case_id: str, name: str) -> NDArray[Any]:
        with self._told(case_id, name):
            return self._arrays(case_id).read(name)

    def _read_whole(self, case_id: str, name: str) -> NDArray[Any]:
        """The volume or the mask; no checksum guards their shape in Zarr's metadata."""
        array, shape = self._read(case_id, name), self._entry(case_id).shape_zyx
        with self._told(case_id, name):
            if array.shape != shape:
                raise ValueError(f"its shape is {array.shape}, not {shape} as the manifest says")
        return array

    @contextmanager
    def _told(self, case_id: str, name: str) -> Iterator[None]:
        """Turn what a format raises into a fault that names the case and the fix."""
        try:
            yield
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # too many open files are no fault of this one
            raise StoreError(
                self._path(case_id),
                f"case {case_id} is damaged: its {name} cannot be read ({error})",
                MEND,
            ) from error

    def _arrays(self, case_id: str) -> Arrays:
        with self._own_lock():
            arrays = self._open.pop(case_id, None) or self._opened(case_id)
            self._open[case_id] = arrays  # the last one is the one used last
            return arrays

    def _opened(self, case_id: str) -> Arrays:
        path = self._path(case_id)
        backend = backend_of(path)
        require_metadata(self.root, self._entry(case_id))
        if self._pool is None:
            self._pool = Pool(self._decoded_bytes, len(self.manifest.cases))
        arrays = backend.open(path, self._pool)
        while len(self._open) >= backend.open_cases:
            # not closed here: another thread may be reading; it closes when nobody holds it
            self._open.pop(next(iter(self._open)))
        return arrays

    def _own_lock(self) -> RLock:
        """The lock, of this process: one forked from another has that one's, locked perhaps."""
        if self._process != os.getpid():  # handles of a parent process read wrong data, or hang
            self._open, self._pool, self._lock = {}, None, RLock()
            self._process = os.getpid()
        return self._lock

    def _path(self, case_id: str) -> Path:
        return self.root / self._entry(case_id).file

    def _entry(self, case_id: str) -> Entry:
        if case_id not in self.manifest.cases:
            fix = f"cases are {', '.join(self.case_ids[:5])}, …"
            raise StoreError(self.root, f"there is no case {case_id!r}", fix)
        return self.manifest.cases[case_id]


def _require_room(box: Box, volume: Volume, mask: Mask) -> None:
    for array, dtype in ((volume, np.int16), (mask, np.uint8)):
        if not array.flags.behaved:
            raise ValueError(f"the array of {array.dtype} to read into is read-only, or unaligned")
        if array.shape != box.shape_zyx or array.dtype != dtype:
            raise ValueError(
                f"a patch of {box.shape_zyx} needs an array of {np.dtype(dtype)},"
                f" not {array.shape} of {array.dtype}"
            )
