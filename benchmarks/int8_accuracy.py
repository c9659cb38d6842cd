"""What int8 costs: top-1 of ONNX files of `vim_nano.tiny_in200` in float32 and in int8 beside svp's. About a minute:

    python -m benchmarks.int8_accuracy tiny-imagenet-32/val

The folder has a folder of images per class of Tiny ImageNet; images are taken evenly.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import svp
from svp.data import InputConfig
from svp.export import onnx_file
from svp.export.check import Comparison, compare, read_some
from svp.export.program import trace


def accuracy(folder: Path, most: int) -> tuple[Comparison, Comparison]:
    """The float32 file beside svp, and the int8 file."""
    model = svp.create_model("vim_nano.tiny_in200", pretrained=True).eval()
    inputs = InputConfig.of_model(model)
    classes = sorted(part for part in folder.iterdir() if part.is_dir())  # in the order of the head
    pairs = [(path, label) for label, part in enumerate(classes) for path in sorted(part.iterdir())]
    images, labels = read_some([path for path, _ in pairs], inputs, [label for _, label in pairs], most)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model.onnx"
        onnx_file.write(trace(model, inputs, onnx_file.recurrence), {"output": '{"output": "probabilities"}'}, path)
        exact = compare(model, onnx_file.load(path), images, inputs, labels=labels)
        onnx_file.quantize(path)
        return exact, compare(model, onnx_file.load(path), images, inputs, labels=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="a folder of images per class of Tiny ImageNet")
    parser.add_argument("--images", type=int, default=2000, help="images at most")
    options = parser.parse_args()
    for name, found in zip(("float32", "int8"), accuracy(options.folder, options.images), strict=True):
        assert found.correct is not None
        assert found.correct_svp is not None
        print(
            f"{name:8s} top-1 {found.correct / found.images:.2%}, svp {found.correct_svp / found.images:.2%}; same top-1 "
            f"{found.same_top1 / found.images:.2%}; largest difference in probability {found.max_difference:.1e}"
        )


if __name__ == "__main__":
    main()
