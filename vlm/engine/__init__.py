"""A model in a process of its own, so that a crash, a hang or a leak stays there.

    engine.py         what people use: ask, health, close
    reply.py          one answer, on the asker's side
    configuration.py  which model, and the limits
    health.py         how an engine is
    line.py           the questions that wait, and those that are being answered
    supervisor.py     starts the process, ends it, starts it again
    process.py        one process: its pipes, and how it ended
    child.py          the process itself
    messages.py, wire.py, faults.py    what goes between the two

The public names are those of `vlm`.
"""
