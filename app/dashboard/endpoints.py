"""The page at `/` and its files, all from this server: nothing is loaded from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

FOLDER = Path(__file__).parent
# The page holds a key, so nothing but its own two files may run in it or be talked to.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
def page() -> FileResponse:
    """The page."""
    return FileResponse(FOLDER / "index.html", headers=HEADERS)


@router.get("/static/dashboard.css")
def style() -> FileResponse:
    """How it looks."""
    return FileResponse(FOLDER / "dashboard.css", headers=HEADERS)


@router.get("/static/dashboard.js")
def script() -> FileResponse:
    """What it does."""
    return FileResponse(FOLDER / "dashboard.js", headers=HEADERS)
