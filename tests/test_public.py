"""The public names: they are there, they are typed, and `import orpo` costs nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

import orpo
from orpo import errors


def run_python(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_importing_orpo_loads_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "datasets", "peft", "accelerate", "numpy", "matplotlib"]
    code = f"import sys, orpo; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_one_name_loads_no_more_than_it_needs() -> None:
    code = "import sys; from orpo import orpo_loss; print('transformers' in sys.modules)"
    assert run_python(code).strip() == "False"


def test_the_errors_can_be_caught_without_loading_anything() -> None:
    code = "import sys; from orpo import ConfigError; print('torch' in sys.modules)"
    assert run_python(code).strip() == "False"


@pytest.mark.parametrize("name", orpo.__all__)
def test_every_public_name_resolves_and_says_what_it_is(name: str) -> None:
    found = getattr(orpo, name)
    assert found.__name__ == name
    assert (found.__doc__ or "").strip()
    assert name in dir(orpo)


def test_public_names_are_sorted_and_unique() -> None:
    assert len(set(orpo.__all__)) == len(orpo.__all__)
    contract = {"ORPOConfig", "ORPOTrainer", "orpo_loss", "ConfigError", "DataError", "ModelError"}
    assert contract <= set(orpo.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ORPOTrainr'"):
        _ = orpo.ORPOTrainr


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert orpo.__version__ == version("orpo")


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(orpo.__file__).parent / "py.typed").is_file()


def test_every_error_has_one_root() -> None:
    found = [one for one in vars(errors).values() if isinstance(one, type)]
    own = [one for one in found if one.__module__ == "orpo.errors"]
    assert len(own) >= 11
    assert all(issubclass(one, errors.OrpoError) for one in own)


def test_an_error_of_the_user_fits_on_one_line() -> None:
    error = errors.ConfigError("is\n  wrong", where="max_length", fix="Make it\nright.")
    assert str(error) == "max_length: is wrong. Make it right."
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("THP_MEM_ALLOC_ENABLE", "1"),
        ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128"),
        ("LRU_CACHE_CAPACITY", "128"),
    ],
)
def test_memory_is_used_with_care_unless_the_user_says_otherwise(name: str, value: str) -> None:
    code = f"import os, orpo; print(os.environ['{name}'])"
    assert run_python(f"import os; os.environ.pop('{name}', None);" + code) == f"{value}\n"
    assert run_python(f"import os; os.environ['{name}'] = '0';" + code) == "0\n"
