"""A helper process that ends as soon as nothing comes: ``python -m tests.concurrency.short_lived_helper``."""

import os

from app.concurrency import helper_process

if __name__ == "__main__":
    helper_process.serve({"pid": os.getpid}, cpu_s=1, memory_bytes=1 << 30, idle_s=0.05)
