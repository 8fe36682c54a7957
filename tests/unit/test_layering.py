"""Imports flow one way, and one module spells the names of a Hugging Face model."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

from steer.figures import index, registry
from steer.stages import JUDGES, STAGES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "steer"
FILES = sorted(PACKAGE.rglob("*.py"))
# Modules inside transformers' models, by names that mean nothing else,
SPELT = {"self_attn", "embed_tokens", "lm_head", "input_layernorm", "post_attention_layernorm"}
SPELT |= {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "gate_up_proj"}
SPELT |= {"block_sparse_moe", "shared_expert", "shared_mlp"}
# and by names that our own sites of a layer have as well.
AMBIGUOUS = {"mlp", "gate", "router"}
OWN_SITES = {"sites", "layout"}
# Folders of a stage of its own: what is in one may import the rest of the same one.
STAGE_FOLDERS = ("directions", "routing", "selection", "organism", "upcycling", "figures", "detection")
STAGE_FOLDERS += ("truth", "scorecard", "capability")
COMMAND_LINE = ("steer.cli", "steer.__main__")


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _stage_of(module: str) -> str | None:
    """The stage that a module belongs to; None for what stages share."""
    parts = module.split(".")
    if len(parts) > 1 and parts[1] in STAGE_FOLDERS:
        return parts[1]
    own = {stage.module for stage in STAGES.values()} | {"steer.documentation"}
    return module if module in own else None


IMPORTS = {_module(path): {*_imports(path)} for path in FILES}


def test_the_table_of_stages_is_the_one_that_is_looked_at() -> None:
    stages = {_stage_of(stage.module) for stage in STAGES.values()}
    assert None not in stages
    assert {
        "routing",
        "selection",
        "organism",
        "steer.generation",
        "steer.activations",
        "steer.scores",
    } <= stages
    assert all(_stage_of(registry.module_of(name)) == "figures" for name in index.FIGURES)
    assert all(module in IMPORTS for module in JUDGES.values())


def test_a_stage_imports_no_other_stage() -> None:
    # Settings are typed where they are used.
    for module, imported in IMPORTS.items():
        others = {_stage_of(name) for name in imported} - {None, _stage_of(module)}
        if not module.startswith(COMMAND_LINE):
            assert others <= ({"organism", "upcycling"} if module == "steer.config.models" else set()), module


def test_nothing_in_the_package_knows_the_workflow_or_the_tests() -> None:
    for module, imported in IMPORTS.items():
        assert not {name.split(".")[0] for name in imported} & {"snakemake", "tests", "bench"}, module


def test_what_stages_share_does_not_import_them() -> None:
    shared = (
        "steer.artifacts",
        "steer.models",
        "steer.stats",
        "steer.errors",
        "steer.grammar",
        "steer.training",
    )
    for module, imported in IMPORTS.items():
        if module.startswith(shared):
            assert not {name for name in imported if _stage_of(name)}, module


def test_errors_and_statistics_depend_on_nothing_of_ours() -> None:
    for module in ("steer.errors", "steer.stats"):
        assert not {name for name in IMPORTS[module] if name.split(".")[0] == "steer"}


def test_imports_have_no_circle() -> None:
    graph = {
        module: {name for name in imported if name in IMPORTS and name != module}
        for module, imported in IMPORTS.items()
    }
    while graph:
        free = {module for module, imported in graph.items() if not imported & graph.keys()}
        assert free, f"a circle among {sorted(graph)}"
        graph = {module: imported for module, imported in graph.items() if module not in free}


def _spelt(path: Path) -> Iterator[str]:
    """Where a file names a module of a Hugging Face model, as an attribute or as a text."""
    ambiguous = AMBIGUOUS if path.parent == PACKAGE / "models" else set()
    for node in ast.walk(ast.parse(path.read_text())):
        found: set[str] = set()
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else None
            found = {node.attr} & (SPELT if owner in OWN_SITES else SPELT | ambiguous)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = SPELT & {*node.value.split(".")}
        if found:
            yield f"{path}, line {node.lineno}: {', '.join(found)}"


def test_only_one_module_spells_the_attributes_of_a_model() -> None:
    home = PACKAGE / "models" / "architectures.py"
    assert [place for path in FILES if path != home for place in _spelt(path)] == []
    # What is looked for is really there to be found.
    assert [*_spelt(home)]


def test_every_module_can_be_imported_on_its_own() -> None:
    for module in sorted(IMPORTS):
        if module != "steer.__main__":
            importlib.import_module(module)
