"""The JSON Schema of a policy file, for editors and for other tools."""

from __future__ import annotations

from typing import Any

from sarguard.policy.loading import preset_names
from sarguard.policy.model import Policy

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def policy_schema() -> dict[str, Any]:
    """Return the JSON Schema of what may stand in a policy file."""
    schema = Policy.model_json_schema(mode="validation")
    extends = {
        "title": "Extends",
        "type": "string",
        "description": f"A preset ({', '.join(preset_names())}) or the path of "
        "another policy, seen from this file. Its settings hold where this file has "
        "none, and its floor cannot be lowered.",
    }
    properties = {"extends": extends, **schema.pop("properties")}
    return {"$schema": DIALECT, **schema, "properties": properties}
