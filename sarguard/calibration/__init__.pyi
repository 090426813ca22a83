from .build import calibrate as calibrate
from .recipe import Recipe as Recipe
