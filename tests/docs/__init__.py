"""The pages for people: README, CHANGELOG and docs/. Their tests, and ``python -m tests.docs``, which writes what is
generated in them."""
