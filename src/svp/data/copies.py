"""Images that are in a data set more than once: as equal files, as equal pixels, or with the same look."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from svp.data.facts import ImageFacts
from svp.data.near_copies import find_near_copies
from svp.data.splits import Parts


@dataclass(frozen=True)
class Copies:
    """Files of one and the same image.

    Attributes:
        files: Two or more.
        classes: Class of each file.
        parts: Part of each file, as the data set brings it.
        same_bytes: Whether the files are equal too, not only their decoded pixels.
        nearly: Whether the images only look the same: saved again at another size or quality.
    """

    files: tuple[Path, ...]
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    same_bytes: bool
    nearly: bool = False

    @property
    def code(self) -> str:
        """The kind of finding this makes: "leak", "label-conflict" or "copies"; "near-leak" or "near-copies"."""
        if self.nearly:
            return "near-leak" if len(set(self.parts)) > 1 else "near-copies"
        return "leak" if len(set(self.parts)) > 1 else "label-conflict" if len(set(self.classes)) > 1 else "copies"


def find_copies(parts: Parts, facts: Mapping[Path, ImageFacts]) -> tuple[Copies, ...]:
    groups: dict[bytes, list[tuple[Path, str, str]]] = {}
    for part, split in parts.splits.items():
        for index, path in enumerate(split.paths):
            if path in facts:
                groups.setdefault(facts[path].pixel_digest, []).append((path, parts.show_label(split, index), part))
    found = []
    for group in groups.values():
        if len(group) > 1:
            files, classes, where = zip(*group, strict=True)
            same_bytes = len({facts[path].file_digest for path in files}) == 1
            found.append(Copies(files, classes, where, same_bytes))
    return tuple(found)


def find_copies_by_look(parts: Parts, facts: Mapping[Path, ImageFacts]) -> tuple[Copies, ...]:
    """Groups of images that look the same; equal pixels of one part, which are told of already, count once."""
    first: dict[tuple[str, bytes], tuple[Path, str, str]] = {}
    for part, split in parts.splits.items():
        for index, path in enumerate(split.paths):
            if path in facts:
                first.setdefault((part, facts[path].pixel_digest), (path, parts.show_label(split, index), part))
    images = {path: (path, name, part) for path, name, part in first.values()}
    pairs = find_near_copies({path: facts[path].look for path in images}, list(images), list(images))
    group: dict[Path, list[Path]] = {}
    for one, other in pairs:
        if facts[one].pixel_digest == facts[other].pixel_digest:
            continue
        joined = list(dict.fromkeys([*group.get(one, [one]), *group.get(other, [other])]))
        group.update(dict.fromkeys(joined, joined))
    found = []
    for members in {id(members): members for members in group.values()}.values():
        files, classes, where = zip(*sorted((images[path] for path in members), key=lambda image: image[0]), strict=True)
        found.append(Copies(files, classes, where, same_bytes=False, nearly=True))
    return tuple(sorted(found, key=lambda copies: copies.files))
