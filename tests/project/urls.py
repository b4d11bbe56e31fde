"""What the project answers, where a test makes this file its ROOT_URLCONF."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path


def who(request: HttpRequest) -> HttpResponse:
    """The name of the user who is logged in, or nothing."""
    return HttpResponse(request.user.get_username())


urlpatterns = [path("who/", who)]
