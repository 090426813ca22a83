from .messages import Reason as Reason
from .model import Policy as Policy, open_policy as open_policy
from .overrides import Override as Override, PolicyInForce as PolicyInForce
from .tiers import Tier as Tier
