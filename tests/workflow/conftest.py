import pytest

from tests.workflow.project import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose tiny flow ran to its end; changed only for the length of a block."""
    project = Project.tiny(tmp_path_factory.mktemp("flow") / "finished")
    project.run()
    return project
