"""Adapters of the Hugging Face Hub by ``hf-hub:OWNER/NAME[@REVISION]``, as timm names models; kept in the Hub's cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from svp.errors import InputError, SvpError, UnavailableError

PREFIX = "hf-hub:"
"""What an adapter of the Hub begins with."""

_DESCRIPTION, _TENSORS = "adapter.json", "adapter.safetensors"


class HubError(UnavailableError):
    """The Hub cannot be reached, or refuses; the message says what to do and never holds a token."""


def is_on_hub(run: str | Path) -> bool:
    """Whether this names an adapter of the Hub."""
    return str(run).startswith(PREFIX)


def local_folder(run: str | Path) -> Path:
    """The folder of a run; of an adapter of the Hub that in the Hub's cache, where the newest one is fetched if need be.

    Without network, what was fetched before is taken.

    Args:
        run: Directory, or ``hf-hub:OWNER/NAME[@REVISION]``; the revision is a branch, a tag or a commit.

    Raises:
        InputError: The name is none of the Hub.
        HubError: There is no such adapter or revision, or it may not be read; no network, and it was not fetched before.
    """
    if not is_on_hub(run):
        return Path(run)
    from huggingface_hub import hf_hub_download

    repo, _, revision = str(run).removeprefix(PREFIX).partition("@")
    check_name(repo)
    where: Any = {"revision": revision or "main", "endpoint": endpoint()}
    with explained(repo):
        offline = not _answers(repo, **where)
        description = Path(hf_hub_download(repo, _DESCRIPTION, local_files_only=offline, **where))
        where["revision"] = description.parent.name  # the commit: both files are of one, whatever is pushed meanwhile
        hf_hub_download(repo, _TENSORS, local_files_only=offline, **where)
    return description.parent


def folder_for_output(run: str | Path) -> Path:
    """Where results about a run go if no place is named: its directory.

    Raises:
        InputError: The run is an adapter of the Hub, whose files lie in a cache.
    """
    if is_on_hub(run):
        raise InputError(f"{run} has no run directory here: name the place to write to by --out (out=)")
    return Path(run)


def check_name(repo: str) -> None:
    """Raise ``InputError`` for what is no name of a repository."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo, re.ASCII):
        raise InputError(f"{repo!r} is no name of a repository on the Hugging Face Hub; expected OWNER/NAME")


def endpoint() -> str | None:
    """``$HF_ENDPOINT``, whenever it was set; None for huggingface.co."""
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def explained(repo: str) -> Iterator[None]:
    """Turn what the Hub's client raises inside into a ``HubError`` of one line; what is no error of the Hub passes."""
    try:
        yield
    except SvpError:
        raise
    except Exception as error:
        text = _explain(repo, error)
        if text is None and error.__cause__ is not None:  # an upload tells in its cause what went wrong
            text = _explain(repo, error.__cause__)
        if text is None:
            raise
        raise HubError(text) from error


def _explain(repo: str, error: BaseException) -> str | None:
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return f"the Hub's {repo} has no such revision"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"the Hub's {repo} holds no {_DESCRIPTION} and {_TENSORS}: expected what `svp hub push` puts there"
    if isinstance(error, errors.GatedRepoError):
        return f"the Hub's {repo} is gated: ask for access on its page, then {_LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the Hub has no repository {repo}, or a private one that only its owner may see; {_LOG_IN}"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return f"the Hub does not accept the token: {_LOG_IN}"
        if status == 403:
            return f"the token gives no permission for {repo} on the Hub: it needs to be its owner's, with the right to write"
        return f"the Hub refuses {repo} (HTTP {status}): {_one_line(error.server_message or 'no reason given')}"
    if isinstance(error.__cause__, errors.FileMetadataError):
        return f"what answers for {repo} is no Hugging Face Hub: see HF_ENDPOINT and the settings of a proxy"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"{repo} cannot be fetched from the Hugging Face Hub: no network, and it was not fetched before. Copy its files "
            "from a machine with network and name their folder instead"
        )
    if isinstance(error, errors.OfflineModeIsEnabled) or _is_of_network(error):
        return f"the Hugging Face Hub cannot be reached for {repo} ({type(error).__name__}): no network"
    return None


_LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"


def _answers(repo: str, revision: str, endpoint: str | None) -> bool:
    """Whether the Hub answers; asked once, because a download would try for half a minute without network."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(repo, _DESCRIPTION, revision=revision, endpoint=endpoint), timeout=10)
    except errors.HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return False
    except Exception as error:
        if not isinstance(error, errors.OfflineModeIsEnabled) and not _is_of_network(error):
            raise
        return False
    return True


def _is_of_network(error: BaseException) -> bool:
    """Whether the library that sends or fetches raised it, which depends on the version of the Hub's client."""
    return isinstance(error, ConnectionError | TimeoutError) or any(
        base.__module__.startswith(("httpx", "httpcore", "hf_xet")) for base in type(error).__mro__
    )


def _one_line(text: str) -> str:
    return re.sub(r"hf_\w+", "hf_...", " ".join(text.split()))
