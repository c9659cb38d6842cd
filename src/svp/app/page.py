"""The page of ``svp app``: a workbench laid out in Gradio; its functions are the HTTP API too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from PIL import Image

from svp.app.uploads import Upload
from svp.app.workbench import TOPK, Workbench
from svp.plotting import COLORS, GREY
from svp.runs import Prediction, as_csv
from svp.tasks.single_label import NONE_OF_THESE
from svp.tasks.task import Columns
from svp.tuners import method_title

_CONCURRENT = 4  # images at a time: more wait, rather than share the cores of the same machine
_MAPS = (
    "Update gate |Δ B x| and forget gate exp(Δ A), means over channels and states, and the patch's part in the class token's "
    "output, as a share of all tokens' parts; on the right, the difference in percent of the base's mean."
)
_DIRECTIONS = [("both scans", "both"), ("first to last token", "forward"), ("last to first token", "backward")]

P = ParamSpec("P")
R = TypeVar("R")

_CSS = f"""
.gradio-container {{ max-width: 1180px !important; width: 100% !important; margin: 0 auto !important; }}
#title h1 {{ margin: .3rem 0 0; font-size: 1.6rem; font-weight: 700; }}
#title p {{ margin: .1rem 0 .4rem; }}
#image img {{ width: 100%; height: 100%; object-fit: contain; }}
#samples .grid-wrap {{ overflow: hidden; min-height: 0 !important; height: auto !important; padding: 4px; }}
#samples .grid-container {{ gap: 6px; grid-auto-rows: auto !important; }}
#samples .grid-container {{ grid-template-columns: repeat(6, minmax(0, 1fr)) !important; }}
#samples .gallery-item, #samples .thumbnail-item {{ aspect-ratio: 1; width: 100%; height: auto; }}
.tuned .bar, .base .bar {{ height: .55rem; }}
.tuned {{ --stat-background-fill: {COLORS[0]}; }}
.base {{ --stat-background-fill: {GREY}; }}
#facts table {{ font-variant-numeric: tabular-nums; }}
"""


def look() -> dict[str, Any]:
    """Theme and style sheet, arguments of ``Blocks.launch``; fonts are those of the system, none is fetched."""
    theme = gr.themes.Default(
        primary_hue="blue", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return dict(theme=theme, css=_CSS)


def make_page(workbench: Workbench, samples: Sequence[Path] = ()) -> gr.Blocks:
    """The page.

    Args:
        workbench: What it shows.
        samples: Images to try; they must lie where Gradio may serve files from, see `svp.app.server`.
    """
    names = list(workbench.adapters)
    backbone = workbench.adapters[names[0]].info.backbone

    def predict(image: str | None, adapter: str) -> tuple[dict[str, float] | str | None, dict[str, float] | str | None]:
        if image is None:
            return None, None
        base = workbench.predict_base(Path(image), adapter)
        return _bars(workbench.predict(Path(image), adapter)), None if base is None else _bars(base)

    def gates(image: str | None, adapter: str, layer: float, mean_of_layers: bool, direction: Any) -> Image.Image | None:
        if image is None or not workbench.depth:
            return None
        return workbench.draw_gates(Path(image), adapter, None if mean_of_layers else int(layer), direction)

    def batch(
        files: list[Upload],
        folder: list[Upload],
        adapter: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[list[list[str]], str]:
        predictions = workbench.predict_batch(
            [*files, *folder], adapter, lambda done, total: progress((done, total), unit="images")
        )
        file = Path(tempfile.mkdtemp(dir=download.GRADIO_CACHE)) / "predictions.csv"
        columns = workbench.adapters[adapter].columns(TOPK)
        file.write_text(as_csv(predictions, columns), "utf-8", errors="backslashreplace", newline="")
        return [_row(prediction, columns) for prediction in predictions], str(file)

    with gr.Blocks(title=f"svp: {backbone.name}", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(_title(workbench), elem_id="title", padding=False)
        adapter = gr.Radio(
            names, value=names[0], label="Adapter", info="all of them on one backbone in memory", visible=len(names) > 1
        )
        with gr.Tab("One image"):
            with gr.Row():
                with gr.Column(scale=4):
                    image = gr.Image(
                        label="Image",
                        type="filepath",
                        image_mode=None,
                        sources=["upload", "clipboard"],
                        height=300,
                        buttons=[],
                        elem_id="image",
                    )
                    gallery = gr.Gallery(
                        [str(path) for path in samples],
                        label="Samples",
                        show_label=False,
                        columns=6,
                        height="auto",
                        object_fit="cover",
                        allow_preview=False,
                        interactive=False,
                        buttons=[],
                        visible=bool(samples),
                        elem_id="samples",
                    )
                with gr.Column(scale=3):
                    tuned = gr.Label(label="Tuned", num_top_classes=5, elem_classes="tuned")
                with gr.Column(scale=3, visible=workbench.base_classes is not None):
                    base = gr.Label(label="Base, in its own classes", num_top_classes=5, elem_classes="base")
            with gr.Column(visible=workbench.depth > 0):
                gr.Markdown("### Gates and contribution of every patch, base against tuned")
                with gr.Row():
                    layer = gr.Slider(
                        0, max(workbench.depth - 1, 1), value=0, step=1, label="Layer, counted from 0", scale=4, min_width=240
                    )
                    mean_of_layers = gr.Checkbox(True, label="Mean of all layers", scale=2, min_width=190)
                    direction = gr.Radio(_DIRECTIONS, value="both", label="Direction of the scan", scale=5, min_width=280)
                figure = gr.Image(
                    label="Gates",
                    show_label=False,
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    alt_text="Maps of update gate, forget gate and contribution laid over the image",
                    elem_id="gates",
                )
                gr.Markdown(_MAPS)
        with gr.Tab("Many images"):
            with gr.Row():
                files = gr.File(label="A zip of images, or images", file_count="multiple", height=170, elem_id="zip")
                folder = gr.File(label="Or a folder", file_count="directory", height=170, elem_id="folder")
            with gr.Row():
                start = gr.Button("Classify", variant="primary")
                download = gr.DownloadButton("Download as CSV", interactive=False, elem_id="csv")
            table = gr.Dataframe(
                headers=["image", *_headers(workbench), "error"],
                label="Predictions",
                interactive=False,
                wrap=True,
                max_height=520,
                elem_id="table",
            )
        with gr.Tab("Adapters"):
            gr.Markdown(_facts(workbench), elem_id="facts")

        # both hand on files as they are: the workbench reads them, within its limits
        image.preprocess = _path_of
        files.preprocess = folder.preprocess = _uploads_of

        shown = [image, adapter]
        controls = [*shown, layer, mean_of_layers, direction]
        said = gr.on(
            [image.change, adapter.change],
            _with_clear_errors(predict),
            shown,
            [tuned, base],
            api_name="predict",
            trigger_mode="always_last",
        )
        said.failure(lambda: (None, None, None), None, [tuned, base, figure], api_visibility="private")
        draw: dict[str, Any] = dict(fn=_with_clear_errors(gates), inputs=controls, outputs=figure, show_progress="minimal")
        gr.on([layer.change, mean_of_layers.change, direction.change], **draw, api_name="gates", trigger_mode="always_last")
        said.success(**draw, api_visibility="private")  # only then: what is wrong with an image is told once
        layer.input(lambda: False, None, mean_of_layers, api_visibility="private", queue=False)
        done = start.click(
            _with_clear_errors(batch), [files, folder, adapter], [table, download], api_name="batch", concurrency_limit=1
        )
        done.success(lambda: gr.update(interactive=True), None, download, api_visibility="private", queue=False)
        gallery.select(_pick(samples), None, image, api_visibility="private", queue=False)
    page.queue(default_concurrency_limit=_CONCURRENT, max_size=256)
    return page


def _path_of(file: Any) -> str | None:
    return None if file is None else file.path


def _uploads_of(files: Any) -> list[Upload]:
    found = [] if files is None else getattr(files, "root", [files])
    return [Upload(file.orig_name or Path(file.path).name, Path(file.path)) for file in found]


def _pick(samples: Sequence[Path]) -> Callable[[gr.SelectData], str]:
    def pick(event: gr.SelectData) -> str:
        return str(samples[event.index])

    return pick


def _with_clear_errors(function: Callable[P, R]) -> Callable[P, R]:
    """What is wrong with an input is told to who gave it; it stands until it is read."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            reason = getattr(error, "reason", "") or str(error)
            raise gr.Error(escape(reason, quote=False), duration=None, print_exception=False) from error

    return call


def _bars(prediction: Prediction) -> dict[str, float] | str:
    """Bars of probability, those of labels that are said to be there with a tick; or the number."""
    if prediction.value is not None:
        return f"{prediction.value:.4g}"
    ticks = ("\N{CHECK MARK} " if name in (prediction.labels or ()) else "" for name in prediction.classes)
    names = [tick + name for tick, name in zip(ticks, prediction.classes, strict=True)]
    if prediction.rejected:
        names[0] = f"{NONE_OF_THESE} ({names[0]})"
    return dict(zip(names, prediction.probabilities, strict=True))


def _headers(workbench: Workbench) -> list[str]:
    """Names of three columns; without classes, the adapters say other things than a first, a second and a third class."""
    if any(adapter.task.kind == "single" for adapter in workbench.adapters.values()):
        return ["1st", "2nd", "3rd"]
    headers = next(iter(workbench.adapters.values())).columns(TOPK).header
    return [*headers, *[""] * (3 - len(headers))]


def _row(prediction: Prediction, columns: Columns) -> list[str]:
    best = columns.shown(prediction)[:3]
    return [str(prediction.path), *best, *[""] * (3 - len(best)), prediction.error or ""]


def _title(workbench: Workbench) -> str:
    first = next(iter(workbench.adapters.values()))
    several = len(workbench.adapters) > 1
    runs = f"{len(workbench.adapters)} adapters" if several else f"{first.name}, {method_title(first.info.method)}"
    size = first.info.inputs.img_size
    return f"<h1>svp</h1><p>{escape(runs)} on {escape(first.info.backbone.name)}, images of {size} x {size} pixels</p>"


def _facts(workbench: Workbench) -> str:
    lines = [
        "| adapter | method | test top-1 | classes | trained values | memory beside the backbone | run |",
        "| --- | --- | --: | --: | --: | --: | --- |",
    ]
    for name, adapter in workbench.adapters.items():
        cells = (
            name,
            method_title(adapter.info.method),
            adapter.score,
            str(adapter.info.num_classes),
            f"{adapter.num_trainable:,}",
            f"{adapter.num_bytes / 1e6:.2f} MB",
            str(adapter.directory),
        )
        lines.append("| " + " | ".join(escape(cell).replace("|", "\\|") for cell in cells) + " |")
    total = f"All weights in memory: {workbench.num_bytes / 1e6:.2f} MB."
    limits = workbench.limits
    taken = (
        f"Taken are images of up to {limits.max_pixels / 1e6:g} million pixels and {limits.max_file_size / 1e6:g} MB, "
        f"up to {limits.max_images:,} at a time. Nothing leaves the machine that runs this page."
    )
    return "\n".join(lines) + f"\n\n{total} {taken}"
