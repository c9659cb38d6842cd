"""The settings of a run out of defaults, a recipe, a file and what is given explicitly."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from svp.data import AugmentConfig
from svp.errors import InputError
from svp.inputs import InputOverrides
from svp.training.config import AUTO, TrainConfig
from svp.training.recipes import ConfigError, merge, normalized, read_recipe, read_settings, recipe_for
from svp.tuners import Method, get_methods


def make_config(explicit: Mapping[str, Any], config_file: str | Path | None = None) -> TrainConfig:
    """Merge defaults < recipe < config file < explicit values into a checked configuration.

    Args:
        explicit: Nested values; ``method`` is a name or a mapping of names to options.
        config_file: YAML file of the same form.

    Raises:
        ConfigError: An unknown setting, a wrong type or a value out of range.
    """
    merged = merge_settings(explicit, config_file)
    method = merged.pop("method")
    try:
        values = _parser(TrainConfig, "method", "options").parse_object(merged).as_dict()
        values["augment"], values["inputs"] = AugmentConfig(**values["augment"]), InputOverrides(**values["inputs"])
        joined = "+".join(method)
        if joined == AUTO:
            return TrainConfig(method=AUTO, options=method[AUTO], **values)
        options = {part.name: _read_options(part, method[part.name]) for part in get_methods(joined)}
        return TrainConfig(method=joined, options=options if len(options) > 1 else options[joined], **values)
    except ConfigError:
        raise
    except (ArgumentError, InputError) as error:
        raise ConfigError(" ".join(str(error).split())) from error


def merge_settings(explicit: Mapping[str, Any], config_file: str | Path | None = None) -> dict[str, Any]:
    """Nested values of recipe < config file < explicit ones, the method among them; none checked but for its kind.

    Raises:
        ConfigError: A file cannot be read; something else stands where a name or settings belong.
    """
    layers = [read_settings(config_file)] if config_file else []
    layers.append(normalized(explicit))
    recipe = next((layer["recipe"] for layer in reversed(layers) if layer.get("recipe")), None)
    if recipe:
        data = next((layer["data"] for layer in reversed(layers) if layer.get("data")), "")
        recipe = recipe_for(recipe, data)
        layers = [read_recipe(recipe), *layers, {"recipe": recipe}]
    merged: dict[str, Any] = {"method": {"svp": {}}}
    for layer in layers:
        merged = merge(merged, layer)
    return merged


def _read_options(method: type[Method], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with their types checked; unknown ones are left to the method to refuse."""
    known = {option.name for option in fields(method)}
    parsed = _parser(method).parse_object({n: v for n, v in options.items() if n in known}, defaults=False).as_dict()
    return {**options, **parsed}


@cache
def _parser(settings: type, *skipped: str) -> ArgumentParser:
    """Checks the types of the fields of a dataclass, and converts text of YAML such as "1e-3"."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(settings, skip=set(skipped))
    return parser
