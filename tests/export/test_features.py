"""`svp predict --features`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import svp
from svp.cli import main
from svp.data import InputConfig, eval_transform, load_image
from tests.export.test_export import PAGE, example, run_without_svp
from tests.models.small import perturb, small_vim, small_vit
from tests.training.conftest import COLORS, write_photos

INPUTS = InputConfig(img_size=16)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("features") / "photos", per_class=3)


@pytest.mark.parametrize(("backbone", "method"), [(small_vim, "svp"), (small_vit, "vpt_deep")])
def test_features_are_what_enters_the_head(backbone: object, method: str, photos: Path, tmp_path: Path) -> None:
    model = backbone(num_classes=3)  # type: ignore[operator]
    svp.tune(model, method, **(dict(shared_layers=2) if method == "svp" else {}))
    perturb(model).eval()
    svp.save_adapter(model, tmp_path, tuple(COLORS), INPUTS.to_dict())
    (photos / "blue" / "bad.jpg").write_text("no image")
    out = tmp_path / "features"  # no ending is added
    assert main(["predict", str(tmp_path), str(photos), "--batch-size", "4", "--device", "cpu", "--features", str(out)]) == 1

    with np.load(out, allow_pickle=False) as file:
        found = dict(file)
    assert set(re.findall(r'file\["(\w+)"\]', PAGE)) == set(found)
    assert found["unreadable"].tolist() == [str(photos / "blue" / "bad.jpg")]
    assert found["class_names"].tolist() == list(COLORS)
    assert found["features"].shape == (9, 16)
    assert found["features"].dtype == np.float32
    images = torch.stack([eval_transform(INPUTS)(load_image(path)) for path in found["paths"]])
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        probabilities = model.head(expected).softmax(-1)
    torch.testing.assert_close(torch.from_numpy(found["features"]), expected)
    torch.testing.assert_close(torch.from_numpy(found["probability"]), probabilities.amax(-1))
    assert found["predicted"].tolist() == [tuple(COLORS)[k] for k in probabilities.argmax(-1)]

    assert len(run_without_svp(example("features"), out).splitlines()) == 9
    (first, *_) = svp.predict(tmp_path, [found["paths"][0]], device="cpu", features=True)
    assert first.features is not None
    np.testing.assert_allclose(first.features, found["features"][0], atol=1e-5)
    (first, *_) = svp.predict(tmp_path, [found["paths"][0]], device="cpu")
    assert first.features is None


def test_the_file_is_checked_before_any_work(tmp_path: Path) -> None:
    assert main(["predict", "no-run", "no-image", "--features", str(tmp_path / "no" / "f.npz")]) == 2
    assert main(["predict", "no-run", "no-image", "--features", str(tmp_path)]) == 2
