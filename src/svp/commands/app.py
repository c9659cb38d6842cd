"""``svp app``."""

from __future__ import annotations

from collections.abc import Sequence

from svp.commands.parsing import run_function
from svp.settings import Device


def run(argv: list[str]) -> int:
    return run_function(serve, "svp app", argv)


def serve(
    runs: Sequence[str],
    *,
    samples: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    no_browser: bool = False,
    device: Device = "auto",
    max_pixels: int = 50_000_000,
    max_file_size: int = 32,
    max_images: int = 1000,
) -> None:
    """Try adapters on a page in the browser, on this machine alone, with an HTTP API.

    Args:
        runs: Run directories of `svp train` whose adapters share one backbone.
        samples: Folder of images to try; test images of the runs if left out.
        host: Address to listen on. The default is reachable from this machine alone.
        port: Port to listen on; 0 takes a free one.
        no_browser: Do not open a browser.
        device: Where the models run: auto, cpu, cuda, cuda:1, xpu or mps; auto takes a GPU if there is one.
        max_pixels: Largest image accepted, in pixels.
        max_file_size: Largest image file accepted, in megabytes.
        max_images: Largest number of images accepted at a time.
    """
    from svp.app.server import free_port, import_gradio

    import_gradio()  # what can be wrong is told before weights are loaded
    free_port(host, port)  # one that is taken is told before the models are opened
    from svp.app import Limits, Server, Workbench

    workbench = Workbench(list(runs), device, Limits(max_pixels, max_file_size * 1_000_000, max_images))
    server = Server(workbench, samples, host, port, not no_browser)
    print(f"{', '.join(workbench.adapters)} at {server.url} (Ctrl-C stops)", flush=True)
    try:
        server.wait()
    finally:
        server.close()
