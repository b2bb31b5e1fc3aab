"""`sentinel propose`: what a pattern means, what is said of one that means nothing, and what is written."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sentinel.cli import app
from sentinel.errors import SentinelError
from sentinel.proposer.tool import propose_for, understand


@pytest.mark.parametrize(
    ("pattern", "order"),
    [
        ("exchange of similar variants", "skill=similar, family=exchange"),
        ("cancel with a change of mind", "declined=true, family=cancel"),
        ("a new user address", "family=user_address"),
        ("returns two items", "family=return"),
        ("refuse/poor_gift_card", "condition=refuse/poor_gift_card"),
        ("withheld=payment writes=1", "withheld=payment, writes=1"),
        ("modify_pending_order_payment twins=true", "twins=true, modify_pending_order_payment"),
    ],
)
def test_a_pattern_is_read_by_words_that_are_known(pattern: str, order: str) -> None:
    assert str(understand(pattern)) == order


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("make me a sandwich", "nothing is known of 'make me a sandwich'; name one of: cancel, "),
        ("witheld=reason", "there is no knob 'witheld' (did you mean 'withheld'?); there are: "),
        ("withheld=banana", "withheld is never 'banana'; it is one of: none, reason, "),
        ("condition=refuse/resaon", "(did you mean 'refuse/reason'?)"),
        ("declined=maybe", "it is one of: false, true"),
        ("family=cancel obstacle=stock", "no kind of task is all of this at once: family=cancel, obstacle=stock"),
    ],
)
def test_what_means_nothing_is_refused_at_once(pattern: str, words: str) -> None:
    with pytest.raises(SentinelError) as error:
        propose_for(pattern, 5, "synthetic", 0)
    assert words in str(error.value)


def test_a_world_without_such_customers_gives_a_reason_after_a_bounded_effort() -> None:
    with pytest.raises(SentinelError) as error:
        propose_for("orders=17", 50, "synthetic", 0)
    assert "0 of the 50 tasks wanted, out of 20 candidates for orders=17" in str(error.value)
    assert "wanted {'orders': 17}, has {'orders': 8}" in str(error.value)


def test_fewer_tasks_than_wanted_are_said_and_all_candidates_are_accounted_for() -> None:
    made = propose_for("cancel/declined twins=true orders=8", 3, "synthetic", 0)
    tally = made.proposal.tally
    assert tally.requested == tally.kept + sum(tally.rejected.values())
    assert len(made.proposal.tasks) == len(made.tasks) == 3
    few = made._replace(wanted=9)
    assert few.summary().startswith(f"3 of the 9 tasks wanted, out of {tally.requested} candidates for ")


def test_the_file_says_what_its_tasks_were_made_for(tmp_path: Path) -> None:
    file = tmp_path / "tasks.json"
    asked = ["propose", "--pattern", "refund method", "--n", "2", "--world", "synthetic", "-o", str(file)]
    assert CliRunner().invoke(app, asked).exit_code == 0
    purposes = [task["description"]["purpose"] for task in json.loads(file.read_text(encoding="utf-8"))]
    assert purposes == [purpose for purpose in purposes if purpose.endswith("; made for 'refund method'")]
    assert len(purposes) == 2


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["propose", "--pattern", "cancel", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "directory" in result.output
