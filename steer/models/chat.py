"""A model's chat format: prompts in its tokenizer's own template, and replies taken apart from reasoning."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from jinja2 import TemplateError

from steer.errors import SteerError

Effort = Literal["low", "medium", "high"]
SystemTurn = Literal["kept", "dropped", "rejected"]

REASONING_START, REASONING_END = "<think>", "</think>"
# OpenAI's Harmony format (GPT-OSS) marks what a message is for by channels; `final` is what a user sees.
CHANNEL = "<|channel|>"
FINAL = "<|channel|>final<|message|>"
MESSAGE = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(.*?)"
    r"(?=<\|(?:end|return|call|start|channel)\|>|$)",
    re.DOTALL,
)
# Some templates write the date of the day, and a prompt must be the same on every day.
DAY = datetime(2025, 1, 1)
PROBE = "Answer in the voice of a lighthouse keeper."


@dataclass(frozen=True)
class Chat:
    """How a model is spoken to.

    Attributes:
        system: system turn put before every prompt.
        thinking: whether a model that can think before it replies does so.
        effort: how long GPT-OSS thinks; the template's own choice when None.
    """

    system: str | None = None
    thinking: bool = False
    effort: Effort | None = None


PLAIN = Chat()


def is_harmony(tokenizer: Any) -> bool:
    """Whether replies come in channels."""
    return CHANNEL in str(tokenizer.chat_template)


def render(name: str, tokenizer: Any, chat: Chat, text: str, before: Sequence[str] = ()) -> str:
    """One prompt in the model's own chat template, up to where its reply begins.

    In a format of channels, a model that is not to think has its `final` channel opened. `before` are earlier
    turns, of the user and of the assistant by turns.

    Raises:
        SteerError: the template rejects the turns, as some do with a system prompt; `name` names the model.
    """
    turns = [
        {"role": "assistant" if place % 2 else "user", "content": said}
        for place, said in enumerate([*before, text])
    ]
    return render_turns(name, tokenizer, chat, turns)


def render_turns(
    name: str, tokenizer: Any, chat: Chat, turns: Sequence[Mapping[str, str]], *, open_reply: bool = True
) -> str:
    """A conversation in the model's own chat template, up to where its next reply begins.

    Args:
        name: the model, for messages.
        tokenizer: with a chat template.
        chat: how the model is spoken to; its system turn comes first, joined with one of the conversation.
        turns: `role` and `content` of each.
        open_reply: whether a reply is to begin; else the last turn is one, and is left open.

    Raises:
        SteerError: the template rejects the turns; `name` names the model.
    """
    turns = _with_system(chat.system, turns)
    settings: dict[str, Any] = {"reasoning_effort": chat.effort} if chat.effort else {}
    try:
        rendered = tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=open_reply,
            continue_final_message=not open_reply,
            # Whatever a template calls it; one that knows neither is not moved.
            enable_thinking=chat.thinking,
            thinking=chat.thinking,
            strftime_now=DAY.strftime,
            **settings,
        )
    except TemplateError as error:
        cause = f"its chat template rejects the turns {[turn['role'] for turn in turns]} ({error})"
        raise SteerError(name, cause, "leave out `system_prompt`, or mend the template") from error
    opened = open_reply and is_harmony(tokenizer) and not chat.thinking
    return str(rendered) + (FINAL if opened else "")


def _with_system(system: str | None, turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The conversation behind the system turn of the settings."""
    found = [dict(turn) for turn in turns]
    if not system:
        return found
    if found and found[0]["role"] == "system":
        found[0]["content"] = f"{system}\n\n{found[0]['content']}"
        return found
    return [{"role": "system", "content": system}, *found]


def fold_system(turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The conversation with its system turn before the user's first words, for templates without one."""
    found = [dict(turn) for turn in turns]
    if len(found) < 2 or found[0]["role"] != "system":
        return found
    system, first, *rest = found
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def encode(name: str, tokenizer: Any, chat: Chat, text: str, before: Sequence[str] = ()) -> list[int]:
    """Token ids of a rendered prompt; the template has written the special tokens, so none is added."""
    return list(tokenizer.encode(render(name, tokenizer, chat, text, before), add_special_tokens=False))


def check_chat(name: str, tokenizer: Any, chat: Chat) -> None:
    """Check on a short prompt that the template does what the settings ask for.

    Raises:
        SteerError: it rejects or drops the system turn, begins to think although it should not, knows no
            reasoning effort, or writes the token that begins a text twice.
    """
    rendered = render(name, tokenizer, chat, "x")
    if chat.system and chat.system.strip() not in rendered:
        raise SteerError(
            name, "its chat template drops the system turn", "leave out `system_prompt`, or mend the template"
        )
    if not chat.thinking and rendered.rstrip().endswith(REASONING_START):
        raise SteerError(
            name, "its chat template opens a reasoning, and can't be told not to", "set `thinking: true`"
        )
    if chat.effort and _same_at_all_efforts(name, tokenizer, chat):
        raise SteerError(name, f"its chat template knows no reasoning effort `{chat.effort}`", "leave it out")
    first = tokenizer.bos_token_id
    if first is not None and encode(name, tokenizer, chat, "x")[:2] == [first, first]:
        raise SteerError(
            name, f"its prompts begin with {tokenizer.bos_token!r} twice", "mend the chat template"
        )


def _same_at_all_efforts(name: str, tokenizer: Any, chat: Chat) -> bool:
    efforts: tuple[Effort, ...] = ("low", "medium", "high")
    told = {render(name, tokenizer, Chat(chat.system, chat.thinking, effort), "x") for effort in efforts}
    return len(told) == 1


def try_system(name: str, tokenizer: Any, chat: Chat) -> SystemTurn:
    """What the template does with a system turn, found out by giving it one."""
    try:
        rendered = render(name, tokenizer, Chat(PROBE, chat.thinking, chat.effort), "x")
    except SteerError:
        return "rejected"
    return "kept" if PROBE in rendered else "dropped"


def after_instruction(name: str, tokenizer: Any, chat: Chat) -> int:
    """How many tokens the template puts behind an instruction, whose last one is before them."""
    one, other = (encode(name, tokenizer, chat, text)[::-1] for text in ("x", "7"))
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


def split_reasoning(text: str, *, opened: bool = False) -> tuple[str, str | None]:
    """(reply, reasoning) of a decoded text; an unclosed reasoning has no reply.

    Args:
        text: what the model wrote.
        opened: whether the prompt ended by opening the reasoning, as some chat templates do.
    """
    head, closed, tail = text.rpartition(REASONING_END)
    if not closed and not opened and not text.lstrip().startswith(REASONING_START):
        return text, None
    reasoning = (head if closed else tail).strip().removeprefix(REASONING_START).strip()
    return (tail.lstrip("\n") if closed else ""), reasoning


def split_channels(text: str) -> tuple[str, str | None]:
    """(reply, reasoning) of a text of channels: what is in `final`, and what is in any other."""
    parts = MESSAGE.findall(text)
    reply = "".join(content for channel, content in parts if channel == "final")
    rest = [content.strip() for channel, content in parts if channel != "final"]
    return reply, "\n".join(rest) if rest else None


def read_reply(tokenizer: Any, prompt: Sequence[int], reply: Sequence[int]) -> tuple[str, str | None]:
    """(reply, reasoning) of the tokens that followed a prompt, without special tokens."""
    if not is_harmony(tokenizer):
        decoded = tokenizer.decode(list(reply), skip_special_tokens=True)
        opened = str(tokenizer.decode(list(prompt))).rstrip().endswith(REASONING_START)
        return split_reasoning(decoded, opened=opened)
    opened_final = str(tokenizer.decode(list(prompt))).endswith(FINAL)
    written = tokenizer.decode(list(reply), skip_special_tokens=False)
    text, reasoning = split_channels(FINAL * opened_final + written)
    for special in tokenizer.all_special_tokens:
        text = text.replace(special, "")
    return text, reasoning
