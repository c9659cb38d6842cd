"""``svp app``: adapters on a page in the browser, and behind an HTTP API."""

from svp.app.server import Server
from svp.app.uploads import Limits, Upload
from svp.app.workbench import Adapter, Workbench

__all__ = ["Adapter", "Limits", "Server", "Upload", "Workbench"]
