"""The chaos run of twelve seconds; ``make chaos`` is the one of an hour."""

import pytest

from tests.chaos.run import chaos
from tests.running.postgres import folder_of_a_run


@pytest.mark.long
# These seconds, and what the start, the last turns and the looking take on a busy machine.
@pytest.mark.timeout(600)
def test_some_chaos_loses_doubles_and_mixes_nothing() -> None:
    with folder_of_a_run() as folder:
        result = chaos(folder, seed=1, seconds=12, database="postgresql", forks=True)
    assert not result.problems, result.table()
    assert not result.missing(), result.table()
