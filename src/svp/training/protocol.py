"""What is trained on, what chooses the epoch, when test is read: the three ways that published numbers are made.

    protocol      trains on                            adapter kept           test is read
    validation    train                                best epoch on val      once, at the end
    trainval      train + val                          last epoch             once, at the end
    paper         train + val, or the data set's own   best epoch on test     after every epoch

"trainval" is how published VTAB-1K tables are made (settings found on val beforehand, final training on all 1,000
images); "paper" is what the released code of SVP does, and optimistic, so every result says it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from svp.data import DataError, ImageData, Split
from svp.data.subsets import take_fraction, take_shots

Protocol = Literal["validation", "trainval", "paper"]


def images_used(
    data: ImageData,
    protocol: Protocol,
    *,
    shots: int | None = None,
    train_fraction: float | None = None,
    published: Split | None = None,
    seed: int = 0,
) -> ImageData:
    """The data as a run uses it: `train` is what is trained on, `val` is empty where it chooses nothing.

    Args:
        shots: Images per class that are left to train on.
        train_fraction: Share of every class that is left to train on.
        published: The data set's own list of that share. It is trained on instead of a draw, less the images that are held
            out, but by protocol "trainval": it is a share of the training part, and none of train + val.
        seed: Seeds the draw.
    Raises:
        DataError: What the released code trains on holds test images; all images of `published` are held out.
    """
    train, val = data.train, data.val
    if protocol != "validation":
        val = Split((), (), f"none: protocol {protocol}")
        train = data.paper_train if protocol == "paper" and data.paper_train else _joined(data.train, data.val)
    leaked = set(train.paths) & set(data.test.paths)
    if leaked:
        raise DataError(f"{data.root}: {len(leaked)} test images are trained on ({train.origin}), such as {min(leaked)}")
    if shots is not None:
        train = take_shots(train, data.class_names, shots, seed)
    if published is not None and protocol != "trainval":
        train = _without(published, {*val.paths, *data.test.paths})
    elif train_fraction is not None:
        train = take_fraction(train, data.class_names, train_fraction, seed)
    return replace(data, train=train, val=val)


def selection_part(protocol: Protocol) -> str | None:
    """The part that chooses the epoch; None if nothing does."""
    return {"validation": "val", "trainval": None, "paper": "test"}[protocol]


def how_chosen(protocol: Protocol, used: ImageData, choose_by: str = "top1") -> str:
    """A label for results: how the epoch was chosen, and on what was trained where that is not the training part alone.

    Args:
        used: What `images_used` gave.
        choose_by: The metric that chose.
    """
    if protocol == "validation":
        return f"best {used.task.name_metric(choose_by)} on {len(used.val)} validation images; test read once, at the end"
    if protocol == "trainval":
        return "last epoch, trained on train + val, nothing chosen; test read once, at the end"
    trained_on = "the part that the released code takes" if used.paper_train else "train + val"
    return (
        f"best {used.task.name_metric(choose_by)} on test, trained on {trained_on} (protocol of the paper's code): optimistic"
    )


def _without(published: Split, held_out: set[Path]) -> Split:
    kept = published.where(lambda path: path not in held_out)
    if not len(kept):
        raise DataError(f"{published.origin}: all of its {len(published)} images are held out; none is left to train on.")
    dropped = len(published) - len(kept)
    return replace(kept, origin=f"{published.origin} without {dropped} images that are held out") if dropped else kept


def _joined(train: Split, val: Split) -> Split:
    return train.joined(val, f"train ({train.origin}) + val ({val.origin})")
