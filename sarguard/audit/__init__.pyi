from .exports.writing import ExportResult as ExportResult, export as export
from .log import AuditLog as AuditLog
from .privacy.content import Privacy as Privacy
from .proof.inclusion import InclusionProof as InclusionProof, prove as prove
from .proof.report import VerificationReport as VerificationReport
from .proof.signed_notes import Checkpoint as Checkpoint, VerifierKey as VerifierKey
from .proof.signing_keys import Signer as Signer, SigningKey as SigningKey
from .proof.verify import verify as verify
from .records.fields import (
    AppliedDose as AppliedDose,
    AudioDescription as AudioDescription,
    CheckVerdict as CheckVerdict,
    Content as Content,
    Durations as Durations,
    FallbackRef as FallbackRef,
    FaultRef as FaultRef,
    InputDescription as InputDescription,
    ModelRef as ModelRef,
    OutputDescription as OutputDescription,
    PolicyRef as PolicyRef,
    Score as Score,
    SteeringReceipt as SteeringReceipt,
    SteeringRef as SteeringRef,
    TokenCounts as TokenCounts,
)
from .records.requests import (
    RequestFinished as RequestFinished,
    RequestStarted as RequestStarted,
)
from .storage.appender import Pace as Pace
from .storage.query import Entry as Entry, Query as Query
from .storage.recorder import OnFailure as OnFailure, RecordReceipt as RecordReceipt
