"""A policy file to start from, and the JSON Schema of policy files."""

from __future__ import annotations

from typing import Any

from sarguard.policy.files import preset_names
from sarguard.policy.model import Policy

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TEMPLATE = """\
# What has to hold for every answer. Check it: sarguard policy lint FILE
# Whatever is not set here comes from the preset; `sarguard policy show FILE` tells.
api_version: sarguard/v1
id: {id}
version: 1              # count up with each change
extends: {extends}
description: ""

mode: enforce           # shadow: record blocks, and let them through, steered

steering:
  tier: {tier}        # permissive < balanced < strict < maximum
  floor: {floor}       # the least that a request may ask for
  block_threshold: tier # the tier's own score, a number, or never
  decision_tokens: {decision_tokens}   # greedy at any temperature

failure:
  on_fault: closed      # open needs open_reason and open_until

timeouts:
  total_s: {total_s:g}

audio:
  max_seconds: {max_seconds:g}

history:
  max_turns: {max_turns}        # of the user and of the assistant
  when_exceeded: trim   # the oldest leave the prompt; refuse: no answer
# checks:               # second opinions that the client is opened with, by name
#   rules:
#     request-classifier: {{on_flag: raise, raise_to: strict, budget_s: 5}}
#   services: []        # where callers' sound and words may go

fallback:
  locale: en            # of a request that names none
  # messages:           # your own words; plain sentences that a voice can say
  #   en:
  #     blocked: I can't help with that, but I can connect you to our staff.

audit:
  required: {required}
  content: none         # redacted, encrypted
  on_write_failure: block

retention:
  days: {days}
"""


def policy_template(name: str, *, extends: str) -> str:
    """Return the text of a policy file to start from.

    Args:
        name: The policy's id.
        extends: A preset.

    Raises:
        PolicyNotFoundError: There is no such preset.
        PolicyFormatError: The name is not a valid id.
    """
    base = Policy.preset(extends)
    Policy.build({"id": name}, source="the name")
    return _TEMPLATE.format(
        id=name,
        extends=extends,
        tier=base.steering.tier,
        floor=base.floor,
        decision_tokens=base.steering.decision_tokens,
        total_s=base.timeouts.total_s,
        max_seconds=base.audio.max_seconds,
        max_turns=base.history.max_turns,
        required=str(base.audit.required).lower(),
        days=base.retention.days,
    )


def policy_schema() -> dict[str, Any]:
    """Return the JSON Schema of a policy file."""
    schema = Policy.model_json_schema(mode="validation")
    extends = {
        "title": "Extends",
        "type": "string",
        "description": f"A preset ({', '.join(preset_names())}) or the path of "
        "another policy, relative to this file. Its settings apply where this file "
        "has none, and its floor cannot be lowered.",
    }
    properties = {"extends": extends, **schema.pop("properties")}
    return {"$schema": DIALECT, **schema, "properties": properties}
