from .bundle import SteeringBundle as SteeringBundle
from .dose import Decision as Decision, DoseRule as DoseRule, DoseSpec as DoseSpec
from .gate import Gate as Gate
from .steerer import Steerer as Steerer
