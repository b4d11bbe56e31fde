"""What the project answers, where a test makes this file its ROOT_URLCONF."""

from __future__ import annotations

import threading
from collections.abc import Callable

from django.contrib.sessions.backends.db import SessionStore
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.project.people.models import Person


def who(request: HttpRequest) -> HttpResponse:
    """The name of the user who is logged in, or nothing."""
    return HttpResponse(request.user.get_username())


# -- a site at work: 503 when it was in the middle of a query, 500 when it could not begin one


def at_work(work: Callable[[str], object]) -> Callable[[HttpRequest, str], HttpResponse]:
    def view(request: HttpRequest, name: str) -> HttpResponse:
        # Looks whether the connection is a good one, and connects if it is not.
        with connection.cursor():
            pass
        try:
            return HttpResponse(str(work(name)))
        except DatabaseError as error:
            connection_of = threading.current_thread().name
            return HttpResponse(f"{connection_of}\n{type(error).__name__}: {error}", status=503)

    return view


def look(_name: str) -> bool:
    return Person.objects.exists()


def compute(_name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.2)")
    return "computed"


def remember(name: str) -> str:
    session = SessionStore()
    session["name"] = name
    session.create()
    return str(session.session_key)


def enqueue(name: str) -> str:
    from django_q.tasks import async_task  # noqa: PLC0415 - not every site has it

    return str(async_task("tests.project.people.tasks.note", name, task_name=name))


urlpatterns = [
    path("who/", who),
    *(
        path(f"{each.__name__}/<name>/", at_work(each))
        for each in (look, compute, remember, enqueue)
    ),
]
