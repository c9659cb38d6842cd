"""One module per command of ``svp``; its ``run(argv)`` parses, calls, prints and returns the exit code."""

from svp.errors import InputError

COMMANDS = {
    "train": "train an adapter on a folder of images",
    "eval": "score a trained adapter",
    "predict": "classify images with a trained adapter",
    "export": "write a trained adapter with its backbone as one file that runs without svp",
    "hub": "share a trained adapter on the Hugging Face Hub",
    "gates": "lay the gates of a trained model over images, beside those of its backbone",
    "inspect": "make a page of a run: scores, mistakes, classes, curves, gates, features",
    "demo": "adapt a small Vim to handwritten digits, without a network",
    "data": "list, describe and fetch data sets, check a folder of images",
    "study": "compare methods on data sets over seeds, in tables",
    "bench": "measure speed and memory on this machine, against the limit and against peers",
    "app": "try adapters on a page in the browser, on this machine alone, with an HTTP API",
    "models": "list and describe backbones, convert weights",
}


class UsageError(InputError):
    """The command line is wrong; the message says what is right."""
