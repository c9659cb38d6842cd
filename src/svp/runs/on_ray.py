"""Work on a Ray cluster: how one is joined, and predictions by Ray Data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from svp.errors import UnavailableError
from svp.hub import local_folder
from svp.process import prepare
from svp.runs.predict import Prediction, classify, open_classifier
from svp.runs.prediction_files import write_parquet
from svp.settings import Tta

_BLOCK = 512
"""Images of one task and one file; what a worker that dies has to do again."""


def join_ray(address: str) -> Any:
    """The module ``ray``, in touch with a cluster for as long as this process lives.

    Args:
        address: Address of the cluster; "auto": the one on this machine; "local": one of this call's own.

    Raises:
        UnavailableError: Ray is not installed.
        ConnectionError: There is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise UnavailableError("Ray is not installed: pip install 'vim-svp[study]'") from error
    if not ray.is_initialized():  # else by an earlier call
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address=address, log_to_driver=False)
    return ray


def predict_on_ray(
    run: str | Path,
    images: Iterable[Path],
    folder: Path,
    address: str,
    *,
    topk: int,
    batch_size: int,
    precision: str = "auto",
    max_pixels: int | None = None,
    tta: Tta = "none",
) -> Iterator[tuple[int, list[Prediction]]]:
    """Classify images on a Ray cluster; every task writes a Parquet file of the folder.

    A worker takes one CPU, and one GPU where the cluster has any, and keeps its model. Ray gives the task of a worker that
    dies to another one, which writes the same file. All machines must see run, images and folder under the same paths.

    Args:
        run: Run directory, or any directory with an adapter pair.
        images: The files.
        folder: Where the Parquet files go.
        address: See ``join_ray``.
        topk: Classes per image; no more than there are.
        batch_size: Images at a time.
        precision: "auto", "fp32" or "bf16".
        max_pixels: Largest image that is read, in pixels; Pillow's limit if None.
        tta: Views that an image is seen in, see `svp.runs.views`.

    Yields:
        Number of images of a finished task, and those of them that cannot be read.

    Raises:
        UnavailableError: Ray, or what Ray Data needs, is not installed.
        ConnectionError: There is no cluster at the address.
    """
    ray = join_ray(address)
    try:
        import pyarrow
        import ray.data
    except ImportError as error:
        raise UnavailableError(f"Ray Data lacks a package ({error}): pip install 'vim-svp[study]'") from error

    ray.data.DataContext.get_current().enable_progress_bars = False
    names = map(os.fsencode, (image.absolute() for image in images))
    blocks = [pyarrow.table({"path": block}) for block in iter(lambda: list(islice(names, _BLOCK)), [])]
    if not blocks:
        return
    resources = ray.cluster_resources()
    gpus = 1 if resources.get("GPU") else 0
    workers = int(resources["GPU" if gpus else "CPU"])
    settings = dict(topk=topk, batch_size=batch_size, precision=precision, max_pixels=max_pixels, tta=tta)
    counts = ray.data.from_arrow(blocks).map_batches(
        _Worker,
        fn_constructor_kwargs=settings | {"run": str(local_folder(run).absolute()), "folder": str(folder)},
        batch_size=None,  # a block
        batch_format="pyarrow",
        num_cpus=1,
        num_gpus=gpus,
        concurrency=(1, max(1, min(workers, len(blocks)))),
    )
    for row in counts.iter_rows():
        failed = zip(row["failed"], row["errors"], strict=True)
        yield row["images"], [Prediction(Path(os.fsdecode(path)), error=error) for path, error in failed]


class _Worker:
    """Classifies blocks of images with a model that is opened once."""

    def __init__(
        self, run: str, folder: str, topk: int, batch_size: int, precision: str, max_pixels: int | None, tta: Tta
    ) -> None:
        prepare()
        torch.set_num_threads(1)
        self._classifier = open_classifier(run, "auto", precision, max_pixels, tta)
        self._folder, self._topk, self._batch_size = Path(folder), topk, batch_size

    def __call__(self, block: Any) -> dict[str, Any]:
        names = block["path"].to_pylist()
        paths = [Path(os.fsdecode(name)) for name in names]
        found = list(classify(self._classifier, paths, len(paths), topk=self._topk, batch_size=self._batch_size))
        columns = self._classifier.columns(self._topk)
        name = sha256(b"\0".join(names)).hexdigest()[:16]  # the same however often the block is done
        write_parquet(self._folder / f"part-ray-{name}.parquet", found, columns)
        failed = [prediction for prediction in found if prediction.error]
        return {
            "images": [len(found)],
            "failed": [[os.fsencode(prediction.path) for prediction in failed]],
            "errors": [[prediction.error for prediction in failed]],
        }
