# SPDX-License-Identifier: Apache-2.0
"""Run as a program: one of the processes of a DistributedDataParallel, or the only one.

python -m support.torch_training RANK SIZE FOLDER    writes FOLDER/RANK-of-SIZE.npz and .json
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from support.train_steps import BATCH, batches, make_model, weights_of


def main(rank: int, size: int, folder: Path) -> None:
    model = make_model(batch_norm=False)
    if rank:  # whose weights are to be those of the first process, and its own forgotten
        for variable in model.trainable_variables:
            variable.assign(variable + 1)
    trained = model
    if size > 1:
        store = f"file://{folder / 'store'}"
        torch.distributed.init_process_group("gloo", store, rank=rank, world_size=size)
        trained = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(trained.parameters(), 0.05, momentum=0.9)
    rows = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
    losses, gradients = [], {}
    with torch.profiler.profile() as profile:
        for x, y in batches():
            inputs = [torch.from_numpy(array[rows]) for array in x]
            loss = ((trained(inputs, training=True) - torch.from_numpy(y[rows])) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            gradients = gradients or {
                f"gradient of {v.path}": v.value.grad.numpy().copy()
                for v in model.trainable_variables
            }
            optimizer.step()
    ops = {event.key: event.count for event in profile.key_averages() if "mlayers::" in event.key}
    path = folder / f"{rank}-of-{size}"
    np.savez(path.with_suffix(".npz"), **weights_of(model), **gradients)
    path.with_suffix(".json").write_text(json.dumps({"losses": losses, "ops": ops}))
    if size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    assert keras.backend.backend() == "torch"
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
