"""The digits that scikit-learn carries: real scans that need no network."""

from pathlib import Path

from svp.data.sources.folder import FolderSource
from svp.data.sources.unpacked import unpacked
from svp.data.splits import Parts


def read_digits(root: Path, seed: int) -> Parts:
    """8 x 8 gray scans, written as 32 x 32 PNG to ``digits/<digit>/<number>.png`` below `root`."""
    return FolderSource(unpacked(root / "digits", "scikit-learn, load_digits", _write)).parts()


def has_digits(root: Path) -> bool:
    """Whether they are written out below `root`; they can always be."""
    return (root / "digits" / ".complete").is_file()


def _write(folder: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (scan, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        image = Image.fromarray((scan * (255 / 16)).round().astype("uint8")).resize((32, 32), Image.Resampling.BICUBIC)
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        image.save(folder / str(label) / f"{number:04d}.png")
