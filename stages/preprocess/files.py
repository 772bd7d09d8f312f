"""What a data set says of one case: where its CT and its label lie."""

from dataclasses import dataclass
from pathlib import Path

LabelNames = dict[str, tuple[int, ...]]  # structure -> its label values; () is every value above 0


@dataclass(frozen=True)
class CaseFiles:
    """Where a case's CT and label lie.

    Attributes:
        case_id: name of the case, unique in the data set; its file in the store is called so.
        patient_id: the person; cases of one patient stay on one side of the split.
        ct: a file, or a folder that holds a DICOM series.
        label: a file, a folder that holds a DICOM series, or one with a PNG image per slice.
        names: what the data set calls the label's values; None where it names none.
        root: the folder all of the case's data must lie in.
    """

    case_id: str
    patient_id: str
    ct: Path
    label: Path
    names: LabelNames | None
    root: Path
