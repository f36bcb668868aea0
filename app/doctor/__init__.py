"""What is wrong, for a person whose gateway does not work: one finding per check.

``checks`` knows the checks and their order, ``sites`` how a host answers, ``trial_turn`` how one small turn goes,
``findings`` what may be shown, ``wire_transcript`` and ``redaction`` how the wire is recorded without anything
private. Must never know Flask, nor any upstream in particular.
"""
