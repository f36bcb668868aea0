"""Replies of the CDN in front of both generations: its pages, redirects and bare statuses.

These replies do not come from Kimi itself (E6, E21, E22 of the protocol notes).
"""

from __future__ import annotations

from app.simulator import faults
from app.simulator.http1 import Reply
from app.simulator.knobs import Knobs

_PAGE = "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"


def retry_after(knobs: Knobs) -> dict[str, str]:
    """The header `Retry-After` of a refusal, if the knob sets it."""
    return {"Retry-After": knobs.retry_after} if knobs.retry_after else {}


def refusal(name: str, knobs: Knobs, path: str) -> Reply | None:
    """The CDN's reply for the fault `name`. None if the CDN does not cause this fault."""
    if name == "redirect":
        return redirect(knobs, knobs.fail_status or 307, path)
    if name == "html_200":
        return _page(200, "Just a moment...", knobs)
    status = 403 if name == "forbidden_html" else faults.plain_status(name)
    if status is None:
        return None
    status = knobs.fail_status or status
    return _page(status, f"{status} from the edge", knobs)


def redirect(knobs: Knobs, status: int, path: str) -> Reply:
    return Reply(status, headers={"Location": knobs.redirect_to + path})


def _page(status: int, title: str, knobs: Knobs) -> Reply:
    return Reply(status, _PAGE.format(title).encode(), "text/html; charset=utf-8", retry_after(knobs))
