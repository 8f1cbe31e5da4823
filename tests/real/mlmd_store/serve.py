# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = ["grpcio>=1.66,<2", "ml-metadata==1.17.1"]
# ///
"""The genuine MLMD store (C++, from the package ml-metadata) behind its gRPC service, on a SQLite file.

A script with a lock of its own (serve.py.lock): ml-metadata holds protobuf and attrs back at versions that the
project does not want. The package brings no server, but each call of the service takes and gives the same bytes as a
function of the store. It says ``ready <port>`` on stdout, then a line for each call, ``<method> <peer> <bytes>``, and
ends when its stdin does. It lies in a folder of its own: Python looks first where a script lies, and in tests/real it
would find an operator.py.

    uv run --locked --script tests/real/mlmd_store/serve.py FILE PORT
"""

import sys
import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import grpc
from ml_metadata.metadata_store.pywrap.metadata_store_extension import metadata_store as store_of
from ml_metadata.proto import metadata_store_pb2

MAX_MESSAGE = 100 << 20  # what KFP's own server takes since 2.15 (pipelines: PR 12803)
SERVICE = "/ml_metadata.MetadataStoreService/"


class Service(grpc.GenericRpcHandler):
    """Hands each call's bytes to the store, one at a time."""

    def __init__(self, file: str) -> None:
        config = metadata_store_pb2.ConnectionConfig()
        config.sqlite.filename_uri = file
        options = metadata_store_pb2.MigrationOptions()
        self._store = store_of.CreateMetadataStore(config.SerializeToString(), options.SerializeToString())
        self._lock = threading.Lock()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = handler_call_details.method
        call = getattr(store_of, method.removeprefix(SERVICE), None) if method.startswith(SERVICE) else None
        if call is None:
            return None
        return grpc.unary_unary_rpc_method_handler(self._answer(method.removeprefix(SERVICE), call))

    def _answer(self, method: str, call: Callable) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        codes = {code.value[0]: code for code in grpc.StatusCode}

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            with self._lock:
                response, message, code = call(self._store, request)
                print(method, context.peer(), len(response), flush=True)
            if code:
                context.abort(codes[code], message.decode())
            return response

        return answer


def main(file: str, port: str) -> None:
    """Serve until stdin ends."""
    limits = [("grpc.max_send_message_length", MAX_MESSAGE), ("grpc.max_receive_message_length", MAX_MESSAGE)]
    # Without this a second server on the port would share it in silence.
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[*limits, ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Service(str(Path(file).absolute())),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("ready", bound, flush=True)
    sys.stdin.buffer.read()
    server.stop(None)


if __name__ == "__main__":
    main(*sys.argv[1:])
