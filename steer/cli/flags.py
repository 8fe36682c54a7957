"""Every flag of the command line: what kind of value it takes, and what to give it."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["text", "path", "paths", "switch"]


@dataclass(frozen=True)
class Flag:
    """One flag, the same in every command that has it.

    Attributes:
        help: what to give it; paths are under `results/`, unless they say otherwise.
        kind: how it is read; `paths` are one or more, and may be none where they are optional, so that a
            rule can pass on whatever there is.
    """

    help: str
    kind: Kind = "path"

    def add(self, command: argparse.ArgumentParser, name: str, *, required: bool) -> None:
        """Give a command this flag."""
        if not name.startswith("-"):
            command.add_argument(name, nargs=None if required else "?", help=self.help)
        elif self.kind == "switch":
            command.add_argument(name, action="store_true", help=self.help)
        elif self.kind == "paths":
            count = "+" if required else "*"
            command.add_argument(
                name, required=required, type=Path, nargs=count, metavar="FILE", help=self.help
            )
        else:
            read, shown = (str, "NAME") if self.kind == "text" else (Path, "FILE")
            command.add_argument(name, required=required, type=read, metavar=shown, help=self.help)


FLAGS = {
    "--activations": Flag(
        "recorded activations, <model>/activations/<set>.h5: of `contrast` harmful first, of a routing"
        " contrast its two sides, and of swaps one for each of --prompt-sets",
        "paths",
    ),
    "--agreement": Flag("where the agreement between judges is written"),
    "--arms": Flag("arms, <model>/arms/<arm>.safetensors", "paths"),
    "--attack": Flag("downloaded file of the set's attack, downloads/<source>"),
    "--base": Flag("digest of what several models are trained from: the folder's name", "text"),
    "--beside": Flag("downloaded file of the other set, where both sides have equally many tokens"),
    "--categories": Flag("where the rates by category are written"),
    "--checkpoint": Flag("folder of a Hugging Face checkpoint, or of what a model is trained from"),
    "--contrast": Flag("a name of `contrasts`", "text"),
    "--control": Flag("ranking by the contrast that shows what controls the reply, a CSV of <model>/routing"),
    "--detections": Flag("<model>/detection.csv of planted and of natural models", "paths"),
    "--directions": Flag("refusal directions, <model>/directions/refusal.safetensors"),
    "--experts": Flag("expert directions, <model>/directions/experts.safetensors"),
    "--facts": Flag("proved facts of the model, <model>/model.json"),
    "--figure": Flag("a figure's name, as in `figures`", "text"),
    "--file": Flag("any file of the project, or what stands beside it"),
    "--fix": Flag("rewrite what drifted", "switch"),
    "--generation": Flag("replies to judge, <model>/generation/<set>.jsonl"),
    "--gpu": Flag("the GPU that times are estimated for", "text"),
    "--harmful": Flag("harmful prompts, prompts/<set>.jsonl"),
    "--harmless": Flag("harmless prompts, prompts/<set>.jsonl"),
    "--hub": Flag("folder's name of a model on a hub, under weights/", "text"),
    "--judge": Flag("a name of `judges`", "text"),
    "--kind": Flag("what the questions are for", "text"),
    "--method": Flag("arditi, cosmic, strength or experts (`rerouting` is a command of its own)", "text"),
    "--model": Flag("a name of `models`", "text"),
    "--models": Flag("<model>/model.json of the models that are scored", "paths"),
    "--others": Flag("downloaded files of the sets that this one is kept apart from, in order", "paths"),
    "--out": Flag("where the result is written: the file, or the folder, of the table of stages"),
    "--pairs": Flag("both sides of the pairs that detectors read, prompts/<set>.jsonl", "paths"),
    "--pooled": Flag("where arms of several seeds or samples are written together"),
    "--price-in": Flag("dollars for a million tokens read by a server's judge", "text"),
    "--price-out": Flag("dollars for a million tokens written by a server's judge", "text"),
    "--prompt-sets": Flag("prompts/<set>.jsonl, in the order of the settings that name the sets", "paths"),
    "--prompt-tokens": Flag("tokens of a prompt that are counted on", "text"),
    "--prompts": Flag("a prompt set, prompts/<set>.jsonl"),
    "--published": Flag("table of published numbers, data/published.csv"),
    "--questions": Flag("where each question's answers are written, a line apiece"),
    "--ranking": Flag("ranking of experts, <model>/routing/<contrast>.csv"),
    "--raw": Flag("downloaded file or folder of the source, downloads/<source>"),
    "--recognise": Flag("ranking by the contrast that shows who recognises, a CSV of <model>/routing"),
    "--record": Flag("what the directions were estimated on, <model>/directions/refusal.json"),
    "--recovery": Flag("where shares of the whole effect are written"),
    "--replies": Flag("replies whose likelihood is measured, <model>/generation/<set>.jsonl", "paths"),
    "--routing": Flag("rankings, <model>/routing/<contrast>.csv", "paths"),
    "--scorecard": Flag("scorecard.csv, whose table the README is to hold"),
    "--scores": Flag("<model>/scores.csv of the models", "paths"),
    "--selection": Flag("folder of what was chosen, <model>/selection"),
    "--set": Flag("a name of `sets`", "text"),
    "--shard": Flag("which part of the prompts, `2-of-5`", "text"),
    "--shards": Flag("all parts, to be merged", "paths"),
    "--source": Flag("a name of the table data/sources.tsv", "text"),
    "--target-tokens": Flag("tokens of a reply in a pair that are counted on", "text"),
    "--texts": Flag("where each text's likelihood is written, a line apiece"),
    "--truths": Flag("<model>/truth.csv of planted models", "paths"),
    "study": Flag("a name in workflow/studies, or none for the settings themselves"),
}
