from __future__ import annotations

import json
from typing import Any

from sarguard.policy.files import preset_names
from sarguard.policy.model import Policy
from sarguard.policy.template import DIALECT, policy_schema
from sarguard.policy.tiers import Tier


def objects(schema: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return every object schema in a schema."""
    inner = schema.values() if isinstance(schema, dict) else schema
    found = [schema] if isinstance(schema, dict) and "properties" in schema else []
    if isinstance(schema, (dict, list)):
        for part in inner:
            found += objects(part)
    return found


def test_it_is_plain_json_in_a_named_dialect() -> None:
    schema = policy_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == DIALECT


def test_it_names_every_setting_and_what_may_extend() -> None:
    properties = policy_schema()["properties"]
    assert set(properties) == {"extends", *Policy.model_fields}
    assert all(name in properties["extends"]["description"] for name in preset_names())


def test_every_object_is_closed() -> None:
    found = objects(policy_schema())
    assert len(found) >= 11
    assert all(schema["additionalProperties"] is False for schema in found)


def test_tiers_are_an_enumeration() -> None:
    assert policy_schema()["$defs"]["Tier"]["enum"] == [tier.value for tier in Tier]


def test_a_message_may_be_a_text_alone() -> None:
    assert {"type": "string"} in policy_schema()["$defs"]["Wording"]["anyOf"]
