"""Stage one's time and sizes beside nnU-Net's and MONAI's for the same CTs and spacing."""

import subprocess
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, Changes, at_least, failed_row
from benchmarks.measure import CommandError, progress, run_timed, tree_bytes
from benchmarks.peers.nnunet import DEFAULT, TORCH, NnUNet, Planner
from cache.files import write_json

HERE = Path(__file__).parent
SPACING_MM = 1.5
OURS, OURS_WHOLE = "1.5 mm Zarr", "ours without the crop"
NNUNET = {"nnU-Net": DEFAULT, "nnU-Net, torch resampling": TORCH}
MONAI = "MONAI PersistentDataset"
LEAST_FASTER = 6.0  # x, than nnU-Net's own resampling


def list_file(bench: Bench) -> Path:
    """The CTs and labels, for programs that know nothing of liver3d."""
    return bench.scratch / "sources.json"


def write_list(bench: Bench) -> None:
    """Write down which CT belongs to which label."""
    pairs = [{"image": str(one.ct), "label": str(one.label)} for one in bench.sources]
    write_json(list_file(bench), pairs)


def nnunet(bench: Bench, *, python: str, ours: Changes) -> list[str]:
    """nnU-Net's preprocessing step to the same spacing, once."""
    lines = ["", f"{'peers, once, to 1.5 mm':34}{'seconds':>9}{'x ours':>9}"]
    try:
        version = version_in(python, "nnunetv2")
        peer = NnUNet(python, bench.scratch / "nnunet", bench.workers, SPACING_MM)
        progress("nnU-Net: copying the data, fingerprint")
        peer.copy_in(bench.sources)
        lines.append(f"  nnU-Net {version}: fingerprint {peer.fingerprint():.1f} s, not counted")
    except CommandError as error:
        return [*lines, f"  nnU-Net skipped: {error}"]
    for name, planner in NNUNET.items():
        bench.time(f"{name}, plan", partial(peer.plan, planner))
        bench.time(name, partial(_preprocess, bench, peer, planner))
        bar = LEAST_FASTER if planner is DEFAULT else None
        lines += [_peer_row(bench, name, bar), _plan_row(bench, f"{name}, plan")]
        bench.sizes[name] = tree_bytes([peer.prepared(planner)])
    # nnU-Net keeps the air around the body; the same of ours, for as many voxels
    bench.time(OURS_WHOLE, partial(bench.prepare, OURS_WHOLE, {**ours, "crop": "none"}))
    bench.sizes[OURS_WHOLE] = tree_bytes([bench.store(OURS_WHOLE)])
    return [*lines, _peer_row(bench, OURS_WHOLE, None)]


def _preprocess(bench: Bench, peer: NnUNet, planner: Planner) -> float:
    seconds = peer.preprocess(planner)
    written = len(list(peer.prepared(planner).glob("*.pkl")))
    if written != len(bench.sources):
        raise CommandError(f"{written} of {len(bench.sources)} cases prepared")
    return seconds


def monai(bench: Bench, *, python: str) -> list[str]:
    """MONAI's transforms into a PersistentDataset, filled once."""
    cache = bench.scratch / "monai"
    words: list[str | Path] = [list_file(bench), cache, str(bench.workers), str(SPACING_MM)]
    try:
        name = f"{MONAI} {version_in(python, 'monai')}"
        version_in(python, "nibabel")  # its reader; MONAI installs without it
    except CommandError as error:
        return [f"  {MONAI} skipped: {error}"]
    bench.time(name, partial(run_timed, [python, HERE / "monai_cache.py", *words]))
    bench.sizes[name] = tree_bytes([cache])
    return [_peer_row(bench, name, None)]


def version_in(python: str, package: str) -> str:
    """The version of a package that another Python can import.

    Raises:
        CommandError: it cannot.
    """
    code = f"import {package}; from importlib.metadata import version; print(version('{package}'))"
    try:
        ended = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        raise CommandError(f"{python} cannot be run ({error.strerror})") from error
    if ended.returncode != 0:
        raise CommandError(f"{package} is not installed; pip install -e '.[peers]'")
    return ended.stdout.split()[-1]


def _peer_row(bench: Bench, name: str, least: float | None) -> str:
    if not bench.has(name):
        return failed_row(bench, name)
    ratio = bench.median(name) / bench.median(OURS)
    bar = at_least(ratio, least, "x") if least else ""
    return f"  {name:32}{bench.median(name):9.1f}{ratio:9.2f}{'':12}{bar}".rstrip()


def _plan_row(bench: Bench, name: str) -> str:
    if not bench.has(name):
        return failed_row(bench, name)
    return f"    its plan {bench.median(name):.1f} s, not counted"
