from hypothesis import given
from hypothesis import strategies as st

from steer.models.batching import by_length

prompts = st.dictionaries(st.text(max_size=4), st.integers(1, 9), max_size=30).map(
    lambda lengths: list(lengths.items())
)
sizes = st.integers(1, 8)


def cut(pairs: list[tuple[str, int]], size: int) -> list[list[int]]:
    return by_length([length for _, length in pairs], [name for name, _ in pairs], size)


@given(pairs=prompts, size=sizes)
def test_every_prompt_is_in_exactly_one_batch(pairs: list[tuple[str, int]], size: int) -> None:
    assert sorted(index for batch in cut(pairs, size) for index in batch) == list(range(len(pairs)))


@given(pairs=prompts, size=sizes)
def test_all_batches_are_full_but_the_last(pairs: list[tuple[str, int]], size: int) -> None:
    batches = cut(pairs, size)
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(1 <= len(batch) <= size for batch in batches)


@given(pairs=prompts, size=sizes)
def test_lengths_never_fall_along_the_batches(pairs: list[tuple[str, int]], size: int) -> None:
    lengths = [pairs[index][1] for batch in cut(pairs, size) for index in batch]
    assert lengths == sorted(lengths)


@given(pairs=prompts, size=sizes, data=st.data())
def test_batches_do_not_depend_on_the_order_of_the_prompts(
    pairs: list[tuple[str, int]], size: int, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(pairs))
    names = [[pairs[index][0] for index in batch] for batch in cut(pairs, size)]
    assert names == [[shuffled[index][0] for index in batch] for batch in cut(shuffled, size)]
