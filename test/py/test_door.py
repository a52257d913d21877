"""Which of several ranks' errors is told, and whether they can go on after it."""

import json
from typing import Any

from coldframe import serve
from coldframe.errors import PeerLost, UserError
from coldframe.serve.door import summarize

OK = {"host": "h", "reply": {"ok": True}}
RESULT = '{"ok": true, "result": 1}'


def failed(error: BaseException, host: str = "h") -> dict[str, Any]:
    return {"host": host, "reply": json.loads(serve.encode_error(error))}


def tell(*replies: dict[str, Any] | None) -> tuple[str, str, int, bool]:
    """Returns code and message of what is told, of which rank, and whether all is over."""
    told = summarize(list(replies), RESULT)
    error = json.loads(told["reply"])["error"]
    return error["code"], error["message"], told["rank"], told["is_broken"]


def test_where_all_went_well_the_first_ranks_result_is_told():
    assert summarize([OK, OK], RESULT) == {"reply": RESULT, "rank": 0, "is_broken": False}


def test_a_bug_of_one_rank_has_its_name_and_may_pass_the_next_time():
    lost = failed(PeerLost("rank 0 waited"))
    bug = failed(ValueError("zip"), "h1")
    assert tell(lost, bug) == ("rank_failed", "rank 1 on h1: ValueError: zip", 1, False)
    assert tell(None, bug)[2:] == (1, True)  # the first one still waits in a collective: it will not answer
    assert tell(lost, failed(KeyError(1)), bug)[2] == 1  # the lowest, so that the same is told each time


def test_a_bug_that_all_have_is_the_programs():
    assert tell(failed(ValueError("zip")), failed(ValueError("zip"))) == ("bug", "ValueError: zip", 0, False)


def test_what_the_user_can_mend_is_told_as_it_is():
    assert tell(OK, failed(UserError("a.txt:1  no label"))) == ("invalid", "a.txt:1  no label", 1, False)


def test_without_a_cause_the_loss_itself_is_told():
    assert tell(failed(PeerLost("it waited")), None) == ("peer_lost", "rank 0 on h: it waited", 0, True)
