"""What the pages have in common: how they speak, and how they let people do things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.forms import Media
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
)
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST, require_safe

from ..core.errors import PgcloneError
from ..core.recovery import Outcome, Recovered
from ..models import ACTIVE, Run
from ..services import lost, run_control
from ..services.actors import CANCEL, Actor
from ..services.run_control import needed_for
from . import formats
from .dump_files import streamed_text
from .progress import GIVE_UP, REQUEUE, Progress, progress_of, whole_log

if TYPE_CHECKING:
    BaseAdmin = admin.ModelAdmin[Any]
else:
    BaseAdmin = admin.ModelAdmin

MOST_LINES = 20
"""Lines of one message."""

View = Callable[..., HttpResponseBase]

# -- what people do


def actor_of(request: HttpRequest) -> Actor:
    return Actor.of(request.user)


def require(request: HttpRequest, *permissions: str) -> None:
    """403 without any of the permissions; the service looks again."""
    if not any(map(request.user.has_perm, permissions)):
        raise PermissionDenied


def tell(request: HttpRequest, error: PgcloneError) -> None:
    """Shows an error as a message: the sentence, and what to do."""
    messages.error(request, formats.sentences(error))


def tell_recovered(request: HttpRequest, done: Sequence[Recovered]) -> None:
    """Shows what was cleaned up, and what could not be."""
    lines = [formats.capitalized(f"{each.outcome} {each.what}: {each.why}") for each in done]
    if len(lines) > MOST_LINES:
        rest = len(lines) - MOST_LINES
        more = ngettext("And %(n)s more.", "And %(n)s more.", rest) % {"n": rest}
        lines = [*lines[:MOST_LINES], more]
    is_done = all(each.outcome is not Outcome.FAILED for each in done)
    level = messages.SUCCESS if is_done else messages.ERROR
    text = format_html_join(SafeString("<br>"), "{}", ((line,) for line in lines))
    messages.add_message(request, level, text or _("Nothing was left behind."))


def link_to(name: str, *args: Any) -> str | None:
    """The address of a page, or ``None`` where the site has left it out."""
    try:
        return reverse(f"admin:{name}", args=args)
    except NoReverseMatch:
        return None


class ReadingAdmin(BaseAdmin):
    """Rows that people read. They are made and changed by services, never by forms."""

    class Media:
        css = {"all": ("pgclone_admin/pgclone.css",)}  # noqa: RUF012 - as Django wants it

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    # -- pages

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        title = formats.capitalized(str(self.opts.verbose_name_plural))
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def url_name(self, page: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def own_url(self, page: str, *args: Any) -> str:
        return reverse(f"{self.admin_site.name}:{self.url_name(page)}", args=args)

    def id_of(self, row: Any) -> Any:
        """What stands for a row in the addresses of its pages."""
        return row.pk

    def read(self, request: HttpRequest, object_id: str) -> Any:
        """The row of a page, for who may read it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return self.find(request, object_id)

    def find(self, request: HttpRequest, object_id: str) -> Any:
        found = self.get_object(request, unquote(object_id))
        if found is None:
            raise Http404
        return found

    def page(
        self,
        request: HttpRequest,
        template: str,
        *,
        title: str,
        media: Media | None = None,
        **more: Any,
    ) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "media": media or self.media,
            "has_view_permission": self.has_view_permission(request),
            "original_id": self.id_of(more["original"]) if more.get("original") else None,
            **more,
        }
        folder = f"admin/{self.opts.app_label}/{self.opts.model_name}"
        request.current_app = self.admin_site.name
        return TemplateResponse(request, f"{folder}/{template}", context)

    def after(
        self, request: HttpRequest, run: Model | None = None, row: Model | None = None
    ) -> HttpResponseRedirect:
        """To the page of a run, or to the list; for who may not read them, to the ``row`` that they
        came from, or the index."""
        if run is None or type(run) is self.model:
            target: admin.ModelAdmin[Any] | None = self
        else:
            target = self.admin_site._registry.get(type(run))
        if not isinstance(target, ReadingAdmin) or not target.has_view_permission(request):
            if row is not None and self.has_view_permission(request):
                return HttpResponseRedirect(self.own_url("change", row.pk))
            return HttpResponseRedirect(reverse(f"{self.admin_site.name}:index"))
        if run is None:
            return HttpResponseRedirect(target.own_url("changelist"))
        return HttpResponseRedirect(target.own_url("change", run.pk))

    def says(self, request: HttpRequest, run: Run, what: str) -> None:
        """Tells that a run is queued, with a link to it."""
        target = self.admin_site._registry.get(type(run))
        if isinstance(target, ReadingAdmin) and target.has_view_permission(request):
            url = target.own_url("change", run.pk)
            messages.info(request, format_html('<a href="{}">{}</a>', url, what))
        else:
            messages.info(request, what)

    def posting(self, permission: str | None, act: Callable[[HttpRequest, Any], Any]) -> View:
        """A view that does one thing with one row, by POST, and goes to the page of what came of
        it: of the row itself, unless ``act`` returns another."""

        def view(request: HttpRequest, object_id: str) -> HttpResponseBase:
            if permission is not None:
                require(request, permission)
            row = self.find(request, object_id)
            try:
                outcome = act(request, row)
            except PgcloneError as error:
                tell(request, error)
                outcome = None
            if isinstance(outcome, HttpResponseBase):
                return outcome
            return self.after(request, outcome or row, row)

        return self.admin_site.admin_view(require_POST(view))

    # -- runs

    def run_urls(self) -> list[Any]:
        """What every page of a run can do: tell how far it is and its log, and three buttons."""
        one = "<path:object_id>"
        return [
            path(
                f"{one}/progress/",
                self.reading(self.progress_view),
                name=self.url_name("progress"),
            ),
            path(f"{one}/log/", self.reading(self.log_view), name=self.url_name("log")),
            *(
                path(f"{one}/{page}/", self.posting(permission, act), name=self.url_name(name))
                for page, name, permission, act in (
                    ("cancel", "cancel", None, self.cancel),
                    ("queue-again", "requeue", None, self.requeue),
                    ("give-up", "give_up", CANCEL, self.give_up),
                )
            ),
        ]

    def buttons_of(
        self, request: HttpRequest, progress: Progress, cancel: str
    ) -> list[tuple[str, str, str]]:
        """Names, addresses and labels of the buttons that this person may press now."""
        run, user = progress.run, request.user
        is_own = run.requested_by == user.get_username()
        found = []
        if progress.offer == REQUEUE and user.has_perm(needed_for(run)):
            found.append(("requeue", _("Queue it again")))
        if progress.offer == GIVE_UP and user.has_perm(CANCEL):
            found.append(("give_up", _("Mark as lost")))
        may_cancel = not run.cancel_requested and (is_own or user.has_perm(CANCEL))
        if progress.is_stoppable and may_cancel:
            found.append(("cancel", cancel))
        return [(page, self.own_url(page, run.pk), label) for page, label in found]

    def requeue(self, request: HttpRequest, run: Run) -> None:
        require(request, needed_for(run))
        run_control.requeue(actor_of(request), run)
        messages.info(request, _("It is queued again."))

    def give_up(self, request: HttpRequest, run: Run) -> None:
        swept = lost.give_up(actor_of(request), run)
        tell_recovered(request, [lost.given_up(swept.run), *swept.recovered])

    def cancel(self, request: HttpRequest, run: Run) -> None:
        if run.requested_by != request.user.get_username():
            require(request, CANCEL)
        run_control.cancel(actor_of(request), run)
        messages.info(request, _("It will be cancelled."))

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Whether there is anything that this person may cancel."""
        if request.user.has_perm(CANCEL):
            return True
        own = self.model._base_manager.filter(requested_by=request.user.get_username())
        return bool(own.filter(status__in=ACTIVE).exists())

    @admin.action(description=gettext_lazy("Cancel selected runs"), permissions=["cancel"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        cancelled = 0
        for run in queryset:
            try:
                run_control.cancel(actor_of(request), run)
                cancelled += 1
            except PgcloneError as error:
                messages.error(request, f"#{run.pk}: {formats.capitalized(error.message)}")
        if cancelled:
            said = ngettext("%(n)s run is cancelled.", "%(n)s runs are cancelled.", cancelled)
            messages.info(request, said % {"n": cancelled})

    def progress_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """How far a run is, for the script of its page."""
        run = self.read(request, object_id)
        return JsonResponse(progress_of(run).as_json())

    def log_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """The whole log of a run, as text."""
        run = self.read(request, object_id)
        return streamed_text(request, whole_log(run))

    def reading(self, view: View) -> View:
        return self.admin_site.admin_view(require_safe(view))

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        raise PermissionDenied
