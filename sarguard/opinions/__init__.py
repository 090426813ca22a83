"""Second opinions: recognisers and text guards that the checks of a client may ask.

Names are imported at first use; `__init__.pyi` beside this file lists them.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
