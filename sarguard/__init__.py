"""Guard large audio-language models with SARSteer, always on.

Names are imported at first use; `__init__.pyi` beside this file lists them.
torch and transformers load no earlier.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
