"""``python -m tests.chaos --seed 7 --seconds 3600``: prints the table; status 1 where something was wrong."""

import argparse
import sys
from pathlib import Path

from tests.chaos.run import chaos
from tests.running.postgres import folder_of_a_run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--folder", type=Path, help="where logs and the database go and stay; an empty one")
    wishes = parser.parse_args()
    with folder_of_a_run() as temporary:
        folder = wishes.folder or temporary
        # PostgreSQL may run as another user.
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        result = chaos(folder, wishes.seed, wishes.seconds, wishes.database)
    print(result.table())
    return 1 if result.problems else 0


sys.exit(main())
