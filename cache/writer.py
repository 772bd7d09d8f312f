"""Writing a prepared case into the store, whole or not at all."""

from pathlib import Path

from cache.backend import Backend
from cache.case import CaseInfo, PreparedCase
from cache.errors import StoreError
from cache.files import PARTIAL, replacing
from cache.formats import backend_of, backends
from cache.manifest import check_version


def write_case(root: Path, case: PreparedCase, backend: Backend) -> Path:
    """Write a case under its id; an older one of the same id and format is replaced.

    Returns:
        The case's file or folder.

    Raises:
        StoreError: the disk refused it; nothing of it stays.
    """
    path = root / f"{case.info.case_id}{backend.suffix}"
    try:
        with replacing(path) as partial:
            backend.write(partial, case.arrays(), case.info.to_dict())
    except OSError as error:
        fix = "free some space or give another --out, and run it again; finished cases are kept"
        raise StoreError(path, f"cannot be written ({error})", fix) from error
    return path


def stored_cases(root: Path) -> dict[Path, CaseInfo]:
    """Every whole case that lies in a store, whether or not a manifest names it yet.

    A case whose attributes cannot be read, or that a newer liver3d wrote, is left out: the next
    run of preprocess writes it anew.
    """
    found = {}
    suffixes = {backend.suffix for backend in backends().values()}
    for path in sorted(root.glob("*.*")):
        if path.suffix not in suffixes or path.name.startswith(PARTIAL):
            continue
        try:
            found[path] = read_info(path)
        except StoreError:
            continue
    return found


def read_info(path: Path) -> CaseInfo:
    """What is known of the case in this file or folder.

    Raises:
        StoreError: it is damaged, or a newer liver3d wrote it.
    """
    try:
        fields = backend_of(path).attributes(path)
        check_version(path, fields)
        return CaseInfo.from_dict(fields)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        fix = "delete it and run python -m pipeline.preprocess again"
        raise StoreError(path, f"is damaged ({error})", fix) from error
