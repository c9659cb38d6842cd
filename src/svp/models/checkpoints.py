"""Weights in: find a published file, read it without running anything in it, fit it to a model of another image size."""

from __future__ import annotations

import argparse
import hashlib
import math
import pickle
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models import VisionTransformer, adapt_input_conv
from torch import Tensor, nn

from svp.errors import InputError
from svp.paths import home

EMBEDDED = Path(__file__).resolve().parent.parent / "assets"
"""Folder of the weights that ship with the package."""

SHA256 = {
    "vim_t_midclstok_76p1acc.pth": "fedb1e60267f3bc7b2a8443f2ddead8d39e019d10247a87252162b3789801fd5",
    "vim_t_midclstok_ft_78p3acc.pth": "9847490c5c3ca36cc38caf8be537b726f326a1b5b15764b0bde650934ac35b54",
}
"""Known hashes of released files. A file that the Hub stores by its hash is checked against that too."""


class WeightsError(InputError):
    """A weights file cannot be found, read or used; the message says which file, why, and what to do."""


@dataclass(frozen=True)
class LoadReport:
    """What loading a state dict did: keys of the model that the file lacked, keys of the file that the model lacks."""

    loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.loaded} tensors loaded"]
        for title, keys in (("missing from the file", self.missing), ("left over", self.unexpected)):
            if keys:
                shown = ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")
                parts.append(f"{len(keys)} {title}: {shown}")
        return "; ".join(parts)


def locate(cfg: Mapping[str, Any]) -> Path:
    """The local file that a timm pretrained config names: embedded, placed by hand, or downloaded from the Hub and checked.

    Raises:
        WeightsError: The config names no file, the file is not there and cannot be downloaded, or its hash is wrong.
    """
    if cfg.get("file"):
        path = Path(cfg["file"])
        if not path.is_file():
            raise WeightsError(f"weights file {path} does not exist")
        return path
    repo, filename = hub_file(cfg)
    if not repo:
        raise WeightsError(
            f"{cfg.get('architecture', 'this model')} has no published weights; use pretrained=False, or give a file"
        )
    # timm's files are all of one name
    placed = home() / "weights" / (f"{repo.rpartition('/')[2]}.safetensors" if filename == _TIMM_FILE else filename)
    path = placed if placed.is_file() else _download(repo, filename, placed)
    _check_hash(path, filename)
    return path


def hub_file(cfg: Mapping[str, Any]) -> tuple[str, str]:
    """Repository and file on the Hugging Face Hub that a timm pretrained config names; the repository is empty if none."""
    return cfg.get("hf_hub_id") or "", cfg.get("hf_hub_filename") or _TIMM_FILE


_TIMM_FILE = "model.safetensors"
_PATCH_WEIGHT = "patch_embed.proj.weight"


def _download(repo: str, filename: str, placed: Path) -> Path:
    """The file in the Hub's cache, fetched if it is not there yet."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    with suppress(LocalEntryNotFoundError):
        return Path(hf_hub_download(repo, filename, local_files_only=True))
    try:
        # asked once before: without network, hf_hub_download would retry for half a minute and log every time
        get_hf_file_metadata(hf_hub_url(repo, filename), timeout=5)
        return Path(hf_hub_download(repo, filename))
    except Exception as error:  # the Hub's, or those of the HTTP library it happens to use
        raise WeightsError(
            f"cannot download {filename} from the Hugging Face repository {repo} ({type(error).__name__}). "
            f"Get https://huggingface.co/{repo}/resolve/main/{filename} on a machine with network and place it at {placed}. "
            "The weights of vim_nano alone are embedded: it needs no network"
        ) from error


def _check_hash(path: Path, filename: str) -> None:
    expected = SHA256.get(filename)
    if expected is None:
        blob = path.resolve().name  # the Hub's cache names large files by their sha256
        expected = blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None
    if expected is not None and (found := file_sha256(path)) != expected:
        raise WeightsError(
            f"{path} is damaged or not the published file: sha256 {found}, expected {expected}; delete it and retry"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, or from a PyTorch file without executing anything in it.

    PyTorch files are unpickled with ``weights_only=True``; ``argparse.Namespace``, a plain record that the released Vim files
    hold, is the one extra type allowed. The tensors are taken from the entry "model" or "state_dict" where there is one.

    Raises:
        WeightsError: No such file, unreadable, holds code or other objects, or holds no tensors. Whether the values are
            finite is checked when they are fitted to a model.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist")
    if path.suffix == ".safetensors":
        try:
            state: Any = load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    else:
        state = _unpickle(path)
    for entry in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(entry), dict):
            state = state[entry]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            f"{path} holds no state dict (a mapping from names to tensors, or one under 'model' or 'state_dict')"
        )
    return without_wrappers({str(name): tensor for name, tensor in state.items()})


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` without what ``DataParallel`` and ``torch.compile`` put in front of every name."""
    for prefix in _WRAPPERS * 2:  # one in the other, in either order
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)


_WRAPPERS = ("module.", "_orig_mod.")


def _unpickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"(?:Unsupported|unsupported).*?(?:global|GLOBAL):? ?(?:GLOBAL )?([\w.]+)", str(error))
        what = f"it asks to run {refused[1]}" if refused else "it is no plain file of tensors"
        raise WeightsError(f"refused to read {path}: {what}. Only tensors are read, nothing in a file is executed") from error
    except Exception as error:  # the unpickler raises anything at all on a damaged file
        raise WeightsError(f"{path} is not a readable PyTorch file: {error}") from error


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError naming the first tensor with NaN or infinity."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise WeightsError(f"{source}: {name} holds {count} non-finite values of {tensor.numel()}")


def resize_pos_embed(pos_embed: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Resize a position embedding whose class token's row sits in the middle of the sequence.

    The image tokens' rows are resampled over the grid (bicubic, antialiased, as timm does); the class token's row keeps its
    value and moves to the new middle. The same grid gives the same tensor back.

    Args:
        pos_embed: (1, rows * columns + 1, embed_dim).
        old_grid: (rows, columns) of `pos_embed`.
        new_grid: (rows, columns) wanted.

    Raises:
        ValueError: `pos_embed` does not fit `old_grid`.
    """
    old_patches, new_patches = old_grid[0] * old_grid[1], new_grid[0] * new_grid[1]
    if pos_embed.shape[1] != old_patches + 1:
        raise WeightsError(f"pos_embed has {pos_embed.shape[1]} rows, a grid of {old_grid} needs {old_patches + 1}")
    if old_grid == new_grid:
        return pos_embed
    m = old_patches // 2
    patches = torch.cat([pos_embed[:, :m], pos_embed[:, m + 1 :]], dim=1)
    patches = resample_abs_pos_embed(patches, new_size=list(new_grid), old_size=list(old_grid), num_prefix_tokens=0)
    n = new_patches // 2
    return torch.cat([patches[:, :n], pos_embed[:, m : m + 1], patches[:, n:]], dim=1)


def adapt_to_model(state: dict[str, Tensor], model: nn.Module, source: str = "the weights") -> dict[str, Tensor]:
    """Fit a backbone's state dict to `model`: resize a square position embedding where the grids differ.

    Raises:
        WeightsError: A tensor has another shape than the model's (except head and input convolution, which timm adapts), or
            is not finite, or the position embedding is not that of a square grid; names `source`.
    """
    state = dict(state)
    check_finite(state, source)
    own = model.state_dict()
    pos_embed = state.get("pos_embed")
    if pos_embed is not None and pos_embed.shape != own["pos_embed"].shape:
        if pos_embed.ndim != 3 or not pos_embed.numel():
            raise WeightsError(f"{source}: pos_embed has shape {tuple(pos_embed.shape)}, expected (1, patches + 1, embed_dim)")
        rows = pos_embed.shape[1]
        side = math.isqrt(rows - 1)
        if side == 0 or side * side + 1 != rows:
            raise WeightsError(f"{source}: pos_embed has {rows} rows: not a square grid and a class token")
        grid: Any = model.get_submodule("patch_embed").grid_size
        if isinstance(model, VisionTransformer):
            state["pos_embed"] = resample_abs_pos_embed(pos_embed, new_size=list(grid), num_prefix_tokens=1)
        else:
            state["pos_embed"] = resize_pos_embed(pos_embed, (side, side), grid)
    check_shapes(state, own, source, ignore=("head.weight", "head.bias", _PATCH_WEIGHT))
    return state


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str = "the weights") -> LoadReport:
    """Load by name, the position embedding resized; a head of another size is left out, and the report says so.

    Weights of a patch embedding for RGB are adapted to another number of channels as timm does it: summed over the colors for
    one channel, else repeated and scaled by 3 / channels.

    A norm or linear map without bias gets one where `state` has one: a merged tuner may have put it there.

    Raises:
        WeightsError: Another shape does not fit, or values are not finite; names `source`.
    """
    own = model.state_dict()
    head = [n for n in state if n.startswith("head.")]
    other_head = [n for n in head if n not in own or own[n].shape != state[n].shape]
    left_out = head if other_head else []
    state = adapt_to_model({n: t for n, t in state.items() if n not in left_out}, model, source)
    embedding = state.get(_PATCH_WEIGHT)
    if embedding is not None and embedding.ndim == 4 and embedding.shape[1] == 3 != own[_PATCH_WEIGHT].shape[1]:
        state[_PATCH_WEIGHT] = adapt_input_conv(own[_PATCH_WEIGHT].shape[1], embedding)
    check_shapes(state, own, source)
    for name, module in model.named_modules():
        bias = state.get(f"{name}.bias")
        if bias is not None and module._parameters.get("bias", bias) is None and bias.shape == module.weight.shape[:1]:
            give_bias(module)
    result = model.load_state_dict(state, strict=False)
    return LoadReport(
        loaded=len(state) - len(result.unexpected_keys),
        missing=tuple(result.missing_keys),
        unexpected=(*result.unexpected_keys, *left_out),
    )


def give_bias(module: nn.Module) -> nn.Parameter:
    """The bias of a linear map, norm or convolution; one of zeros if it had none."""
    weight: Any = module.weight
    if module.bias is None:
        module.bias = nn.Parameter(weight.new_zeros(len(weight)))
    return module.bias  # type: ignore[return-value]


def check_shapes(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str = "the weights", ignore: tuple[str, ...] = ()
) -> None:
    """Raise WeightsError that lists every tensor of `state` whose shape is not that in `own`."""
    wrong = [
        f"{name}: file {tuple(tensor.shape)}, model {tuple(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and name not in ignore and tensor.shape != own[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise WeightsError(f"{source}: weights of another model: {'; '.join(wrong[:5])}{more}")


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of a backbone's tensors, in hexadecimal.

    Left out are the head, and ``pos_embed``: it may be resampled for the image size, and the last bits of that depend on the
    CPU.
    """
    digest = hashlib.sha256()
    for name in sorted(n for n in state if not n.startswith("head.") and n != "pos_embed"):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
