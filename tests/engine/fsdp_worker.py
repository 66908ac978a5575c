"""One of two processes: the shared engine on a model whose weights FSDP2 keeps in pieces.

python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.engine.fsdp_worker OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from orpo.engine.fused_head import FusedHead
from orpo.engine.padded import PaddedEngine
from orpo.engine.shared import SharedEngine
from tests.engine.families import LENGTHS, collate, orpo_like, random_pairs
from tests.train.small import tiny_llama

PAIRS = random_pairs(3, [*LENGTHS, (4, 6, 9)])


def gradients(model: Any) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        found[name] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad.clone()
    return found


def apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    a, b = (torch.cat([x[name].flatten() for name in theirs]) for x in (ours, theirs))
    return float((a - b).norm() / b.norm())


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    rank, result = dist.get_rank(), {}
    for tied in (False, True):
        for engine in (SharedEngine(), PaddedEngine(head=FusedHead())):
            whole = tiny_llama(tie_word_embeddings=tied)
            PaddedEngine()(whole, collate(PAIRS), orpo_like).loss.backward()
            model = tiny_llama(tie_word_embeddings=tied)
            mesh = init_device_mesh("cpu", (2,))
            for layer in model.model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            half = collate(PAIRS[rank::2])
            for _ in range(2):  # a second pass meets weights that were gathered and let go
                model.zero_grad()
                (2 * engine(model, half, orpo_like).loss).backward()  # FSDP averages over ranks
            result[f"{engine.name}, tied {tied}"] = apart(gradients(model), gradients(whole))
    if rank == 0:
        out.write_text(json.dumps(result), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
