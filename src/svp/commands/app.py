"""``svp app``."""

from __future__ import annotations

from svp.commands import COMMANDS
from svp.commands.parsing import Parser


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp app", description=COMMANDS["app"].capitalize() + ".")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run directories of `svp train`, on one backbone")
    parser.add_argument("--samples", metavar="DIR", help="images to try (default: test images of the runs)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine alone)")
    parser.add_argument(
        "--port", type=int, default=7860, metavar="N", help="port to listen at; 0 takes a free one (default: 7860)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto takes a GPU if there is one")
    parser.add_argument("--max-pixels", type=int, default=50_000_000, metavar="N", help="of an image (default: 50,000,000)")
    parser.add_argument("--max-file-size", type=int, default=32, metavar="MB", help="of an image file (default: 32)")
    parser.add_argument("--max-images", type=int, default=1000, metavar="N", help="of a batch (default: 1000)")
    values = vars(parser.parse_args(argv))
    from svp.app.server import free_port, import_gradio

    import_gradio()  # what can be wrong is told before weights are loaded
    port = free_port(values["host"], values["port"])
    from svp.app import Limits, Server, Workbench

    limits = Limits(values["max_pixels"], values["max_file_size"] * 1_000_000, values["max_images"])
    workbench = Workbench(values["runs"], values["device"], limits)
    server = Server(workbench, values["samples"], values["host"], port, not values["no_browser"])
    print(f"{', '.join(workbench.adapters)} at {server.url} (Ctrl-C stops)", flush=True)
    try:
        server.wait()
    finally:
        server.close()
    return 0
