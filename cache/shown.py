"""Names and messages as a terminal may show them: a file's name can hold anything.

A line break in a name would begin a line that looks like one of ours, and an escape sequence would
move the cursor or colour the screen.
"""

INDENT = "  "  # what stands before the further lines of our own messages


def shown(name: object) -> str:
    """A name in one line, with escapes for all that cannot be printed."""
    return "".join(map(_escaped, str(name)))


def shown_lines(text: str) -> str:
    """A message whose further lines, where it has any, are indented; all else as ``shown``."""
    return f"\n{INDENT}".join(map(shown, text.split(f"\n{INDENT}")))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
