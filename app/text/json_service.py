"""What ``answers.json_checker`` runs in a process of its own: ``python -m app.text.json_service``."""

from app.concurrency import helper_process
from app.text import json_validation
from app.text.tools import arguments

# For one call. An answer of 2.5 MB needs 0.1 s and 54 MB.
CPU_S = 0.5
_MEMORY_BYTES = 256 << 20

if __name__ == "__main__":
    helper_process.serve(
        {
            "find_flaw": json_validation.find_flaw,
            "find_json": json_validation.find_json,
            "check_call": arguments.check_call,
        },
        cpu_s=CPU_S,
        memory_bytes=_MEMORY_BYTES,
    )
