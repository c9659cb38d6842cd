"""Images saved again at another size or quality are found, others are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svp.commands.check_report import print_report
from svp.data.checks import check_data
from svp.data.near_copies import find_near_copies, look_of


def photo(seed: int) -> Image.Image:
    """Smooth, as photos are."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((96, 72), Image.Resampling.BICUBIC)


def put_photos(root: Path, parts: tuple[str, ...] = ("train", "val", "test")) -> Path:
    for number, part in enumerate(parts):
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for index in range(4):
                photo(100 * number + 10 * label + index).save(root / part / name / f"{index}.png")
    return root


@pytest.mark.parametrize(("size", "quality"), [((96, 72), 40), ((48, 36), 75), ((60, 45), 40), ((192, 144), 20)])
def test_a_photo_saved_again_in_another_part_is_an_error(
    tmp_path: Path, size: tuple[int, int], quality: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root = put_photos(tmp_path)
    photo(11).resize(size).save(root / "test/dog/again.jpg", quality=quality)
    report = check_data(str(root), img_size=16)
    assert [(finding.level, finding.code) for finding in report.findings if finding.level != "info"] == [
        ("error", "near-leak")
    ]
    (copies,) = report.copies
    assert copies.files == (root / "test/dog/again.jpg", root / "train/dog/1.png")
    assert report.to_dict()["copies"][0]["same"] == "look"
    print_report(report)
    assert "the same look\n      test/dog/again.jpg (test, dog)\n      train/dog/1.png (train, dog)" in capsys.readouterr().out


def test_within_a_part_that_is_split_it_is_a_warning(tmp_path: Path) -> None:
    root = put_photos(tmp_path, ("train",))
    photo(11).resize((48, 36)).save(root / "train/dog/again.jpg")
    photo(11).resize((60, 45)).save(root / "train/dog/more.jpg")
    report = check_data(str(root), img_size=16)
    assert ("warning", "near-copies") in [(finding.level, finding.code) for finding in report.findings]
    assert [len(copies.files) for copies in report.copies] == [3]


def test_others_are_no_near_copies() -> None:
    looks = {Path(str(seed)): look_of(photo(seed)) for seed in range(300)}
    flat = {Path(f"flat{value}"): look_of(Image.new("RGB", (40, 30), (value,) * 3)) for value in range(100, 110)}
    photos = photo(7)
    others = {
        Path("squeezed"): photos.resize((48, 72)),
        Path("mirrored"): photos.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        Path("darker"): photos.point(lambda value: value * 0.7),
    }
    looks |= flat | {path: look_of(image) for path, image in others.items()}
    assert find_near_copies(looks, list(looks), list(looks)) == []
    assert find_near_copies(looks, [], list(looks)) == find_near_copies({}, list(looks), list(looks)) == []


def test_many_copies_of_one_image_are_found() -> None:
    looks = {Path(str(number)): look_of(photo(number // 50)) for number in range(200)}
    among, of = list(looks)[::2], list(looks)[1::2]
    assert {path for _, path in find_near_copies(looks, among, of)} == set(of)
