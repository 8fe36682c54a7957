"""Whether the tasks that a study names are there, said before anything is run."""

import re
from pathlib import Path

from steer.config import Config


def check_tasks(config: Config) -> None:
    """Check that the tasks of lm-evaluation-harness are known, before anything is made to run them.

    Args:
        config: the study.

    Raises:
        SteerError: neither the harness nor the study has a task of that name.
    """
    own = "\n".join(path.read_text() for path in Path(config.capability.folder).rglob("*.yaml"))
    asked = config.capability.wanted
    if not {*asked} <= {*re.findall(r"^task: *(\S+) *$", own, flags=re.MULTILINE)}:
        # It takes seconds to import, and as many to look through its thousands of tasks.
        from steer.capability.tasks import known_tasks

        known_tasks(asked, Path(config.capability.folder))
