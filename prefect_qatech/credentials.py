"""The block that holds the API token and knows how to reach QA.tech."""

from __future__ import annotations

import os
import re
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

from prefect.blocks.abstract import CredentialsBlock
from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from prefect_qatech.addresses import is_loopback
from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.connections import digest
from prefect_qatech.api.ids import ProjectShortId
from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.inputs import Checked, is_made_in_code

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

_MASK = "**********"
_PLACEHOLDER = re.compile(r"\.{3,}|<.*>|\$.*|\{.*\}|(?:your|my)[-_.]?(?:\w+[-_.])*(?:token|key)", re.IGNORECASE)
_IN_THE_CLEAR = (
    "The credentials were given as a dict. As a parameter of a flow, the API token now stands in clear in the "
    "parameters of that flow run (or of the deployment), in Prefect's database and UI: revoke it at QA.tech. Save a "
    'QATechCredentials block with a new one, and pass {"$ref": {"block_document_id": "<id of the block>"}}; in code, '
    'pass QATechCredentials.load("<name>").'
)


class _Token(str):
    """Text that stays where it is: a pickle of it, of a block and of Prefect's contexts with a block, has the mask."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (_MASK,)

    def __copy__(self) -> _Token:
        return self

    def __deepcopy__(self, memo: object) -> _Token:
        return self


class QATechCredentials(Checked, CredentialsBlock):
    """API token and address of QA.tech.

    The token leaves the process with no pickle and no JSON. Where a task runs elsewhere (Dask, Ray, a process pool, a
    task worker), the token of a saved block is loaded there again, when it is used; the other fields are those that
    were passed. A block that is not saved has no token there, and using it says so.

    Attributes:
        api_token: API token (QA.tech: Settings -> Integrations -> API).
        api_url: Root of the service, without `/v1`. Plain `http://` is for loopback addresses only.
        project_short_id: The project, `proj_...` or its name; needed where the token belongs to an organisation.
        timeout_seconds: Time limit of a whole request.
        connect_timeout_seconds: Time limit for making the connection.
        max_polls_per_second: How often all waits of a process that use these credentials may poll, together.
        rate_limit_name: Name of a Prefect global concurrency limit with slot decay, for the polls of all processes.
            Each poll then costs a call to the Prefect API; without such a limit on the server nothing is limited.

    Example:
        ```python
        from prefect_qatech import QATechCredentials

        QATechCredentials.from_env().save("prod")
        credentials = QATechCredentials.load("prod")
        ```
    """

    _block_type_name = "QA.tech Credentials"
    _block_type_slug = "qatech-credentials"
    _documentation_url = "https://docs.qa.tech"  # type: ignore[assignment]
    _description = "API token and address of the service that runs end-to-end tests"

    # A refused token, or an address with a password in it, must not be repeated by the error.
    model_config = ConfigDict(hide_input_in_errors=True, validate_assignment=True)

    api_token: SecretStr = Field(title="API token", description="QA.tech: Settings -> Integrations -> API.")
    api_url: str = Field(
        default="https://api.qa.tech",
        title="API address",
        description="Root of the service, without /v1. Plain http:// is for loopback addresses only.",
    )
    project_short_id: ProjectShortId | None = Field(
        default=None,
        title="Project",
        description="proj_... or its name; needed where the token belongs to an organisation.",
    )
    timeout_seconds: float = Field(
        default=60.0, gt=0, le=600, allow_inf_nan=False, title="Request time limit (seconds)"
    )
    connect_timeout_seconds: float = Field(
        default=10.0, gt=0, le=600, allow_inf_nan=False, title="Connection time limit (seconds)"
    )
    max_polls_per_second: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        allow_inf_nan=False,
        title="Polls per second",
        description="For all waits of a process together.",
    )
    rate_limit_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        title="Rate limit",
        description="Name of a Prefect global concurrency limit with slot decay, for the polls of all processes.",
    )

    if TYPE_CHECKING:
        # Prefect types it as a result or a coroutine; in async code call `aload`.
        @classmethod
        def load(cls, name: str, validate: bool = True, client: PrefectClient | None = None) -> Self: ...

    # Whether it was made of a dict that came along with other parameters. To refuse it there and then would be worse:
    # Prefect logs the parameters of a flow that it could not validate.
    _is_in_the_clear: bool = PrivateAttr(default=False)

    @model_validator(mode="wrap")
    @classmethod
    def _notice_the_clear(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        is_in_the_clear = isinstance(given, Mapping) and not is_made_in_code()
        if not isinstance(given, (Mapping, QATechCredentials)):
            raise ValueError(_not_credentials(given))
        block = validate(given)
        if is_in_the_clear:
            block._is_in_the_clear = True
        return block

    @field_validator("api_token")
    @classmethod
    def _token_fits_a_header(cls, token: SecretStr) -> SecretStr:
        text = token.get_secret_value().strip()
        if not text:
            raise ValueError("the API token is empty")
        if re.match(r"bearer(?:[\s:]|$)", text, re.IGNORECASE):
            raise ValueError('the API token begins with "Bearer", which is put before it anyway: give the token alone')
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("the API token has characters that no token has (blanks, control or non-ASCII characters)")
        if _PLACEHOLDER.fullmatch(text):
            raise ValueError(
                "the API token is the placeholder of an example: put a real one in its place (QA.tech: Settings -> "
                "Integrations -> API)"
            )
        return SecretStr(_Token(text))

    @field_validator("api_url")
    @classmethod
    def _encrypted_unless_loopback(cls, url: str) -> str:
        parts = _parts_of(url.strip().rstrip("/").removesuffix("/v1").rstrip("/"))
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("api_url must be an address such as https://api.qa.tech")
        if parts.username is not None or parts.password is not None:
            raise ValueError("api_url must not hold a user name or password")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError(
                f"http://{parts.hostname} would send the API token unencrypted over the network: use https://. "
                "Plain http:// is for loopback addresses only (127.0.0.1, localhost, [::1])."
            )
        # One address has one spelling: by it the ledger and the watcher know where a run is.
        standard_port = ":443" if parts.scheme == "https" else ":80"
        place = parts.netloc.lower().removesuffix(standard_port).removesuffix(":")
        return f"{parts.scheme}://{place}{parts.path}"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> QATechCredentials:
        """Read the credentials from the environment, by the names that the vendor's own tools use.

        Args:
            environ: Another environment than the process's own. `QATECH_API_TOKEN` or `QATECH_API_KEY`,
                `QATECH_API_URL`, `QATECH_PROJECT_SHORT_ID`.

        Returns:
            The credentials; they are not saved.

        Raises:
            InvalidInputError: There is no token, or something is not what it must be.

        Example:
            ```python
            credentials = QATechCredentials.from_env()
            ```
        """
        env = os.environ if environ is None else environ
        token = env.get("QATECH_API_TOKEN") or env.get("QATECH_API_KEY")
        if not token:
            raise InvalidInputError(
                "No API token: set QATECH_API_TOKEN (or QATECH_API_KEY), or save a QATechCredentials block and load it."
            )
        optional = {"api_url": env.get("QATECH_API_URL"), "project_short_id": env.get("QATECH_PROJECT_SHORT_ID")}
        return cls(api_token=SecretStr(token), **{name: value for name, value in optional.items() if value})

    @property
    def saved_name(self) -> str | None:
        """The name under which the block is saved."""
        name = self.model_dump().get("_block_document_name")
        return name if isinstance(name, str) else None

    def get_client(self) -> QATechClient:
        """Return a client of the API; use it as an async context manager.

        Returns:
            A client that is not connected yet.

        Raises:
            InvalidInputError: The token is not here, and the block is not saved, so it cannot be loaded either; or the
                block was given as a dict among the parameters of a flow.
        """
        return QATechClient(
            api_token=self._saved_token if self._reference() is not None else self._token_at_hand(),
            api_url=self.api_url,
            project_short_id=self.project_short_id,
            timeout_seconds=self.timeout_seconds,
            connect_timeout_seconds=self.connect_timeout_seconds,
        )

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "api_token": SecretStr(_MASK)}}

    def _reference(self) -> UUID | None:
        """Return the id of the saved block whose token is not here."""
        return self.model_dump().get("_block_document_id") if _is_mask(self.api_token) else None

    def _token_at_hand(self) -> SecretStr:
        if _is_mask(self.api_token):
            raise InvalidInputError(
                f"The API token is {_MASK}: an unsaved credentials block carries no secrets to another process, nor "
                'through Prefect\'s API. Save the block and pass QATechCredentials.load("<name>"); pass a deployment '
                '{"$ref": {"block_document_slug": "qatech-credentials/<name>"}}.'
            )
        # A block within a saved block is made of a dict as well; Prefect names it afterwards.
        if self._is_in_the_clear and self._block_document_id is None:
            raise InvalidInputError(_IN_THE_CLEAR)
        return self.api_token

    async def _saved_token(self) -> SecretStr:
        reference = self._reference()
        if reference is not None:
            try:
                saved: QATechCredentials = await QATechCredentials.aload_from_ref(reference)
            except ValueError as error:
                raise InvalidInputError(f"The saved credentials block cannot be loaded here: {error}") from None
            # Kept, so that waits with the same token share their throttle.
            self.api_token = saved._token_at_hand()
        return self._token_at_hand()

    def fingerprint(self) -> str:
        """Return a text that is the same for the same token and address in this process, and tells nothing of them."""
        return digest(self.api_token.get_secret_value(), self.api_url)


def check_credentials(credentials: object) -> None:
    """Raise `InvalidInputError` for what is no `QATechCredentials`, or has no token here, or must not be used."""
    if not isinstance(credentials, QATechCredentials):
        raise InvalidInputError(_not_credentials(credentials))
    credentials.get_client()


def _not_credentials(given: object) -> str:
    # What was given is not shown: it may hold the token.
    if isinstance(given, Coroutine):
        given.close()
        return (
            "credentials is a coroutine: an await is missing, as in credentials = await "
            'QATechCredentials.aload("<name>")'
        )
    if isinstance(given, str):
        return 'credentials is a text: the block of that name is passed as QATechCredentials.load("<name>")'
    if isinstance(given, Mapping):
        return (
            "credentials is a dict: make a block of it, QATechCredentials(...), or load one, "
            'QATechCredentials.load("<name>")'
        )
    return f'credentials must be a block, such as QATechCredentials.load("<name>") gives, not {type(given).__name__}'


def _is_mask(token: SecretStr) -> bool:
    return re.fullmatch(r"\*+", token.get_secret_value()) is not None


def _parts_of(url: str) -> SplitResult | None:
    if not url.isascii() or re.search(r"[\x00-\x20\x7f?#\\]", url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
