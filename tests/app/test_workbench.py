"""Many adapters on one backbone in memory, from many threads: the numbers of each adapter alone."""

from __future__ import annotations

import gc
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import svp
from svp.app import Upload, Workbench
from svp.app.page import _bars, _row
from svp.app.workbench import BASE
from svp.data import UnreadableImageError, eval_transform, load_image
from svp.inspection.maps import image_maps
from svp.models import WeightsError
from svp.tasks.single_label import RankedColumns
from svp.tuners import load_adapter, read_adapter_info
from tests.app.conftest import CLASSES, OPTIONS, SMALL, make_adapters


@pytest.fixture(scope="module")
def workbench(small_runs: list[Path]) -> Workbench:
    return Workbench(small_runs, "cpu")


def prepared(path: Path, directory: Path) -> Tensor:
    inputs = read_adapter_info(directory).inputs
    return eval_transform(inputs)(load_image(path)).unsqueeze(0)


@pytest.mark.parametrize("method", OPTIONS)
def test_an_adapter_among_others_says_what_it_says_alone(
    workbench: Workbench, small_runs: list[Path], images: list[Path], method: str
) -> None:
    directory = next(run for run in small_runs if run.name == method)
    (alone,) = svp.predict(directory, [images[0]], device="cpu")
    shared = workbench.predict(images[0], method)
    assert shared.classes == alone.classes
    np.testing.assert_allclose(shared.probabilities, alone.probabilities, rtol=1e-6)


def test_a_guess_below_the_threshold_is_none_of_these(small_runs: list[Path], images: list[Path], tmp_path: Path) -> None:
    run = shutil.copytree(next(run for run in small_runs if run.name == "linear"), tmp_path / "strict")
    info = json.loads((run / "adapter.json").read_text())
    (run / "adapter.json").write_text(json.dumps(info | {"reject_below": 0.9}))
    prediction = Workbench([run], "cpu").predict(images[0], "strict")
    assert prediction.rejected
    assert next(iter(_bars(prediction))) == f"none of these ({prediction.classes[0]})"
    assert _row(prediction, RankedColumns(5, rejects=True))[1].startswith(f"none of these ({prediction.classes[0]} ")
    assert _bars(replace(prediction, rejected=False)) == dict(zip(prediction.classes, prediction.probabilities, strict=True))


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize("direction", ["both", "forward", "backward"])
def test_gates_are_those_of_the_backbone_and_of_the_adapter(
    workbench: Workbench, small_runs: list[Path], images: list[Path], layer: int | None, direction: str
) -> None:
    x = prepared(images[0], small_runs[0])
    model = load_adapter(small_runs[0])
    expected = {"SVP": image_maps(svp.inspection.gates(model, x), layer, direction)}
    expected[BASE] = image_maps(svp.inspection.gates(model.tuner.detach(), x), layer, direction)
    found = workbench.gate_maps(images[0], "svp", layer, direction)
    assert list(found) == [BASE, "SVP"]
    for model_name, maps in expected.items():
        for gate, values in maps.items():
            np.testing.assert_allclose(found[model_name][gate], values, rtol=1e-5, err_msg=f"{model_name} {gate}")
    assert not np.allclose(found[BASE]["update"], found["SVP"]["update"], rtol=1e-3)


def tensor_bytes() -> int:
    """Memory of all tensors that live, shared storages once."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if type(t) in (Tensor, torch.nn.Parameter)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_the_backbone_is_in_memory_once(small_runs: list[Path]) -> None:
    runs = [run for run in small_runs if run.name != "full"]
    before = tensor_bytes()
    one = Workbench(runs[:1], "cpu")
    with_one = tensor_bytes() - before
    trained = sum(adapter.num_trainable for adapter in one.adapters.values())
    backbone = one.num_bytes - 4 * trained
    del one
    before = tensor_bytes()
    five = Workbench(runs, "cpu")
    with_five = tensor_bytes() - before
    all_trained = sum(adapter.num_trainable for adapter in five.adapters.values())
    assert len(five.adapters) == 5
    assert five.num_bytes == backbone + 4 * all_trained
    # what is there beside weights: a fresh head each, kept by its tuner
    assert with_five - with_one < 4 * (all_trained - trained) + 0.02 * backbone
    assert with_five < 1.5 * backbone


def test_full_fine_tuning_takes_the_memory_of_a_whole_model(small_runs: list[Path]) -> None:
    full = Workbench(small_runs, "cpu").adapters["full"]
    assert full.num_bytes == 4 * full.num_trainable


@pytest.mark.usefixtures("two_threads")
def test_twenty_threads_get_the_numbers_of_one(workbench: Workbench, small_runs: list[Path], images: list[Path]) -> None:
    """Classes, and gates, which hook into the models, of adapters in turn."""
    others = [method for method in OPTIONS if method != "svp"]
    jobs = [(path, "svp" if n % 2 else others[n // 2 % len(others)]) for n, path in enumerate(images)]
    fresh = Workbench(small_runs, "cpu")  # whose gates are not recorded yet

    def work(bench: Workbench, job: tuple[Path, str]) -> tuple[tuple[float, ...], list[np.ndarray]]:
        maps = bench.gate_maps(*job)
        found = [values for gates in maps.values() for values in gates.values()]
        return bench.predict(*job).probabilities, found

    expected = [work(workbench, job) for job in jobs]
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda job: work(fresh, job), jobs))
    for (one_p, one_maps), (many_p, many_maps) in zip(expected, found, strict=True):
        np.testing.assert_allclose(many_p, one_p, rtol=1e-5)
        for one_map, many_map in zip(one_maps, many_maps, strict=True):
            np.testing.assert_allclose(many_map, one_map, rtol=1e-4)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("method", ["plain", "lora"])
def test_kernels_run_in_twenty_threads_at_once(method: str) -> None:
    """One model, no lock, two threads in every kernel: the fused scan, and the single ones that LoRA on its inputs needs."""
    model = SMALL.build(len(CLASSES)).eval()
    if method == "lora":
        svp.tune(model, "lora", target_modules=["x_proj"], rank=4)
    batches = torch.randn(20, 4, 3, 16, 16)

    @torch.no_grad()
    def run(x: Tensor) -> Tensor:
        return model(x)

    expected = [run(x) for x in batches]
    with ThreadPoolExecutor(20) as pool:
        for found, alone in zip(pool.map(run, batches), expected, strict=True):
            torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


def test_base_classes_come_with_a_trained_head_only(workbench: Workbench, images: list[Path]) -> None:
    assert workbench.base_classes is None
    assert workbench.predict_base(images[0], "svp") is None


def test_a_pretrained_backbone_speaks_of_its_own_classes(tmp_path: Path, images: list[Path]) -> None:
    runs = make_adapters(tmp_path, replace(SMALL, weights="published", overrides={}, seed=None), ["linear"])
    workbench = Workbench(runs, "cpu")
    said = workbench.predict_base(images[0], "linear")
    own = svp.create_model("vim_nano", pretrained=True).eval()
    with torch.no_grad():
        logits = own(prepared(images[0], runs[0]))
    names = own.pretrained_cfg["label_names"]
    assert len(names) == own.num_classes
    assert said is not None
    assert said.classes == tuple(names[i] for i in logits[0].topk(5).indices.tolist())


def test_an_adapter_for_another_backbone_is_refused(small_runs: list[Path], tmp_path: Path) -> None:
    (other,) = make_adapters(tmp_path, replace(SMALL, seed=1), ["linear"])
    with pytest.raises(WeightsError, match=r"are adapters for different backbones: .* with hash"):
        Workbench([small_runs[0], other], "cpu")


def test_another_image_size_is_refused(tmp_path: Path) -> None:
    sizes = [
        make_adapters(
            tmp_path / str(size), replace(SMALL, weights="published", overrides=dict(img_size=size), seed=None), ["linear"]
        )[0]
        for size in (16, 32)
    ]
    with pytest.raises(ValueError, match=r"takes images of 16 pixels and .* of 32"):
        Workbench(sizes, "cpu")


def test_runs_that_cannot_be_used_are_named(small_runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere: no such directory"):
        Workbench([tmp_path / "nowhere"], "cpu")
    with pytest.raises(WeightsError, match=r"holds no adapter\.json"):
        Workbench([tmp_path], "cpu")
    with pytest.raises(ValueError, match="is given twice"):
        Workbench([small_runs[0], small_runs[0]], "cpu")
    with pytest.raises(ValueError, match="no run is given"):
        Workbench([], "cpu")


def test_what_is_asked_for_must_be_there(workbench: Workbench, images: list[Path]) -> None:
    with pytest.raises(ValueError, match="there is no adapter 'ssf', expected 'svp' or 'linear'"):
        workbench.predict(images[0], "ssf")
    with pytest.raises(ValueError, match="layer is 2, expected 0 to 1"):
        workbench.gate_maps(images[0], "svp", layer=2)
    with pytest.raises(ValueError, match="direction is 'sideways'"):
        workbench.gate_maps(images[0], "svp", direction="sideways")  # type: ignore[arg-type]


def test_a_file_that_is_no_image_is_told(workbench: Workbench, images: list[Path], tmp_path: Path) -> None:
    paper = tmp_path / "paper.jpg"
    paper.write_bytes(b"%PDF-1.4 ...")
    for ask in (workbench.predict, workbench.draw_gates):
        with pytest.raises(UnreadableImageError, match="a PDF document"):
            ask(paper, "svp")
    found = workbench.predict_batch([Upload("a/paper.jpg", paper), Upload("b.png", images[0])], "svp")
    assert [str(p.path) for p in found] == [str(Path("a/paper.jpg")), "b.png"]
    assert found[0].error == "a PDF document; save its pages as images first"
    assert found[1].probabilities == pytest.approx(workbench.predict(images[0], "svp").probabilities, rel=1e-5)


def test_a_figure_is_drawn(workbench: Workbench, images: list[Path]) -> None:
    first = workbench.draw_gates(images[0], "svp", layer=0, direction="forward")
    assert first.width > 800
    assert all(low < high for low, high in first.convert("RGB").getextrema())
    others = [workbench.draw_gates(images[0], "svp", layer=1, direction="forward"), workbench.draw_gates(images[0], "lora")]
    assert all(other.tobytes() != first.tobytes() for other in others)


def test_a_vision_transformer_is_served_without_gates(tmp_path: Path, images: list[Path]) -> None:
    origin = replace(SMALL, name="deit_small_patch16_224", overrides=dict(img_size=32, depth=2))
    runs = make_adapters(tmp_path, origin, ["linear", "lora"])
    workbench = Workbench(runs, "cpu")
    (alone,) = svp.predict(runs[1], [images[0]], device="cpu")
    assert workbench.depth == 0
    assert workbench.predict(images[0], "lora").probabilities == pytest.approx(alone.probabilities, rel=1e-5)
    with pytest.raises(ValueError, match="gates are recorded in the scans of a VisionMamba"):
        workbench.gate_maps(images[0], "lora")
