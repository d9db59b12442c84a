"""Mobile builds: an address to upload a file to, the file, and the build that is made of it."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_qatech.sandbox.answers import BuildAnswer, BuildsAnswer, UploadAnswer
from prefect_qatech.sandbox.bodies import BuildBody, UploadBody
from prefect_qatech.sandbox.engine import Engine, Refusal
from prefect_qatech.sandbox.scenario import Build

__all__ = ["Builds"]


@dataclass
class _Upload:
    application: str
    file_name: str
    expires: float | None
    size: int | None = None


class Builds:
    """The builds of all applications, and the uploads under way."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._uploads: dict[str, _Upload] = {}
        # The newest one first.
        self._builds = {app.short_id: [*app.builds] for app in engine.scenario.applications}

    def upload_url(self, application_short_id: str, body: UploadBody) -> UploadAnswer:
        """Carry out `POST /applications/{shortId}/builds/upload-url` and return its answer."""
        engine = self._engine
        engine.check_project(body.project_short_id)
        application = engine.application(application_short_id)
        seconds = engine.scenario.upload_seconds
        expires = None if seconds is None else engine.clock.now() + seconds
        token = engine.new_uuid()
        self._uploads[token] = _Upload(application.short_id, body.file_name, expires)
        return {"uploadUrl": f"{engine.base_url}/uploads/{token}", "buildToken": token}

    def receive(self, token: str, size: int) -> None:
        """Take a file."""
        upload = self._uploads.get(token)
        if upload is None:
            raise Refusal(404, "There is no such upload")
        if upload.expires is not None and self._engine.clock.now() > upload.expires:
            raise Refusal(403, "The address has expired")
        upload.size = size
        self._engine.counts["uploads"] += 1

    def register(self, application_short_id: str, body: BuildBody) -> BuildAnswer:
        """Carry out `POST /applications/{shortId}/builds` and return its answer."""
        engine = self._engine
        engine.check_project(body.project_short_id)
        application = engine.application(application_short_id)
        upload = self._uploads.get(body.build_token)
        if upload is None or upload.application != application.short_id:
            raise Refusal(400, "Validation error: buildToken: there is no such upload for this application")
        if upload.size is None:
            raise Refusal(400, "The file was not uploaded")
        build = Build(short_id=f"bld_{engine.new_short_id()}", file_name=upload.file_name, platform=body.platform)
        self._builds[application.short_id].insert(0, build)
        engine.counts["builds"] += 1
        return {
            "applicationBuildShortId": build.short_id,
            "platform": build.platform,
            "fileName": build.file_name,
            "fileSizeBytes": upload.size,
        }

    def listed(self, application_short_id: str, per_page: int) -> BuildsAnswer:
        """Return the answer of `GET /applications/{shortId}/builds`."""
        application = self._engine.application(application_short_id)
        return {
            "builds": [
                {
                    "applicationBuildShortId": build.short_id,
                    "platform": build.platform,
                    "fileName": build.file_name,
                    "appBundleId": build.app_bundle_id,
                }
                for build in self._builds[application.short_id][:per_page]
            ]
        }
