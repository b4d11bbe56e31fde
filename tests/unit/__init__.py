"""The smallest pieces, one by one: no server of PostgreSQL, no network but loopback, no Django
process. The few tests that need a real archive or a real login borrow a server of the session."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

PROPERTY = settings(
    deadline=None,
    derandomize=True,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
"""The same examples in every run: a property that fails in one run fails in all."""

any_text = st.text(
    st.characters() | st.sampled_from("\0\n\x1b\u202e\ud800\udcff\"'\\/:.=-; $`ü€"),
    min_size=1,
    max_size=200,
)
"""1 to 200 code points, with more of those that mean something to somebody. Lone surrogates are
among them: a command line can hold them."""

names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=63
).filter(lambda name: len(name.encode()) <= 63)
"""What PostgreSQL takes as the name of a database."""
