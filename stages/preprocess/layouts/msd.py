"""The Medical Segmentation Decathlon: dataset.json lists every CT with its label."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cache.errors import SourceError
from stages.preprocess.layouts import dataset_json
from stages.preprocess.layouts.layout import Claim, Found, Layout, gathered
from stages.preprocess.layouts.list_ids import Named, ids_of
from stages.preprocess.layouts.nnunet import first_channel, not_for_training
from stages.preprocess.layouts.pairs import claim_of, named_path
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.layouts.volumes import has_extension, stem

EXAMPLE = "imagesTr/<id>.nii.gz with labelsTr/<id>.nii.gz, listed under training in dataset.json"
ENTRY = '{"training": [{"image": "./imagesTr/<id>.nii.gz", "label": "./labelsTr/<id>.nii.gz"}]}'


def _sign(tree: Tree) -> str | None:
    if first_channel(tree):
        return None  # nnU-Net's first version has a list called training as well
    if isinstance(dataset_json.glance(tree.root).get("training"), list):
        return f"{dataset_json.NAME} lists CTs and labels under training"
    names = {folder.name for folder in tree.folders(tree.root)}
    return "holds imagesTr and labelsTr" if {"imagesTr", "labelsTr"} <= names else None


def _find(tree: Tree) -> Found:
    fields = dataset_json.read_dataset(tree.root)
    names = dataset_json.label_names(tree.root, fields)
    if "training" in fields:
        pieces = list(_listed(tree.root, fields["training"]))
        other = f"is not listed under training in {dataset_json.NAME}"
    else:
        pieces, other = list(_in_folders(tree)), "is not the CT or label of a case"
    named = [(case_id, claim.joined(Claim(names=names))) for case_id, claim in pieces]
    claims = gathered(named)
    count = dataset_json.case_count(tree.root, fields, len(claims))
    return Found(claims, not_for_training(tree), other, count)


def _listed(root: Path, training: Any) -> Iterator[tuple[str, Claim]]:
    """The cases under training; the id is the CT's name, or what tells the CTs' paths apart.

    Raises:
        SourceError: an entry does not name a CT and a label, or two name one CT.
    """
    where = root / dataset_json.NAME
    if not isinstance(training, list):
        raise SourceError(where, "training is not a list", f"write it like {ENTRY}")
    named, claims = [], []
    for number, entry in enumerate(training, 1):
        files = [entry.get(key) for key in ("image", "label")] if isinstance(entry, dict) else []
        texts = [file for file in files if isinstance(file, str) and file]
        if len(texts) != 2:
            fact = f"entry {number} of training does not name an image and a label"
            raise SourceError(where, fact, f"write it like {ENTRY}")
        ct, label = (named_path(root, file) for file in texts)
        named.append(Named(f"entry {number}", "", ct))
        claims.append(claim_of([ct], [label], named_in=dataset_json.NAME))
    yield from zip(ids_of(where, named), claims, strict=True)


def _in_folders(tree: Tree) -> Iterator[tuple[str, Claim]]:
    """The cases of a data set that lost its dataset.json."""
    for path in tree.files(tree.root / "imagesTr"):
        if has_extension(path):
            yield stem(path.name), Claim(cts=(path,))
    for path in tree.files(tree.root / "labelsTr"):
        if has_extension(path):
            yield stem(path.name), Claim(labels=(path,))


LAYOUT = Layout("msd", EXAMPLE, _sign, _find)
