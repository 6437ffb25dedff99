"""The lines to one machine: a process that passes connections on, run as `python3 -m drill.link` with its
settings in JSON.

Stopped by SIGSTOP it is a cable that was pulled: connections stay, new ones are taken, nothing passes and
nobody is told. Killed, it resets its connections and refuses new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

_BYTES = 256 * 1024


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_BYTES):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, TimeoutError):
        # One side was lost: so is the other.
        writer.transport.abort()
    finally:
        with contextlib.suppress(Exception):
            writer.close()


async def _serve(port: int, target: int) -> asyncio.Server:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_pass(reader, back), _pass(there, writer))

    return await asyncio.start_server(accept, "127.0.0.1", port, backlog=512)


async def main(links: list[tuple[int, int]]) -> None:
    """:param links: ports to listen on, each with the port that it leads to."""
    servers = [await _serve(port, target) for port, target in links]
    print("passing", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main([(port, target) for port, target in json.loads(sys.argv[1])]))
