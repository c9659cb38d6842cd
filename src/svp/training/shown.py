"""Training images that are shown to the methods that look at some before they are attached."""

from __future__ import annotations

from dataclasses import asdict

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from svp.data import ImageListDataset, ImageReader, Split, eval_transform, make_loader, normalized
from svp.data.splits import shuffled
from svp.inputs import InputConfig
from svp.models import Backbone
from svp.runs.directory import RunDirectory
from svp.training.config import TrainConfig
from svp.training.display import Display
from svp.tuners import Method, fit, parse_methods, read_adapter_info


def fit_methods(
    config: TrainConfig,
    train: Split,
    model: Backbone,
    inputs: InputConfig,
    reader: ImageReader,
    directory: RunDirectory,
    accelerator: Accelerator,
    display: Display,
) -> tuple[dict[str, Method], dict[str, Tensor]]:
    """The methods of a run as they are to be attached, and what they start at: see ``svp.tuners.fit``.

    Images are drawn by the run's seed and prepared as for scoring. One process looks at them for all. A run that goes on has
    the methods that it began with; their values come with its state.
    """
    methods = parse_methods(config.method, **config.options)
    number = max(method.num_images for method in methods.values())
    if not number:
        return methods, {}
    if directory.state_file.is_file():
        return parse_methods(read_adapter_info(directory.path).methods), {}
    found: list[tuple[dict[str, Method], dict[str, Tensor]]] = [(methods, {})]
    if accelerator.is_main_process:
        shown = train.take(sorted(shuffled(len(train), f"shown/{config.seed}")[:number]))
        dataset = ImageListDataset(shown, eval_transform(inputs), reader=reader, stand_in=config.check != "all")
        display.say(f"{config.method} looks at {len(shown):,} training images")
        model.to(accelerator.device)
        batches = normalized(make_loader(dataset, config.batch_size, train=False), inputs)
        fitted, values = fit(model, methods, (images.to(accelerator.device) for images, _, _ in batches))
        model.to("cpu")  # where all that is random of a model is drawn
        found = [(fitted, {name: value.cpu() for name, value in values.items()})]
        for name, method in fitted.items():
            for option, value in asdict(method).items():
                if value != getattr(methods[name], option):
                    display.say(f"{name}: {option} is {value}")
    broadcast_object_list(found)
    return found[0]
