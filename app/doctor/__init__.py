"""What is wrong, for a person whose gateway does not work: one finding per check.

``examination`` knows the order of the checks, ``sites`` how a host answers, ``turns`` how a tiny turn goes,
``findings`` what may be shown, ``transcript`` and ``masks`` how the wire is recorded without anything private.
Must never know Flask, nor any upstream in particular.
"""
