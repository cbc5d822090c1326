#!/usr/bin/env python3
"""Open connections that carry data all the time, and a witness of every byte.

    traffic.py serve PORT                    sends everything back
    traffic.py stream NAME=HOST:PORT …       until its standard input ends; then one line of JSON

A stream sends a numbered block every 50 ms over one connection and compares what comes back, byte for
byte. Beside it a new connection to the same place is made every second. The report of each name:
blocks sent, blocks that came back, the longest pause between two of them, what broke; connections
made, and when those began that failed (CLOCK_MONOTONIC).
"""
import asyncio
import json
import sys
import time

BLOCK, PAUSE, PATIENCE = 512, 0.05, 10
# How long a server may take to start, on a machine that is busy.
LISTENS = 60


def block(number):
    return number.to_bytes(8, "big") * (BLOCK // 8)


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(port):
    server = await asyncio.start_server(echo, "0.0.0.0", port, backlog=256)
    async with server:
        await server.serve_forever()


class Stream:
    def __init__(self, name, host, port):
        self.name, self.host, self.port = name, host, port
        self.sent = self.back = self.made = 0
        self.failed = []
        self.longest, self.broke, self.refused = 0.0, "", ""

    async def run(self, end):
        try:
            reader, writer = await self.connect_first()
        except (OSError, asyncio.TimeoutError) as error:
            self.broke = f"{type(error).__name__}: {error}"
            return
        news = asyncio.create_task(self.connect_anew(end))
        try:
            await self.exchange(reader, writer, end)
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            self.broke = f"{type(error).__name__}: {error}"
        await news

    async def connect_first(self):
        """The other side may have started a moment ago, and not listen yet."""
        deadline = time.monotonic() + LISTENS
        while True:
            try:
                return await asyncio.wait_for(asyncio.open_connection(self.host, self.port), PATIENCE)
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.1)

    async def exchange(self, reader, writer, end):
        reading = asyncio.create_task(self.compare(reader))
        # One block at least, however late the connection was made.
        while not reading.done():
            writer.write(block(self.sent))
            self.sent += 1
            await writer.drain()
            if end.is_set():
                break
            await asyncio.sleep(PAUSE)
        writer.write_eof()
        await asyncio.wait_for(reading, PATIENCE)
        writer.close()

    async def compare(self, reader):
        last = time.monotonic()
        while True:
            got = await reader.read(BLOCK)
            if not got:
                return
            if len(got) < BLOCK:
                got += await reader.readexactly(BLOCK - len(got))
            if got != block(self.back):
                raise OSError(f"block {self.back} came back as another one")
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now
            self.back += 1

    async def connect_anew(self, end):
        while not end.is_set():
            self.made += 1
            began = time.monotonic()
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection(self.host, self.port), PATIENCE)
                writer.write(b"once")
                await asyncio.wait_for(reader.readexactly(4), PATIENCE)
                writer.close()
            except (OSError, EOFError, asyncio.TimeoutError) as error:
                self.failed.append(began)
                self.refused = f"{type(error).__name__}: {error}"
            try:
                await asyncio.wait_for(end.wait(), 1)
            except asyncio.TimeoutError:
                pass

    def report(self):
        return {"name": self.name, "sent": self.sent, "back": self.back, "broke": self.broke,
                "longest_ms": round(self.longest * 1000), "made": self.made, "failed": self.failed,
                "refused": self.refused}


async def stream(targets):
    end = asyncio.Event()
    streams = [Stream(name, *to.rsplit(":", 1)) for name, to in (t.split("=", 1) for t in targets)]
    running = [asyncio.create_task(s.run(end)) for s in streams]
    print("started", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    end.set()
    await asyncio.gather(*running)
    print(json.dumps([s.report() for s in streams]), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            asyncio.run(serve(int(port)))
        case ["stream", *targets] if targets:
            asyncio.run(stream(targets))
        case _:
            sys.exit(__doc__)
