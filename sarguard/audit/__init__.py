"""The ledger: an append-only, signed record of every request and of its guard.

Names are imported at first use; `__init__.pyi` beside this file lists them.
Importing this package loads neither a database nor a schema.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
