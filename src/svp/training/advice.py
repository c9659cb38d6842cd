"""What a finished run tells the person who started it: how good, how sure, what is confused, what would help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from svp.data import ImageData
from svp.runs.certainty import wilson
from svp.runs.result import EpochRow, Result
from svp.runs.scores import Scores
from svp.training.balance import class_sizes

_PAIRS = 3


def advice(result: Result, scores: Scores, data: ImageData, rows: Sequence[EpochRow]) -> Iterator[str]:
    """Sentences, from what the run has measured.

    Args:
        result: The run's result.
        scores: Its scores of the test images.
        data: The images used.
        rows: A row for every epoch.
    """
    yield how_good(result.top1, result.n_test)
    yield from what_is_confused(scores.confusions(), data.class_names, class_sizes(data.test, len(data.class_names)))
    if result.rejection is not None:
        kept = result.rejection
        short = "" if kept.promised >= kept.target else f", as no threshold promises the {kept.target:.0%} asked for"
        source = "validation images" if result.cross_validation is None else "images that the folds held out"
        yield (
            f'A guess below {kept.threshold:.1%} is shown as "none of these"; of the others, the {source} promise '
            f"that {kept.promised:.0%} or more are right{short}."
        )
    yield from _help(result, scores, data, rows)


def how_good(top1: float, images: int) -> str:
    """A sentence on top-1 and its 95 % interval."""
    low, high = wilson(top1, images)
    return f"It is right on {top1:.0%} of {images} test images; on others of the same kind, expect {low:.0%} to {high:.0%}."


def what_is_confused(
    pairs: Sequence[tuple[int, int, int]], class_names: Sequence[str], images: Sequence[int]
) -> Iterator[str]:
    """A sentence, or none.

    Args:
        pairs: True class, the class that it was taken for and the number of images, most first.
        class_names: Names of the classes.
        images: Images of every class.
    """
    told = [
        f"{class_names[truth]} for {class_names[guess]} ({count} of {images[truth]})"
        for truth, guess, count in pairs[:_PAIRS]
        if count > 1
    ]
    if told:
        yield f"It most often takes {', '.join(told)}."


def _help(result: Result, scores: Scores, data: ImageData, rows: Sequence[EpochRow]) -> Iterator[str]:
    chooses = result.selection_top1 is not None
    if chooses and result.epoch_chosen == result.epochs and rows[-1].train_loss < rows[0].train_loss:
        yield f"The last epoch was the best: a longer run may help (--epochs {2 * result.epochs})."
    recalls = {name: one.accuracy for name, one in scores.per_class(data.class_names).items() if one.accuracy is not None}
    if result.top1 < 1 and recalls:
        name = min(recalls, key=lambda name: recalls[name])
        trained = class_sizes(data.train, len(data.class_names))[data.class_names.index(name)]
        yield f"More images of {name} would help most: it is right on {recalls[name]:.0%} of them, and training had {trained}."
