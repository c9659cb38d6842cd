"""Places that are full, missing or not to be written to: one line that says what, where and how to go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from svp.cli import main
from tests.commands.conftest import FAST
from tests.commands.test_predict import link_photos, read_rows
from tests.processes import Python

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")


def code_after(prelude: str, commands: Sequence[list[str]]) -> str:
    """Python that runs commands behind lines of its own."""
    begin = f"import sys\n{prelude}\nfrom svp.cli import main\nimport tests.small_model"
    return f"{begin}\nfor words in {commands!r}: print('code', main(words))"


def codes(output: str) -> list[str]:
    """Exit codes of the commands."""
    return [line.split()[1] for line in output.splitlines() if line.startswith("code ")]


def run_after(prelude: str, *commands: list[str], home: str | None = None) -> tuple[list[str], str]:
    """Run commands in a process of their own, behind lines of Python; their exit codes, and what they print as errors."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "SVP_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", code_after(prelude, commands)],
        env=environment | ({"SVP_HOME": home} if home else {}),
        capture_output=True,
        text=True,
        timeout=200,
    )
    return codes(done.stdout), done.stderr


def small_files(size: int) -> str:
    """As if a disk had this much room."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


@posix
def test_a_full_disk_stops_training_with_one_line(photos: Path, tmp_path: Path) -> None:
    words = ["train", "--data", str(photos), *FAST, "--method", "full", "--out", str(tmp_path / "run")]
    process = Python(["-c", code_after(small_files(10**5), [words])], tmp_path / "shown")
    assert process.wait() == 0
    assert codes(process.output) == ["1"]
    assert "Traceback" not in process.errors
    *_, line = process.errors.splitlines()
    assert line.startswith(f"svp train: error: cannot write {tmp_path / 'run' / 'adapter.safetensors'}: files may not be")
    assert line.endswith("Make room there or name another place; --resume goes on from what is finished")


@pytest.mark.exhaustive
@posix
def test_a_full_disk_leaves_what_was_predicted(run: Path, photos: Path, tmp_path: Path) -> None:
    link_photos(photos, tmp_path / "new", 100)
    out = tmp_path / "p.csv"
    words = ["predict", str(run), str(tmp_path / "new"), "--device", "cpu", "--batch-size", "8", "--out", str(out)]
    found, errors = run_after(small_files(4096), words)
    assert found == ["1"]
    (line,) = errors.splitlines()
    assert line.startswith(f"svp predict: error: cannot write {out}: files may not be that large")
    assert out.stat().st_size == 4096
    assert main([*words, "--resume"]) == 0
    assert len({row["path"] for row in read_rows(out)}) == len(read_rows(out)) == 100


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has it")
def test_an_output_that_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "svp", "data", "list"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=250)
    assert done.returncode == 1
    assert done.stderr.startswith("svp data: error: cannot write the output: no space is left")
    assert len(done.stderr.splitlines()) == 1


@posix
def test_own_images_need_no_home(photos: Path, tmp_path: Path) -> None:
    """HOME is not set, and the user has no entry in the list of users."""
    prelude = "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown"
    run = str(tmp_path / "run")
    train = ["train", "--data", str(photos), *FAST, "--method", "linear", "--out", run]
    predict = ["predict", run, str(photos / "blue"), "--device", "cpu", "--out", str(tmp_path / "p.csv")]
    named = ["train", "--data", "digits", *FAST, "--out", str(tmp_path / "digits")]
    found, errors = run_after(prelude, train, predict, ["data", "check", str(photos)], named)
    assert found == ["0", "0", "0", "1"], errors
    (line,) = [line for line in errors.splitlines() if line.startswith("svp")]
    assert "there is no home directory" in line
    assert "set SVP_HOME to a folder" in line


@pytest.mark.exhaustive
def test_own_images_need_no_home_that_can_be_written(run: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file" / "home")
    predict = ["predict", str(run), str(photos / "blue"), "--device", "cpu", "--out", str(tmp_path / "p.csv")]
    named = ["train", "--data", "digits", *FAST, "--out", str(tmp_path / "digits")]
    found, errors = run_after("", predict, ["data", "check", str(photos)], named, home=nowhere)
    assert found == ["0", "0", "1"]
    (line,) = [line for line in errors.splitlines() if line.startswith("svp")]  # an old Matplotlib warns too
    assert nowhere in line


@pytest.mark.exhaustive
@posix
def test_few_files_may_be_open(run: Path, photos: Path, tmp_path: Path) -> None:
    """What cannot be opened for want of a number is no damaged image."""
    prelude = """
import svp.limits, resource, os
from svp.runs import predict
def main(words):
    images = predict(words[0], words[1:], device="cpu")
    next(images)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    found = "all read"
    try:
        if any(image.error for image in images):
            found = "taken for damaged"
    except OSError as error:
        found = "told"
        from svp.paths import explain
        print(explain(error), file=sys.stderr)
    return found
import svp.cli
svp.cli.main = main
"""
    link_photos(photos, tmp_path / "new", 300)
    found, errors = run_after(prelude, [str(run), str(tmp_path / "new")])
    assert found == ["told"], errors
    assert "Too many open files" in errors
    assert "ulimit -n" in errors


@pytest.mark.exhaustive  # tests/test_limits.py has it without a container
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")
def test_workers_in_a_container_with_little_shared_memory(photos: Path, tmp_path: Path) -> None:
    words = ["train", "--data", str(photos), *FAST, "--model", "vim_nano", "--method", "linear", "--num-workers", "2"]
    words += ["--out", str(tmp_path / "run")]
    mount = 'mount -t tmpfs -o size=64k tmpfs /dev/shm || exit 99; exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", sys.executable, "-m", "svp", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    if "unshare" in done.stderr or done.returncode == 99:
        pytest.skip(f"no mounts here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert "images are read by this process (docker run --shm-size" in done.stdout
