"""The pages of the document: to read it, to edit it with errors at their lines, to see the plan in words, to try
it,
and to keep it or go back."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from netctl.config import Loaded, load_document
from netctl.config.load.build import digest
from netctl.model.errors import ConfigError, Finding, NetctlError
from netctl.model.forpeople import counted
from netctl.ui.brokerclient import BrokerClient
from netctl.ui.brokerwire import ApplyDocument, ConfirmDocument, DocumentText, ReadDocument
from netctl.ui.livefeed import LiveFeed
from netctl.ui.middleware import MAX_DOCUMENT, known_of
from netctl.ui.pages import Page, loaded_of, seen_of
from netctl.ui.reachview import lines
from netctl.wire import agentrequests as a

MAX_CHECKS = 2
"""Checks at the same time: each of a large document takes a second, and all live data comes from this process
too."""
MAX_SHOWN = 200
"""Changes of a plan, and findings, that the page lists."""
NO_END = "\\ No newline at end of file\n"
"""The line that `diff` and `git apply` use for a text without a line end at its end."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The findings in a text. `loaded` None: the text has errors and is no document."""

    loaded: Loaded | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """How many findings are errors: with any, the text cannot be applied."""
        return sum(one.severity == "error" for one in self.findings)


class DocumentPages:
    """The routes below ``/document``."""

    def __init__(self, broker: BrokerClient, feed: LiveFeed, page: Page) -> None:
        self._broker = broker
        self._feed = feed
        self._page = page
        self._checking = asyncio.Semaphore(MAX_CHECKS)
        self.routes = (
            Route("/document", self._show),
            Route("/document/edit", self._edit),
            Route("/document/check", self._check, methods=["POST"]),
            Route("/document/back", self._back, methods=["POST"]),
            Route("/document/plan", self._plan, methods=["POST"]),
            Route("/document/apply", self._apply, methods=["POST"]),
            Route("/document/confirm", self._confirm, methods=["POST"]),
            Route("/document/rollback", self._roll_back, methods=["POST"]),
        )

    async def _judge(self, text: str, file: str) -> Judged:
        async with self._checking:
            try:
                loaded = await asyncio.to_thread(load_document, text, file)
            except ConfigError as error:
                return Judged(None, error.findings)
        return Judged(loaded, loaded.warnings)

    # -- read ----------------------------------------------------------------------------------------------

    async def _show(self, request: Request) -> Response:
        if not seen_of(request).whole:
            return self._part(request)
        return await self._whole(request)

    def _part(self, request: Request) -> Response:
        """The part of the document that a member may see. The links of Reach lead to its lines."""
        part = loaded_of(request)
        text = part.source.text if part is not None else ""
        return self._page(request, "document.html", part=True, lines=lines(text, ()) if text else [])

    async def _whole(
        self, request: Request, status: int = 200, *, said: str = "", failed: str = ""
    ) -> HTMLResponse:
        read = await self._broker.ask("broker", ReadDocument())
        judged = await self._judge(read.text, read.file) if read.text is not None else Judged(None, ())
        return self._page(
            request,
            "document.html",
            status,
            part=False,
            trouble=None if read.text is not None else read.trouble or "it cannot be read",
            file=read.file,
            git=read.git,
            lines=lines(read.text or "", judged.findings),
            findings=len(judged.findings),
            errors=judged.errors,
            in_force=read.text == read.accepted,
            closed=self._closed(read),
            operator=known_of(request).session.operator,
            said=said,
            failed=failed,
        )

    def _closed(self, read: DocumentText) -> str | None:
        """Why the page does not edit this document; None: it does."""
        status = self._feed.status
        if read.git is not None:
            return "`netctl sync` brings it from Git: change it in the repository"
        if status is not None and status.joined is not None:
            return "this host joined by invite, and follows its mediator"
        if read.text is None:
            return "there is no file to edit yet"
        if len(read.text.encode(errors="surrogatepass")) > MAX_DOCUMENT:
            return f"it is larger than {MAX_DOCUMENT // 1024} kB: edit the file in an editor"
        return None

    # -- edit ----------------------------------------------------------------------------------------------

    async def _open(self, request: Request) -> DocumentText:
        """The document, if the reader may edit it. Raises HTTPException otherwise."""
        if not known_of(request).session.operator:
            raise HTTPException(403, "who may look may not change anything: ask an operator")
        read = await self._broker.ask("broker", ReadDocument())
        closed = self._closed(read)
        if closed is not None:
            raise HTTPException(409, f"the document is not edited here: {closed}")
        return read

    async def _edit(self, request: Request) -> Response:
        read = await self._open(request)
        text = read.text or ""
        return await self._editor(request, read, text, digest(text))

    async def _back(self, request: Request) -> Response:
        """Go back from the plan to the editor, with the text of the plan."""
        read = await self._open(request)
        return await self._editor(request, read, _text(request), known_of(request).form.get("base", ""))

    async def _editor(
        self, request: Request, read: DocumentText, text: str, base: str, status: int = 200, failed: str = ""
    ) -> HTMLResponse:
        judged = await self._judge(text, read.file)
        return self._page(
            request,
            "edit.html",
            status,
            file=read.file,
            text=text,
            base=base,
            findings=judged.findings[:MAX_SHOWN],
            failed=failed,
        )

    async def _check(self, request: Request) -> Response:
        text = _text(request)
        judged = await self._judge(text, "networks.yaml")
        rows = [
            {
                "line": one.mark.line if one.mark is not None else 1,
                "column": one.mark.column if one.mark is not None else 1,
                "severity": one.severity,
                "code": one.code,
                "text": f"{one.path}: {one.message}" + (f" ({one.hint})" if one.hint else ""),
            }
            for one in judged.findings[:MAX_SHOWN]
        ]
        return JSONResponse({"findings": rows, "errors": judged.errors})

    async def _plan(self, request: Request) -> Response:
        read, text, base = await self._open(request), _text(request), known_of(request).form.get("base", "")
        try:
            plan = await self._broker.ask("agent", a.Plan(text, read.file, everyone=True))
        except NetctlError as error:
            failed = "" if isinstance(error, ConfigError) else str(error)
            return await self._editor(request, read, text, base, 422, failed)
        now = read.text or ""
        return self._page(
            request,
            "plan.html",
            file=read.file,
            text=text,
            base=digest(now),
            saved=base != digest(now),
            same=text == now,
            patch=await asyncio.to_thread(patch, now, text, PurePath(read.file).name),
            plan=plan,
            changes=[row.line for row in plan.changes[:MAX_SHOWN]],
            more=max(len(plan.changes) - MAX_SHOWN, 0),
        )

    # -- apply ---------------------------------------------------------------------------------------------

    async def _apply(self, request: Request) -> Response:
        read, text, form = await self._open(request), _text(request), known_of(request).form
        base = form.get("base", "")
        judged = await self._judge(text, read.file)
        if judged.loaded is None:
            return await self._editor(request, read, text, base, 422)
        binding = a.BindingState(*(form.get(name, "") for name in ("document", "observed", "desired")))
        confirm_s = judged.loaded.document.confirm_s
        try:
            done = await self._broker.ask(
                "broker", ApplyDocument(text, base, binding, confirm_s, force="force" in form)
            )
        except NetctlError as error:
            return await self._editor(request, read, text, base, 422, str(error))
        if done.error is not None:
            after = "everything is as it was" if done.rolled_back else "the host is between two states"
            return await self._editor(request, read, text, base, 422, f"{done.error}; {after}")
        await self._feed.fresh(0.0)
        count = done.changed
        said = [f"applied: {counted(count, 'change')} on this host", *done.warnings]
        return await self._whole(request, said="; ".join([*said, *([done.waiting] if done.waiting else [])]))

    async def _confirm(self, request: Request) -> Response:
        try:
            kept = await self._broker.ask("broker", ConfirmDocument())
        except NetctlError as error:
            await self._feed.fresh(0.0)
            return await self._whole(request, 422, failed=str(error))
        await self._feed.fresh(0.0)
        if kept.file is not None:
            return await self._whole(request, said=f"it stays, and {kept.file} says the same")
        return await self._whole(request, said=f"it stays. The file was left alone: {kept.left}")

    async def _roll_back(self, request: Request) -> Response:
        try:
            done = await self._broker.ask("agent", a.Rollback())
        except NetctlError as error:
            await self._feed.fresh(0.0)
            return await self._whole(request, 422, failed=str(error))
        await self._feed.fresh(0.0)
        if done.error is not None:
            return await self._whole(request, 422, failed=f"{done.error}; it is tried again by itself")
        return await self._whole(request, said="this host is back where it was before the apply")


def _text(request: Request) -> str:
    """The text in a form, with ``\\n`` at the ends of its lines. Raises HTTPException if it is too large."""
    text = known_of(request).form.get("text", "").replace("\r\n", "\n").replace("\r", "\n")
    if len(text.encode(errors="surrogatepass")) > MAX_DOCUMENT:
        raise HTTPException(413, f"a document of more than {MAX_DOCUMENT // 1024} kB is edited in an editor")
    return text if text.endswith("\n") or not text else text + "\n"


def patch(before: str, after: str, name: str) -> str:
    """A unified diff of two texts, which `git apply` and patch(1) accept."""
    ends = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(_ended(difflib.unified_diff(*ends, f"a/{name}", f"b/{name}")))


def _ended(rows: Iterator[str]) -> Iterator[str]:
    for row in rows:
        yield row if row.endswith("\n") else f"{row}\n{NO_END}"
