from .backend import (
    Backend as Backend,
    BackendInfo as BackendInfo,
    BackendRequest as BackendRequest,
    BackendStep as BackendStep,
    GenerationJob as GenerationJob,
    SteeringReceipt as SteeringReceipt,
    TokenSink as TokenSink,
)
from .observers import Observer as Observer, RequestEvent as RequestEvent
from .request import (
    GenerationInput as GenerationInput,
    GenerationOptions as GenerationOptions,
    GenerationRequest as GenerationRequest,
    RequestContext as RequestContext,
    TraceContext as TraceContext,
)
from .request_guard import (
    Block as Block,
    CheckVerdict as CheckVerdict,
    Findings as Findings,
    RequestGuard as RequestGuard,
    ResolvedRequest as ResolvedRequest,
    Screening as Screening,
)
from .streams import (
    AnswerStream as AnswerStream,
    AsyncAnswerStream as AsyncAnswerStream,
)
