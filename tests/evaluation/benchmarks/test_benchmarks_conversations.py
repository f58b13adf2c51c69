"""Plain text as messages, for a tokenizer with a chat template."""

from benchmark_schemas import SCHEMAS, hh
from models import assistant, user

from rm_plugin.data.comparison import Comparison
from rm_plugin.evaluation.benchmarks import as_messages, load_benchmark


def test_plain_prompts_become_messages_and_keep_everything_else():
    plain = Comparison("Who?", chosen=" I", rejected="You", id="7", subset="s", metadata={"cluster": "c"})
    messages = as_messages(plain)
    assert messages.prompt == [user("Who?")]
    assert messages.completions == [[assistant(" I")], [assistant("You")]]
    assert (messages.ranks, messages.id, messages.subset, messages.metadata) == ([0, 1], "7", "s", {"cluster": "c"})
    assert plain.prompt == "Who?"
    assert as_messages(messages) is messages


def test_hh_transcripts_become_their_turns():
    first, empty = load_benchmark("hh-rlhf-harmless", SCHEMAS["hh-rlhf-harmless"][1]).comparisons
    assert as_messages(first).prompt == [user("Hi")]
    assert as_messages(first).completions == [[assistant("Yes")], [assistant("")]]
    differing = as_messages(empty)
    assert differing.prompt == []
    assert differing.completions == [[user("Hi"), assistant("a")], [user("Ho"), assistant("b")]]
    long = Comparison(
        hh(("Human", "a"), ("Assistant", "b"), ("Human", "c"), ("Human", "d"), ("Assistant", "")), [" e", " f"]
    )
    assert as_messages(long).prompt == [user("a"), assistant("b"), user("c\n\nd")]


def test_completions_without_a_prompt_become_assistant_messages():
    assert as_messages(Comparison("", ["a", "b"])).completions == [[assistant("a")], [assistant("b")]]
    assert as_messages(Comparison("", ["a", "b"])).prompt == []
