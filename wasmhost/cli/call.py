"""``wasmhost call``: call an operation of an actor from the outside."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import click

from lattice import wire
from lattice.antiforgery import Signer
from lattice.chunks import Chunks
from lattice.contracts.httpserver import HANDLE_REQUEST, HttpRequest
from lattice.errors import Code, LatticeError, MalformedMessage, NotAuthorized, RemoteError, Unreachable
from lattice.invocation import Entity
from lattice.keys import KeyPair, Role, derive, is_key
from lattice.rpc import RpcClient
from wasmhost.cli import actors
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.claims import read_seed
from wasmhost.cli.problems import Problem, invalid, not_found
from wasmhost.cli.session import CLIENT_NAME, Session

CALL_TIMEOUT = 10.0


@click.command(short_help="call an operation of an actor")
@click.argument("actor")
@click.argument("operation")
@click.argument("argument", required=False, metavar="[JSON]")
@click.option("--data", type=click.Path(path_type=Path, allow_dash=True), help="File with the JSON; - is stdin.")
@click.option("--cluster-seed", metavar="SEED", help="Seed of the cluster, or its file (default: this user's).")
@click.option("--raw", is_flag=True, help="Write the bytes of the answer as they came.")
@lattice_options
@pass_app
def call(
    app: App,
    *,
    actor: str,
    operation: str,
    argument: str | None,
    data: Path | None,
    cluster_seed: str | None,
    raw: bool,
) -> None:
    """Call OPERATION of ACTOR with a JSON argument and print its answer.

    \b
    wasmhost call echo HttpServer.HandleRequest '{"path": "/hello"}'

    For HttpServer.HandleRequest what is left out of the request gets its usual value.
    """
    payload = encode_argument(operation, _read_argument(argument, data))
    cluster = _cluster_key(app, cluster_seed)

    async def work(session: Session) -> tuple[str, bytes]:
        actor_id = await _find_actor(session, actor)
        return actor_id, await _call(session, cluster, actor_id, operation, payload)

    actor_id, answer = app.run(work)
    if raw:
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
        return
    try:
        value = readable(wire.unpack_value(answer, "the answer")) if answer else None
    except MalformedMessage as error:
        raise Problem(f"{actor} answered {len(answer)} bytes: {error}", hint="see them with --raw") from error
    if app.output.json:
        app.output.document({"actor_id": actor_id, "operation": operation, "result": value})
    else:
        app.output.text(json.dumps(value, ensure_ascii=False))


def _read_argument(argument: str | None, data: Path | None) -> Any:
    """The JSON of the command line or of a file; None when there is none. Raises Problem."""
    if argument is not None and data is not None:
        raise invalid("the argument was given twice", "leave out the JSON or --data")
    if data is not None:
        argument = sys.stdin.read() if str(data) == "-" else data.read_text()
    if argument is None:
        return None
    try:
        return json.loads(argument)
    except ValueError as error:
        raise invalid(
            f"the argument is not JSON: {error}", """quote it for the shell, such as '{"path": "/"}'"""
        ) from None


def encode_argument(operation: str, value: Any) -> bytes:
    """A JSON value as the contract's bytes: msgpack as it stands, nothing for no argument. Raises Problem."""
    if operation == HANDLE_REQUEST:
        return _http_request({} if value is None else value)
    if value is None:
        return b""
    try:
        return wire.pack(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise invalid(f"the argument cannot be sent as msgpack: {error}", "use numbers of at most 64 bits") from error


def _http_request(value: Any) -> bytes:
    """An HTTP request with defaults for what was left out; a text body is sent as its UTF-8 bytes."""
    if not isinstance(value, dict):
        raise invalid("an HTTP request is a JSON object", """such as '{"method": "GET", "path": "/"}'""")
    known = {"method", "path", "queryString", "header", "body"}
    if unknown := sorted(set(value) - known):
        raise invalid(f"an HTTP request has no member '{unknown[0]}'", f"there are {', '.join(sorted(known))}")
    body = value.get("body", "")
    header = value.get("header", {})
    try:
        return HttpRequest(
            method=str(value.get("method", "GET")).upper(),
            path=str(value.get("path", "/")),
            query_string=str(value.get("queryString", "")),
            header={name: [v] if isinstance(v, str) else [str(item) for item in v] for name, v in header.items()},
            body=body.encode() if isinstance(body, str) else bytes(body),
        ).encode()
    except (AttributeError, TypeError, ValueError) as error:
        raise invalid(
            f"that is no HTTP request: {error}", "header is an object of texts, body a text or a list of byte values"
        ) from error


def readable(value: object) -> Any:
    """``value`` with bytes as text where they are UTF-8, else as ``{"base64": …}``: JSON has no bytes."""
    match value:
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return {"base64": base64.b64encode(value).decode()}
        case list() | tuple():
            return [readable(item) for item in value]
        case dict():
            return {str(readable(key)): readable(item) for key, item in value.items()}
    return value


def _cluster_key(app: App, cluster_seed: str | None) -> KeyPair:
    given = cluster_seed or app.context().cluster_seed
    return read_seed(given, Role.CLUSTER) if given else app.keyring.cluster()


async def _find_actor(session: Session, text: str) -> str:
    """The key of the actor that ``text`` means; a whole key is taken as it is."""
    if is_key(text, Role.MODULE):
        return text
    return (await actors.find_running(session, text))[0].key


async def _call(session: Session, cluster: KeyPair, actor_id: str, operation: str, payload: bytes) -> bytes:
    key = derive(cluster, lattice=session.context.lattice, purpose="client", subject=CLIENT_NAME)
    chunks = Chunks(session.connection, session.context.lattice)
    rpc = RpcClient(session.connection, session.context.lattice, Signer(key, key.public), chunks)
    try:
        return await rpc.call(
            origin=Entity(CLIENT_NAME),
            target=Entity.actor(actor_id),
            operation=operation,
            msg=payload,
            timeout=session.patience(CALL_TIMEOUT),
        )
    except Unreachable as error:
        if error.code is Code.NO_RESPONDERS:
            raise not_found(
                f"no host runs actor {actor_id} in lattice '{session.context.lattice}'",
                f"see `{actors.LOOK}`; start it with `wasmhost start actor`",
            ) from error
        raise
    except (NotAuthorized, RemoteError) as error:
        raise _with_hint(error) from error
    finally:
        await chunks.close()


def _with_hint(error: LatticeError) -> LatticeError | Problem:
    """A refused signature usually means that the lattice has another cluster seed than this user."""
    if error.code is not Code.NOT_AUTHORIZED:
        return error
    from wasmhost.cli.exit_codes import ExitCode

    return Problem(
        str(error),
        exit_code=ExitCode.NOT_AUTHORISED,
        hint="if that lattice belongs to another user, give the seed of its cluster with --cluster-seed",
    )
