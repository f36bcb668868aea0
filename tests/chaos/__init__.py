"""The chaos run: two gateways, one database, forty clients, and everything that can go wrong at once.

    python -m tests.chaos --seed 7 --seconds 3600        or: make chaos

``plan``: what is asked and what is to go wrong with it, all drawn from one seed. ``site``: the processes.
``clients``: who asks, and judges every answer by itself. ``havoc``: who kills, restarts and loses. ``ledger``: the
books. ``verdict``: what must be true at the end. ``run``: the order of all that, and the table. A run of the same
seed asks the same questions; what happens between them is up to the machine.
"""
