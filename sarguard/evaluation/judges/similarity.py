"""Judging whether an answer is on topic, against the answer to the written request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def share_on_topic(answers: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of answers whose own reference is the closest of all.

    Closeness is the cosine of TF-IDF word vectors, stop words dropped. Chance is one
    in the number of references, so an answer must be about its own question, and
    not merely fluent, to count.

    Args:
        answers: One answer a question.
        references: The answer to the same question in writing, in the same order.
    """
    from sklearn.feature_extraction.text import (  # type: ignore[import-untyped]
        TfidfVectorizer,
    )

    words = TfidfVectorizer(stop_words="english", sublinear_tf=True)
    words.fit([*references, *answers])
    cosines = (words.transform(answers) @ words.transform(references).T).toarray()
    own = np.diagonal(cosines)
    return float(np.mean((own > 0) & (own >= cosines.max(axis=1))))
