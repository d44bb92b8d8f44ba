"""What the hosts' own reports, the links and the claims say about what is open. Nothing here asks anybody."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from lattice.links import LinkDefinition
from lattice.security_report import SecurityReport
from wasmhost.cli.doctor.findings import Finding, fix, ok, warn
from wasmhost.cli.up.addresses import HTTP_CONTRACT, Address

SOON_CLAIMS = 14 * 86_400
"""Seconds before their end at which claims are told of."""
SOON_USER = 3 * 86_400
"""The same for NATS users, whose tokens live shorter."""
MANY_ACCOUNTS = 5
SHOWN = 3
_OWN_ADDRESSES = ("127.", "localhost", "[::1]", "::1")
_CRITICAL = ("WASMCLOUD_CLUSTER_SEED", "WASMCLOUD_HOST_SEED")


def check_reports(reports: Sequence[SecurityReport], silent: Sequence[str]) -> Iterator[Finding]:
    """Each host's users, inboxes, keys, trust and files; ``silent`` are the names of hosts that do not say."""
    if silent:
        yield warn(
            "other hosts",
            f"{listed(silent)}: of another maker or version; believes every key in its list, and cannot say more",
            "replace it by a host of this version, or give it a lattice of its own",
        )
    classic = bool(silent)
    names: dict[Finding, list[str]] = {}
    for report in reports:
        for finding in _check_report(report, classic=classic):
            # What several hosts have in common is said once.
            rest = replace(finding, message=finding.message.removeprefix(f"{report.name}: "))
            names.setdefault(rest, []).append(report.name)
    for finding, hosts in names.items():
        yield replace(finding, message=f"{listed(hosts)}: {finding.message}")


def _check_report(report: SecurityReport, *, classic: bool) -> Iterator[Finding]:
    yield from _routes(report)
    yield from _users(report)
    yield from _inboxes(report)
    yield from _ends(report)
    yield _provider_keys(report, classic=classic)
    yield from _trust(report)
    yield from _loading(report)
    yield from _environment(report)
    yield from _files(report)


def _routes(report: SecurityReport) -> Iterator[Finding]:
    plain = [
        f"{kind} to {route.server}"
        for kind, route in report.routes.items()
        if route.server and not route.local and not route.encrypted
    ]
    if plain:
        yield fix(
            "tls",
            f"{report.name}: without TLS over the network: {listed(plain)}",
            "give the server certificates (docs/security.md) and the host nats_url: tls://… with nats_tls_ca",
        )
    else:
        yield ok("tls", f"{report.name}: encrypted, or on its own machine")


def _users(report: SecurityReport) -> Iterator[Finding]:
    control, rpc, providers = report.control.user, report.rpc.user, report.providers.user
    if not any((control, rpc, providers)):
        return  # told as an open server
    same = []
    if control and control == providers:
        same.append("providers are the user of control: each of them may command every host")
    elif rpc and rpc == providers:
        same.append("providers are the user of the host's calls: each of them may speak for every actor")
    if control and control == rpc:
        same.append("control and calls are one user: whoever gets hold of one has both")
    for text in same:
        yield fix("users", f"{report.name}: {text}", "give ctl_creds, rpc_creds and prov_rpc_creds users of their own")
    if not same and "{provider}" not in providers:
        yield warn(
            "users",
            f"{report.name}: all its providers are one user: one of them may read and speak for the others",
            "give each a user: prov_rpc_creds with {provider} in its path, or prov_rpc_signing_key",
        )
    elif not same:
        yield ok("users", f"{report.name}: control, calls and each provider are users of their own")


def _inboxes(report: SecurityReport) -> Iterator[Finding]:
    if not any(route.user for route in report.routes.values()):
        return
    shared = [kind for kind, route in report.routes.items() if route.inbox == "_INBOX"]
    if shared:
        yield warn(
            "inboxes",
            f"{report.name}: {listed(shared)} have answers sent to _INBOX, which clients and providers of other "
            "makers have to be allowed to read",
            "set ctl_inbox_prefix, rpc_inbox_prefix and prov_rpc_inbox_prefix, and permit each user its own only",
        )
    else:
        yield ok("inboxes", f"{report.name}: each connection has its own")


def _ends(report: SecurityReport) -> Iterator[Finding]:
    users = {f"NATS user of {kind}": route.expires for kind, route in report.routes.items() if route.expires}
    yield from ending("nats users", report.name, users, SOON_USER, "write a new credentials file over the old one")
    claims = {f"{each.name or each.id[:12]} ({each.id[:12]}…)": each.expires for each in report.endings}
    yield from ending(
        "claims", report.name, claims, SOON_CLAIMS, "sign it again (`wasmhost claims sign`) and update it"
    )


def ending(check: str, name: str, ends: Mapping[str, int], soon: float, how: str) -> Iterator[Finding]:
    """What has expired, or is about to; ``ends`` are Unix times, ``soon`` seconds."""
    now = time.time()
    for what, when in sorted(ends.items()):
        if when <= now:
            yield fix(check, f"{name}: {what} expired on {_day(when)}", how)
        elif when - now < soon:
            yield warn(check, f"{name}: {what} expires on {_day(when)}", how)


def _provider_keys(report: SecurityReport, *, classic: bool) -> Finding:
    if report.provider_keys != "cluster":
        return ok("keys", f"{report.name}: each provider signs with a key of its own")
    message = f"{report.name}: hands the cluster's seed to every provider, which can sign any call with it"
    how = "start it without --provider-keys cluster"
    return warn("keys", message, f"{how} once no classic host is left") if classic else fix("keys", message, how)


def _trust(report: SecurityReport) -> Iterator[Finding]:
    if not report.trusted:
        yield ok("trust", f"{report.name}: trusts no account, so that nothing can be started there")
    elif len(report.trusted) > MANY_ACCOUNTS:
        yield warn(
            "trust",
            f"{report.name}: {len(report.trusted)} accounts may run code there",
            "name the accounts that are needed with --trust or trusted_issuers, and no other",
        )
    elif not report.development_account:
        yield ok("trust", f"{report.name}: {len(report.trusted)} accounts may run code there")
    if report.development_account:
        yield warn(
            "trust",
            f"{report.name}: trusts the development account of its user, which signs whatever `wasmhost up` is given",
            "run `wasmhost host --trust ACCOUNT` where others depend on it, with an account whose seed is elsewhere",
        )
    if len(report.trusted) > 1 and not report.policy:
        yield warn(
            "policy",
            f"{report.name}: no policy service decides between the actors of {len(report.trusted)} accounts",
            "name one with --policy-topic, see docs/policy.md",
        )
    elif report.policy:
        yield ok("policy", f"{report.name}: a service at {report.policy} decides")


def _loading(report: SecurityReport) -> Iterator[Finding]:
    if report.allow_file_load:
        yield warn(
            "files",
            f"{report.name}: whoever may command it can start any file of its machine that a trusted account signed",
            "start it without --allow-file-load",
        )
    if report.allow_anonymous_nats:
        yield warn(
            "nats",
            f"{report.name}: accepts servers of the network that let everybody in, at a reconnect, too",
            "start it without --allow-anonymous-nats",
        )


def _environment(report: SecurityReport) -> Iterator[Finding]:
    keys = [name for name in report.environment if name in _CRITICAL]
    others = [name for name in report.environment if name not in _CRITICAL]
    if report.wiped_environment:
        yield warn(
            "environment",
            f"{report.name}: was given {listed(report.wiped_environment)} by its environment, where it has wiped them; "
            "the shell or service file that started it still has them",
            "keep keys in the state folder or in a file of settings, and name credentials files for NATS users",
        )
    how = "keep it in the state folder or in a file of settings with mode 600, named by --config or HOST_CONFIG"
    if keys:
        yield fix("environment", f"{report.name}: {listed(keys)} in the environment of its process", how)
    if others:
        how = "name a credentials file instead: ctl_creds, rpc_creds, prov_rpc_creds or nats_creds"
        yield warn("environment", f"{report.name}: {listed(others)} in the environment of its process", how)


def _files(report: SecurityReport) -> Iterator[Finding]:
    for path in report.exposed:
        yield fix("files", f"{report.name}: others of its machine may look into {path}", f"chmod go-rwx {path}")


def check_links(links: Iterable[LinkDefinition]) -> Iterator[Finding]:
    """HTTP beyond this machine without TLS."""
    found = False
    for link in links:
        address = Address.of(link)
        if address is None or address.secure or _is_own(link):
            continue
        found = True
        yield warn(
            "http",
            f"{address.host}:{address.port} answers to the network without TLS (actor {link.actor_id[:12]}…)",
            "give its link cert_file and priv_key_file, or listen on 127.0.0.1 behind something that speaks TLS",
        )
    if not found:
        yield ok("http", "no actor answers to the network without TLS")


def _is_own(link: LinkDefinition) -> bool:
    """Whether the address as it is written is of its own machine; what is not written is, too."""
    values = {key.lower(): value for key, value in link.values.items()}
    text = next((values[key] for key in ("address", "config_json", "config_b64") if key in values), "")
    if link.contract_id != HTTP_CONTRACT or not text:
        return True
    address = Address.of(link)
    host = text.rpartition(":")[0] if "address" in values else (address.host if address else "")
    return host.startswith(_OWN_ADDRESSES)


def check_actor_calls(actors: Mapping[str, str], reports: Sequence[SecurityReport]) -> Finding:
    """Who may call whom; ``actors`` are accounts by the name of what they signed."""
    if len(actors) < 2:
        return ok("actor calls", "fewer than two actors run")
    accounts = sorted(set(actors.values()))
    decided = bool(reports) and all(report.policy and report.policy_calls for report in reports)
    if decided:
        return ok("actor calls", "the policy service decides which actor may call which")
    message = f"any of {listed(sorted(actors))} may call any other, by key or alias"
    if len(accounts) == 1:
        return ok("actor calls", f"{message}; all are of one account")
    return warn(
        "actor calls",
        f"{message}; they are of {len(accounts)} accounts",
        "use a policy service (docs/policy.md), or a lattice for each account",
    )


def listed(names: Iterable[str]) -> str:
    """The first of them, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def own_route(url: str, *, encrypted: bool, local: bool) -> Finding:
    """The connection of the command itself."""
    if encrypted:
        return ok("tls", f"this command speaks TLS with {url}")
    if local:
        return ok("tls", f"{url} is on this machine")
    return fix("tls", f"{url} is reached without TLS", "give the server certificates and name it as tls://…")


def _day(moment: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
    except (ValueError, OverflowError, OSError):  # a host may tell any number
        return f"{moment} s after 1970"
