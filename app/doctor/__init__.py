"""The doctor: finds out why a gateway does not work. One finding per check.

``checks``: the checks and their order. ``sites``: whether a host answers. ``trial_turn``: one small turn.
``findings``: the results, without secrets. ``wire_transcript`` and ``redaction``: a recording of the wire without
private data. Must never know Flask, nor any upstream in particular.
"""
