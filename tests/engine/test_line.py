"""The line of questions alone: what cannot be made to happen at will through an engine."""

from __future__ import annotations

from vlm.engine.configuration import EngineLimits
from vlm.engine.line import Job, Line
from vlm.engine.reply import Reply
from vlm.errors import EngineStoppingError


def test_an_end_that_comes_while_listeners_are_called_is_told() -> None:
    """Another thread may end an answer between the call of its listener and the end of the round of calls."""
    line, reply = Line(EngineLimits()), Reply(lambda _: None)
    job = Job(1, reply, bytearray(), asked=0, deadline=1e9, limit_s=300)
    heard: list[bool] = []

    def listener() -> None:
        heard.append(reply.done)
        if len(heard) == 2:
            line.end_all([job], lambda: EngineStoppingError("Meanwhile."))

    line.join(job)
    reply.listen(listener)  # the first call
    assert line.pop("demo") is job
    line.announce()
    assert heard == [False, False, True]
    assert isinstance(reply.error, EngineStoppingError)
