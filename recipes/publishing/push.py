"""Upload a run to the Hub: its model, its processor and its card, and nothing that is only for this machine.

    openpali push outputs/shapes you/shapes --private
    openpali push outputs/shapes you/shapes --dry_run

A PaLI-3 takes its code along, so that `trust_remote_code` runs it where openpali is not. Adapters go alone, with the
name of their base. After a broken upload the same command sends only what is missing.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP client that this version of the library has
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id
from transformers.utils.logging import disable_progress_bar

from openpali.modeling.user_errors import UserError, command, one_line
from openpali.recipes.publishing.card import CARD_FILE, is_ours
from openpali.recipes.publishing.facts import read_facts
from openpali.recipes.publishing.staging import is_staged, licence_remark, stage

SUFFIX = "-push"
AGAIN = "the same command sends only what is missing"


@command("openpali push")
def main(argv: list[str] | None = None) -> None:
    """`openpali push RUN REPOSITORY`."""
    args = parse_arguments(argv)
    disable_progress_bar()
    check_name(args.repository)
    if args.base:
        check_name(args.base)
    if not args.dry_run:
        check_login()
    facts = read_facts(args.run)
    with staging_folder(args.run, args.dry_run) as folder:
        stage(facts, folder, args.repository, args.licence, args.base)
        if remark := licence_remark(folder):
            print(remark)
        if args.dry_run:
            print(f"{folder} is what would be uploaded to {args.repository}:\n{listing(folder)}")
            return
        with explained(args.repository):
            address = upload(folder, args.repository, args.private, args.message)
    print(f"pushed {args.run} to {address}")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="openpali push", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run, or of a model")
    parser.add_argument("repository", help="its name on the Hub, as you/my-pali; made where it is missing")
    parser.add_argument("--private", action="store_true", help="nobody else sees the repository")
    parser.add_argument("--dry_run", action="store_true", help=f"write the folder RUN{SUFFIX} and list it; no upload")
    parser.add_argument("--licence", "--license", help="of the model, as apache-2.0; of PaliGemma gemma, if unset")
    parser.add_argument("--base", help="Hub name of the checkpoint that it was trained from, if that was a folder")
    parser.add_argument("--message", default="Upload model", help="of the commit (default: %(default)s)")
    return parser.parse_args(argv)


def check_name(name: str) -> None:
    """Raise UserError unless it is a name of the Hub, with its owner."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{name} is no name on the Hub ({one_line(error)}): give one such as you/my-pali") from error
    if name.count("/") != 1:
        raise UserError(f"{name} has no owner: give your name on the Hub as well, as you/{name}")


def check_login() -> None:
    """Raise UserError where there is no token."""
    if get_token() is None:
        raise UserError(
            "you are not logged in: `hf auth login` asks for a token that may write, or set HF_TOKEN to one"
        )


@contextmanager
def staging_folder(run: Path, kept: bool) -> Iterator[Path]:
    """An empty folder beside the run, where weights can be linked; removed in the end unless it is kept.

    Raises:
        UserError: what is at the place of a kept one is not the folder of an earlier call.
    """
    run = run.resolve()
    if not kept:
        parent = run.parent if run.is_dir() else None
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{run.name}-") as name:
            yield Path(name)
        return
    folder = run.with_name(run.name + SUFFIX)
    if folder.exists():
        if not is_staged(folder):
            raise UserError(f"{folder} is in the way: move it, and try again")
        shutil.rmtree(folder)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def upload(folder: Path, repository: str, private: bool, message: str) -> str:
    """Make the repository where it is missing, and upload a folder; files that are there already are not sent again.

    Returns:
        The address of the repository.

    Raises:
        UserError: it is to be private and is public already.
    """
    hub = HfApi()
    address = hub.create_repo(repository, private=private or None, exist_ok=True)
    if private and hub.model_info(repository).private is False:
        raise UserError(f"{repository} is there already and public: give another name, or make it private on its page")
    keep_card_of_hub(hub, folder, repository)
    hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return str(address)


def keep_card_of_hub(hub: HfApi, folder: Path, repository: str) -> None:
    """Leave the card out where the one of the repository was edited and the run's own was not."""
    path = folder / CARD_FILE
    if not is_ours(path.read_text("utf-8")):
        return
    try:
        there = Path(hub.hf_hub_download(repository, CARD_FILE)).read_text("utf-8", errors="replace")
    except EntryNotFoundError:
        return
    if not is_ours(there):
        print(f"The card of {repository} was edited there and is kept; edit {CARD_FILE} of the run to replace it")
        path.unlink()


@contextmanager
def explained(repository: str) -> Iterator[None]:
    """Context that turns errors of the Hub and of the network into a sentence with a remedy."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError("the Hub is switched off here by HF_HUB_OFFLINE: unset it, and try again") from error
    except HfHubHTTPError as error:
        raise UserError(refusal(error, repository)) from error
    except (HTTPError, RuntimeError, ConnectionError, TimeoutError) as error:
        reason = one_line(error.__cause__ or error)
        raise UserError(f"the connection to the Hub is broken ({reason}): {AGAIN}") from error
    except ValueError as error:
        raise UserError(f"the Hub takes no such upload ({one_line(error)}): mend {CARD_FILE} or --licence") from error


def refusal(error: HfHubHTTPError, repository: str) -> str:
    """What an answer of the Hub means."""
    status = error.response.status_code
    if status == 401:
        return "the Hub does not know your token: `hf auth login` asks for a new one that may write, or set HF_TOKEN"
    if status in (403, 404):
        return f"your token may not write to {repository}: take one that may write, or a name of your own"
    reason = one_line(error)
    return f"the Hub answered with an error {status} ({reason}): try later; {AGAIN}"


def listing(folder: Path) -> str:
    """Files with their sizes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return "\n".join(f"{path.stat().st_size / 1e6:12,.3f} MB  {path.relative_to(folder)}" for path in paths)


if __name__ == "__main__":
    main()
