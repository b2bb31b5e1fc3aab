"""The small language's tokenizer: exact both ways, and one token for everything that has to be copied."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from sentinel.env.synthetic import atoms
from sentinel.llm.templates import END, MARKERS, PAD
from sentinel.llm.tokenizer import CHARACTERS, train_tokenizer
from sentinel.rollout.demonstrator import careless, expert
from sentinel.seeds import generator
from sentinel.solver.demonstrations import Codebook
from tests.unit.builders import CONDITIONS, acted, arena, made

SOME = ("#W10", "1020", "mug ", "blue/large ", "Ada", "12 Elm Street", "no longer needed")


@cache
def texts(first: int = 0, count: int = 6) -> tuple[str, ...]:
    """What is read and written in demonstrations, as the warm start collects it."""
    where, book = arena(), Codebook()
    where.tokenizer = book
    for name in CONDITIONS:
        for task in (made(name, n) for n in range(first, first + count)):
            for actions in (expert(task), careless(task, where.world, generator(task.id))):
                acted(task, actions, where)
    return tuple(book.texts)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(texts(), atoms(), max_context=320)


def encode(text: str) -> list[int]:
    ids: list[int] = tokenizer().encode(text, add_special_tokens=False)
    return ids


def pieces(text: str) -> list[str]:
    return [str(tokenizer().decode([token])) for token in encode(text)]


@given(st.text(alphabet=st.sampled_from(CHARACTERS)))
def test_any_printable_text_survives(text: str) -> None:
    assert tokenizer().decode(encode(text)) == text


@given(st.lists(st.one_of(st.sampled_from([*SOME, *MARKERS, *texts(0, 1)]), st.text(st.sampled_from(CHARACTERS)))))
def test_any_mixture_of_phrases_atoms_and_characters_survives(parts: list[str]) -> None:
    text = "".join(parts)
    assert tokenizer().decode(encode(text)) == text


@given(st.lists(st.integers(min_value=0, max_value=400), max_size=40))
def test_any_sampled_ids_decode_to_the_text_of_each(ids: list[int]) -> None:
    assert tokenizer().decode(ids) == "".join(str(tokenizer().decode([token])) for token in ids)


def test_every_atom_and_every_marker_is_one_token() -> None:
    assert {atom for atom in atoms() if len(encode(atom)) != 1} == set()
    assert {marker for marker in MARKERS if len(encode(marker)) != 1} == set()
    assert len(encode(PAD)) == 1


def test_the_stop_token_ends_a_turn_and_is_not_the_padding() -> None:
    assert encode("It is done." + END)[-1] == tokenizer().eos_token_id
    assert tokenizer().pad_token_id == 0 != tokenizer().eos_token_id
    assert tokenizer().model_max_length == 320


def test_no_text_of_a_demonstration_needs_characters() -> None:
    """Nor do the texts of other tasks: all that is new in them is atoms."""
    alphabet = set(atoms())
    for text in (*texts(), *texts(100, 2)):
        assert [piece for piece in pieces(text) if len(piece) == 1 and piece.isalnum() and piece not in alphabet] == []


def test_identifiers_stay_whole_within_sentences() -> None:
    found = pieces("I want to cancel order #W49. My email is u12@shop.example.")
    assert {"#W49", "u12@shop.example"} <= set(found)
    assert len(found) <= 7
    assert "mug " in pieces("#W49 delivered: mug 1020; type mug p10; paid paypal_13")


def test_an_episode_takes_about_a_hundred_tokens() -> None:
    where = arena()
    where.tokenizer = tokenizer()
    lengths = [len(acted(made(name), expert(made(name)), where).tokens.ids) for name in CONDITIONS]
    assert sum(lengths) / len(lengths) < 130
    assert max(lengths) < 230


def test_training_depends_on_the_set_of_texts_and_not_on_their_order() -> None:
    other = train_tokenizer([*reversed(texts()), texts()[0]], atoms(), max_context=320)
    assert other.get_vocab() == tokenizer().get_vocab()


@pytest.mark.parametrize("text", ["naïve", "日本", "tab\tand return\r"])
def test_what_is_not_printable_ascii_is_shown_as_unknown_and_keeps_its_neighbours(text: str) -> None:
    decoded = str(tokenizer().decode(encode(f"Which order is it? {text} #W10")))
    assert decoded.startswith("Which order is it? ")
    assert decoded.endswith(" #W10")
    assert PAD in decoded
