"""CT and label beside each other in one folder, as 7.nii.gz and 7_mask.nii.gz."""

from pathlib import Path

from stages.preprocess.layouts.pairing.group import Group, group_of
from stages.preprocess.layouts.pairing.two_folders import Volume, pieces_of
from stages.preprocess.layouts.pairing.words import role
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.layouts.volumes import has_extension, stem


def find(tree: Tree, folder: Path) -> Group | None:
    """The cases whose files are in ``folder``; None if no CT there has a label of its name."""
    files = [path for path in tree.files(folder) if has_extension(path)]
    volumes = [Volume(stem(path.name), path, folder) for path in files]
    labels = [one for one in volumes if role(one.path.name) == "label"]
    cts = [one for one in volumes if role(one.path.name) in ("ct", None)]
    return group_of(folder, "CTs and labels have their names in common", pieces_of(cts, labels))
