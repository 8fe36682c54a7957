"""Forward hooks that are always removed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from torch import Tensor, nn

Kind = Literal["before", "after", "call"]
Register = tuple[nn.Module, Kind, Callable[..., Any]]


@contextmanager
def hooked(hooks: Sequence[Register]) -> Iterator[None]:
    """Register hooks (module, kind, function) for the length of a block.

    Kinds, by what the function takes and gives: `before` (first argument) → its replacement or None;
    `after` (module, args, output) → the output's replacement or None; `call` (module, args, kwargs) → None,
    before as well.
    """
    with ExitStack() as stack:
        for module, kind, function in hooks:
            stack.callback(_register(module, kind, function).remove)
        yield


def _register(module: nn.Module, kind: Kind, function: Callable[..., Any]) -> Any:
    if kind == "before":
        return module.register_forward_pre_hook(_replacing_first(function), with_kwargs=True)
    if kind == "call":
        return module.register_forward_pre_hook(function, with_kwargs=True)
    return module.register_forward_hook(function)


def _replacing_first(function: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        replaced = function(args[0])
        return None if replaced is None else ((replaced, *args[1:]), kwargs)

    return hook


def first(output: Any) -> Tensor:
    """The tensor that a module returns, alone or as the first of a tuple."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def with_first(output: Any, tensor: Tensor) -> Any:
    """`output` with its first tensor replaced."""
    return (tensor, *output[1:]) if isinstance(output, tuple) else tensor
