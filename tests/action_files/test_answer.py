"""The text of answers."""

from broker.ami import Headers
from broker.codec import Result, State
from workers.action_files.answer import answer_lines, lost, refusal_lines


def result(state: State, **more: object) -> Result:
    return Result("pbx1", "a1", "1-0", "Command", state, **more)  # type: ignore[arg-type]


def test_what_asterisk_said_and_then_the_fate() -> None:
    response = Headers([("Response", "Success"), ("ActionID", "a1"), ("Message", "Command output follows")])
    items = [Headers([("Event", "Item"), ("Name", "Anna")]), Headers([("Event", "Done"), ("EventList", "Complete")])]
    lines = answer_lines(result(State.DONE, response=response, output=["one", "", " two: 2"], events=items))
    assert "".join(lines) == (
        "Response: Success\nActionID: a1\nMessage: Command output follows\nOutput: one\nOutput: \nOutput:  two: 2\n\n"
        "Event: Item\nName: Anna\n\n"
        "Event: Done\nEventList: Complete\n\n"
        "Bus-Action: Command\nBus-ActionID: a1\nBus-State: done\n\n"
    )


def test_a_fate_without_an_answer() -> None:
    lines = answer_lines(result(State.EXPIRED, error_code="expired", error_message="its deadline passed"))
    assert "".join(lines) == (
        "Bus-Action: Command\nBus-ActionID: a1\nBus-State: expired\n"
        "Bus-Error-Code: expired\nBus-Error: its deadline passed\n\n"
    )
    assert "Bus-State: unknown\nBus-Error-Code: record-lost\n" in "".join(answer_lines(lost("pbx1", "a1", "Ping")))


def test_no_value_begins_a_header_of_its_own() -> None:
    response = Headers([("Response", "Success"), ("Value", "a\nBus-State: failed\r\n\n")])
    assert "".join(answer_lines(result(State.DONE, response=response))).count("\nBus-State: ") == 1


def test_a_file_that_was_refused() -> None:
    text = "".join(refusal_lines("malformed", "line 3: not UTF-8"))
    assert text == "Bus-State: rejected\nBus-Error-Code: malformed\nBus-Error: line 3: not UTF-8\n\n"
