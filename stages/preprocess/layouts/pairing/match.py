"""Which names of CTs and which names of labels mean one case."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from stages.preprocess.layouts.names import composed
from stages.preprocess.layouts.pairing.words import case_name, core, is_of_another

CHANNEL = "_0000"  # nnU-Net's, behind the name of a CT
NUMBERED = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)  # the last number of a name


@dataclass(frozen=True)
class Case:
    """Names that mean one case.

    Attributes:
        name: what to call it.
        cts: places of its CTs' names; one is right.
        labels: places of its labels' names; one is right.
        rival: another label that the CT's name fits as well; empty if there is none.
    """

    name: str
    cts: tuple[int, ...]
    labels: tuple[int, ...]
    rival: str = ""

    @property
    def is_pair(self) -> bool:
        """Whether it is one CT and one label without doubt."""
        return len(self.cts) == len(self.labels) == 1 and not self.rival


def matched(cts: Sequence[str], labels: Sequence[str]) -> list[Case]:
    """Every name of a CT and of a label, in the case it belongs to.

    Names belong together if they are alike but for words such as ``img`` and ``mask`` at their ends
    and nnU-Net's channel behind the CT's. If no two are, but each side has one way to put a number
    into a name, as in ``case_7`` and ``seg-07``, the numbers decide.

    Args:
        cts: names of files or folders without their endings.
        labels: the same.
    """
    by_name = matched_by_name(cts, labels)
    if any(case.cts and case.labels for case in by_name):
        return by_name
    return _by_number(cts, labels) or by_name


def matched_by_name(cts: Sequence[str], labels: Sequence[str]) -> list[Case]:
    """``matched`` without looking at numbers."""
    label_cores = [core(name) for name in labels]
    fits = [_fitting(name, label_cores) for name in cts]
    has_channel = any(
        _bare(ct) != ct and found == [core(_bare(ct))] for ct, found in zip(cts, fits, strict=True)
    )
    plain = [_bare(name) if has_channel else name for name in cts]
    members: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    rivals: dict[str, str] = {}
    for place, found in enumerate(fits):
        own = found[0] if found else core(plain[place])
        members[own][0].append(place)
        if len(found) > 1:
            rivals[own] = labels[label_cores.index(found[1])]
    for place, own in enumerate(label_cores):
        members[own][1].append(place)
    named = {
        own: ([plain[at] for at in of_ct], [labels[at] for at in of_label])
        for own, (of_ct, of_label) in members.items()
    }
    # of a CT alone, the name it would have with its label
    pairs = [both for both in named.values() if all(both) and len(_names(*both)) > 1]
    is_short = not all(_in_labels(*both) for both in pairs)
    return [
        Case(_name_of(*named[own], is_short=is_short), tuple(ct), tuple(label), rivals.get(own, ""))
        for own, (ct, label) in members.items()
    ]


def _fitting(ct: str, label_cores: Sequence[str]) -> list[str]:
    """The cores of labels that a CT's name fits: as it is, and without its channel."""
    own = dict.fromkeys([core(ct), core(_bare(ct))])
    return [each for each in own if each in label_cores]


def _bare(ct: str) -> str:
    return ct.removesuffix(CHANNEL) or ct


def _names(cts: Sequence[str], labels: Sequence[str]) -> set[str]:
    """What a case is called by its CTs and by its labels, a channel apart."""
    by_cts = {composed(_bare(name) if labels else name) for name in cts}
    return by_cts | {composed(name) for name in labels}


def _in_labels(cts: Sequence[str], labels: Sequence[str]) -> str:
    """A CT's name, if all of it is in its labels', as ``Scan 7`` in ``Scan 7-label``; else ""."""
    if len(set(cts)) > 1:
        return ""
    whole = (composed(name) for name in (cts[0], _bare(cts[0])))
    return next((ct for ct in whole if all(_begins_or_ends(label, ct) for label in labels)), "")


def _begins_or_ends(label: str, ct: str) -> bool:
    name = composed(label)
    rest = name.removeprefix(ct) if name.startswith(ct) else name.removesuffix(ct)
    return rest != name and not any(map(str.isdigit, rest))


def _name_of(cts: Sequence[str], labels: Sequence[str], *, is_short: bool) -> str:
    """A case's name: the CT's, where the labels have all of it, else what both have in common."""
    names = _names(cts, labels)
    if len(names) == 1 and not (is_short and not (cts and labels)):
        return min(names)
    shared = _in_labels(cts, labels) if cts and labels and not is_short else ""
    return shared or case_name([*labels, *cts][0])


def _by_number(cts: Sequence[str], labels: Sequence[str]) -> list[Case]:
    """The cases by their numbers; none if these do not say it beyond doubt."""
    bare = [_bare(name) for name in cts] if all(name.endswith(CHANNEL) for name in cts) else cts
    if any(map(is_of_another, labels)):
        return []  # spleen-07 is of case 7, but not its liver
    of_ct, of_label = _numbers(bare), _numbers(labels)
    if not (
        of_ct and of_label and (of_ct.keys() <= of_label.keys() or of_label.keys() <= of_ct.keys())
    ):
        return []
    return [
        Case(
            case_name(bare[of_ct[number]])
            if number in of_ct
            else case_name(labels[of_label[number]]),
            (of_ct[number],) if number in of_ct else (),
            (of_label[number],) if number in of_label else (),
        )
        for number in sorted(of_ct.keys() | of_label.keys())
    ]


def _numbers(names: Sequence[str]) -> dict[int, int]:
    """The place of each name by its last number; none if two have one, or they differ otherwise."""
    found = [NUMBERED.fullmatch(core(name)) for name in names]
    around = {(one[1], one[3]) for one in found if one}
    numbers = {int(one[2]): place for place, one in enumerate(found) if one}
    return numbers if len(around) == 1 and len(numbers) == len(names) else {}
