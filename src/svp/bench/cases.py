"""What is timed: a model, what is done with it, and in which precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from svp.models import create_model
from svp.models.factory import full_name
from svp.tuners import tune

CLASSES = 100
Mode = Literal["inference", "training"]
Precision = Literal["fp32", "bf16"]
Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A piece of work.

    Args:
        model: A Vim, or a Vision Transformer to compare with.
        mode: "inference", logits of a batch; "training", a step of AdamW: of SVP on a Vim, of VPT-deep on a Vision
            Transformer, the backbone frozen.
        precision: "bf16" stores weights and activations so; the residual stream and the scan's state stay float32.
        batch_size: Images.
        img_size: Their side in pixels.
        grad_checkpointing: Compute blocks again in the backward pass.
    """

    model: str
    mode: Mode = "inference"
    precision: Precision = "fp32"
    batch_size: int = 8
    img_size: int = 224
    grad_checkpointing: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]

    @property
    def work(self) -> str:
        """The mode, and whether blocks are computed again."""
        return f"{self.mode}, checkpoints" if self.grad_checkpointing else self.mode


def build(case: Case, device: torch.device) -> Any:
    """The model of random weights, tuned if the case is training."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        model = create_model(case.model, img_size=case.img_size, num_classes=CLASSES)
    if case.mode == "training":
        tune(model, "svp" if full_name(case.model).startswith("vim") else "vpt_deep")
    model.set_grad_checkpointing(case.grad_checkpointing)
    return model.to(case.dtype).train(case.mode == "training")


def make_step(case: Case, model: Any, device: torch.device) -> Step:
    """One batch through `model`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        images = torch.randn(case.batch_size, 3, case.img_size, case.img_size).to(device, case.dtype)
    if case.mode == "inference":

        @torch.inference_mode()
        def infer() -> Tensor:
            return model(images)

        return infer
    labels = torch.arange(case.batch_size, device=device) % CLASSES
    optimizer = torch.optim.AdamW(model.tuner.trainable_parameters(), lr=1e-4)

    def train() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(images).float(), labels))
        optimizer.step()

    return train


def ours(case: Case, device: torch.device) -> Step:
    """The project's own choice of backend."""
    return make_step(case, build(case, device), device)
