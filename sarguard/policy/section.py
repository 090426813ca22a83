"""What every part of a policy is: closed, frozen, and explained by its docstrings."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Be closed and frozen: an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        validate_default=True,
    )


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A duration above 0."""

Number = Annotated[int, Field(ge=1)]
"""A whole number of at least 1."""

Words = Annotated[str, Field(min_length=8, max_length=1000)]
"""A reason that a person gives, in words."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A name of letters, digits, dots, dashes and underscores."""
