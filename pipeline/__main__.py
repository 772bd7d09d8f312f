"""``python -m pipeline``: the list of commands."""

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


def main() -> None:
    """Print the commands."""
    print("usage: python -m pipeline.<command> [--help]\n")
    for name, purpose in COMMANDS.items():
        print(f"  {name:11}{purpose}")
    print("\nAll stages in their order, only what is out of date: python -m dvc repro")


if __name__ == "__main__":
    main()
