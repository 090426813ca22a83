"""`sarguard policy`: write, check, show and compare policies."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarguard.cli.options import Command
from sarguard.errors import ConfigurationError

if TYPE_CHECKING:
    from sarguard.cli.options import Commands
    from sarguard.policy.lint import LintFinding
    from sarguard.policy.strictness import Change

_WEAK = 1
_DIFFERENT = 1
_MARKS = {"stronger": "+", "weaker": "-", "other": "~"}
_NAMED = "a policy file, or the name of a preset"


def add_parser(commands: Commands) -> None:
    """Add the command and what it can do."""
    parser = commands.add_parser(
        "policy",
        help="write, check, show and compare policies",
        description="Work with policy files. Every part takes --help; all but init "
        "and schema take --json.",
    )
    parts = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_init(parts)
    _add_lint(parts)
    _add_show(parts)
    _add_diff(parts)
    _add_part(parts, "schema", run_schema, "write the JSON Schema of a policy file")


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
    from sarguard.policy.lint import lint
    from sarguard.policy.model import open_policy

    found = {name: lint(open_policy(name)) for name in options.policy}
    ignored = () if options.strict else ("note",)
    weak = any(w.severity.value not in ignored for all_ in found.values() for w in all_)
    if options.json:
        _print_json(
            {
                name: [weakness.to_dict() for weakness in all_]
                for name, all_ in found.items()
            }
        )
    else:
        for name, weaknesses in found.items():
            _write_weaknesses(name, weaknesses)
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
        _write_changes(changes)
    return _DIFFERENT if changes else 0


def run_schema(options: argparse.Namespace) -> int:
    """Write the JSON Schema."""
    from sarguard.policy.template import policy_schema

    _print_json(policy_schema())
    return 0


def _add_part(
    parts: Commands, name: str, run: Command, does: str
) -> argparse.ArgumentParser:
    described = f"{does[0].upper()}{does[1:]}."
    parser = parts.add_parser(name, help=does, description=described)
    parser.set_defaults(run=run)
    return parser


def _add_init(parts: Commands) -> None:
    parser = _add_part(parts, "init", run_init, "write a policy file to start from")
    parser.add_argument(
        "-o",
        "--output",
        default="policy.yaml",
        metavar="FILE",
        help="where it goes, - for stdout (default: policy.yaml)",
    )
    parser.add_argument("--id", default="my-policy", help="its name in records")
    parser.add_argument(
        "--extends", default="balanced", metavar="PRESET", help="default: balanced"
    )
    parser.add_argument("--force", action="store_true", help="replace a file")


def _add_lint(parts: Commands) -> None:
    does = "say what is weak; exits with 1 if there is an error or a warning"
    parser = _add_part(parts, "lint", run_lint, does)
    parser.add_argument("policy", nargs="+", help=_NAMED)
    parser.add_argument("--strict", action="store_true", help="notes count as well")
    parser.add_argument("--json", action="store_true", help="write findings as JSON")


def _add_show(parts: Commands) -> None:
    does = "write a policy with all that it extends, and its digest"
    parser = _add_part(parts, "show", run_show, does)
    parser.add_argument("policy", help=_NAMED)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="write it as JSON")
    form.add_argument(
        "--canonical", action="store_true", help="write the bytes that are hashed"
    )
    form.add_argument("--digest", action="store_true", help="write the digest alone")


def _add_diff(parts: Commands) -> None:
    does = (
        "say what differs, and whether it holds more or less; exits with 1 if it does"
    )
    parser = _add_part(parts, "diff", run_diff, does)
    parser.add_argument("old", help=_NAMED)
    parser.add_argument("new", help=_NAMED)
    parser.add_argument("--json", action="store_true", help="write changes as JSON")


def _write_weaknesses(name: str, weaknesses: list[LintFinding]) -> None:
    if not weaknesses:
        sys.stdout.write(f"{name}: nothing weak found\n")
    for weak in weaknesses:
        sys.stdout.write(
            f"{name}: {weak.severity} {weak.code} {weak.path}: {weak.found}\n"
            f"    -> {weak.fix}\n"
        )


def _write_changes(changes: list[Change]) -> None:
    for change in changes:
        sys.stdout.write(f"{_MARKS[change.effect.value]} {change} ({change.effect})\n")
    if not changes:
        sys.stdout.write("the same settings\n")


def _print_json(content: Any) -> None:  # noqa: ANN401
    import json

    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
