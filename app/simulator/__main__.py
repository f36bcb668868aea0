"""The command line: `python -m app.simulator --port N`, or one freshly minted token with `--mint NAME`.

Knows options, signals and the first line of output. Must never know what is served.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import signal
import sys

from app.simulator import faults, tokens
from app.simulator.knobs import BadKnob, Knobs, assignment, meanings, turned
from app.simulator.server import Server
from app.simulator.simulation import Simulation


def main() -> int:
    options = _parser().parse_args()
    if options.knobs:
        print(_knob_list())
        return 0
    if options.mint:
        print(tokens.mint(options.mint, options.kind, options.lifetime_s, site=options.site, level=options.level))
        return 0
    try:
        changes = dict(assignment(text) for text in options.set)
        knobs = turned(turned(Knobs(), {"profile": options.profile}), changes)
    except BadKnob as error:
        print(f"bad --set: {error}", file=sys.stderr)
        return 2
    asyncio.run(_serve(Simulation(knobs), options.host, options.port))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.simulator", description="A local stand-in for kimi.com.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--profile", default="all", help="which generation to serve (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="turn a knob")
    parser.add_argument("--knobs", action="store_true", help="list all knobs and faults, and exit")
    parser.add_argument("--mint", metavar="NAME", help="print a token for this user, and exit")
    parser.add_argument("--kind", choices=("access", "refresh"), default="access", help="of the minted token")
    parser.add_argument("--lifetime-s", type=float, help="of the minted token (default: as the real one)")
    parser.add_argument(
        "--site", choices=("kimi.com", "kimi.ai"), help="of the minted token (default: a token that does not say)"
    )
    parser.add_argument("--level", type=int, default=tokens.FREE_LEVEL, help="membership level in it")
    return parser


def _knob_list() -> str:
    knobs = [f"{name}={default}\n    {meaning}" for name, default, meaning in meanings()]
    names = [f"fail={name}\n    {meaning}" for name, meaning in (faults.REFUSALS | faults.STREAM_FAULTS).items()]
    return "\n".join([*knobs, *names, "fail=http_NNN\n    a plain HTML page with status NNN, 300 to 599 (E21)"])


async def _serve(sim: Simulation, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT."""
    _allow_many_sockets()
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    server = Server(sim)
    listening, bound = await server.listen(host, port)
    print(f"listening on http://{host}:{bound}", flush=True)
    await stop.wait()
    listening.close()
    await server.stop()


def _allow_many_sockets() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
