"""Our worker, as `amibus worker` runs it: settings from the environment, until SIGTERM.

`BENCH_PROFILE=FILE` writes a profile of the process (cProfile; look at it with `python -m pstats FILE`).
"""

import asyncio
import cProfile
import os
import sys

from tests.bench.side import loop_factory
from workers.config import load_settings
from workers.logs import configure
from workers.service import serve


def main() -> None:
    settings = load_settings()
    configure(settings.log_format, settings.log_level)
    profile = os.environ.get("BENCH_PROFILE")
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        if profile:
            with cProfile.Profile() as profiler:
                runner.run(serve(settings))
            profiler.dump_stats(profile)
        else:
            runner.run(serve(settings))


if __name__ == "__main__":
    main()
