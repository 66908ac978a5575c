"""The public contract on the lowest and the newest transformers of the range in pyproject.toml.

    python scripts/contract_on_versions.py              the lowest and the newest
    python scripts/contract_on_versions.py 5.15.1       others

Each version goes, with what it needs itself, into a folder that is thrown away, ahead of the
packages of this environment; torch stays. The tests that rely on transformers' internals are run
with it: the contract, the flags, resuming, the metrics, the golden curve.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = (
    "tests/test_contract.py",
    "tests/test_config.py",
    "tests/train/test_golden.py",
    "tests/train/test_resume.py",
    "tests/train/test_metrics.py",
)


def tested_range() -> tuple[str, str]:
    """The lowest version that is allowed, and the first one that is not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (line,) = (one for one in project["dependencies"] if one.startswith("transformers"))
    found = re.fullmatch(r"transformers>=([\d.]+),<([\d.]+)", line)
    if found is None:
        raise SystemExit(f"pyproject.toml names no range of transformers: {line}")
    return found[1], found[2]


def run_on(requirement: str) -> int:
    """Run the tests with one version; the exit code of pytest."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    with tempfile.TemporaryDirectory(prefix="orpo-transformers-") as folder:
        subprocess.run([*pip, "--target", folder, requirement], check=True)  # noqa: S603
        path = os.pathsep.join((folder, str(ROOT / "src")))
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
        words = "import transformers; print('transformers', transformers.__version__, flush=True)"
        subprocess.run([sys.executable, "-c", words], env=environment, check=True)  # noqa: S603
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
        return subprocess.run(pytest, cwd=ROOT, env=environment, check=False).returncode  # noqa: S603


def main() -> int:
    """Try the versions that were asked for."""
    lowest, beyond = tested_range()
    asked = [f"transformers=={one}" for one in sys.argv[1:]]
    codes = [run_on(one) for one in asked or (f"transformers=={lowest}", f"transformers<{beyond}")]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
