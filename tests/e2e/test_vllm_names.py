"""The options and variables that the tests hold rules against are those of the installed vLLM."""

import json
import subprocess
import sys
from pathlib import Path

NAMES = Path(__file__).parents[1] / "unit" / "data" / "vllm_names.json"

LIST = """
import json
from vllm import envs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
written = [text for each in make_arg_parser(FlexibleArgumentParser())._actions
           for text in each.option_strings]
options = {text[2:] for text in written if text[:2] == "--" and text[:5] != "--no-"}
print(json.dumps({"options": sorted(options), "variables": sorted(envs.environment_variables)}))
"""


def test_the_names_are_those_of_vllm() -> None:
    """Where this fails, write what is found into the file."""
    told = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout.splitlines()[-1]) == json.loads(NAMES.read_text())
