import pytest

from tests.workflow.project import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose tiny flow ran to its end; changed only for the length of a block."""
    project = Project.of_the_checkout(tmp_path_factory.mktemp("flow") / "finished")
    # One model is enough: a second one runs the same rules again, and takes as long.
    project.keep_models("organism")
    project.run()
    return project
