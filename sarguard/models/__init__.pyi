from .families import Family as Family
from .loading import (
    LoadedModel as LoadedModel,
    load_model as load_model,
    wrap_model as wrap_model,
)
