"""The HTTP API: what a client gets, from one and from twenty at once, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import svp
from svp.app import Limits, Server, Workbench
from svp.app.server import free_port
from svp.cli import main
from tests.app.conftest import OPTIONS
from tests.app.test_uploads import png

if find_spec("gradio") is None:  # one that is there and cannot be imported is a failure
    pytest.skip("gradio is not installed: pip install 'vim-svp[app]'", allow_module_level=True)

LIMITS = Limits(max_images=50, max_upload_size=20_000_000)
EXAMPLE = Path(__file__).parents[2] / "examples" / "app_client.py"


@pytest.fixture(scope="module")
def server(small_runs: list[Path], images: list[Path]) -> Iterator[Server]:
    running = Server(Workbench(small_runs, "cpu", LIMITS), images[0].parent, port=0)
    yield running
    running.close()


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    from gradio_client import Client

    return Client(server.url, verbose=False, analytics_enabled=False)


def classes(label: dict[str, Any]) -> dict[str, float]:
    return {entry["label"]: entry["confidence"] for entry in label["confidences"]}


def ask(client: Any, image: Path, adapter: str) -> dict[str, float]:
    from gradio_client import handle_file

    tuned, base = client.predict(handle_file(image), adapter, api_name="/predict")
    assert not base  # random weights have no classes of their own
    return classes(tuned)


def test_twenty_requests_at_once_get_the_numbers_of_one_by_one(
    client: Any, small_runs: list[Path], images: list[Path]
) -> None:
    jobs = [(image, run) for image, run in zip(images, small_runs * 4, strict=False)]
    assert len(jobs) == 20
    with ThreadPoolExecutor(20) as pool:
        at_once = list(pool.map(lambda job: ask(client, job[0], job[1].name), jobs))
    for (image, run), found in zip(jobs, at_once, strict=True):
        (alone,) = svp.predict(run, [image], device="cpu")
        assert tuple(found) == alone.classes
        assert list(found.values()) == pytest.approx(alone.probabilities, rel=1e-5)
    one_by_one = [ask(client, image, run.name) for image, run in jobs[:5]]
    assert [list(found.values()) for found in one_by_one] == [pytest.approx(list(f.values()), rel=1e-6) for f in at_once[:5]]


def test_gates_come_as_a_figure(client: Any, images: list[Path]) -> None:
    from gradio_client import handle_file

    first, second = (
        Path(client.predict(handle_file(images[0]), "svp", layer, False, "forward", api_name="/gates")).read_bytes()
        for layer in (0, 1)
    )
    assert first != second
    with Image.open(io.BytesIO(first)) as figure:
        assert figure.width > 800


def test_a_batch_is_a_table_and_the_csv_of_svp_predict(
    client: Any, small_runs: list[Path], images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gradio_client import handle_file

    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as members:
        for image in images[:3]:
            members.write(image, f"holiday/{image.name}")
        members.writestr("holiday/paper.jpg", b"%PDF-1.4 ...")
    table, file = client.predict([handle_file(archive)], [], "svp", api_name="/batch")
    assert [row[0] for row in table["data"]] == ["holiday/00.png", "holiday/01.png", "holiday/02.png", "holiday/paper.jpg"]
    assert table["data"][3][-1] == "a PDF document; save its pages as images first"
    assert main(["predict", str(small_runs[0]), *map(str, images[:3]), "--format", "csv", "--device", "cpu"]) == 0
    expected = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    found = list(csv.reader(io.StringIO(Path(file).read_text(encoding="utf-8"))))
    assert found[0] == expected[0]
    for found_row, row in zip(found[1:], expected[1:], strict=False):
        assert found_row[0] == f"holiday/{Path(row[0]).name}"
        assert found_row[1::2] == row[1::2]
        assert [float(p) for p in found_row[2:-1:2]] == pytest.approx([float(p) for p in row[2:-1:2]], abs=2e-6)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("paper.jpg", b"%PDF-1.4 ...", "a PDF document"),
        ("bomb.png", png(30_000, 30_000), r"30000 x 30000 pixels, expected at most 50,000,000"),
        ("large.png", png(7_500, 7_500), r"7500 x 7500 pixels, expected at most 50,000,000"),
        ("<img src=x onerror=alert(1)>.png", b"", "the file is empty"),
    ],
    ids=["pdf", "bomb", "large", "markup"],
)
def test_what_is_no_image_is_an_error_that_says_why(client: Any, tmp_path: Path, name: str, data: bytes, message: str) -> None:
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    (tmp_path / name).write_bytes(data)
    with pytest.raises(AppError, match=message) as caught:
        client.predict(handle_file(tmp_path / name), "svp", api_name="/predict")
    assert "<img" not in str(caught.value)


def test_files_of_the_server_cannot_be_asked_for(server: Server, client: Any, small_runs: list[Path]) -> None:
    from gradio_client.exceptions import AppError

    secret = {"path": str(small_runs[0] / "adapter.json"), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError):
        client.predict(secret, "svp", api_name="/predict")
    with pytest.raises(AppError):
        client.predict([secret], [], "svp", api_name="/batch")
    sample = next(Path(os.environ["GRADIO_TEMP_DIR"]).parent.glob("samples/*"))
    address = f"{server.url}gradio_api/file={sample}"
    assert urllib.request.urlopen(address, timeout=200).status == 200
    with pytest.raises(AppError):  # nor may the server be sent to what this machine alone can reach
        client.predict({**secret, "path": address}, "svp", api_name="/predict")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server.url}gradio_api/file={secret['path']}", timeout=200)


def test_too_large_an_upload_is_refused(client: Any, tmp_path: Path) -> None:
    from gradio_client import handle_file

    path = tmp_path / "large.zip"
    path.write_bytes(bytes(LIMITS.max_upload_size + 1_000_000))
    with pytest.raises(Exception, match=r"413|exceed|size"):
        client.predict([handle_file(path)], [], "svp", api_name="/batch")


def test_an_unknown_adapter_is_refused(client: Any, images: list[Path]) -> None:
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="ssf"):
        client.predict(handle_file(images[0]), "ssf", api_name="/predict")


def test_it_listens_on_this_machine_alone_and_tells_nobody(server: Server) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{server.url}config", timeout=200) as answer:
        config = json.load(answer)
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False
    public = {d["api_name"] for d in config["dependencies"] if d["api_visibility"] == "public"}
    assert public == {"predict", "gates", "batch"}


def test_the_example_client_runs(server: Server, images: list[Path], tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(EXAMPLE),
        server.url,
        str(images[0]),
        "--adapter",
        "lora",
        "--out",
        str(tmp_path / "gates.png"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\w+ +\d+\.\d%$", done.stdout, re.MULTILINE)
    with Image.open(tmp_path / "gates.png") as figure:
        assert figure.width > 800


def test_a_busy_port_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1, port {port} .*choose another --port"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", 0) > 0


def test_a_port_that_is_taken_before_the_page_listens_there_is_left(
    small_runs: list[Path], images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = iter([port, port])  # as it is looked at, and when the page is to listen there
        monkeypatch.setattr("svp.app.server.free_port", lambda host, port: next(found, None) or free_port(host, port))
        running = Server(Workbench(small_runs[:1], "cpu", LIMITS), images[0].parent, port=0)
        try:
            with urllib.request.urlopen(running.url, timeout=200) as answer:
                assert b"svp: vim_nano" in answer.read()
        finally:
            running.close()
        assert f":{port}/" not in running.url


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nowhere"], "nowhere: no such directory; expected a run directory"),
        (["{svp}", "--samples", "{tmp}"], "no images"),
        (["{svp}", "--samples", "{tmp}/nowhere"], "no such file or folder"),
        (["{svp}", "--max-images", "0"], "max_images is 0, expected 1 or more"),
        (["{svp}", "--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
        (["{svp}", "--port", "99999"], "port is 99999, expected 0 to 65535"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], message: str, small_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app", "--no-browser", *(a.format(tmp=tmp_path, svp=small_runs[0]) for a in arguments)]) == 1
    assert message in capsys.readouterr().err


def test_gradio_is_asked_for_where_it_is_missing(
    small_runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", str(small_runs[0])]) == 1
    assert "pip install 'vim-svp[app]'" in capsys.readouterr().err


def test_what_was_handed_in_is_gone_when_the_page_stops(small_runs: list[Path], images: list[Path]) -> None:
    from gradio_client import Client, handle_file

    running = Server(Workbench(small_runs[:1], "cpu", LIMITS), images[0].parent, port=0)
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    Client(running.url, verbose=False, analytics_enabled=False).predict(handle_file(images[0]), "svp", api_name="/predict")
    assert list(uploads.rglob(images[0].name))
    assert uploads.parent.stat().st_mode & 0o077 == 0  # nobody else may look
    running.close()
    assert not uploads.parent.exists()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(running.url, timeout=200)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_the_command_serves_until_it_is_ended(small_runs: list[Path], images: list[Path], tmp_path: Path) -> None:
    words = ["app", str(small_runs[1]), "--samples", str(images[0].parent), "--no-browser", "--port", "0", "--device", "cpu"]
    command = [sys.executable, "-m", "svp", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}) as running:
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            url = re.fullmatch(r"linear at (http://127\.0\.0\.1:\d+/) \(Ctrl-C stops\)\n", line)
            assert url is not None
            with urllib.request.urlopen(url[1], timeout=200) as answer:
                assert b"svp: vim_nano" in answer.read()
            assert list(tmp_path.glob("svp-app-*"))
            running.send_signal(signal.SIGTERM)
            assert running.wait(timeout=200) == 0
        finally:
            running.kill()
    assert not list(tmp_path.glob("svp-app-*"))


def test_every_method_is_served(server: Server, client: Any) -> None:
    schema = client.view_api(return_format="dict", print_info=False)
    adapter = schema["named_endpoints"]["/predict"]["parameters"][1]
    assert all(repr(method) in adapter["python_type"]["type"] for method in OPTIONS)
