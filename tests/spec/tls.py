#!/usr/bin/env python3
"""A TLS end in front of a plain server: tls.py CERT KEY PORT. Prints its own port, passes bytes both ways, and serves
until its standard input ends."""
import asyncio
import ssl
import sys
import threading


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def main(cert, key, port):
    async def serve(reader, writer):
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(lambda *_: None)      # whoever turns away in the handshake is what is tested
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)

    def wait():
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)
    threading.Thread(target=wait, daemon=True).start()
    await ended.wait()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
