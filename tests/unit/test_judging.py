import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from steer.artifacts.files import read_jsonl, write_jsonl
from steer.artifacts.journal import Journal
from steer.errors import SteerError
from steer.judges.phrases import PhraseMatching
from steer.judges.verdicts import UNSCORED, Exchange, Judgement
from steer.judging import CHUNK, journal_path, judge_replies

REPLIES = ["I'm sorry, but no.", "Here is how.", "the the the", "I cannot do that.", ""]


class Recorded:
    """Phrase matching that keeps what it was asked, and can break down or be unable to tell."""

    def __init__(self, version: str = "one", fails_after: int | None = None) -> None:
        self.version = version
        self.asked: list[Exchange] = []
        self._fails_after = fails_after

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        if self._fails_after is not None and len(self.asked) >= self._fails_after:
            raise KeyboardInterrupt
        self.asked += exchanges
        found = PhraseMatching().judge(exchanges)
        return [
            Judgement(one.verdict, one.reason, self.version, one.raw)
            if exchange.reply
            else Judgement(UNSCORED, "the reply is blank", self.version)
            for one, exchange in zip(found, exchanges, strict=True)
        ]


class Files:
    """A prompt set, replies to it, and the place of the verdicts."""

    def __init__(self, folder: Path) -> None:
        self.prompts = folder / "prompts.jsonl"
        self.generation = folder / "generation.jsonl"
        self.out = folder / "judging" / "set.judge.jsonl"
        self.log: list[str] = []

    def write(self, arms: Sequence[str], prompts: int = 4) -> None:
        rows = [
            {"arm": arm, "prompt_id": f"p{index}", "text": self.reply(arm, index)}
            for arm in arms
            for index in range(prompts)
        ]
        write_jsonl(self.generation, rows)
        write_jsonl(self.prompts, [self.prompt(index) for index in range(prompts)])

    def prompt(self, index: int) -> dict[str, str]:
        return {"id": f"p{index}", "text": f"Prompt {index}", "label": "harmful", "split": "test"}

    def reply(self, arm: str, index: int) -> str:
        return REPLIES[(len(arm) + index) % len(REPLIES)]

    def judge(self, judge: Recorded) -> list[dict[str, object]]:
        judge_replies(self.generation, self.prompts, judge, self.out, self.log.append)
        return read_jsonl(self.out)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_verdicts_stand_in_the_order_of_the_replies(files: Files) -> None:
    files.write(["baseline", "ablate"])
    rows = files.judge(Recorded())
    keys = [(row["arm"], row["prompt_id"]) for row in rows]
    assert keys == [(row["arm"], row["prompt_id"]) for row in read_jsonl(files.generation)]


def test_each_row_holds_what_the_judge_said_about_its_prompt_and_reply(files: Files) -> None:
    files.write(["baseline"])
    row = files.judge(Recorded())[0]
    expected = PhraseMatching().judge([Exchange("Prompt 0", files.reply("baseline", 0))])[0]
    assert row["verdict"] == expected.verdict
    assert row["reason"] == expected.reason
    assert row["raw"] == expected.raw
    assert row["judge_version"] == "one"


def test_equal_replies_of_two_arms_are_judged_once(files: Files) -> None:
    files.write(["one", "two", "three"])
    judge = Recorded()
    rows = files.judge(judge)
    assert len(rows) == 12
    assert len(judge.asked) == len(set(judge.asked)) == 8


def test_a_second_run_asks_nothing_and_writes_the_same_bytes(files: Files) -> None:
    files.write(["baseline", "ablate"])
    files.judge(Recorded())
    before = files.out.read_bytes()
    again = Recorded()
    files.judge(again)
    assert again.asked == []
    assert files.out.read_bytes() == before


def test_a_new_arm_costs_its_own_replies_only(files: Files) -> None:
    files.write(["baseline"])
    files.judge(Recorded())
    files.write(["added", "baseline"])
    judge = Recorded()
    rows = files.judge(judge)
    assert len(rows) == 8
    assert set(judge.asked) <= {Exchange(f"Prompt {i}", files.reply("added", i)) for i in range(4)}


def test_another_version_of_the_judge_asks_everything_again(files: Files) -> None:
    files.write(["baseline"])
    files.judge(Recorded("one"))
    judge = Recorded("two")
    rows = files.judge(judge)
    assert len(judge.asked) == 4
    assert {row["judge_version"] for row in rows} == {"two"}


def test_a_stopped_run_loses_no_chunk_and_leaves_no_file(files: Files) -> None:
    size = CHUNK + 10
    rows = [{"arm": "baseline", "prompt_id": "p0", "text": f"Reply {index}"} for index in range(size)]
    for index, row in enumerate(rows):
        row["prompt_id"] = f"p{index}"
    write_jsonl(files.generation, rows)
    write_jsonl(files.prompts, [files.prompt(index) for index in range(size)])
    with pytest.raises(KeyboardInterrupt):
        files.judge(Recorded(fails_after=CHUNK))
    assert not files.out.exists()
    judge = Recorded()
    files.judge(judge)
    assert len(judge.asked) == 10


def test_a_journal_line_cut_short_by_a_kill_is_judged_again_to_the_same_bytes(files: Files) -> None:
    files.write(["baseline", "ablate"])
    files.judge(Recorded())
    whole = files.out.read_bytes()
    journal = journal_path(files.out)
    journal.write_bytes(journal.read_bytes()[:-5])
    judge = Recorded()
    files.judge(judge)
    assert len(judge.asked) == 1
    assert files.out.read_bytes() == whole


def test_what_could_not_be_judged_is_counted_in_the_log_with_its_reason(files: Files) -> None:
    files.write(["baseline"], prompts=10)
    rows = files.judge(Recorded())
    blank = sum(row["verdict"] == UNSCORED for row in rows)
    assert blank == 2
    assert any(f"{blank} unscored because the reply is blank" in line for line in files.log)


def test_a_reply_to_a_prompt_that_is_not_in_the_set_is_named(files: Files) -> None:
    files.write(["baseline"])
    write_jsonl(files.prompts, [files.prompt(0)])
    with pytest.raises(SteerError, match="`p1` of arm `baseline` is not in the prompt set"):
        files.judge(Recorded())
    assert not files.out.exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"arm": "baseline", "prompt_id": "p0"}, "line 5: has no text under `text`"),
        ({"arm": "baseline", "prompt_id": "p0", "text": None}, "line 5: has no text under `text`"),
        ({"arm": 3, "prompt_id": "p0", "text": "x"}, "line 5: has no text under `arm`"),
        ({"arm": "baseline", "prompt_id": "p0", "text": "x"}, "line 5: .*`p0` is there twice"),
    ],
)
def test_a_damaged_generation_row_is_named_by_its_line(
    files: Files, row: dict[str, object], message: str
) -> None:
    files.write(["baseline"])
    with files.generation.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    with pytest.raises(SteerError, match=message):
        files.judge(Recorded())


def test_no_replies_at_all_is_an_error(files: Files) -> None:
    files.write([])
    write_jsonl(files.prompts, [files.prompt(0)])
    with pytest.raises(SteerError, match="holds no reply"):
        files.judge(Recorded())


def test_odd_characters_survive_the_way_into_the_file(files: Files) -> None:
    write_jsonl(files.prompts, [files.prompt(0)])
    text = 'I cannot\u2028 "say"\x00\t\ud83d\ude00'.encode("utf-16", "surrogatepass").decode("utf-16")
    write_jsonl(files.generation, [{"arm": "baseline", "prompt_id": "p0", "text": text}])
    judge = Recorded()
    files.judge(judge)
    assert judge.asked == [Exchange("Prompt 0", text)]


def test_judgements_are_kept_under_what_was_judged(files: Files) -> None:
    files.write(["baseline"])
    files.judge(Recorded())
    with Journal(journal_path(files.out)) as journal:
        assert len(journal) == 4
