"""The command tree and the edge at which every failure becomes a sentence, a next step and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence

import click

from wasmhost import __version__, logs
from wasmhost.cli import problems
from wasmhost.cli.app import App, output_option
from wasmhost.cli.exit_codes import ExitCode

DEBUG_VARIABLE = "WASMHOST_DEBUG"
SEED_TYPED = (
    "Warning: a seed on the command line is seen by every user of this machine until the command has begun, and kept "
    "by the shell. Name a file with the seed instead."
)
_MAY_HOLD_SECRETS = re.compile("S[A-Z][A-Z2-7]{56}|://.*@")


class Group(click.Group):
    """A group whose commands are imported when they are needed: a short command should not load the engine."""

    def __init__(self, name: str, help: str, members: Mapping[str, str | click.Command]) -> None:
        """``members`` maps a command's name to itself or to ``module:attribute``."""
        short = help.partition(".")[0]
        super().__init__(
            name,
            help=help,
            short_help=short[:1].lower() + short[1:],
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        self._members = members

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        member = self._members.get(cmd_name)
        if isinstance(member, str):
            module, _, attribute = member.partition(":")
            member = getattr(importlib.import_module(module), attribute)
            assert isinstance(member, click.Command)
        return member

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self._members and not args[0].startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(args[0], self._members, n=1)
            meant = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(self._members)}"
            ctx.fail(f"no command '{args[0]}': {meant}")
        return super().resolve_command(ctx, args)


_CLI = "wasmhost.cli"

_VERBS: dict[str, str | click.Command] = {
    "get": Group(
        "get",
        "Show what is in the lattice.",
        {
            "hosts": f"{_CLI}.hosts:get_hosts",
            "inventory": f"{_CLI}.hosts:get_inventory",
            "actors": f"{_CLI}.actors:get_actors",
            "providers": f"{_CLI}.providers:get_providers",
            "links": f"{_CLI}.links:get_links",
            "claims": f"{_CLI}.claims:get_claims",
        },
    ),
    "start": Group(
        "start",
        "Start an actor or a provider.",
        {"actor": f"{_CLI}.actor_start:start_actor", "provider": f"{_CLI}.providers:start_provider"},
    ),
    "stop": Group(
        "stop",
        "Stop an actor, a provider or a host.",
        {
            "actor": f"{_CLI}.actor_scale:stop_actor",
            "provider": f"{_CLI}.providers:stop_provider",
            "host": f"{_CLI}.hosts:stop_host",
        },
    ),
    "update": Group("update", "Put a newer revision in place.", {"actor": f"{_CLI}.update:update_actor"}),
    "scale": Group("scale", "Change how many instances run.", {"actor": f"{_CLI}.actor_scale:scale_actor"}),
    "link": Group(
        "link",
        "Let actors use providers.",
        {
            "put": f"{_CLI}.links:put",
            "del": f"{_CLI}.links:delete",
            "query": f"{_CLI}.links:get_links",
        },
    ),
}
"""What the classic client has below ``ctl``, and has had without it since its 0.18."""

cli = Group(
    "wasmhost",
    "Run signed WebAssembly actors and capability providers in one lattice over NATS.\n\n"
    "Start here: `wasmhost up MANIFEST` brings up a whole lattice on this machine.",
    {
        "up": f"{_CLI}.up.command:up",
        "down": f"{_CLI}.down:down",
        "host": f"{_CLI}.daemon:host",
        **_VERBS,
        "migrate": Group(
            "migrate",
            "Move what runs to another host.",
            {
                "actor": f"{_CLI}.moving.migrate:migrate_actor",
                "provider": f"{_CLI}.moving.migrate:migrate_provider",
            },
        ),
        "cordon": f"{_CLI}.moving.hosts:cordon",
        "uncordon": f"{_CLI}.moving.hosts:uncordon",
        "drain": f"{_CLI}.moving.hosts:drain_host",
        "call": f"{_CLI}.call:call",
        "claims": Group(
            "claims",
            "Read, write and revoke signed claims.",
            {
                "inspect": f"{_CLI}.inspection:inspect",
                "sign": f"{_CLI}.claims:sign",
                "revoke": f"{_CLI}.revoking:revoke",
                "unrevoke": f"{_CLI}.revoking:unrevoke",
                "revoked": f"{_CLI}.revoking:revoked",
                "token": Group(
                    "token",
                    "Print a signed token without the file that it is for.",
                    {"actor": f"{_CLI}.tokens:actor", "provider": f"{_CLI}.tokens:provider"},
                ),
            },
        ),
        "inspect": f"{_CLI}.inspection:inspect",
        "par": Group(
            "par",
            "Pack native providers into signed archives, and look into archives.",
            {
                "create": f"{_CLI}.par:create",
                "inspect": f"{_CLI}.par:inspect",
                "insert": f"{_CLI}.par:insert",
            },
        ),
        "keys": Group(
            "keys",
            "Make and show keys.",
            {"gen": f"{_CLI}.keys:gen", "list": f"{_CLI}.keys:list_keys", "get": f"{_CLI}.keys:get"},
        ),
        "cluster": Group(
            "cluster",
            "See and change the keys that sign calls.",
            {
                "list": f"{_CLI}.cluster:list_keys",
                "rotate": f"{_CLI}.cluster:rotate",
                "revoke-provider": f"{_CLI}.cluster:revoke_provider",
            },
        ),
        "events": f"{_CLI}.events:events",
        "logs": f"{_CLI}.logs:logs",
        "spy": f"{_CLI}.spy:spy",
        "label": f"{_CLI}.labels:label",
        "apply": f"{_CLI}.apply:apply",
        "ctl": Group(
            "ctl",
            "The same as without `ctl`, as older clients spell it.",
            {**_VERBS, "apply": f"{_CLI}.apply:apply"},
        ),
        "ctx": Group(
            "ctx",
            "Name lattices, to work in one of several.",
            {
                "list": f"{_CLI}.contexts:list_contexts",
                "new": f"{_CLI}.contexts:new",
                "del": f"{_CLI}.contexts:delete",
                "default": f"{_CLI}.contexts:default",
            },
        ),
        "doctor": f"{_CLI}.doctor.command:doctor",
        "completions": f"{_CLI}.completions:completions",
    },
)
output_option(cli)
click.version_option(__version__, prog_name="wasmhost", message="%(prog)s %(version)s")(cli)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Every failure has been shown when this returns."""
    app = App()
    given = list(sys.argv[1:] if arguments is None else arguments)
    seed_typed = any(_MAY_HOLD_SECRETS.search(text) for text in given) and _wipe(given)
    try:
        return _run(app, given)
    finally:
        if seed_typed:
            app.output.say(SEED_TYPED)


def _wipe(arguments: Sequence[str]) -> bool:
    from wasmhost.keys.secret_wiping import wipe_arguments

    return wipe_arguments(arguments)


def _run(app: App, arguments: Sequence[str]) -> int:
    try:
        result = cli.main(
            args=list(arguments),
            prog_name="wasmhost",
            standalone_mode=False,
            obj=app,
        )
        return result if isinstance(result, int) else ExitCode.DONE
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return ExitCode.USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "wasmhost"
        return _show(app, problems.invalid(_sentence(error.format_message()), f"see `{path} --help`"))
    except click.ClickException as error:
        return _show(app, problems.Problem(_sentence(error.format_message())))
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left, as `head` does; nothing more can be said, not even by the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except Exception as error:
        known = problems.from_error(error)
        if known is None:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            known = problems.Problem(
                f"internal error: {type(error).__name__}: {error}",
                hint=f"run it again with {DEBUG_VARIABLE}=1 and report what it prints",
            )
        return _show(app, known)


def _show(app: App, problem: problems.Problem) -> int:
    app.output.problem(logs.hide(str(problem)), logs.hide(problem.hint), problem.exit_code)
    return problem.exit_code


def _sentence(text: str) -> str:
    """Click's messages without their final stop."""
    return text.strip().removesuffix(".")
