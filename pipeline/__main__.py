"""``python -m pipeline``: the list of commands, and ``python -m pipeline <command>`` runs one."""

import difflib
import importlib
import sys

COMMANDS = {
    "phantom": "make synthetic CTs with a known liver",
    "preprocess": "check, crop and resize CTs and labels into the store, data/cases",
    "verify": "re-check the store; --deep every byte, --repair from the source",
    "train": "train UNet3d on the store",
    "evaluate": "score the model on the source grid and write the report",
    "score": "score masks of any origin against labels",
    "predict": "segment the liver in CTs never seen",
    "export": "turn a model into a bundle for deployment: ONNX, parameters, model card",
    "configure": "write params.yaml from a preset, for your own folder",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command that is named, as ``python -m pipeline.<command>`` does; or list them."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in COMMANDS:
        command = importlib.import_module(f"pipeline.{name}").main
        command(args=rest, prog_name=f"python -m pipeline.{name}")
    elif name in ("--help", "-h", "help"):
        _list()
    else:
        _refuse(name)


def _list() -> None:
    print("usage: python -m pipeline.<command> [--help]\n")
    for name, purpose in COMMANDS.items():
        print(f"  {name:11}{purpose}")
    print("\nAll stages in their order, only what is out of date: python -m dvc repro")


def _refuse(name: str) -> None:
    close = difflib.get_close_matches(name, COMMANDS, 1)
    fix = f"python -m pipeline.{close[0]}" if close else f"one of {', '.join(COMMANDS)}"
    print(f"error: {name}: there is no such command\n  fix: {fix}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
