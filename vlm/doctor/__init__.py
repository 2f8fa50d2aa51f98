"""`vlm doctor`: whether this machine can run a model, line by line, each with what to do.

A check is a function from a `Case` to lines; `vlm.doctor.examine.CHECKS` names them all. They read the system under a
root directory, so that trees can stand for machines. Nothing runs on the NPU.
"""
