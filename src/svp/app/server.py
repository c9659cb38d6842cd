"""Serve the page of a workbench on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from svp.app.uploads import read_image
from svp.app.workbench import Workbench
from svp.data import UnreadableImageError, find_images
from svp.errors import InputError, UnavailableError
from svp.runs import RunDirectory, RunError

if TYPE_CHECKING:
    import gradio as gr

_NUM_SAMPLES = 12


class Server:
    """A page that is served until ``close``, in a thread of its own.

    Args:
        workbench: What the page shows.
        samples: Folder of images to try; test images of the runs if None.
        host: Address to listen at.
        port: Port to listen at; any free one if 0.
        browser: Open a browser.

    Attributes:
        url: Where the page is.

    Raises:
        RuntimeError: Gradio is not installed.
        DataError: The folder of samples is absent or holds no image.
        OSError: The port is taken, or there is no such address.
    """

    def __init__(
        self,
        workbench: Workbench,
        samples: str | Path | None = None,
        host: str = "127.0.0.1",
        port: int = 7860,
        browser: bool = False,
    ) -> None:
        import_gradio()
        from svp.app.page import look, make_page

        free_port(host, port)  # one that is taken is told before anything is made
        chosen = find_images([samples]) if samples is not None else own_images(workbench)
        with ExitStack() as closing:
            folder = Path(closing.enter_context(TemporaryDirectory(prefix="svp-app-")))
            # all that is uploaded and made lies in a folder of this user alone, which is deleted in the end
            closing.enter_context(_environment("GRADIO_TEMP_DIR", str(folder / "uploads")))
            page: gr.Blocks = make_page(workbench, copy_samples(chosen, workbench, folder / "samples"))
            closing.callback(page.close, verbose=False)
            self.url = _launch(
                page,
                host,
                port,
                share=False,
                inbrowser=browser,
                quiet=True,
                show_error=True,
                prevent_thread_lock=True,
                allowed_paths=[str(folder / "samples")],
                max_file_size=workbench.limits.max_upload_size,
                footer_links=["api"],
                run_history=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                enable_monitoring=False,
                **look(),
            )
            self._closing = closing.pop_all()

    def wait(self) -> None:
        """Until the user interrupts or a supervisor ends the process; only for its main thread."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()

    def close(self) -> None:
        """Stop serving, and delete what was handed in."""
        self._closing.close()


def _launch(page: gr.Blocks, host: str, port: int, **options: Any) -> str:
    """Serve `page` and return where.

    A free port may be taken before the page listens at it: another one will do if `port` is 0.
    """
    for _ in range(4 if port == 0 else 0):
        with suppress(OSError):
            return str(page.launch(server_name=host, server_port=free_port(host, 0), **options)[1])
    return str(page.launch(server_name=host, server_port=free_port(host, port), **options)[1])


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment inside, which Gradio reads as it goes."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def import_gradio() -> None:
    """Find Gradio.

    Raises:
        RuntimeError: It is not installed; says how to install it.
    """
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UnavailableError("the page needs Gradio, which is not installed: pip install 'vim-svp[app]'") from error


def free_port(host: str, port: int) -> int:
    """`port`, or a free one if it is 0.

    Raises:
        OSError: It is taken, or there is no such address.
        ValueError: It is no port.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port is {port}, expected 0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise OSError(
            f"cannot listen at {host}, port {port} ({error.strerror}): choose another --port, or 0 for any"
        ) from error


def own_images(workbench: Workbench) -> Sequence[Path]:
    """Test images of the first run that still has them, evenly spread over its classes."""
    for adapter in workbench.adapters.values():
        try:
            paths = RunDirectory(adapter.directory).read_split("test").paths
        except RunError:
            continue
        step = max(len(paths) // _NUM_SAMPLES, 1)
        return paths[step // 2 :: step]
    return ()


def copy_samples(paths: Sequence[Path], workbench: Workbench, folder: Path) -> list[Path]:
    """Copy the first readable images into a new `folder`, from where they are served."""
    folder.mkdir()
    copies: list[Path] = []
    for path in paths:
        try:
            read_image(path, workbench.limits)
        except UnreadableImageError:
            continue
        copies.append(Path(shutil.copyfile(path, folder / f"{len(copies):02d}-{path.name}")))
        if len(copies) == _NUM_SAMPLES:
            break
    return copies
