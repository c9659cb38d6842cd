"""Two gloo processes on the CPU train a tuned model without looking for unused parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp


def train(rank: int | None = None) -> dict[str, torch.Tensor]:
    """Three steps on the whole batch, or on one rank's half of it; returns the trained values."""
    import svp
    from tests.models.small import images, small_vim

    model = small_vim().train()
    torch.manual_seed(0)
    tuner = svp.tune(model, "svp", shared_layers=2, hidden_dim=4)
    module = model if rank is None else torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(tuner.trainable_parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        batch = images(model, batch=4, seed=step)
        module(batch if rank is None else batch[2 * rank : 2 * rank + 2]).square().mean().backward()
        optimizer.step()
    return tuner.state_dict()


def run_rank(rank: int, folder: str) -> None:
    """What one process does."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(train(rank), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.exhaustive
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    mp.spawn(run_rank, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = train()
    assert list(first) == list(second) == list(alone)
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-6, msg=name)
    assert alone["svp.inner_scale"].abs().min() > 0  # it did train
