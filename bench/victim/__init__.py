"""``python -m bench.victim``: how late the tokens of one stream get while another client, or Kimi, does its worst.

A victim's streams and an attack share one worker. README.md says what the figures mean.
"""
