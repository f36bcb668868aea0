"""``python -m tests.chaos --seed 7 --seconds 3600``: prints the table; status 1 where something was wrong."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--folder", type=Path, help="where logs and the database go and stay; an empty one")
    wishes = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kimi-gateway-chaos-") as temporary:
        folder = wishes.folder or Path(temporary)
        # PostgreSQL may run as another user.
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        result = chaos(folder, wishes.seed, wishes.seconds, wishes.database)
    print(result.table())
    return 1 if result.problems else 0


sys.exit(main())
