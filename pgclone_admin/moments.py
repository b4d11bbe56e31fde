"""Times of rows beside those of marks, keys and files."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone


def aware(moment: datetime) -> datetime:
    """The same moment with its time zone.

    With ``USE_TZ = False`` what is read from a row has none and is in the zone of the settings;
    what a mark, a key or a storage tells always has one. Only then can the two be compared.
    """
    return timezone.make_aware(moment) if timezone.is_naive(moment) else moment
