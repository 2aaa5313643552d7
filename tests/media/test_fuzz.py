"""Mutated files are read or refused in one line: a short part of benchmarks/stress/fuzz_inputs.py."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

FUZZER = pathlib.Path(__file__).parents[2] / "benchmarks" / "stress" / "fuzz_inputs.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the fuzzer forks")
@pytest.mark.parametrize(
    ("subject", "count", "seed"),
    [("media", 48, 7), ("checkpoint", 15, 7)],  # the eighth checkpoint has a name of 2 GB
)
def test_mutated_files_are_read_or_refused_in_one_line(subject, count, seed):
    command = [sys.executable, str(FUZZER), "--subject", subject, "--count", str(count), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result.get("read", 0) + result.get("refused", 0) == count
    assert result["refused"] > 0  # the mutations are not harmless
