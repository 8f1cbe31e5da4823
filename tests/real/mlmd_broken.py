"""Servers that stand where KFP's metadata store should: they answer its calls with whatever bytes they are told to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

import grpc
import grpc.aio

SERVICE = "/ml_metadata.MetadataStoreService/"
CALLS = ("GetContextByTypeAndName", "GetExecutionsByContext", "GetEventsByExecutionIDs", "GetArtifactsByID")
CANARY = "CANARY-5d1"

Answer = bytes | grpc.StatusCode | Callable[[bytes], bytes]


class _Answers(grpc.GenericRpcHandler):
    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers

    def service(self, handler_call_details):
        answer = self._answers.get(handler_call_details.method.removeprefix(SERVICE))

        async def say(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            match answer:
                case bytes():
                    return answer
                case grpc.StatusCode():
                    await context.abort(answer, CANARY)
                case None:
                    await asyncio.sleep(30)
                case _:
                    return answer(request)
            return b""

        return grpc.unary_unary_rpc_method_handler(say)


@contextlib.asynccontextmanager
async def broken(answers: Mapping[str, Answer]) -> AsyncIterator[str]:
    """The address of such a server; a method that it has no answer for never answers, a code comes with a canary."""
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((_Answers(answers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
