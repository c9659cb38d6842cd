"""Exported files: what they say, that svp is not needed to run them, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from torch import Tensor

import svp
from svp.cli import main
from svp.data import DataError, InputConfig, eval_transform, load_image
from svp.export import ExportError, check, export_run
from svp.export import onnx_file as written
from svp.export.onnx_graph import simplify
from svp.export.operators import PlainOperators, Recurrence
from svp.export.program import Classifier, trace
from svp.export.recurrences import in_chunks, softplus, token_by_token
from svp.export.run import _metadata
from svp.ops import selective_scan
from svp.runs import RunError, TrainedModel
from tests.models.small import images, perturb, small_vim, small_vit

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
INPUTS = InputConfig(img_size=16, crop_pct=0.8)
NAMES = ("nought", "one", "two", "three", "four")


def example(name: str) -> str:
    """A program of docs/export.md."""
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE, re.S)
    assert found
    return found[1]


def run_without_svp(code: str, *arguments: Path, forbidden: str = "svp") -> str:
    code += f"\nassert {forbidden!r} not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tuned(method: str, backbone: Any = small_vim, **options: Any) -> Any:
    torch.manual_seed(0)
    model = backbone(depth=1)
    svp.tune(model, method, **options)
    return perturb(model).eval()


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Scanned digits, wide, high and square."""
    folder = tmp_path_factory.mktemp("scans")
    digits = load_digits()
    paths = []
    for number in range(12):
        path = folder / f"{number:02d}.png"
        scan = Image.fromarray((digits.images[number] * (255 / 16)).round().astype("uint8"))
        scan.resize((21 + number % 3 * 8, 29)).save(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, scans: list[Path]) -> Path:
    """An adapter, and test images as a run has them."""
    folder = tmp_path_factory.mktemp("run")
    splits = {"root": str(scans[0].parent), "train": [], "val": [], "test": [[path.name, 0] for path in scans]}
    (folder / "splits.json").write_text(json.dumps(splits))
    model = tuned("svp", partial(small_vim, embed_dim=64), shared_layers=1)
    with torch.no_grad():
        model.head.weight.mul_(20)  # far from equal probabilities
    svp.save_adapter(model, folder, NAMES, INPUTS.to_dict())
    return folder


@pytest.fixture(scope="module")
def onnx_file(run: Path, scans: list[Path]) -> Path:
    exported = export_run(run)
    assert exported.comparison.images == exported.comparison.same_top1 == len(scans)
    assert exported.comparison.max_difference < 1e-5
    return exported.path


def test_the_onnx_example_classifies_as_svp_does(run: Path, onnx_file: Path, scans: list[Path]) -> None:
    lines = run_without_svp(example("onnx"), onnx_file, *scans, forbidden="torch").splitlines()
    found = [line.split("\t") for line in lines]
    expected = list(svp.predict(run, scans, device="cpu", topk=1))
    assert [(Path(path), name) for path, name, _ in found] == [(p.path, p.classes[0]) for p in expected]
    assert len({name for _, name, _ in found}) > 1
    np.testing.assert_allclose([float(p) for *_, p in found], [p.probabilities[0] for p in expected], atol=2e-4)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_the_example_resizes_and_cuts_as_svp_does(mode: Any, scans: list[Path]) -> None:
    inputs = replace(INPUTS, crop_mode=mode)
    code = re.search(r"def read.*?\n\n\n", example("onnx"), re.S)
    assert code
    info = svp.tuners.AdapterInfo({"svp": {}}, svp.models.Origin("vim_nano", "random", {}), "", 5, NAMES, inputs)
    trained = TrainedModel(Path(), small_vim(), info, inputs, NAMES, None, torch.device("cpu"))
    names: dict[str, Any] = dict(Image=Image, ImageOps=ImageOps, np=np)
    names["how"] = json.loads(_metadata(trained)["preprocessing"])
    exec(code[0], names)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (inputs.mean, inputs.std))
    for scan in scans:
        expected = eval_transform(inputs)(load_image(scan)) * std + mean
        torch.testing.assert_close(torch.from_numpy(names["read"](scan)), expected, atol=1e-6, rtol=0)


def test_the_onnx_file_takes_any_batch_and_holds_the_names(onnx_file: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file)
    for batch in (1, 3):
        (probabilities,) = session.run(None, {"images": np.zeros((batch, 3, 16, 16), np.float32)})
        assert probabilities.shape == (batch, 5)
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    metadata = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert metadata["class_names"] == list(NAMES)
    assert (metadata["preprocessing"]["resize"], metadata["preprocessing"]["img_size"]) == (20, 16)
    assert list(metadata["model"]["method"]) == ["svp"]
    assert not list(onnx_file.parent.glob(".*"))


def test_the_onnx_graph_moves_no_data_that_it_need_not(onnx_file: Path) -> None:
    import onnx

    graph = onnx.load(onnx_file).graph
    scans = [{a.name: list(a.ints) for a in node.attribute if a.ints} for node in graph.node if node.op_type == "Scan"]
    assert [scan["scan_input_directions"] for scan in scans] == [[0] * 4, [1] * 4]  # the second runs backward by itself
    assert [scan["scan_output_directions"] for scan in scans] == [[0], [1]]
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["Gather"] == 1  # of the class token
    assert kinds["Split"] == 2  # step size, B and C of either direction, which are narrow; not x and the gate
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.name == "body"]
    used = {name for part in (graph, *bodies) for node in part.node for name in node.input}
    assert {weight.name for weight in graph.initializer} <= used


@pytest.mark.parametrize(("rows", "outputs"), [("rows", 1), ("last", 1), ("rows", 2)])
def test_only_a_scan_that_takes_and_gives_all_rows_in_reverse_runs_backward(rows: str, outputs: int) -> None:
    """One input in another order, or an output that is read as it is too, and it stays as it was."""
    ir = pytest.importorskip("onnx_ir")
    import onnxruntime

    model = ir.from_onnx_text(f"""<ir_version: 8, opset_import: ["" : 18]>
        agraph (float[5, 2] x) => (float[5, 2] y{", float[5, 2] raw" if outputs == 2 else ""})
        <int64[5] rows = {{4, 3, 2, 1, 0}}, int64[5] last = {{4, 4, 4, 4, 4}}, float[2] zero = {{0, 0}}> {{
            a = Gather <axis = 0> (x, rows)
            b = Gather <axis = 0> (x, {rows})
            h, raw = Scan <num_scan_inputs = 2, scan_input_directions = [0, 0], scan_output_directions = [0],
                body = one (float[2] s, float[2] p, float[2] q) => (float[2] t, float[2] o) {{
                    m = Mul(p, q) t = Add(s, m) o = Identity(t) }}> (zero, a, b)
            forward = Gather <axis = 0> (raw, rows)
            y = Neg(forward)
        }}""")
    x = {"x": np.random.default_rng(0).random((5, 2), np.float32)}

    def run() -> Any:
        return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, x)

    before = run()
    simplify(model)
    for found, expected in zip(run(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert ("Gather" not in {node.op_type for node in model.graph}) == (rows == "rows" and outputs == 1)


def test_a_product_that_is_split_becomes_products_of_parts_with_names_of_their_own() -> None:
    ir = pytest.importorskip("onnx_ir")
    import onnxruntime

    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["" : 18]>
        agraph (float[3, 2] x) => (float[3, 2] y, float[3, 2] linear_1)
        <float[2, 4] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[2, 2] w_1 = {1, 2, 3, 4}> {
            [linear] linear = MatMul(x, w)
            a, b = Split <axis = -1, num_outputs = 2> (linear)
            y = Sub(a, b)
            [linear_1] linear_1 = MatMul(x, w_1)
        }""")
    x = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}
    before = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, x)
    simplify(model)
    assert [node.op_type for node in model.graph] == ["MatMul", "MatMul", "Sub", "MatMul"]
    after = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, x)
    for found, expected in zip(after, before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_product_that_is_split_into_unequal_parts_stays() -> None:
    ir = pytest.importorskip("onnx_ir")
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["" : 18]>
        agraph (float[3, 2] x) => (float[3, 3] y, float[3, 2] z) <float[2, 5] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}> {
            product = MatMul(x, w)
            a, b = Split <axis = -1, num_outputs = 2> (product)
            y = Neg(a)
            z = Neg(b)
        }""")
    simplify(model)
    assert [node.op_type for node in model.graph] == ["MatMul", "Split", "Neg", "Neg"]


def test_a_batch_is_shared_by_threads(onnx_file: Path) -> None:
    pixels = torch.rand(5, 3, 16, 16)
    number = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = written.load(onnx_file)(pixels)
        torch.set_num_threads(2)
        run = written.load(onnx_file)
    finally:
        torch.set_num_threads(number)
    running = set(threading.enumerate())
    torch.testing.assert_close(run(pixels), expected)
    assert set(threading.enumerate()) - running
    torch.testing.assert_close(run(pixels[:1]), expected[:1])


def test_int8_says_nearly_the_same(run: Path, onnx_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    assert main(["export", str(run), "--int8"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^in int8: checked by onnxruntime .*, same top-1 for 1[012]$", said, re.M)
    assert re.search(r"^in int8: its top-1 accuracy is \d+\.\d\d %, that of svp \d+\.\d\d %$", said, re.M)
    file = run / "model.int8.onnx"
    model, exact = onnx.load(file), onnx.load(onnx_file)
    assert list(model.metadata_props) == list(exact.metadata_props)
    weights = [w.dims for w in model.graph.initializer if w.data_type == onnx.TensorProto.INT8 and len(w.dims) == 2]
    assert weights
    assert min(inputs for inputs, _ in weights) >= 64  # not the product that gives the step sizes
    assert file.stat().st_size < onnx_file.stat().st_size


def test_the_torch_file_needs_no_svp(run: Path, scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.pt2"
    assert main(["export", str(run), "--format", "torch", "--out", str(out), "--images", *map(str, scans)]) == 0
    assert "same top-1 for 12" in capsys.readouterr().out
    names, shape = run_without_svp(example("torch"), out).splitlines()
    assert names == str(list(NAMES))
    assert shape == "torch.Size([3, 5])"


def test_what_merges_is_merged(scans: list[Path], tmp_path: Path) -> None:
    svp.save_adapter(tuned("ssf", small_vit), tmp_path, NAMES, INPUTS.to_dict())
    exported = export_run(tmp_path, "torch", images=scans)
    assert exported.comparison.same_top1 == len(scans)
    program = torch.export.load(exported.path)
    assert not [name for name in program.state_dict if "ssf" in name or "base_layer" in name]


CASES: dict[str, tuple[Any, ...]] = {
    "svp, as released": ("svp", small_vim, dict(shared_layers=1, cross_prompt="official", simam=True)),
    "vpt_deep": ("vpt_deep", small_vim, {}),
    "affix": ("affix", small_vim, {}),
    "additional_scan": ("additional_scan", small_vim, {}),
    "state_offset+saa": ("state_offset+saa", small_vim, {}),
    "vpt_deep on a ViT": ("vpt_deep", small_vit, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_program_is_the_model_in_operators_of_pytorch(case: str) -> None:
    method, backbone, options = CASES[case]
    model = tuned(method, backbone, **options)
    program = trace(model, INPUTS, token_by_token)
    assert not [node for node in program.graph.nodes if "svp" in str(node.target) and node.op == "call_function"]
    pixels = images(model, batch=3)
    torch.testing.assert_close(program.module()(pixels), Classifier(model, INPUTS)(pixels))


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "size"), [("vim_nano", 32), ("vim_tiny", 224)])
def test_an_onnx_file_of_full_width_gives_the_same_logits(name: str, size: int, tmp_path: Path) -> None:
    model = svp.create_model(name, num_classes=10, depth=2)
    svp.tune(model, "svp", shared_layers=1)
    perturb(model).eval()
    inputs = InputConfig(img_size=size)
    written.write(trace(model, inputs, token_by_token), {"output": '{"output": "probabilities"}'}, tmp_path / "model.onnx")
    exported, expected = written.load(tmp_path / "model.onnx"), Classifier(model, inputs)
    for batch in (1, 3):
        pixels = torch.rand(batch, 3, size, size)
        with torch.no_grad():
            torch.testing.assert_close(exported(pixels).log(), expected(pixels).log(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("recurrence", [token_by_token, in_chunks])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("optional", [False, True])
def test_a_scan_in_operators_of_pytorch(recurrence: Recurrence, reverse: bool, optional: bool) -> None:
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    length = 19  # a chunk and a part of one
    x, dt, z = random(2, length, 6), random(2, length, 6), random(2, length, 6)
    A, B, C = -random(6, 3).exp(), random(2, length, 3), random(2, length, 3)
    state = random(1, 6, 3)  # of both images
    more: tuple[Tensor | None, ...] = (random(6), z, random(6), state) if optional else (None, None, None, None)
    expected = selective_scan(x, dt, A, B, C, *more, reverse=reverse, return_last_state=True, backend="reference")
    with torch.no_grad():
        found = PlainOperators(recurrence).selective_scan(x, dt, A, B, C, *more, reverse, "numba")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_softplus_by_vectorized_operators() -> None:
    x = torch.cat([torch.linspace(-30, 30, 10001), torch.tensor([-1e4, -100.0, 100.0, 1e4])]).double()
    exact = torch.where(x > 40, x, torch.log1p(torch.exp(x)))
    assert ((softplus(x) - exact).abs() <= 1.3e-6 * exact + 1e-300).all()
    assert (softplus(x.float()) >= 0).all()


def test_a_program_that_differs_is_refused() -> None:
    pixels = torch.rand(9, 3, 16, 16)

    def model(normalized: Tensor) -> Tensor:
        return normalized.flatten(1)[:, :5]

    def same(raw: Tensor) -> Tensor:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (INPUTS.mean, INPUTS.std))
        return model((raw - mean) / std).softmax(-1)

    check.compare(model, same, pixels, INPUTS).require_same("onnx")
    for wrong in (lambda raw: same(raw) + 2e-4, lambda raw: same(raw) * torch.nan, lambda raw: same(raw).flip(1)):
        with pytest.raises(ExportError, match=r"the onnx program differs from the model.*no file was written"):
            check.compare(model, wrong, pixels, INPUTS).require_same("onnx")


def test_the_check_takes_images_evenly_and_leaves_out_unreadable_ones(scans: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    paths = [scans[0]] * 60 + [scans[1]] * 59 + [tmp_path / "bad.png"]
    found, labels = check.read_some(paths, INPUTS)
    assert len(found) == 50
    assert labels is None
    assert (found == found[0]).flatten(1).all(1).sum() == 25
    found, labels = check.read_some([tmp_path / "bad.png", *scans[:3]], INPUTS, labels=[7, 8, 9, 10], most=3)
    assert labels is not None
    assert (len(found), labels.tolist()) == (2, [8, 9])


def test_a_file_that_misses_the_check_is_not_kept(
    run: Path, scans: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "TOLERANCE", -1.0)
    (tmp_path / "model.pt2").write_text("what was there")
    words = ["export", str(run), "--format", "torch", "--out", str(tmp_path / "model.pt2"), "--images", str(scans[0])]
    assert main(words) == 1
    assert "differs from the model" in capsys.readouterr().err
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("model.pt2", "what was there")]


def test_what_cannot_be_exported_is_said_before_any_work(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="unknown format 'coreml'; known: onnx, torch"):
        export_run(run, "coreml")
    with pytest.raises(ValueError, match=r"int8 is for format 'onnx', .* the format is 'torch'"):
        export_run(run, "torch", int8=True)
    for format in ("torch", "peft"):
        assert main(["export", str(run), "--int8", "--format", format]) == 2
        assert f"--int8 is for --format onnx, whose runtime has products in int8; not for {format}" in capsys.readouterr().err
    shutil.copytree(run, tmp_path / "adapter", ignore=shutil.ignore_patterns("splits.json"))
    with pytest.raises(RunError, match="name some by --images"):
        export_run(tmp_path / "adapter", "torch")
    shutil.rmtree(tmp_path / "adapter")
    (tmp_path / "bad.jpg").write_text("no image")
    with pytest.raises(DataError, match="none of the 1 images to check the file on can be read"):
        export_run(run, "torch", images=[tmp_path])
    assert main(["export", "nowhere", "--format", "torch"]) == 1
    assert "nowhere holds no adapter.json" in capsys.readouterr().err
    assert main(["export", str(run), "--out", str(tmp_path / "no" / "model.onnx")]) == 2
    assert main(["export", str(run), "--out", str(tmp_path)]) == 2
    assert main(["export", str(run), "--format", "coreml"]) == 2
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeError, match=r"pip install 'vim-svp\[onnx\]'"):
        export_run(run)
