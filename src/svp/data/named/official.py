"""The official files of a data set: where they lie below a data root, and where they come from.

Folders and file names are those that torchvision's class for the data set makes, as are addresses and checksums, so that
what torchvision has fetched is found here and the other way round.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from svp.data.splits import DataError, enumerate_some
from svp.errors import UnavailableError
from svp.paths import remove_leftovers, temporary_name


@dataclass(frozen=True)
class Download:
    """A file on the network.

    Attributes:
        url: Its last part names the file on disk.
        md5: Checksum of the file.
        holds: What to take out of the archive, relative to the folder it is unpacked in; empty for a file that is no archive.
    """

    url: str
    md5: str
    holds: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        """Name of the file on disk."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def brings(self) -> tuple[str, ...]:
        """Files and folders that are there once it is fetched."""
        return self.holds or (self.filename,)


@dataclass(frozen=True)
class Official:
    """The files of a data set.

    Attributes:
        places: Folders below the data root in which they may lie; the first is the one they are fetched to.
        needed: Files and folders in that place without which the data set cannot be read.
        downloads: What brings them.
    """

    places: tuple[str, ...]
    needed: tuple[str, ...]
    downloads: tuple[Download, ...]


_CIFAR = "https://www.cs.toronto.edu/~kriz"
_GTSRB = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"
_CUB = tuple(
    f"CUB_200_2011/{name}"
    for name in ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
)
_FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
_SVHN = "http://ufldl.stanford.edu/housenumbers"

OFFICIAL: dict[str, Official] = {
    "cifar10": Official(
        places=("", "cifar10"),
        needed=tuple(
            f"cifar-10-batches-py/{name}"
            for name in ("batches.meta", *(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
        ),
        downloads=(
            Download(f"{_CIFAR}/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", ("cifar-10-batches-py",)),
        ),
    ),
    "cifar100": Official(
        places=("", "cifar100"),
        needed=("cifar-100-python/meta", "cifar-100-python/train", "cifar-100-python/test"),
        downloads=(Download(f"{_CIFAR}/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", ("cifar-100-python",)),),
    ),
    "dtd": Official(
        places=("dtd", ""),
        needed=("dtd/images", "dtd/labels/train1.txt", "dtd/labels/val1.txt", "dtd/labels/test1.txt"),
        downloads=(
            Download(
                "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                "fff73e5086ae6bdbea199a49dfb8a4c1",
                ("dtd",),
            ),
        ),
    ),
    "food101": Official(
        places=("", "food101"),
        needed=("food-101/images", "food-101/meta/train.json", "food-101/meta/test.json"),
        downloads=(
            Download("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87", ("food-101",)),
        ),
    ),
    "gtsrb": Official(
        places=("gtsrb", ""),
        needed=("GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv"),
        downloads=(
            Download(f"{_GTSRB}/GTSRB-Training_fixed.zip", "513f3c79a4c5141765e10e952eaa2478", ("GTSRB/Training",)),
            Download(
                f"{_GTSRB}/GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185", ("GTSRB/Final_Test/Images",)
            ),
            Download(f"{_GTSRB}/GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5", ("GT-final_test.csv",)),
        ),
    ),
    "svhn": Official(
        places=("", "svhn"),
        needed=("train_32x32.mat", "test_32x32.mat"),
        downloads=(
            Download(f"{_SVHN}/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            Download(f"{_SVHN}/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        ),
    ),
    # These two are found by svp.data.named.fgvc, which knows of more folders and of other lists.
    "cub200": Official(
        places=("",),
        needed=_CUB,
        downloads=(
            Download(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "97eceeb196236b17998738112f37df78",
                _CUB,
            ),
        ),
    ),
    "oxford_flowers": Official(
        places=("flowers-102",),
        needed=("jpg", "setid.mat", "imagelabels.mat"),
        downloads=(
            Download(f"{_FLOWERS}/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa", ("jpg",)),
            Download(f"{_FLOWERS}/imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
            Download(f"{_FLOWERS}/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
    ),
}
"""By name of the data set."""


class FetchError(UnavailableError):
    """A file could not be downloaded; the message names it, the reason, and where to place it by hand."""


def find_official(name: str, root: Path) -> Path:
    """The folder below `root` that holds all that is needed of a data set.

    Raises:
        DataError: Nothing of it is there, or only a part; names what is missing.
    """
    official = OFFICIAL[name]
    missing = {place: _missing(root / place, official.needed) for place in official.places}
    for place, absent in missing.items():
        if not absent:
            return root / place
    remedy = _fetch_command(name, root)
    for place, absent in missing.items():
        if len(absent) < len(official.needed):
            raise DataError(
                f"{name} is incomplete: {enumerate_some([root / place / path for path in absent])} missing. Unpack it again, "
                f"or remove what there is of it and run: {remedy}"
            )
    expected = " or ".join(str(root / place / official.needed[0]) for place in official.places)
    raise DataError(f"{name} is not in {root}: no {expected}. To get it, run: {remedy}")


def has_official(name: str, root: Path) -> bool:
    """Whether all official files that the data set needs are below `root`."""
    return any(not _missing(root / place, OFFICIAL[name].needed) for place in OFFICIAL[name].places)


def fetch_official(name: str, root: Path) -> None:
    """Download what is not below `root` yet, check it, unpack it.

    A file or folder has its final name only once it is whole: after a kill that one starts again. Archives stay, and one that
    was placed by hand is not downloaded.

    Raises:
        FetchError: No network, or what came is not what is published.
    """
    official = OFFICIAL[name]
    folder = root / official.places[0]
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    wanted = [download for download in official.downloads if _missing(folder, download.brings)]
    for number, download in enumerate(wanted):
        try:
            file = _downloaded(download, folder)
        except FetchError as error:
            by_hand = "".join(f"\n  {each.url} (md5 {each.md5}) as {folder / each.filename}" for each in wanted[number:])
            raise FetchError(
                f"{name}: {error} On a machine with network get{by_hand}\nand then run: {_fetch_command(name, root)}"
            ) from error
        if download.holds:
            _unpack(file, download.holds, folder)


def _missing(folder: Path, paths: Iterable[str]) -> list[str]:
    return [path for path in paths if not (folder / path).exists()]


def _fetch_command(name: str, root: Path) -> str:
    return f"svp data fetch {name} --data-root {shlex.quote(str(root))}"


def _downloaded(download: Download, folder: Path) -> Path:
    from http.client import HTTPException

    from torchvision.datasets.utils import check_integrity, download_url

    file = folder / download.filename
    if check_integrity(file, download.md5):
        return file
    part = temporary_name(file)
    try:
        download_url(download.url, folder, part.name, download.md5)
    except (OSError, RuntimeError, HTTPException) as error:  # RuntimeError: another checksum, or redirected without end
        part.unlink(missing_ok=True)
        other = f" ({file} is another or damaged: its md5 differs.)" if file.exists() else ""
        raise FetchError(
            f"cannot download {download.url}: {str(error).rstrip('.') or type(error).__name__}.{other}"
        ) from error
    part.replace(file)
    return file


def _unpack(archive: Path, contents: Iterable[str], folder: Path) -> None:
    from torchvision.datasets.utils import extract_archive

    unpacked = temporary_name(archive)
    try:
        extract_archive(str(archive), str(unpacked))
        for path in _missing(folder, contents):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            (unpacked / path).replace(target)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
