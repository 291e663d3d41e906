"""The page at `/` and its files, all from this server: nothing is loaded from elsewhere, and nothing is built."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent / "static"
# The page acts with its user's session, so nothing but its own files may run in it or be talked to.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    # Asked for again each time, and not sent again where nothing has changed.
    "Cache-Control": "no-cache",
}
# What the page shows is in its path; all of them are one file.
PATHS = (
    "/",
    "/jobs",
    "/jobs/{job_id}",
    "/sweeps",
    "/sweeps/{sweep_id}",
    "/new",
    "/compare",
    "/keys",
    "/webhooks",
    "/workers",
    "/shared",
)

router = APIRouter(include_in_schema=False)


def page() -> FileResponse:
    """The page."""
    return FileResponse(FOLDER / "index.html", headers=HEADERS)


for _path in PATHS:
    router.add_api_route(_path, page)


class _Files(StaticFiles):
    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = HEADERS["Cache-Control"]
        return response


files = GZipMiddleware(_Files(directory=FOLDER))
