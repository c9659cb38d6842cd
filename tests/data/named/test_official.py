"""Fetching: the addresses of torchvision, served here from this machine; and what happens when it goes wrong."""

import hashlib
import multiprocessing
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torchvision

from svp.cli import main
from svp.data import dataset_info
from svp.data.named.official import OFFICIAL, FetchError, Official, fetch_official, has_official
from tests.data.named.official import pack, write_cifar10, write_cifar100, write_dtd, write_food101, write_gtsrb, write_svhn
from tests.data.named.official_lists import write_cub200, write_flowers, write_vpt

WRITERS = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "dtd": write_dtd,
    "food101": write_food101,
    "gtsrb": write_gtsrb,
    "svhn": write_svhn,
    "cub200": write_cub200,
    "oxford_flowers": lambda root: write_flowers(root / "flowers-102"),
}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class Handler(SimpleHTTPRequestHandler):
    """Announces each file whole; of names in `server.cut` it sends half, and then waits or goes away."""

    def log_message(self, *_: object) -> None:
        pass

    def copyfile(self, source, outputfile) -> None:
        content = source.read()
        server = self.server
        server.asked.append(self.path)
        if Path(self.path).name not in server.cut:
            outputfile.write(content)
            return
        outputfile.write(content[: len(content) // 2])
        outputfile.flush()
        server.stalled.wait(timeout=200 if server.waits else 0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    (tmp_path / "served").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served")))
    server.asked, server.cut, server.waits, server.stalled = [], set(), False, threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.stalled.set()
    server.shutdown()
    server.server_close()
    thread.join()


def serve(name: str, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Official:
    """Small archives under the official names, and their addresses and checksums in the table."""
    written, served = tmp_path / "written", tmp_path / "served"
    WRITERS[name](written)
    official = OFFICIAL[name]
    downloads = []
    for download in official.downloads:
        content = tmp_path / f"content of {download.filename}"
        for path in download.brings:
            source = written / official.places[0] / path
            target = content / path if download.holds else served / download.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, target)
        if download.holds:
            (content / "README.txt").write_text("Official archives hold more than the images.")
            pack(content, served / download.filename)
        url = f"http://127.0.0.1:{server.server_port}/{download.filename}"
        downloads.append(replace(download, url=url, md5=md5(served / download.filename)))
    monkeypatch.setitem(OFFICIAL, name, replace(official, downloads=tuple(downloads)))
    return OFFICIAL[name]


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", sorted(OFFICIAL.keys() - {"cub200"}))  # torchvision has none for CUB-200-2011
def test_addresses_and_checksums_are_those_of_torchvision(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set()

    def record(url: str, root: str, *args: str | None, **kwargs: str | None) -> None:
        place = Path(kwargs.get("download_root") or root).relative_to(tmp_path).as_posix()
        asked.add((url, kwargs.get("md5") or args[-1], "" if place == "." else place))

    classes = {"food101": "Food101", "oxford_flowers": "Flowers102"}
    dataset = getattr(torchvision.datasets, classes.get(name, name.upper()))
    module = sys.modules["torchvision.datasets.cifar" if name.startswith("cifar") else dataset.__module__]
    for function in ("download_and_extract_archive", "download_url"):
        if hasattr(module, function):
            monkeypatch.setattr(
                module, function, lambda url, download_root="", *args, **kwargs: record(url, download_root, *args, **kwargs)
            )
    for split in ("train", "test"):
        with suppress(RuntimeError):  # nothing came
            dataset(str(tmp_path), **({"train": True} if name.startswith("cifar") else {"split": split}), download=True)
    official = OFFICIAL[name]
    assert {(download.url, download.md5, official.places[0]) for download in official.downloads} == asked


@pytest.mark.parametrize("name", OFFICIAL)
def test_fetch(name: str, server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    official = serve(name, server, monkeypatch, tmp_path)
    root = tmp_path / "new" / "root"
    assert not has_official(name, root)
    assert main(["data", "fetch", name, "--data-root", str(root)]) == 0
    printed = Path(capsys.readouterr().out.strip())
    assert printed.is_dir()
    assert printed.is_relative_to(root)
    assert has_official(name, root)
    (tmp_path / "copy").mkdir()
    WRITERS[name](tmp_path / "copy")
    here, there = dataset_info(name).read(root, 0), dataset_info(name).read(tmp_path / "copy", 0)
    for part in there.splits:
        assert here.splits[part].labels == there.splits[part].labels
        assert [path.read_bytes() for path in here.splits[part].paths] == [
            path.read_bytes() for path in there.splits[part].paths
        ]
    asked = list(dict.fromkeys(server.asked))  # torchvision asks twice, to follow redirections first
    assert asked == [f"/{download.filename}" for download in official.downloads]
    server.asked.clear()
    assert main(["data", "fetch", name, "--data-root", str(root)]) == 0
    assert server.asked == []
    assert {path.name for path in root.rglob(".*")} <= {".complete"}
    assert list(root.rglob("*.tmp")) == []


@pytest.mark.parametrize("name", ["gtsrb", "cifar10", "svhn"])
def test_what_lies_there_is_not_downloaded(name: str, server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Archives placed by hand, as the message without network says."""
    official = serve(name, server, monkeypatch, tmp_path)
    root = tmp_path / "root"
    for download in official.downloads:
        place = root / official.places[0] / download.filename
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "served" / download.filename, place)
    fetch_official(name, root)
    assert server.asked == []
    assert has_official(name, root)


def test_lists_placed_by_hand_do_not_keep_the_images_from_being_fetched(
    server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Split files of VPT, for which there is no address to fetch them from."""
    serve("cub200", server, monkeypatch, tmp_path)
    root = tmp_path / "root"
    name = "001.Black_footed_Albatross/Black_footed_Albatross_000"
    ids = {"train": {f"{name}0_1.jpg": "001", "002.Laysan_Albatross/Laysan_Albatross_0000_2.jpg": "002"}}
    write_vpt(root / "CUB_200_2011", **ids, test={f"{name}1_1.jpg": "001"})
    (root / "CUB_200_2011" / "classes.txt").write_text("1 One\n2 Two\n")
    assert main(["data", "fetch", "cub200", "--data-root", str(root)]) == 0
    parts = dataset_info("cub200").read(root, 0)
    assert parts.class_names == ("One", "Two")  # what was there stays
    assert [len(split) for split in parts.splits.values()] == [2, 1]
    (root / "CUB_200_2011" / "train_test_split.txt").unlink()  # as if killed before the last of the archive was in place
    server.asked.clear()
    fetch_official("cub200", root)
    assert server.asked == []
    assert has_official("cub200", root)


def test_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official = OFFICIAL["gtsrb"]
    downloads = [replace(download, url=f"http://127.0.0.1:9/{download.filename}") for download in official.downloads]
    monkeypatch.setitem(OFFICIAL, "gtsrb", replace(official, downloads=tuple(downloads)))
    root = tmp_path / "my data"
    assert main(["data", "fetch", "gtsrb", "--data-root", str(root)]) == 1
    message = capsys.readouterr().err
    assert "gtsrb: cannot download http://127.0.0.1:9/GTSRB-Training_fixed.zip" in message
    assert "refused" in message
    for download in downloads:
        assert f"{download.url} (md5 {download.md5}) as {root / 'gtsrb' / download.filename}" in message
    assert f"svp data fetch gtsrb --data-root '{root}'" in message
    assert list(root.rglob("*.*")) == []


def test_the_message_names_what_is_still_to_get(server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    official = serve("gtsrb", server, monkeypatch, tmp_path)
    last = tmp_path / "served" / "GTSRB_Final_Test_GT.zip"
    last.rename(tmp_path / "elsewhere")
    with pytest.raises(FetchError, match=r"GTSRB_Final_Test_GT\.zip: HTTP Error 404") as caught:
        fetch_official("gtsrb", tmp_path / "root")
    assert official.downloads[0].url not in str(caught.value)
    (tmp_path / "elsewhere").rename(last)
    for archive in (tmp_path / "root" / "gtsrb").glob("*.zip"):
        archive.unlink()  # what they held is there
    server.asked.clear()
    fetch_official("gtsrb", tmp_path / "root")
    assert set(server.asked) == {"/GTSRB_Final_Test_GT.zip"}
    assert has_official("gtsrb", tmp_path / "root")


def test_a_damaged_file_placed_by_hand_is_said(server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serve("cifar10", server, monkeypatch, tmp_path)
    (tmp_path / "served" / "cifar-10-python.tar.gz").unlink()
    placed = tmp_path / "root" / "cifar-10-python.tar.gz"
    placed.parent.mkdir()
    placed.write_bytes(b"half")
    with pytest.raises(FetchError, match=re.escape(f"({placed} is another or damaged: its md5 differs.)")):
        fetch_official("cifar10", tmp_path / "root")
    assert placed.read_bytes() == b"half"


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_a_connection_lost_half_way(name: str, server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    official = serve(name, server, monkeypatch, tmp_path)
    server.cut = {official.downloads[0].filename}
    root = tmp_path / "root"
    with pytest.raises(FetchError, match=rf"{name}: cannot download .*{official.downloads[0].filename}"):
        fetch_official(name, root)
    assert list(root.iterdir()) == []
    server.cut = set()
    fetch_official(name, root)
    assert has_official(name, root)


def test_another_file_than_the_published(server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serve("cifar10", server, monkeypatch, tmp_path)
    (tmp_path / "served" / "cifar-10-python.tar.gz").write_bytes(b"<html>moved</html>")
    with pytest.raises(FetchError, match=r"cannot download .*cifar-10-python\.tar\.gz: File not found or corrupted\. On a"):
        fetch_official("cifar10", tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_an_archive_that_breaks_off_leaves_nothing_half(server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    official = serve("cifar10", server, monkeypatch, tmp_path)
    archive = tmp_path / "served" / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    damaged = replace(official.downloads[0], md5=md5(archive))  # so that it fails while it is unpacked
    monkeypatch.setitem(OFFICIAL, "cifar10", replace(official, downloads=(damaged,)))
    with pytest.raises(EOFError):
        fetch_official("cifar10", tmp_path / "root")
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["cifar-10-python.tar.gz"]


def test_killed_while_downloading(server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    download = serve("svhn", server, monkeypatch, tmp_path).downloads[0]
    root = tmp_path / "root"
    server.cut, server.waits = {download.filename}, True
    monkeypatch.setitem(OFFICIAL, "svhn", replace(OFFICIAL["svhn"], downloads=(download,)))
    process = multiprocessing.get_context("fork").Process(target=fetch_official, args=("svhn", root))
    process.start()
    assert process.pid
    part = root / f".train_32x32.mat.{process.pid}.tmp"
    while not (part.exists() and part.stat().st_size):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert part.stat().st_size < (tmp_path / "served" / download.filename).stat().st_size
    assert not (root / "train_32x32.mat").exists()
    server.cut = set()
    fetch_official("svhn", root)
    assert md5(root / "train_32x32.mat") == download.md5
    assert not part.exists()
