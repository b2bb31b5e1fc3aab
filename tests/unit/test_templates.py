"""The Hermes format: pieces that append, calls that come back as they were, and malformed ones as words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.env.tau2 import policy_text, tool_schemas
from sentinel.llm.templates import END, START, Hermes, Parsed, render_call, system_prompt
from sentinel.records import Json, ToolCall

HERMES = Hermes()
GOOD = '<tool_call>\n{"name": "get_order_details", "arguments": {"order_id": "#W10"}}\n</tool_call>'
CALL = ToolCall(name="get_order_details", arguments={"order_id": "#W10"})
VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def wrapped(*bodies: str) -> str:
    return "\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)


def test_a_conversation_is_chatml() -> None:
    text = Hermes("Rules.").opening("Hi.") + f"Which order?{END}" + HERMES.answer("#W10.") + GOOD + END
    text += HERMES.observation(["one", "two"])
    assert text == (
        "<|im_start|>system\nRules.<|im_end|>\n"
        "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\nWhich order?<|im_end|>\n"
        "<|im_start|>user\n#W10.<|im_end|>\n<|im_start|>assistant\n" + GOOD + "<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_without_a_system_message_there_is_none() -> None:
    assert HERMES.opening("Hi.").startswith(f"{START}user\n")


def test_words_are_words() -> None:
    assert HERMES.parse(f"  Which order is it?{END}") == Parsed("Which order is it?", (), None)


@given(st.text(min_size=1, max_size=20), st.dictionaries(st.text(max_size=8), VALUES, max_size=4))
def test_a_rendered_call_comes_back(name: str, arguments: dict[str, Json]) -> None:
    call = ToolCall(name=name, arguments=arguments)
    text = render_call(call)
    if "</tool_call>" not in text.removesuffix("</tool_call>"):
        assert HERMES.parse(text + END) == Parsed("", (call,), None)


def test_the_policy_writes_json_with_one_space_and_no_escapes() -> None:
    assert render_call(CALL) == GOOD
    assert "é" in render_call(ToolCall(name="x", arguments={"summary": "café"}))


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (GOOD, (CALL,)),
        (f"Let me look.\n{GOOD}", (CALL,)),
        (f"{GOOD}\n{GOOD}", (CALL, CALL)),
        (
            f'<tool_call>{{"name": "get_order_details", "arguments": {CALL.arguments}}}</tool_call>'.replace("'", '"'),
            (CALL,),
        ),
        (wrapped('{"name": "list_all_product_types"}'), (ToolCall(name="list_all_product_types"),)),
        (wrapped('{"name": "no_such_tool", "arguments": {}}'), (ToolCall(name="no_such_tool"),)),
        (wrapped('{"name": "x", "arguments": {}, "id": 7}'), (ToolCall(name="x"),)),
    ],
)
def test_good_calls(text: str, calls: tuple[ToolCall, ...]) -> None:
    parsed = HERMES.parse(text + END)
    assert (parsed.calls, parsed.problem) == (calls, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the message is empty"),
        (" \n ", "the message is empty"),
        ("<tool_call>", "not closed"),
        ('<tool_call>\n{"name": "x", "arguments": {}}', "not closed"),
        (wrapped(""), "not valid"),
        (wrapped("cancel it"), "not valid"),
        (wrapped('{"name": "x", "arguments": {"a": 1}'), "not valid"),
        (wrapped("{'name': 'x', 'arguments': {}}"), "not valid"),
        (wrapped('["x", {}]'), 'expected {"name"'),
        (wrapped('"x"'), 'expected {"name"'),
        (wrapped('{"arguments": {}}'), 'expected {"name"'),
        (wrapped('{"name": 3, "arguments": {}}'), 'expected {"name"'),
        (wrapped('{"name": null}'), 'expected {"name"'),
        (wrapped('{"name": "x", "arguments": "order_id=#W10"}'), "arguments must be an object"),
        (wrapped('{"name": "x", "arguments": ["#W10"]}'), "arguments must be an object"),
        (wrapped('{"name": "x", "arguments": null}'), "arguments must be an object"),
        (wrapped('{"name": "x", "arguments": {"amount": NaN}}'), "not valid"),
        (wrapped('{"name": "x", "arguments": {"amount": 1e999}}'), "not valid"),
        (wrapped('{"name": "x", "arguments": {"amount": ' + "9" * 5000 + "}}"), "not valid"),
        (wrapped('{"name": "x", "arguments": {"summary": "\\ud800"}}'), "not valid"),
        (wrapped('{"name": "x", "arguments": {"a": ' + "[" * 100_000 + "}}"), "not valid"),
        (wrapped('{"name": "x", "arguments": {}}', "oops"), "not valid"),
    ],
)
def test_malformed_calls_are_explained_and_nothing_of_them_is_executed(text: str, problem: str) -> None:
    parsed = HERMES.parse(text + END)
    assert (parsed.calls, parsed.text) == ((), "")
    assert parsed.problem
    assert problem in parsed.problem


@given(st.text())
def test_no_text_of_a_policy_is_an_exception(text: str) -> None:
    for words in (text, f"<tool_call>{text}", f"<tool_call>{text}</tool_call>"):
        parsed = HERMES.parse(words)
        assert (parsed.problem is None) == bool(parsed.calls or parsed.text)


def test_the_system_prompt_has_the_policy_and_all_tools() -> None:
    prompt = system_prompt(policy_text(), tool_schemas())
    assert prompt.startswith(policy_text())
    tools = prompt.partition("<tools>\n")[2].partition("\n</tools>")[0].splitlines()
    assert len(tools) == 15
    assert '"name": "cancel_pending_order"' in prompt
