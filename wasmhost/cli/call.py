"""``wasmhost call``: call an operation of an actor from the outside."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import dataclass
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
from lattice.verify import ISSUER_REFUSED
from wasmhost.cli import actor_tests, actors
from wasmhost.cli import names as complete
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.halted import why_halted
from wasmhost.cli.output import to_json
from wasmhost.cli.problems import Problem, invalid, not_found
from wasmhost.cli.session import CLIENT_NAME, Session
from wasmhost.cli.signing import read_seed
from wasmhost.keys.cluster_seeds import ClusterSeeds

CALL_TIMEOUT = 10.0


@click.command(short_help="call an operation of an actor")
@click.argument("actor", shell_complete=complete.actors_of_lattice)
@click.argument("operation")
@click.argument("argument", nargs=-1, metavar="[JSON]...")
@click.option("-d", "--data", type=click.Path(path_type=Path, allow_dash=True), help="File with the JSON; - is stdin.")
@click.option("-c", "--cluster-seed", metavar="FILE", help="File with its seed, or that (default: this user's).")
@click.option("--classic", is_flag=True, help="Sign with the cluster seed itself, which hosts of other makers ask for.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the bytes of the answer there.")
@click.option("--raw", is_flag=True, help="Write the bytes of the answer to standard output.")
@click.option(
    "--bin",
    "binary",
    type=click.Choice(["b", "s", "2"]),
    is_flag=False,
    flag_value="b",
    help="Show bytes as a list (b), as text (s) or both (2).",
)
@click.option("--test", "tests", is_flag=True, help="The answer is a list of test results; exit code 1 if one failed.")
@lattice_options
@pass_app
def call(
    app: App,
    *,
    actor: str,
    operation: str,
    argument: tuple[str, ...],
    data: Path | None,
    cluster_seed: str | None,
    classic: bool,
    save: Path | None,
    raw: bool,
    binary: str | None,
    tests: bool,
) -> int:
    """Call OPERATION of ACTOR with a JSON argument and print its answer.

    \b
    wasmhost call echo HttpServer.HandleRequest '{"path": "/hello"}'

    For HttpServer.HandleRequest what is left out of the request gets its usual value.
    """
    payload = encode_argument(operation, _read_argument(argument, data))
    clusters = _cluster_keys(app, cluster_seed)

    def sender(session: Session, cluster: KeyPair, actor_id: str) -> _Sender:
        return _classic_sender(cluster, actor_id) if classic else _sender(cluster, session.context.lattice)

    async def work(session: Session) -> tuple[str, bytes]:
        actor_id = await _find_actor(session, actor)
        for cluster in clusters[:-1]:
            try:
                return actor_id, await _call(session, sender(session, cluster, actor_id), actor_id, operation, payload)
            except Problem as refusal:
                if ISSUER_REFUSED not in str(refusal):
                    raise
                # the hosts have gone over to another of this user's keys; what was refused did nothing
        return actor_id, await _call(session, sender(session, clusters[-1], actor_id), actor_id, operation, payload)

    actor_id, answer = app.run(work)
    document: dict[str, Any] = {"actor_id": actor_id, "operation": operation}
    if save is not None:
        save.write_bytes(answer)
        if not tests:
            app.output.say(f"wrote {len(answer)} bytes to {save}")
            if app.output.json:
                app.output.document(document | {"saved": str(save.absolute()), "bytes": len(answer)})
            return ExitCode.DONE
    if raw:
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
        return ExitCode.DONE
    try:
        value = wire.unpack_value(answer, "the answer") if answer else None
        results = actor_tests.read_results(value) if tests else []
    except MalformedMessage as error:
        hint = "see them with --raw, or keep them with --save"
        raise Problem(f"{actor} answered {len(answer)} bytes: {error}", hint=hint) from error
    if tests:
        if app.output.json:
            app.output.document(document | actor_tests.document(results))
        else:
            actor_tests.show(app.output, results)
        return ExitCode.DONE if all(result.passed for result in results) else ExitCode.FAILED
    if app.output.json:
        app.output.document(document | {"result": readable(value, binary)})
    else:
        app.output.text(to_json(readable(value, binary)))
    return ExitCode.DONE


def _read_argument(words: tuple[str, ...], data: Path | None) -> Any:
    """The JSON of the command line or of a file; None when there is none. Raises Problem."""
    if words and data is not None:
        raise invalid("the argument was given twice", "leave out the JSON or --data")
    if data is None and not words:
        return None
    where = f"{data}" if data is not None and str(data) != "-" else "the argument"
    try:
        if data is None:
            return json.loads(" ".join(words))  # a shell may have taken unquoted JSON apart
        return json.loads(sys.stdin.read() if str(data) == "-" else data.read_text())
    except RecursionError:
        raise invalid(f"{where} is nested too deeply to be sent", "an argument has a few levels") from None
    except ValueError as error:
        raise invalid(f"{where} is not JSON: {error}", """quote it for the shell, such as '{"path": "/"}'""") from None


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


def readable(value: object, binary: str | None = None) -> Any:
    """``value`` as JSON can have it. Bytes become text where they are UTF-8, else ``{"base64": …}``.

    ``binary`` asks for another form, as the classic command line has them: ``b`` a list of numbers, ``s`` text whatever
    they are, ``2`` both, as ``{"bin", "str"}``.
    """
    match value:
        case bytes():
            return _readable_bytes(value, binary)
        case list() | tuple():
            return [readable(item, binary) for item in value]
        case dict():
            return {str(readable(key)): readable(item, binary) for key, item in value.items()}
    return value


def _readable_bytes(value: bytes, binary: str | None) -> Any:
    match binary:
        case "b":
            return list(value)
        case "s":
            return value.decode(errors="replace")
        case "2":
            return {"bin": list(value), "str": value.decode(errors="replace")}
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _cluster_keys(app: App, cluster_seed: str | None) -> list[KeyPair]:
    """The cluster keys that may sign: the one that was named, else all of this user, as one takes over from another."""
    given = cluster_seed or app.context().cluster_seed
    if given:
        return [read_seed(given, Role.CLUSTER)]
    return list(dict.fromkeys([app.keyring.cluster(), *ClusterSeeds(app.paths).all()]))


async def _find_actor(session: Session, text: str) -> str:
    """The key of the actor that ``text`` means; a whole key is taken as it is."""
    if is_key(text, Role.MODULE):
        return text
    try:
        return (await actors.find_running(session, text))[0].key
    except Problem as missing:
        raise await why_halted(session, text) or missing from missing


@dataclass(frozen=True, slots=True)
class _Sender:
    """In whose name a call is made."""

    origin: Entity
    signer: Signer


def _sender(cluster: KeyPair, lattice: str) -> _Sender:
    """This command, with a key that signs for nobody else."""
    key = derive(cluster, lattice=lattice, purpose="client", subject=CLIENT_NAME)
    return _Sender(Entity(CLIENT_NAME), Signer(key, key.public))


def _classic_sender(cluster: KeyPair, actor_id: str) -> _Sender:
    """As the classic command line does it: hosts look up the claims of the origin, and those of the target are known.

    They also want the key of a host, which is not looked up.
    """
    return _Sender(Entity.actor(actor_id), Signer(cluster, KeyPair.generate(Role.HOST).public))


async def _call(session: Session, sender: _Sender, actor_id: str, operation: str, payload: bytes) -> bytes:
    try:
        async with session.rpc_connection() as connection:
            chunks = Chunks(connection, session.context.lattice, domain=session.context.js_domain)
            try:
                return await RpcClient(connection, session.context.lattice, sender.signer, chunks).call(
                    origin=sender.origin,
                    target=Entity.actor(actor_id),
                    operation=operation,
                    msg=payload,
                    timeout=session.context.rpc_timeout or CALL_TIMEOUT,
                )
            finally:
                await chunks.close()
    except Unreachable as error:
        if error.code is Code.NO_RESPONDERS:
            if halted := await why_halted(session, actor_id):
                raise halted from error
            raise not_found(
                f"no host runs actor {actor_id} in lattice '{session.context.lattice}'",
                f"see `{actors.LOOK}`; start it with `wasmhost start actor`",
            ) from error
        raise
    except (NotAuthorized, RemoteError) as error:
        raise _with_hint(error) from error


_CLASSIC_REFUSALS = ("list of valid issuers", "list of cluster issuers", "anti-forgery check failed")
"""What hosts of other makers say of a signature that they do not accept; they send no code with it."""


def _with_hint(error: LatticeError) -> LatticeError | Problem:
    """A refused signature usually means that the lattice has another cluster seed than this user."""
    from_classic = error.code is Code.PROVIDER_ERROR and any(text in str(error).lower() for text in _CLASSIC_REFUSALS)
    if error.code is not Code.NOT_AUTHORIZED and not from_classic:
        return error
    hint = "if that lattice belongs to another user, give the seed of its cluster with --cluster-seed"
    return Problem(
        str(error),
        exit_code=ExitCode.NOT_AUTHORISED,
        hint=f"{hint}; hosts of other makers need --classic, too" if from_classic else hint,
    )
