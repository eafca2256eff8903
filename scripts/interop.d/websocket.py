"""A WebSocket server that echoes, and a client that tries it: the `websockets` package on both ends.

    websocket.py serve PORT
    websocket.py try URL        prints a line `ok what` or `FAILED what why` for each step
"""

import asyncio
import os
import sys

import websockets

LARGE = os.urandom(1 << 20)


async def echo(connection):
    async for message in connection:
        if message == "bye":
            await connection.close(4001, "as asked")
        else:
            await connection.send(message)


async def serve(port):
    # Offers permessage-deflate, as the package does by default.
    async with websockets.serve(echo, "127.0.0.1", port, max_size=4 << 20):
        await asyncio.get_running_loop().create_future()


async def echoes(connection, *messages):
    for message in messages:
        await connection.send(message)
    for message in messages:
        assert await connection.recv() == message, "something else came back"


async def text(url):
    async with websockets.connect(url) as connection:
        await echoes(connection, "grüße", "", "x" * 70000)


async def binary(url):
    async with websockets.connect(url, compression=None) as connection:
        await echoes(connection, b"\0\xff\r\n\r\n", b"")


async def large(url):
    for compression in (None, "deflate"):
        async with websockets.connect(url, compression=compression, max_size=4 << 20) as connection:
            await echoes(connection, LARGE, LARGE)


async def ping(url):
    async with websockets.connect(url) as connection:
        await (await connection.ping(b"are you there"))


async def close_by_client(url):
    connection = await websockets.connect(url)
    await connection.close(1000, "done")
    assert connection.close_code == 1000, connection.close_code


async def close_by_server(url):
    connection = await websockets.connect(url)
    await connection.send("bye")
    try:
        await connection.recv()
    except websockets.ConnectionClosed:
        pass
    assert (connection.close_code, connection.close_reason) == (4001, "as asked"), connection.close_code


async def many(url):
    connections = [await websockets.connect(url) for _ in range(50)]
    await asyncio.gather(*(echoes(each, f"I am {number}") for number, each in enumerate(connections)))
    await asyncio.gather(*(each.close() for each in connections))


STEPS = {
    "text, empty and long messages": text,
    "binary messages": binary,
    "messages of 1 MiB, plain and deflated": large,
    "ping and pong": ping,
    "the client's closing handshake": close_by_client,
    "the server's closing handshake, with its code and reason": close_by_server,
    "50 connections at once": many,
}


async def try_all(url):
    for what, step in STEPS.items():
        try:
            await asyncio.wait_for(step(url), 10)
            print(f"ok WebSocket: {what}", flush=True)
        except Exception as error:
            print(f"FAILED WebSocket: {what}: {error!r}", flush=True)


if sys.argv[1] == "serve":
    asyncio.run(serve(int(sys.argv[2])))
else:
    asyncio.run(try_all(sys.argv[2]))
