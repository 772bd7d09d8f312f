"""Cells of a CSV that a spreadsheet opens: a text is never run as a formula.

A cell that begins with one of these characters is a formula to Excel and LibreOffice, which may
fetch from the network or start a program, and names of files and cases come from others. As OWASP
advises ("CSV injection"), such a text gets an apostrophe in front, which keeps it a text.
"""

import re

FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # noqa: RUF001 - full-width forms are formulas, too
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?")


def cell_of(text: str) -> str:
    """A text as a cell: with an apostrophe in front if it would be a formula; a number as it is."""
    if FORMULA.match(text) and not NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def text_of(cell: str) -> str:
    """The text that ``cell_of`` made a cell of."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
