"""A folder of CTs, or one of labels: in it, a file or a folder for every case."""

from collections import defaultdict
from pathlib import Path

from stages.preprocess.layouts.names import composed
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.layouts.volumes import (
    has_extension,
    holds_dicom,
    is_dicom_object,
    is_volume,
    stem,
)


def volumes_of(tree: Tree, side: Path) -> dict[str, list[Path]]:
    """The volumes in such a folder by the id of their case; one each is right.

    A folder without a volume has an empty list.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in tree.folders(side):
        found[stem(folder.name)] += _of_folder(tree, folder)
    for file in tree.files(side):
        if is_volume(file):
            found[stem(file.name)].append(file)
        elif is_dicom_object(file):
            found[file.stem].append(file)
    return {case_id: sorted(paths) for case_id, paths in found.items()}


def _of_folder(tree: Tree, folder: Path) -> list[Path]:
    """What may be the volume in a case's folder: files, or the folder itself if it holds DICOM.

    Of several files, the one named like the folder alone, if there is one.
    """
    case_id, files = stem(folder.name), list(tree.files_below(folder))
    if holds_dicom(tree, folder):
        # hundreds of slices without an extension are not looked into one by one
        files = [path for path in files if has_extension(path) or path.name == case_id]
        return [folder, *(path for path in files if is_volume(path))]
    volumes = [path for path in files if is_volume(path)]
    own = [path for path in volumes if composed(stem(path.name)) == composed(case_id)]
    return own or volumes
