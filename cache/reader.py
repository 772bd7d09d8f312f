"""Reading prepared cases: whole arrays, and patches that may leave the volume."""

import os
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.backend import Arrays, Pool
from cache.case import AIR_HU, CaseInfo, Mask, Patch, Volume, Voxels
from cache.errors import StoreError
from cache.formats import backend_of
from cache.grid import Box
from cache.manifest import Entry, Manifest, read_manifest
from cache.writer import read_info

DECODED_BYTES = 512 << 20  # what all open cases of a store may hold decoded
OPEN_CASES = 64  # files held open at a time


class CaseStore:
    """Read-only access to the prepared cases of a folder.

    Nothing is opened before the first read, and a handle is never used outside the process that
    opened it, so a store can be pickled and sent to workers. Threads may share one.

    Example:
        >>> store = CaseStore(Path("data/cases"))
        >>> volume = store.image(store.case_ids[0])  # int16 HU, (Z, Y, X)
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._manifest: Manifest | None = None
        self._open: dict[str, Arrays] = {}
        self._pool = Pool(DECODED_BYTES)
        self._process = os.getpid()
        self._lock = RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]

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
        return read_info(self._path(case_id))

    def image(self, case_id: str) -> Volume:
        """The whole prepared volume, int16 HU, (Z, Y, X)."""
        return self._read(case_id, "image")

    def mask(self, case_id: str) -> Mask:
        """The whole prepared mask, uint8 0/1, (Z, Y, X)."""
        return self._read(case_id, "mask")

    def source_mask(self, case_id: str) -> Mask:
        """The liver on the CT's own grid, uint8 0/1, array order of the CT's file."""
        return self._read(case_id, "source_mask")

    def foreground_zyx(self, case_id: str) -> Voxels:
        """The stored sample of liver voxels, int32 (N, 3) in z, y, x; may be empty."""
        return self._read(case_id, "foreground_zyx")

    def read_patch(self, patch: Patch) -> tuple[Volume, Mask]:
        """Volume and mask inside a box; what lies outside the case is air and background.

        Returns:
            int16 HU and uint8 0/1, both of the box's shape, (Z, Y, X).

        Raises:
            StoreError: a chunk fails its checksum, or the case is not in the store.
        """
        shape = self._entry(patch.case_id).shape_zyx
        volume = np.full(patch.box.shape_zyx, AIR_HU, np.int16)
        mask = np.zeros(patch.box.shape_zyx, np.uint8)
        inside = patch.box.clipped(shape)
        if min(inside.shape_zyx) > 0:
            starts = [a - b for a, b in zip(inside.start_zyx, patch.box.start_zyx, strict=True)]
            stops = [a + n for a, n in zip(starts, inside.shape_zyx, strict=True)]
            where = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
            volume[where] = self._read(patch.case_id, "image", inside)
            mask[where] = self._read(patch.case_id, "mask", inside)
        return volume, mask

    def close(self) -> None:
        """Give all files back; the next read opens them again."""
        for arrays in self._open.values():
            arrays.close()
        self._open.clear()

    def _read(self, case_id: str, name: str, box: Box | None = None) -> NDArray[Any]:
        try:
            return self._arrays(case_id).read(name, box)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise StoreError(
                self._path(case_id),
                f"case {case_id} is damaged: its {name} cannot be read ({error})",
                "run python -m pipeline.verify --deep --repair",
            ) from error

    def _arrays(self, case_id: str) -> Arrays:
        if self._process != os.getpid():  # handles of a parent process read wrong data, or hang
            self._open, self._pool = {}, Pool(DECODED_BYTES)
            self._process, self._lock = os.getpid(), RLock()
        with self._lock:
            arrays = self._open.pop(case_id, None)
            if arrays is None:
                path = self._path(case_id)
                arrays = backend_of(path).open(path, self._pool)
            self._open[case_id] = arrays  # the last one is the one used last
            if len(self._open) > OPEN_CASES:
                # not closed here: another thread may be reading; it closes when nobody holds it
                self._open.pop(next(iter(self._open)))
            return arrays

    def _path(self, case_id: str) -> Path:
        return self.root / self._entry(case_id).file

    def _entry(self, case_id: str) -> Entry:
        if case_id not in self.manifest.cases:
            fix = f"cases are {', '.join(self.case_ids[:5])}, …"
            raise StoreError(self.root, f"there is no case {case_id!r}", fix)
        return self.manifest.cases[case_id]
