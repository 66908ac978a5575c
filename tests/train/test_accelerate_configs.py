"""The shipped accelerate configs mean what their comments say, as accelerate itself reads them."""

import os
from unittest.mock import patch

import pytest
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import StateDictType

from tests.train.accelerate_configs import CONFIGS, environment, launch_arguments


def test_ddp_wraps_nothing_else() -> None:
    names = {path.stem for path in CONFIGS.glob("*.yaml")}
    assert names == {"ddp", "fsdp2", "fsdp2_two_nodes", "zero2", "zero3"}  # all are tested
    found = launch_arguments("ddp")
    assert found.multi_gpu
    assert not found.use_fsdp
    assert not found.use_deepspeed
    assert (found.num_processes, found.mixed_precision) == (8, "bf16")
    assert launch_arguments("ddp", "--num_processes", "3").num_processes == 3


@pytest.mark.parametrize("name", ["fsdp2", "fsdp2_two_nodes"])
def test_fsdp2_divides_everything(name: str) -> None:
    given = environment(name)
    assert given["ACCELERATE_USE_FSDP"] == "true"
    with patch.dict(os.environ, given):
        plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type is StateDictType.SHARDED_STATE_DICT
    assert plugin.cpu_ram_efficient_loading
    assert not plugin.activation_checkpointing  # gradient_checkpointing of the recipe does it
    found = launch_arguments("fsdp2_two_nodes", "--machine_rank", "1", "--main_process_ip", "n0")
    assert (found.num_machines, found.num_processes, found.machine_rank) == (2, 16, 1)
    assert found.main_process_ip == "n0"


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_has_its_stage(stage: int) -> None:
    found = launch_arguments(f"zero{stage}")
    assert found.use_deepspeed
    given = environment(f"zero{stage}")
    assert given["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert given["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)
    saved = given.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", "false")
    assert saved.lower() == ("true" if stage == 3 else "false")
