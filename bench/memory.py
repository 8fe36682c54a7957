"""`python -m bench.memory FOLDER COUNT`: dump activations and print the peak memory in MiB."""

import resource
import sys
from pathlib import Path

from bench.models import mid_checkpoint, prompts
from steer.activations import dump
from steer.config import ActivationSettings, ModelSettings
from steer.models.loading import load_checkpoint
from tests.activation_sets import facts_of


def main(folder: Path, count: int) -> None:
    """Dump `count` prompts of the mid model."""
    loaded = load_checkpoint(mid_checkpoint(folder))
    model = ModelSettings(path="bench", batch_size=32)
    dump(loaded, facts_of(loaded), prompts(count), folder / f"{count}.h5", model, ActivationSettings())
    # Linux counts in KiB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
