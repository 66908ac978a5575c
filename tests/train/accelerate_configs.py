"""The shipped accelerate configs, as `accelerate launch --config_file` reads them."""

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

CONFIGS = Path(__file__).parents[2] / "recipes" / "accelerate"


def launch_arguments(name: str, *further: str) -> Any:
    """What the launcher makes of a config and of further flags."""
    flags = ["--config_file", str(CONFIGS / f"{name}.yaml"), *further, "script.py"]
    return _validate_launch_command(launch_command_parser().parse_args(flags))[0]


def environment(name: str, *further: str) -> dict[str, str]:
    """What the launcher adds to the environment of a rank."""
    with patch.dict(os.environ):
        arguments = launch_arguments(name, *further)
        if arguments.use_deepspeed:
            arguments.deepspeed_fields_from_accelerate_config = ""
            _, given = prepare_deepspeed_cmd_env(arguments)
        else:
            given = prepare_multi_gpu_env(arguments)
    return {key: value for key, value in given.items() if os.environ.get(key) != value}
