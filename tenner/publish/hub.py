"""Uploads to the Hugging Face hub, which go on where they were broken off: a file that is there is not sent again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils._validators import validate_repo_id

from tenner.core.errors import Incomplete, TennerError

Kind = Literal["model", "dataset"]
REFUSED = (401, 403)


def check_repository(name: str, option: str) -> None:
    """Raise TennerError for what is not `org/name`, before anything is read."""
    try:
        validate_repo_id(name)
    except HFValidationError as e:
        raise TennerError(f"{option} {name} is no name of a repository", hint="write org/name") from e
    if "/" not in name:
        raise TennerError(f"{option} {name} names no owner", hint=f"write org/{name}")


def token() -> str:
    """The hub's token, from HF_TOKEN or as `hf auth login` has stored it. Raises TennerError where there is none."""
    found = get_token()
    if not found:
        raise TennerError("there is no token for the Hugging Face hub", hint="export HF_TOKEN=…, or: hf auth login")
    return found


def upload(
    repository: str, kind: Kind, files: Mapping[str, Path | bytes], *, public: bool, title: str, key: str
) -> str:
    """Make the repository where there is none, and bring the files there in one commit; return its address.

    Large files go first and one by one, so that after a break only those are sent that had not arrived. What is there
    unchanged is not committed again.

    Raises:
        TennerError: the hub refuses, or the repository is public and `public` is not said.
        Incomplete: the connection broke; the same command goes on.
    """
    api = HfApi(token=key)
    with _explained(repository):
        _check_visibility(api, repository, kind, public=public)
        api.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        done = api.create_commit(
            repository, [CommitOperationAdd(path, file) for path, file in files.items()], commit_message=title,
            repo_type=kind,
        )  # fmt: skip
    return str(done.commit_url)


def _check_visibility(api: HfApi, repository: str, kind: Kind, *, public: bool) -> None:
    """An upload to a repository that everybody reads is meant to be one."""
    try:
        found = api.repo_info(repository, repo_type=kind)
    except RepositoryNotFoundError:
        return
    if not found.private and not public:
        raise TennerError(
            f"{repository} is public on the hub already", hint="say --public, or make it private there, or name another"
        )


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """What goes wrong on the way, in one line."""
    try:
        yield
    except HfHubHTTPError as e:
        status = e.response.status_code
        if status in REFUSED:
            raise TennerError(
                f"the hub refuses to write to {repository} (HTTP {status})",
                hint="the token needs the right to write there: https://huggingface.co/settings/tokens",
            ) from e
        raise _broken_off(repository, str(e).splitlines()[0]) from e
    except (httpx2.HTTPError, OSError, RuntimeError) as e:  # RuntimeError: of one file, by the hub's library
        raise _broken_off(repository, f"{e} {e.__cause__ or ''}".splitlines()[0].strip()) from e


def _broken_off(repository: str, why: str) -> Incomplete:
    return Incomplete(
        f"the upload to {repository} was broken off: {why}", hint="the same command goes on with what is missing"
    )
