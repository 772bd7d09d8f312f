"""Faults the user can mend. Each names the file or key, the fact and the fix."""

from pathlib import Path

from cache.shown import shown, shown_lines


class DataError(Exception):
    """A fault in files or parameters that the user can mend. Pickles whole.

    Args:
        where: the file, folder or parameter key at fault.
        fact: what is wrong with it, with numbers and units.
        fix: what to do about it.
    """

    def __init__(self, where: Path | str, fact: str = "", fix: str = "") -> None:
        # all arguments go to super(): an exception that cannot be unpickled breaks a process pool
        super().__init__(where, fact, fix)
        self.where, self.fact, self.fix = where, fact, fix

    def __str__(self) -> str:
        if not self.fact:  # a DataLoader raises anew what its worker did, with one long text
            return str(self.where)
        message = f"{shown_lines(self.fact)}\n  fix: {shown_lines(self.fix)}"
        return f"{shown(self.where)}: {message}"


class SourceError(DataError):
    """A CT or label file that cannot be used as it is, and the rule that says so."""

    def __init__(self, where: Path | str, fact: str, fix: str, rule: str = "readable") -> None:
        super().__init__(where, fact, fix)
        self.args = (where, fact, fix, rule)  # what unpickling calls the class with
        self.rule = rule


class StoreError(DataError):
    """A prepared case, or the store's manifest, that cannot be read or written."""


class ParamsError(DataError):
    """A parameter that is unknown, missing or impossible."""


class ModelError(DataError):
    """A checkpoint that is missing, damaged or made by other parameters."""
