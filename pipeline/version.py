"""Which software this is: recorded with every model and shown in the report."""

import subprocess
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

import torch

CHECKOUT = Path(__file__).parent.parent


def liver3d_version() -> str:
    """The installed version."""
    try:
        return installed("liver3d")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "not installed"


def code_version() -> dict[str, str]:
    """Versions of liver3d and torch, and the commit, marked where files were changed since."""
    versions = {"liver3d": liver3d_version(), "torch": str(torch.__version__)}
    if (CHECKOUT / ".git").exists():
        command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            described = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # no git, or not one it trusts
            return versions
        versions["commit"] = described.stdout.strip()
    return versions
