"""Writing policy files: one to start from, and any policy in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from sarguard.policy.loading import load_preset
from sarguard.policy.model import Policy
from sarguard.policy.reading import add_scalars

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

failure:
  on_fault: closed      # open needs open_reason and open_until

timeouts:
  total_s: {total_s:g}

audio:
  max_seconds: {max_seconds:g}

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
        PolicyFormatError: The name is no id.
    """
    base = load_preset(extends)
    Policy.build({"id": name}, source="the name")
    return _TEMPLATE.format(
        id=name,
        extends=extends,
        tier=base.steering.tier,
        floor=base.floor,
        total_s=base.timeouts.total_s,
        max_seconds=base.audio.max_seconds,
        required=str(base.audit.required).lower(),
        days=base.retention.days,
    )


def write_yaml(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML that `read_yaml` reads back the same."""
    return yaml.dump(
        dict(values), Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=88
    )


class _Dumper(yaml.SafeDumper):
    """Write values out, with no alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


# A word that the reader would take for a number is quoted.
add_scalars(_Dumper)
