"""nnU-Net's preprocessing step on the same CTs: its folders, its plan, and how to run it.

Nothing of nnU-Net is imported here: its own entry points are run by the Python it is installed
in, as ``nnUNetv2_preprocess`` and its siblings would.

The best reasonable settings: only the configuration that is compared (3d_fullres); its own
planner's choice of resampling, and beside it the faster one with torch; one process per worker and
one thread per process, as its documentation says; a label of liver alone, as stage one keeps it
(a lesion's label of its own would be resampled apart). It cuts off voxels that are 0, so the air
around a body (about -1000 HU) stays in.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from benchmarks.measure import run_timed
from benchmarks.sources import SUFFIX, Source
from cache.files import write_json

DATASET = "Dataset001_Liver"
ENTRY_POINTS = "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints"


@dataclass(frozen=True)
class Planner:
    """One of nnU-Net's planners and the name its plan gets."""

    name: str
    plans: str


DEFAULT = Planner("ExperimentPlanner", "nnUNetPlans")
TORCH = Planner("nnUNetPlanner_torchres", "nnUNetPlans_torchres")


@dataclass(frozen=True)
class NnUNet:
    """nnU-Net with folders of its own, and a spacing for every plan.

    Attributes:
        python: of the environment it is installed in.
        folder: for its raw and prepared data.
        workers: processes.
        spacing_mm: of every axis.
    """

    python: str
    folder: Path
    workers: int
    spacing_mm: float

    def copy_in(self, sources: list[Source]) -> None:
        """Lay the CTs out as nnU-Net wants them, the labels made binary."""
        raw = self.folder / "raw" / DATASET
        for name in ("imagesTr", "labelsTr"):
            (raw / name).mkdir(parents=True)
        for source in sources:
            _link(source.ct, raw / "imagesTr" / f"{source.case_id}_0000{SUFFIX}")
            label = sitk.Cast(sitk.ReadImage(str(source.label)) > 0, sitk.sitkUInt8)
            path = raw / "labelsTr" / f"{source.case_id}{SUFFIX}"
            sitk.WriteImage(label, str(path), useCompression=True, compressionLevel=1)
        fields = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "liver": 1},
            "numTraining": len(sources),
            "file_ending": SUFFIX,
        }
        write_json(raw / "dataset.json", fields)

    def fingerprint(self) -> float:
        """Wall seconds of its look at every case; it is needed once per data set."""
        return self._run("extract_fingerprint_entry", "-np", str(self.workers), "--no_pbar")

    def plan(self, planner: Planner) -> float:
        """Wall seconds of planning, with our spacing in place of the median one."""
        spacing = [str(self.spacing_mm)] * 3
        words = ["-pl", planner.name, "-overwrite_target_spacing", *spacing]
        return self._run("plan_experiment_entry", *words)

    def preprocess(self, planner: Planner) -> float:
        """Wall seconds of the preprocessing step alone."""
        plan = ["-plans_name", planner.plans, "-c", "3d_fullres"]
        return self._run("preprocess_entry", *plan, "-np", str(self.workers), "--no_pbar")

    def prepared(self, planner: Planner) -> Path:
        """Where the prepared cases of a plan lie, and nothing else."""
        return self.folder / "preprocessed" / DATASET / f"{planner.plans}_3d_fullres"

    def _run(self, entry_point: str, *words: str) -> float:
        code = f"from {ENTRY_POINTS} import {entry_point} as main; main()"
        env = {f"nnUNet_{name}": str(self.folder / name) for name in ("raw", "preprocessed")}
        env |= {"nnUNet_results": str(self.folder / "results"), "OMP_NUM_THREADS": "1"}
        return run_timed([self.python, "-c", code, "-d", "1", *words], env)


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the disk cannot do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
