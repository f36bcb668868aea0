"""The chaos run of one minute; ``make chaos`` is the one of an hour."""

import pytest

from tests.chaos.run import chaos
from tests.running.postgres import folder_of_a_run


# A minute of it, and what the start, the last turns and the looking take on a busy machine.
@pytest.mark.timeout(600)
def test_a_minute_of_chaos_loses_doubles_and_mixes_nothing() -> None:
    with folder_of_a_run() as folder:
        result = chaos(folder, seed=1, seconds=60, database="postgresql")
    assert not result.problems, result.table()
    assert not result.missing(), result.table()
