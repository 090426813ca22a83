"""`sarguard policy`: write, check, show and compare policies."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sarguard.cli.options import Command
from sarguard.cli.screen import print_json
from sarguard.errors import ConfigurationError

if TYPE_CHECKING:
    from sarguard.cli.options import Commands

_WEAK = 1
_DIFFERENT = 1
# Policies hold messages in people's own languages.
_print_json = partial(print_json, ensure_ascii=False)
_SIGNS = {"stronger": "+", "weaker": "-", "other": "~"}


def add_parser(commands: Commands) -> None:
    """Add the command and its own commands."""
    parser = commands.add_parser(
        "policy",
        help="write, check, show and compare policies",
        description="Work with policy files. Every part takes --help; all but init "
        "and schema take --json.",
    )
    own = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    policy = "a policy file, or the name of a preset"

    init = _add_command(own, "init", run_init, "write a policy file to start from")
    init.add_argument(
        "-o",
        "--output",
        default="policy.yaml",
        metavar="FILE",
        help="where it goes, - for stdout (default: policy.yaml)",
    )
    init.add_argument("--id", default="my-policy", help="its name in records")
    init.add_argument(
        "--extends", default="balanced", metavar="PRESET", help="default: balanced"
    )
    init.add_argument("--force", action="store_true", help="replace a file")

    does = "say what is weak; exits with 1 if there is an error or a warning"
    lint = _add_command(own, "lint", run_lint, does)
    lint.add_argument("policy", nargs="+", help=policy)
    lint.add_argument("--strict", action="store_true", help="notes count as well")
    lint.add_argument("--json", action="store_true", help="write findings as JSON")

    does = "write a policy with all that it extends, and its digest"
    show = _add_command(own, "show", run_show, does)
    show.add_argument("policy", help=policy)
    form = show.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="write it as JSON")
    form.add_argument(
        "--canonical", action="store_true", help="write the bytes that are hashed"
    )
    form.add_argument("--digest", action="store_true", help="write the digest alone")

    does = (
        "say what differs, and whether it holds more or less; exits with 1 if it does"
    )
    diff = _add_command(own, "diff", run_diff, does)
    diff.add_argument("old", help=policy)
    diff.add_argument("new", help=policy)
    diff.add_argument("--json", action="store_true", help="write changes as JSON")

    _add_command(own, "schema", run_schema, "write the JSON Schema of a policy file")


def _add_command(
    commands: Commands, name: str, run: Command, does: str
) -> argparse.ArgumentParser:
    description = f"{does[0].upper()}{does[1:]}."
    parser = commands.add_parser(name, help=does, description=description)
    parser.set_defaults(run=run)
    return parser


def run_init(options: argparse.Namespace) -> int:
    """Write a policy file to start from."""
    from sarguard.policy.template import policy_template

    text = policy_template(options.id, extends=options.extends)
    if options.output == "-":
        sys.stdout.write(text)
        return 0
    path = Path(options.output)
    try:
        with path.open("w" if options.force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path} exists: name another file with -o, or replace it with --force"
        ) from error
    sys.stdout.write(f"Wrote {path}. Check it: sarguard policy lint {path}\n")
    return 0


def run_lint(options: argparse.Namespace) -> int:
    """Write what is weak in each policy; 1 if something is."""
    from sarguard.policy.lint import Severity, lint
    from sarguard.policy.model import open_policy

    findings = {name: lint(open_policy(name)) for name in options.policy}
    if options.json:
        _print_json({n: [f.to_dict() for f in found] for n, found in findings.items()})
    else:
        for name, found in findings.items():
            if not found:
                sys.stdout.write(f"{name}: nothing weak found\n")
            for finding in found:
                sys.stdout.write(
                    f"{name}: {finding.severity} {finding.code} {finding.path}: "
                    f"{finding.found}\n    -> {finding.fix}\n"
                )
    weak = any(
        options.strict or finding.severity is not Severity.NOTE
        for found in findings.values()
        for finding in found
    )
    return _WEAK if weak else 0


def run_show(options: argparse.Namespace) -> int:
    """Write a policy with all that it extends, and its digest."""
    from sarguard.policy.files import write_yaml
    from sarguard.policy.model import open_policy

    policy = open_policy(options.policy)
    if options.digest:
        sys.stdout.write(f"{policy.digest}\n")
    elif options.canonical:
        sys.stdout.write(policy.canonical())
    elif options.json:
        _print_json({"digest": policy.digest, "policy": policy.to_dict()})
    else:
        sys.stdout.write(f"# {policy.digest}\n{write_yaml(policy.to_dict())}")
    return 0


def run_diff(options: argparse.Namespace) -> int:
    """Write in which settings two policies differ; 1 if in any."""
    from sarguard.policy.model import open_policy
    from sarguard.policy.strictness import compare

    old, new = open_policy(options.old), open_policy(options.new)
    changes = compare(old.to_dict(), new.to_dict())
    if options.json:
        digests = {"old": old.digest, "new": new.digest}
        _print_json({**digests, "changes": [change.to_dict() for change in changes]})
    else:
        for change in changes:
            sign = _SIGNS[change.effect.value]
            sys.stdout.write(f"{sign} {change} ({change.effect})\n")
        if not changes:
            sys.stdout.write("the same settings\n")
    return _DIFFERENT if changes else 0


def run_schema(options: argparse.Namespace) -> int:
    """Write the JSON Schema."""
    from sarguard.policy.template import policy_schema

    _print_json(policy_schema())
    return 0
