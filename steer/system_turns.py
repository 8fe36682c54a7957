"""System turns in the words of papers: fetched texts, put into the settings of the models that name them."""

from pathlib import Path

from steer.config import Config, ModelSettings
from steer.errors import SteerError
from steer.sources import find_source, read_source


def with_system_turns(config: Config, table: Path) -> Config:
    """The configuration with the texts of fetched system turns; those that are not there yet stay names.

    Raises:
        SteerError: a name is not in the table, or its file is not one text.
    """
    folder = Path(config.results) / "downloads"
    models = {name: _with_text(model, folder, table) for name, model in config.models.items()}
    return config if models == config.models else config.model_copy(update={"models": models})


def _with_text(model: ModelSettings, folder: Path, table: Path) -> ModelSettings:
    if model.system_source is None:
        return model
    source = find_source(model.system_source, table)
    if source.kind != "system":
        cause = f"is no system turn: its kind is {source.kind}"
        raise SteerError(f"source `{source.name}`", cause, "name a row of the kind `system`")
    path = folder / source.name
    if not path.is_file():
        return model
    texts = [row["text"] for row in read_source(path, source)]
    if len(texts) != 1:
        raise SteerError(str(path), f"holds {len(texts)} texts, not one", f"correct the row `{source.name}`")
    return model.model_copy(update={"system_prompt": texts[0]})
