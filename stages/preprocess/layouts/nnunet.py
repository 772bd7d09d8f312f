"""nnU-Net's raw data: imagesTr with a channel number in every name, labelsTr without."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cache.errors import SourceError
from stages.preprocess.layouts import dataset_json
from stages.preprocess.layouts.layout import Claim, Found, Layout, gathered, no_case
from stages.preprocess.layouts.names import composed
from stages.preprocess.layouts.pairs import claim_of, named_path
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.layouts.volumes import has_extension, stem
from stages.preprocess.problems import Finding, Problem

CHANNEL = re.compile(r"(.+)_(\d{4})")
EXAMPLE = "imagesTr/<id>_0000.nii.gz with labelsTr/<id>.nii.gz and dataset.json"
ENTRY = '{"dataset": {"<id>": {"images": ["imagesTr/<id>.nii.gz"], "label": "labelsTr/…"}}}'
ONE_CHANNEL = "keep the CT's channel alone, or list the case under data.exclude"
NOT_FOR_TRAINING = {
    "imagesTs": "holds test cases, which are not for training",
    "labelsTs": "holds labels of test cases, which are not for training",
}


def _sign(tree: Tree) -> str | None:
    fields = dataset_json.glance(tree.root)
    also = f" and {dataset_json.NAME} names its labels" if "labels" in fields else ""
    if isinstance(fields.get("dataset"), dict):
        return f"{dataset_json.NAME} lists images and labels under dataset"
    first = first_channel(tree)
    return f"imagesTr holds {first.name}{also}" if first else None


def first_channel(tree: Tree) -> Path | None:
    """The first CT of imagesTr whose label has the same name without _0000; None if none has.

    The Decathlon's labels are named just like their CTs, and one of those may be liver_0000.
    """
    labels = {composed(stem(path.name)) for path in tree.files(tree.root / "labelsTr")}
    for path in tree.files(tree.root / "imagesTr"):
        named = _channel(path)
        if named and named[2] == "0000" and composed(named[1]) in labels:
            return path
    return None


def _find(tree: Tree) -> Found:
    fields = dataset_json.read_dataset(tree.root)
    names = dataset_json.label_names(tree.root, fields)
    if fields.get("dataset") is not None:
        pieces = list(_listed(tree.root, fields["dataset"]))
    else:
        pieces = list(_in_folders(tree))
    named = [(case_id, claim.joined(Claim(names=names))) for case_id, claim in pieces]
    claims = gathered(named)
    count = dataset_json.case_count(tree.root, fields, len(claims))
    return Found(claims, not_for_training(tree), findings=count)


def not_for_training(tree: Tree) -> list[Problem]:
    """The folders of test cases and dataset.json, which are no training cases."""
    folders = {folder.name: folder for folder in tree.folders(tree.root)}
    ignored = [
        no_case(folders[name], fact) for name, fact in NOT_FOR_TRAINING.items() if name in folders
    ]
    path = tree.root / dataset_json.NAME
    return [*ignored, no_case(path, "describes the data set")] if path.is_file() else ignored


def _in_folders(tree: Tree) -> Iterator[tuple[str, Claim]]:
    """The CTs of imagesTr and the labels of labelsTr."""
    for path in tree.files(tree.root / "imagesTr"):
        named = _channel(path)
        if named and named[2] == "0000":
            yield named[1], Claim(cts=(path,))
        elif named:
            fact = "is a further channel; a CT has one"
            yield named[1], Claim(findings=(_several(path, fact),))
    for path in tree.files(tree.root / "labelsTr"):
        if has_extension(path):
            yield stem(path.name), Claim(labels=(path,))


def _channel(path: Path) -> re.Match[str] | None:
    return CHANNEL.fullmatch(stem(path.name)) if has_extension(path) else None


def _several(path: Path, fact: str) -> Finding:
    return Finding("one_file_per_case", path, fact, ONE_CHANNEL)


def _listed(root: Path, dataset: Any) -> Iterator[tuple[str, Claim]]:
    """The cases that dataset.json names file by file.

    Raises:
        SourceError: an entry has no images or no label.
    """
    where = root / dataset_json.NAME
    if not isinstance(dataset, dict):
        raise SourceError(where, "dataset is not an object", f"write it like {ENTRY}")
    for case_id, entry in dataset.items():
        images, label = _files(where, case_id, entry)
        paths = [named_path(root, image) for image in images]
        claim = claim_of(paths[:1], [named_path(root, label)], named_in=dataset_json.NAME)
        if len(paths) > 1:
            fact = f"is a further channel of {len(paths)}; a CT has one"
            claim = claim.joined(Claim(findings=(_several(paths[1], fact),)))
        yield case_id, claim


def _files(where: Path, case_id: str, entry: Any) -> tuple[list[str], str]:
    images = entry.get("images") if isinstance(entry, dict) else None
    label = entry.get("label") if isinstance(entry, dict) else None
    texts = isinstance(images, list) and all(isinstance(image, str) for image in images)
    if not (texts and images and isinstance(label, str)):
        fact = f"dataset has {case_id!r} without a list of images and a label"
        raise SourceError(where, fact, f"write it like {ENTRY}")
    return images, label


LAYOUT = Layout("nnunet", EXAMPLE, _sign, _find)
