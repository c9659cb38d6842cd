"""Structured tasks that are drawn, after VTAB's group of that name: how many, where, turned by how much, how far apart?

    python benchmarks/drawn_tasks.py drawn-tasks
    svp train --data drawn-tasks/count --model vim_nano --no-augment

Below OUT every task is a folder of train/ and test/ of class folders with 1,000 PNGs of 32 x 32 pixels each, alike in every
call for a seed:

- ``count``: one to six shapes, none touching another;
- ``location``: in which cell of a 3 x 3 grid lies the only disc, among two to four other shapes?
- ``orientation``: to which of eight points of the compass does an arrow point, give or take 9 degrees?
- ``distance``: how far apart are a disc and a square, in four bins of 5 pixels, beside a triangle?

Kind, color, size and place of the shapes vary, and so do the background, a blend of two colors, and the noise; a shape stands
out from what is behind it by a third of the range in one channel at least. Crops, mirror images and turns change the answers:
train without augmentation.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 32
SCALE = 8
"""Drawn larger by this factor, then scaled down, so that edges are smooth."""
NUMBER = 1000
CONTRAST = 85
NOISE = (4.0, 20.0)

Generator = np.random.Generator
Point = tuple[float, float]
Shape = tuple[str, Point, float]
"""Kind, center and radius in pixels."""
OTHERS = ("square", "triangle", "bar", "ring", "cross")
COMPASS = ("e", "ne", "n", "nw", "w", "sw", "s", "se")


def count(label: int, random: Generator) -> tuple[str, list[Shape]]:
    shapes: list[Shape] = []
    for _ in range(label + 1):
        shapes.append(_free(str(random.choice(("disc", *OTHERS))), random.uniform(2.6, 4.4), shapes, random))
    return str(label + 1), shapes


def location(label: int, random: Generator) -> tuple[str, list[Shape]]:
    row, column = divmod(label, 3)
    cell = SIDE / 3
    radius = random.uniform(2.5, 4.0)
    margin = max(radius + 0.5, 1.0)
    center = [float(np.clip((place + random.uniform(0.12, 0.88)) * cell, margin, SIDE - margin)) for place in (column, row)]
    shapes: list[Shape] = [("disc", (center[0], center[1]), radius)]
    for _ in range(random.integers(2, 5)):
        shapes.append(_free(str(random.choice(OTHERS)), random.uniform(2.5, 4.0), shapes, random))
    return f"row{row}-column{column}", shapes


def orientation(label: int, random: Generator) -> tuple[str, list[Shape]]:
    radius = random.uniform(6.0, 11.0)
    angle = 45 * label + random.uniform(-9, 9)
    return COMPASS[label], [(f"arrow {angle}", _place(radius, random), radius)]


def distance(label: int, random: Generator) -> tuple[str, list[Shape]]:
    while True:
        apart = 7.5 + 5 * label + random.uniform(0.4, 4.6)
        turn = random.uniform(0, 2 * math.pi)
        first, radius = _place(3.5, random), random.uniform(2.5, 3.5)
        second = first[0] + apart * math.cos(turn), first[1] + apart * math.sin(turn)
        if all(4 <= value <= SIDE - 4 for value in second):
            shapes: list[Shape] = [("disc", first, radius), ("square", second, random.uniform(2.5, 3.5))]
            name = f"{7.5 + 5 * label:04.1f}-to-{12.5 + 5 * label:04.1f}"
            return name, [*shapes, _free("triangle", random.uniform(2.5, 3.5), shapes, random)]


TASKS: dict[str, tuple[int, Callable[[int, Generator], tuple[str, list[Shape]]]]] = {
    "count": (6, count),
    "location": (9, location),
    "orientation": (8, orientation),
    "distance": (4, distance),
}
"""Name -> number of classes, and what draws the class's name and the shapes of an image by its label."""


def write_task(name: str, out: Path, number: int = NUMBER, seed: int = 0) -> None:
    """Write out/train/CLASS and out/test/CLASS, `number` images each, the classes by turns."""
    classes, draw = TASKS[name]
    for part_number, part in enumerate(("train", "test")):
        for index in range(number):
            random = np.random.default_rng((seed, list(TASKS).index(name), part_number, index))
            label, shapes = draw(index % classes, random)
            file = out / part / label / f"{index:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(shapes, random).save(file)


def picture(shapes: list[Shape], random: Generator) -> Image.Image:
    """The shapes over a blend of two colors, with noise."""
    behind = _blend(random)
    image = Image.fromarray(behind.astype(np.uint8)).resize((SIDE * SCALE, SIDE * SCALE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for kind, center, radius in shapes:
        here = behind[int(np.clip(center[1], 0, SIDE - 1)), int(np.clip(center[0], 0, SIDE - 1))]
        _draw(pen, kind, center, radius, _color(here, random), random)
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    pixels = pixels + random.normal(0, random.uniform(*NOISE), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def _draw(
    pen: ImageDraw.ImageDraw, kind: str, center: Point, radius: float, color: tuple[int, ...], random: Generator
) -> None:
    def polygon(points: list[Point], turn: float) -> None:
        cos, sin = math.cos(turn), math.sin(turn)  # counterclockwise as it is seen: rows count downwards
        turned = [(center[0] + radius * (x * cos + y * sin), center[1] + radius * (y * cos - x * sin)) for x, y in points]
        pen.polygon([(SCALE * x, SCALE * y) for x, y in turned], fill=color)

    box = [SCALE * (value + side * radius) for side in (-1, 1) for value in center]
    turn = random.uniform(0, 2 * math.pi)
    match kind.split()[0]:
        case "disc":
            pen.ellipse(box, fill=color)
        case "ring":
            pen.ellipse(box, outline=color, width=round(SCALE * radius * 0.45))
        case "square":
            polygon([(0.75, 0.75), (-0.75, 0.75), (-0.75, -0.75), (0.75, -0.75)], turn)
        case "triangle":
            polygon([(math.cos(a), math.sin(a)) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)], turn)
        case "bar":
            polygon([(1, 0.35), (-1, 0.35), (-1, -0.35), (1, -0.35)], turn)
        case "cross":
            polygon([(1, 0.3), (-1, 0.3), (-1, -0.3), (1, -0.3)], turn)
            polygon([(1, 0.3), (-1, 0.3), (-1, -0.3), (1, -0.3)], turn + math.pi / 2)
        case "arrow":
            points = [(1.0, 0.0), (0.05, 0.65), (0.05, 0.22), (-0.95, 0.22), (-0.95, -0.22), (0.05, -0.22), (0.05, -0.65)]
            polygon(points, math.radians(float(kind.split()[1])))


def _blend(random: Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """From one color to another in any direction, (SIDE, SIDE, 3)."""
    first, second = random.uniform(0, 255, 3), random.uniform(0, 255, 3)
    turn = random.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1) - 0.5
    share = np.clip(0.5 + (columns * math.cos(turn) + rows * math.sin(turn)) / math.sqrt(2), 0, 1)[..., None]
    return first * (1 - share) + (0.6 * first + 0.4 * second) * share


def _color(behind: np.ndarray[tuple[int, ...], np.dtype[np.float64]], random: Generator) -> tuple[int, ...]:
    while True:
        color = random.uniform(0, 255, 3)
        if np.abs(color - behind).max() >= CONTRAST:
            return tuple(int(value) for value in color)


def _place(radius: float, random: Generator) -> Point:
    return float(random.uniform(radius, SIDE - radius)), float(random.uniform(radius, SIDE - radius))


def _free(kind: str, radius: float, shapes: list[Shape], random: Generator) -> Shape:
    """A shape that touches no other; it gets smaller where it finds no room."""
    while True:
        for _ in range(50):
            center = _place(radius, random)
            if all(math.dist(center, other) > radius + size + 1 for _, other, size in shapes):
                return kind, center, radius
        radius *= 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder that is made")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists already")
    for name in arguments.tasks:
        write_task(name, arguments.out / name, seed=arguments.seed)


if __name__ == "__main__":
    main()
